"""Segment a photograph and a georeferenced scene with the bundled model, and draw both.

python docs/examples/demo.py --output demo

The picture of the README, `docs/images/demo.png`, is a copy of what this writes as `demo.png`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageDraw
from rasterio.transform import from_origin
from skimage import data

import samplat
from samplat_train.scenes import draw_scene

CLICK = (271, 121)
"""A point x, y on a coin of scikit-image's picture `coins`."""
HEIGHT = 384
"""Of the picture that shows everything, in pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"))
    parser.add_argument("--points-per-side", type=int, default=24, help="of the grids")
    arguments = parser.parse_args()
    output, points = arguments.output, arguments.points_per_side
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    pictures = [*segment_photograph(output, points), segment_scene(output, points)]
    side_by_side(pictures).save(output / "demo.png")
    print(f"done in {time.perf_counter() - started:.0f} s; look into {output}/")


def segment_photograph(output: Path, points: int) -> list[Image.Image]:
    """One click, then everything, on a photograph that scikit-image brings along."""
    image = np.repeat(data.coins()[..., None], 3, axis=2)
    model = samplat.load_model("samplat-tiny")
    embedding = samplat.embed(model, image)
    click = samplat.predict(model, embedding, samplat.Prompts(points=[CLICK], labels=[1]))
    everything = samplat.generate_masks(model, embedding, points_per_side=points)
    clicked = overlay(image, click.best()[0].astype(np.uint32))
    ImageDraw.Draw(clicked).ellipse([c + d for d in (-5, 5) for c in CLICK], fill="lime")
    pictures = [clicked, overlay(image, everything.to_labels("small"))]
    side_by_side(pictures).save(output / "photograph.png")
    print(
        f"photograph.png: one click (predicted IoU {click.predicted_iou.max():.2f}) "
        f"and {len(everything)} masks from a grid of {points} x {points} points"
    )
    return pictures


def segment_scene(output: Path, points: int) -> Image.Image:
    """A drawn aerial scene as a GeoTIFF, segmented in tiles by the command line."""
    scene = draw_scene(np.random.default_rng(7), size=768, kind="aerial")
    write_geotiff(output / "scene.tif", scene.image)
    outputs = [output / name for name in ("labels.tif", "objects.parquet", "labels.zarr")]
    options = ["--tile-size", "384", "--halo", "64", f"--points-per-side={points}", "--overwrite"]
    command = [sys.executable, "-m", "samplat", "tile-segment", str(output / "scene.tif")]
    subprocess.run([*command, *map(str, outputs), *options], check=True)
    with rasterio.open(outputs[0]) as labels:
        picture = overlay(scene.image, labels.read(1))
    picture.save(output / "scene.png")
    print("scene.png: the scene and its objects; labels.tif, labels.zarr, objects.parquet beside")
    return picture


def write_geotiff(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) as a GeoTIFF in UTM zone 45N with pixels of 0.3 m."""
    height, width, bands = image.shape
    transform = from_origin(334_000, 3_060_000, 0.3, 0.3)
    profile = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32645", "transform": transform}
    with rasterio.open(path, "w", height=height, width=width, count=bands, **profile) as file:
        file.write(image.transpose(2, 0, 1))


def overlay(image: np.ndarray, labels: np.ndarray) -> Image.Image:
    """The image with every object tinted and outlined."""
    colours = np.random.default_rng(1).integers(60, 256, (int(labels.max()) + 1, 3))
    tinted = np.where(labels[..., None] > 0, 0.55 * image + 0.45 * colours[labels], 0.8 * image)
    inner = labels[1:, 1:]
    edge = np.zeros(labels.shape, dtype=bool)
    edge[1:, 1:] = (inner != labels[:-1, 1:]) | (inner != labels[1:, :-1])
    tinted[edge] = 255
    return Image.fromarray(tinted.astype(np.uint8))


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """The pictures in one row, all `HEIGHT` pixels high."""
    scaled = [p.resize((round(p.width * HEIGHT / p.height), HEIGHT)) for p in pictures]
    return Image.fromarray(np.concatenate([np.asarray(p) for p in scaled], axis=1))


if __name__ == "__main__":
    main()

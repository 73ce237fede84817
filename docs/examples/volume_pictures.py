"""Draw the pictures of `docs/volumes.md` and `docs/propagation.md`: an object from one box.

python docs/examples/volume_pictures.py DATA --output docs/images

DATA is a folder with `med_sct_cord` and `med_ct_spleen_msd`, as the benchmarks use it. Each scan is
prompted with one box on one slice, by the command that the pages show; then three slices are drawn
with the object's outline, and its surface.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours, marching_cubes

HEIGHT = 300
"""Of the pictures, in pixels."""
GAP = 4
"""Black pixels between panels."""
COLOUR = (255, 176, 32)
"""Of outlines and surfaces."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a picture shows."""

    name: str
    scan: str
    """Below the folder of data."""
    prompt: tuple[str, ...]
    """Options of `samplat propagate`."""
    window: tuple[float, float]
    """Values that are drawn black and white."""
    side: float
    """Millimetres that a slice shows, around the object."""


PICTURES = (
    Picture(
        name="volumes.png",
        scan="med_ct_spleen_msd/spleen2_ct.nii.gz",
        prompt=("--space", "voxel", "--box", "24,28,13,143,148,13", "--window", "soft-tissue"),
        window=(-160, 240),
        side=135,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    for picture in PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            labels = Path(folder) / "labels.nrrd"
            command = [sys.executable, "-m", "samplat", "propagate"]
            scan = arguments.data / picture.scan
            subprocess.run([*command, str(scan), "--out", str(labels), *picture.prompt], check=True)
            drawn = draw(sitk.ReadImage(str(scan)), sitk.ReadImage(str(labels)), picture)
        path = arguments.output / picture.name
        drawn.quantize(128).save(path, optimize=True)
        print(f"{path}: {drawn.width} x {drawn.height}, {path.stat().st_size} bytes")


def draw(scan: sitk.Image, labels: sitk.Image, picture: Picture) -> Image.Image:
    """Axial, coronal and sagittal slices through the object's middle, and its surface."""
    scan, labels = (sitk.DICOMOrient(image, "LPS") for image in (scan, labels))
    values, mask = sitk.GetArrayFromImage(scan), sitk.GetArrayFromImage(labels) > 0
    spacing = scan.GetSpacing()[::-1]
    low, high = picture.window
    grey = np.clip((values.astype(np.float32) - low) / (high - low) * 255, 0, 255)
    panels = [panel(grey, mask, axis, spacing, picture.side) for axis in range(3)]
    return side_by_side([*panels, surface(mask, spacing)])


def panel(
    grey: np.ndarray, mask: np.ndarray, axis: int, spacing: tuple[float, ...], side: float
) -> Image.Image:
    """The slice across an axis that holds most of the object, as a radiologist would have it."""
    stack, inside = np.moveaxis(grey, axis, 0), np.moveaxis(mask, axis, 0)
    k = int(inside.sum(axis=(1, 2)).argmax())
    steps = [s for a, s in enumerate(spacing) if a != axis]
    shown, outline = stack[k], inside[k]
    if axis:  # rows are slices from the feet up
        shown, outline = shown[::-1], outline[::-1]
    scale = HEIGHT / side
    size = [round(n * s * scale) for n, s in zip(shown.shape, steps, strict=True)]
    picture = Image.fromarray(shown.astype(np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    large = picture.convert("RGB")
    pen = ImageDraw.Draw(large)
    for contour in find_contours(np.pad(outline, 1).astype(float), 0.5):
        places = (contour - 0.5) * np.asarray(size) / outline.shape  # padded by 1, centres at 0.5
        pen.line([(x, y) for y, x in places], fill=COLOUR, width=2, joint="curve")
    return around(large, outline, size)


def around(picture: Image.Image, outline: np.ndarray, size: list[int]) -> Image.Image:
    """A square of the picture's height, around the object; black where there is no slice."""
    rows, columns = np.nonzero(outline)
    y, x = ((v.min() + v.max() + 1) / 2 * n / s for v, n, s in zip(
        (rows, columns), size, outline.shape, strict=True
    ))
    left, top = round(x - HEIGHT / 2), round(y - HEIGHT / 2)
    return picture.crop((left, top, left + HEIGHT, top + HEIGHT))


def surface(mask: np.ndarray, spacing: tuple[float, ...]) -> Image.Image:
    """The object's surface from the front left, drawn from the farthest triangle to the nearest."""
    sigma = [max(spacing) / 2 / s for s in spacing]
    padded = gaussian_filter(np.pad(mask, 8).astype(np.float32), sigma)
    vertices, faces, normals, _ = marching_cubes(padded, 0.5, spacing=spacing)
    view = turned(vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2)
    scale = 2 * 0.46 * HEIGHT * 2 / np.ptp(view[:, :2], axis=0).max()
    depth = view[faces][:, :, 2].mean(axis=1)
    light = np.clip(turned(normals)[faces].mean(axis=1) @ np.array([-0.35, -0.45, -0.82]), 0, 1)
    canvas = Image.new("RGB", (2 * HEIGHT, 2 * HEIGHT))
    pen = ImageDraw.Draw(canvas)
    corners = view[faces][:, :, :2] * scale + HEIGHT
    for triangle in np.argsort(-depth):
        shade = tuple(int(c * (0.18 + 0.82 * light[triangle])) for c in COLOUR)
        pen.polygon([tuple(p) for p in corners[triangle]], fill=shade)
    return canvas.resize((HEIGHT, HEIGHT), Image.Resampling.LANCZOS)


def turned(points: np.ndarray) -> np.ndarray:
    """(N, 3) S, P, L as (N, 3) right, down, away from the eye, which is in front of the left side."""
    head, back, left = points.T
    turn = np.deg2rad(35)
    right = np.cos(turn) * left + np.sin(turn) * back
    away = np.cos(turn) * back - np.sin(turn) * left
    return np.stack([right, -head, away], axis=1)


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """The pictures in one row."""
    width = sum(p.width for p in pictures) + GAP * (len(pictures) - 1)
    row = Image.new("RGB", (width, HEIGHT))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    return row


if __name__ == "__main__":
    main()

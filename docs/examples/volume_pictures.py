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

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from skimage.measure import find_contours, marching_cubes

GAP = 4
"""Pixels between panels."""
COLOUR = (255, 176, 32)
"""Of outlines and surfaces."""
LIGHT = np.array([-0.4, -0.45, -0.8])
"""Where it comes from: right, down, away from the eye."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a picture shows."""

    name: str
    scan: str
    """Below the folder of data."""
    prompts: tuple[tuple[str, ...], ...]
    """Options of `samplat propagate`; a row for each."""
    window: tuple[float, float]
    """Values that are drawn black and white."""
    side: float
    """Millimetres that a slice shows, around the object."""
    height: int
    """Of a row, in pixels."""


SPLEEN = ("--window", "soft-tissue", "--space", "voxel", "--box", "24,28,13,143,148,13")
PICTURES = (
    Picture(
        name="volumes.png",
        scan="med_sct_cord/t1w.nii.gz",
        prompts=(("--space", "voxel", "--box", "17,35,37,28,42,37"),),
        window=(0, 600),
        side=78,
        height=280,
    ),
    Picture(
        name="propagation.png",
        scan="med_ct_spleen_msd/spleen2_ct.nii.gz",
        prompts=(SPLEEN, (*SPLEEN, "--point", "90,100,23,0")),
        window=(-160, 240),
        side=130,
        height=240,
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
        scan = arguments.data / picture.scan
        with tempfile.TemporaryDirectory() as folder:
            labels = Path(folder) / "labels.nrrd"
            found = [propagated(scan, labels, prompt) for prompt in picture.prompts]
        rows = [draw(sitk.ReadImage(str(scan)), mask, picture) for mask in found]
        path = arguments.output / picture.name
        drawn = put_together(rows, down=True)
        drawn.quantize(palette=palette(), dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}: {drawn.width} x {drawn.height}, {path.stat().st_size} bytes")


def palette() -> Image.Image:
    """Greys of slices, and shades of the object: no others are there, and the file stays small."""
    greys = [(v, v, v) for v in np.linspace(0, 255, 40).astype(int)]
    shades = [tuple(int(c * v) for c in COLOUR) for v in np.linspace(0.2, 1, 24)]
    made = Image.new("P", (1, 1))
    made.putpalette([int(c) for colour in (*greys, *shades) for c in colour])
    return made


def propagated(scan: Path, labels: Path, prompt: tuple[str, ...]) -> sitk.Image:
    """What the command makes of a prompt; the second one is a correction of the first."""
    command = [sys.executable, "-m", "samplat", "propagate", str(scan), "--out", str(labels)]
    subprocess.run([*command, *prompt], check=True)
    return sitk.ReadImage(str(labels))


def draw(scan: sitk.Image, labels: sitk.Image, picture: Picture) -> Image.Image:
    """Axial, coronal and sagittal slices through the object's middle, and its surface."""
    scan, labels = (sitk.DICOMOrient(image, "LPS") for image in (scan, labels))
    values, mask = sitk.GetArrayFromImage(scan), sitk.GetArrayFromImage(labels) > 0
    spacing = scan.GetSpacing()[::-1]
    low, high = picture.window
    grey = np.clip((values.astype(np.float32) - low) / (high - low) * 255, 0, 255)
    scale = picture.height / picture.side
    panels = [panel(grey, mask, axis, spacing, scale, picture.height) for axis in range(3)]
    return put_together([*panels, surface(mask, spacing, picture.height)], down=False)


def panel(
    grey: np.ndarray,
    mask: np.ndarray,
    axis: int,
    spacing: tuple[float, ...],
    scale: float,
    height: int,
) -> Image.Image:
    """The slice across an axis that holds most of the object, as a radiologist would have it."""
    stack, inside = np.moveaxis(grey, axis, 0), np.moveaxis(mask, axis, 0)
    k = int(inside.sum(axis=(1, 2)).argmax())
    steps = [s for a, s in enumerate(spacing) if a != axis]
    shown, outline = stack[k], inside[k]
    if axis:  # rows are slices from the feet up
        shown, outline = shown[::-1], outline[::-1]
    size = [round(n * s * scale) for n, s in zip(shown.shape, steps, strict=True)]
    picture = Image.fromarray(shown.astype(np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    large = picture.convert("RGB")
    pen = ImageDraw.Draw(large)
    for contour in find_contours(np.pad(outline, 1).astype(float), 0.5):
        places = (contour - 0.5) * size / outline.shape  # padded by one pixel; centres are at 0.5
        pen.line([(x, y) for y, x in places], fill=COLOUR, width=2, joint="curve")
    rows, columns = np.nonzero(outline)
    middle = [(v.min() + v.max() + 1) / 2 for v in (rows, columns)]
    top, left = (
        round(m * n / s - height / 2) for m, n, s in zip(middle, size, outline.shape, strict=True)
    )
    return large.crop((left, top, left + height, top + height))


def surface(mask: np.ndarray, spacing: tuple[float, ...], height: int) -> Image.Image:
    """The object's surface, drawn from the farthest triangle to the nearest."""
    vertices, faces, normals = smooth_surface(mask, spacing)
    view = turned(vertices)
    view -= (view.min(axis=0) + view.max(axis=0)) / 2
    scale = 2 * 0.94 * height / np.ptp(view[:, :2], axis=0).max()
    corners = view[faces][:, :, :2] * scale + height
    light = np.clip(turned(normals)[faces].mean(axis=1) @ LIGHT, 0, 1)
    canvas = Image.new("RGB", (2 * height, 2 * height))
    pen = ImageDraw.Draw(canvas)
    for triangle in np.argsort(-view[faces][:, :, 2].mean(axis=1)):
        shade = tuple(int(c * (0.25 + 0.75 * light[triangle])) for c in COLOUR)
        pen.polygon([tuple(p) for p in corners[triangle]], fill=shade)
    return canvas.resize((height, height), Image.Resampling.LANCZOS)


def smooth_surface(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Vertices in mm, triangles, normals; thick slices are joined by the distance to the edge."""
    step = min(spacing)
    inside = np.pad(mask, 3)
    signed = distance_transform_edt(inside, spacing) - distance_transform_edt(~inside, spacing)
    even = zoom(signed, [s / step for s in spacing], order=1)
    vertices, faces, normals, _ = marching_cubes(gaussian_filter(even, 1.5), 0.0)
    return vertices * step, faces, normals


def turned(points: np.ndarray) -> np.ndarray:
    """(N, 3) S, P, L as (N, 3) right, down, away from the eye, which is in front on the left."""
    head, back, left = points.T
    turn = np.deg2rad(35)
    right = np.cos(turn) * left + np.sin(turn) * back
    away = np.cos(turn) * back - np.sin(turn) * left
    return np.stack([right, -head, away], axis=1)


def put_together(pictures: list[Image.Image], *, down: bool) -> Image.Image:
    """The pictures in one row, or below each other."""
    sizes = np.array([p.size for p in pictures])
    width, height = sizes.max(axis=0)
    step = (height if down else width) + GAP
    whole = (len(pictures) - 1) * step
    made = Image.new("RGB", (width, whole + height) if down else (whole + width, height), "white")
    for number, picture in enumerate(pictures):
        made.paste(picture, (0, number * step) if down else (number * step, 0))
    return made


if __name__ == "__main__":
    main()

"""Slices of labelled volumes: which files belong together, which way to cut, how to window."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.objects import MIN_AREA
from samplat.errors import InputError

Slice = tuple[str, NDArray[np.uint8], NDArray[Any]]
"""Name, pixels (H, W) and labels (H, W)."""

CT_SOFT_TISSUE = (-160.0, 240.0)
"""Hounsfield units shown as black and white: level 40, width 400."""
MR_PERCENTILES = (1.0, 99.0)
"""Of the whole volume's values, shown as black and white."""
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
LABEL_WORDS = re.compile(r"(^|[_-])(gm|wm)?(seg|label|labels|mask|gt)([_-]|$)")
IMAGE_WORDS = re.compile(r"[_-](ct|mr|image|img)$")


def read_twins(folder: Path, *, window: tuple[float, float] | None = None) -> Iterator[Slice]:
    """Slices of the pairs `images/NAME` and `labels/NAME`, sorted by name."""
    for path in volume_paths(folder / "images"):
        yield from read_slices(path, folder / "labels" / path.name, window=window)


def read_pairs(folder: Path, *, window: tuple[float, float] | None = None) -> Iterator[Slice]:
    """Slices of the labelled volumes of one folder in which names tell what belongs together."""
    for image, labels in match_labels(volume_paths(folder)):
        yield from read_slices(image, labels, window=window)


def volume_paths(folder: Path) -> list[Path]:
    """The volumes in a folder, sorted by name."""
    return sorted(p for p in folder.glob("*") if p.name.endswith(SUFFIXES))


def match_labels(paths: list[Path]) -> list[tuple[Path, Path]]:
    """Each label file with the image whose name is the longest beginning of its own.

    A label file has a word such as "seg" or "label" in its name; a last word such as "ct" or
    "image" does not count as part of an image's name.
    """
    labels = [p for p in paths if LABEL_WORDS.search(stem(p))]
    keys = {p: IMAGE_WORDS.sub("", stem(p)) for p in paths if p not in labels}
    pairs = []
    for label in labels:
        begins = [p for p in keys if re.match(rf"{re.escape(keys[p])}([_-]|$)", stem(label))]
        if begins:
            pairs.append((max(begins, key=lambda p: len(keys[p])), label))
    return pairs


def stem(path: Path) -> str:
    """A volume's file name without its suffix, which may be double."""
    return path.name.removesuffix(next(s for s in SUFFIXES if path.name.endswith(s)))


def read_slices(
    image_path: Path, label_path: Path, *, window: tuple[float, float] | None
) -> Iterator[Slice]:
    """The slices of one volume that hold an object large enough, in order."""
    values, spacing = read_volume(image_path)
    labels, _ = read_volume(label_path)
    if values.shape != labels.shape:
        raise InputError(f"{label_path} is {labels.shape}, its volume {image_path} {values.shape}")
    pixels: NDArray[Any] = stretch(values, window)
    axis = slice_axis(values.shape, spacing)
    for i in range(values.shape[axis]):
        cut = labels.take(i, axis)
        if (np.bincount(cut[cut > 0].astype(np.int64)) >= MIN_AREA).any():
            yield f"{label_path.name} [{i}]", pixels.take(i, axis), cut


def read_volume(path: Path) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Voxels (z, y, x) and the spacing along each axis."""
    import SimpleITK

    image: Any = SimpleITK.ReadImage(str(path))
    return SimpleITK.GetArrayFromImage(image), tuple(image.GetSpacing())[::-1]


def slice_axis(shape: tuple[int, ...], spacing: tuple[float, ...]) -> int:
    """The axis along which slices follow each other, so that they have the finest pixels.

    That is the axis of the widest spacing; of equal ones (within 1 %) the axis whose slices have
    most pixels; of equal ones the first.
    """
    coarse = [axis for axis in range(3) if spacing[axis] >= 0.99 * max(spacing)]
    return min(coarse, key=lambda axis: (shape[axis], axis))


def stretch(values: NDArray[Any], window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Values as 0..255 between the window's ends, or between two percentiles of the volume."""
    low, high = map(float, window if window else np.percentile(values, MR_PERCENTILES))
    span = max(high - low, float(np.finfo(np.float32).tiny))
    scaled = np.clip((values.astype(np.float64) - low) * (255 / span), 0, 255)
    out: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return out

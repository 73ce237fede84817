"""What each object of a volume is like: size, surface, place, intensity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat import JobError, Window
from samplat_volume.crofton import lines
from samplat_volume.labels import LabelVolume, ReadValues

VALUES_VOXELS = 2**24
"""Most voxels whose intensities are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Where the objects are and how large; one row per object, by id."""

    ids: NDArray[np.uint32]
    """(N,) ascending."""
    voxels: NDArray[np.int64]
    """(N,) number of voxels."""
    centres: NDArray[np.float64]
    """(N, 3) mean index (z, y, x)."""
    start: NDArray[np.int64]
    """(N, 3) first index (z, y, x) of the bounding box."""
    stop: NDArray[np.int64]
    """(N, 3) one past its last index."""
    surface: NDArray[np.float64]
    """(N,) square millimetres; closed where the object meets the volume's edge or a hole."""


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """Values of the objects in one band; NaN where none of an object's voxels holds data."""

    mean: NDArray[np.float64]
    """(N,)"""
    std: NDArray[np.float64]
    """(N,) of the voxels themselves: the squares' sum is divided by their number."""
    low: NDArray[np.float64]
    """(N,) smallest value."""
    high: NDArray[np.float64]
    """(N,) largest value."""


def measure_shapes(volume: LabelVolume) -> Shapes:
    """One pass over the labels.

    Raises:
        JobError: an object of the job's table has no voxel.
    """
    from samplat_volume.counting import count_shapes

    ids, crossing = volume.ids, lines(volume.geometry.spacing)
    voxels, surface = np.zeros(len(ids), np.int64), np.zeros(len(ids))
    sums, high = np.zeros((2, len(ids), 3), np.int64)
    low = np.full((len(ids), 3), np.iinfo(np.int64).max)
    depth = volume.geometry.shape[0]
    for window, labels in volume.slabs(crossing.margin):
        first = max(0, window.start[0] - crossing.margin)
        inner = (window.start[0] - first, window.stop[0] - first)
        count_shapes(
            labels, first, inner, depth, ids, crossing.steps, crossing.areas,
            voxels, sums, low, high, surface,
        )  # fmt: skip
    if (missing := ids[voxels == 0]).size:
        raise JobError(f"labels and table of objects disagree: no voxel of object {missing[0]}")
    return Shapes(
        ids=ids,
        voxels=voxels,
        centres=sums / voxels[:, None],
        start=low,
        stop=high + 1,
        surface=surface,
    )


def measure_intensities(volume: LabelVolume, read: ReadValues) -> list[Intensities]:
    """One pass over labels and image; one item per band. Voxels without data do not count."""
    from samplat_volume.counting import count_values

    ids = volume.ids
    counts: list[NDArray[np.int64]] = []
    moments: list[NDArray[np.float64]] = []
    for window, labels in volume.slabs():
        for part in _parts(window):
            values, valid = read(part)
            inside = labels[part.relative_to(window).slices]
            for band in range(values.shape[-1]):
                if band == len(counts):
                    counts.append(np.zeros(len(ids), np.int64))
                    moments.append(np.zeros((len(ids), 5)))
                numbers = values[..., band].astype(np.float64)
                usable = valid & np.isfinite(numbers)
                count_values(inside, numbers, usable, ids, counts[band], moments[band])
    return [_intensities(*pair) for pair in zip(counts, moments, strict=True)]


def _parts(window: Window) -> Iterator[Window]:
    """The window in fewer slices, which may be in memory with their values."""
    _, height, width = window.shape
    thick = max(1, VALUES_VOXELS // (height * width))
    for z in range(window.start[0], window.stop[0], thick):
        stop = (min(z + thick, window.stop[0]), *window.stop[1:])
        yield Window(start=(z, *window.start[1:]), stop=stop)


def _intensities(counts: NDArray[np.int64], moments: NDArray[np.float64]) -> Intensities:
    number = np.where(counts > 0, counts, np.nan)
    shift = moments[:, 1] / number
    variance = np.maximum(moments[:, 2] / number - shift**2, 0)
    return Intensities(
        mean=moments[:, 0] + shift,
        std=np.sqrt(variance),
        low=np.where(counts > 0, moments[:, 3], np.nan),
        high=np.where(counts > 0, moments[:, 4], np.nan),
    )

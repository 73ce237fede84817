"""One pass over labels that counts, per object, voxels, places, surface crossings and values.

Importing this module imports numba: do it where it is used. Sums are in the order of the voxels,
however thick the slabs are, so that no number depends on the memory there is. Labels are taken in
runs along x, because a run's neighbours lie in a row, and rows are compared many at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from samplat import HOLE

F = TypeVar("F", bound=Callable[..., Any])

NOBODY = -1


def _compiled(function: F) -> F:
    compiled: Any
    try:
        compiled = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        compiled = numba.njit(nogil=True)(function)
    return compiled  # type: ignore[no-any-return]


@_compiled
def place_of(label: int, ids: NDArray[np.uint32]) -> int:
    """Where an id is in the ascending ids; `NOBODY` where it is not."""
    if label == 0 or label == HOLE:
        return NOBODY
    found = np.searchsorted(ids, label)
    if found == len(ids) or ids[found] != label:
        return NOBODY
    return int(found)


@_compiled
def alike(row: NDArray[np.uint32], begin: int, end: int, label: int) -> int:
    """How many of row[begin:end] are of this label."""
    count = 0
    for x in range(begin, end):
        count += row[x] == label
    return count


@_compiled
def count_shapes(
    labels: NDArray[np.uint32],
    first: int,
    inner: tuple[int, int],
    depth: int,
    ids: NDArray[np.uint32],
    steps: NDArray[np.int64],
    areas: NDArray[np.float64],
    voxels: NDArray[np.int64],
    sums: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    surface: NDArray[np.float64],
) -> None:
    """Add a slab to voxels, sums of indices, bounding boxes and surface areas.

    Args:
        labels: (z, y, x) of the slab with its margin.
        first: slice of the volume that is the slab's first.
        inner: slices of the slab, half open, that are counted; the others are looked at.
        depth: slices of the whole volume.
        ids: (N,) ascending.
        steps: (K, 3) of `Lines`.
        areas: (K,) of `Lines`.
        voxels: (N,) so far.
        sums: (N, 3) of z, y and x so far.
        low: (N, 3) smallest index so far.
        high: (N, 3) largest index so far.
        surface: (N,) square millimetres so far.
    """
    _, height, width = labels.shape
    for z in range(inner[0], inner[1]):
        for y in range(height):
            stop = 0
            while stop < width:
                x, label = stop, labels[z, y, stop]
                stop += 1
                while stop < width and labels[z, y, stop] == label:
                    stop += 1
                place = place_of(label, ids)
                if place == NOBODY:
                    continue
                count = stop - x
                voxels[place] += count
                sums[place, 0] += count * (first + z)
                sums[place, 1] += count * y
                sums[place, 2] += count * (x + stop - 1) // 2
                for axis, least, most in ((0, first + z, first + z), (1, y, y), (2, x, stop - 1)):
                    low[place, axis] = min(low[place, axis], least)
                    high[place, axis] = max(high[place, axis], most)
                for k in range(len(areas)):
                    for sign in (-1, 1):
                        row_z, row_y = z + sign * steps[k, 0], y + sign * steps[k, 1]
                        crossings = count
                        if 0 <= first + row_z < depth and 0 <= row_y < height:
                            begin = max(x + sign * steps[k, 2], 0)
                            end = min(stop + sign * steps[k, 2], width)
                            crossings -= alike(labels[row_z, row_y], begin, end, label)
                        surface[place] += areas[k] * crossings


@_compiled
def count_values(
    labels: NDArray[np.uint32],
    values: NDArray[np.float64],
    valid: NDArray[np.bool_],
    ids: NDArray[np.uint32],
    counts: NDArray[np.int64],
    moments: NDArray[np.float64],
) -> None:
    """Add the intensities of a slab.

    Args:
        labels: (z, y, x).
        values: (z, y, x).
        valid: (z, y, x). True: the value counts.
        ids: (N,) ascending.
        counts: (N,) valid voxels so far.
        moments: (N, 5): the object's first value; sums of the differences to it, and of their
            squares; smallest and largest value.
    """
    depth, height, width = labels.shape
    last, place = np.uint32(0), NOBODY
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = labels[z, y, x]
                if label == 0 or not valid[z, y, x]:
                    continue
                if label != last:
                    last, place = label, place_of(label, ids)
                if place == NOBODY:
                    continue
                value, of = values[z, y, x], moments[place]
                if counts[place] == 0:
                    of[0], of[3], of[4] = value, value, value
                counts[place] += 1
                of[1] += value - of[0]
                of[2] += (value - of[0]) ** 2
                of[3], of[4] = min(of[3], value), max(of[4], value)

"""A label image as something to refine: read some slices at a time, kept as outlines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samplat import InputError, Window, mask_set
from samplat_volume.label_images import labels_of, open_labels
from samplat_volume.planes import Plane

SLICES = 16
"""Read at once."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """An object on a slice."""

    pixels: int
    """How many it has."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1, half-open."""
    code: bytes
    """Run-length counts of its mask over the box."""


def outlines(path: str, plane: Plane) -> Mapping[int, Mapping[int, Outline]]:
    """All objects of a label image by number and slice, both ascending.

    Raises:
        InputError: it is not on the grid of the volume, holds numbers that are no labels, or none.
    """
    found: dict[int, dict[int, Outline]] = defaultdict(dict)
    for k, labels in _slices(path, plane):
        for number, outline in _of_slice(labels):
            found[number][k] = outline
    if not found:
        raise InputError(f"{path} holds no label above 0; expected objects to refine")
    return dict(sorted(found.items()))


def _slices(path: str, plane: Plane) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    source = open_labels(path, plane.geometry)
    try:
        for first in range(0, plane.count, SLICES):
            start, stop = [0, 0, 0], list(plane.geometry.shape)
            start[plane.axis] = first
            stop[plane.axis] = min(first + SLICES, plane.count)
            block = labels_of(source, path, Window(start=tuple(start), stop=tuple(stop)))
            yield from enumerate(plane.stacked(block), start=first)
    finally:
        source.close()


def _of_slice(labels: NDArray[np.uint32]) -> Iterator[tuple[int, Outline]]:
    if not labels.any():
        return
    names, ranks = np.unique(labels, return_inverse=True)
    ranks = ranks.reshape(labels.shape) + (names[0] > 0)  # background is 0, also where none is
    for name, place in zip(names[names > 0].tolist(), ndimage.find_objects(ranks), strict=True):
        rows, columns = place
        mask = labels[place] == name
        (code,) = mask_set(mask[None]).rles
        box = (columns.start, rows.start, columns.stop, rows.stop)
        yield name, Outline(pixels=int(mask.sum()), box=box, code=code)

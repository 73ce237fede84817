"""The connected regions of what a tile paints, from which holes and islands are put together.

A region is a 4-connected patch of pixels of one object, or of background. A hole or an island may
cross tiles and consist of several; from the numbers that are kept here of each, and from what it
meets, `mending` puts them together without looking at pixels again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.label_loops import filled
from samplat.machine_code import as_machine_code

BACKGROUND = 2**64 - 1
"""Owner of regions without an object."""
ROOM = 2**12
"""Meetings of regions that are expected in a tile."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The R regions of one write window, in order of their first pixels, row by row."""

    owners: NDArray[np.uint64]
    """(R,) provisional id of the object, or `BACKGROUND`."""
    areas: NDArray[np.int64]
    """(R,) pixels."""
    boxes: NDArray[np.int64]
    """(R, 4) y0, x0, y1, x1 in the window, half-open."""
    firsts: NDArray[np.int64]
    """(R,) first pixel, y * width + x in the window."""
    open: NDArray[np.bool_]
    """(R,) True: it touches the image's edge or an invalid pixel, or is itself, whole or in part,
    invalid; of regions too large for a hole invalid pixels may be left unnoticed."""
    sides: NDArray[np.int64]
    """(E, 2) pairs of regions that share a side of pixels, the smaller first, each pair once."""
    corners: NDArray[np.int64]
    """(D, 2) pairs of regions of objects that share corners of pixels only."""
    top: NDArray[np.int64]
    """(W,) region + 1 of each pixel of the first row; 0 is background that has no regions."""
    left: NDArray[np.int64]
    """(H,) of the first column."""
    bottom: NDArray[np.int64]
    """(W,) of the last row."""
    right: NDArray[np.int64]
    """(H,) of the last column."""

    def __len__(self) -> int:
        return len(self.owners)


def find_regions(
    labels: NDArray[np.uint32], ids: NDArray[np.uint64], *, background: bool
) -> tuple[Regions, NDArray[np.int32]]:
    """The regions of a write window, none of them open, and an image (y, x) of region + 1.

    Args:
        labels: (y, x) index into `ids` + 1, or 0.
        ids: (N,) provisional ids.
        background: whether background has regions too.
    """
    image, parent = np.zeros(labels.shape, np.int32), np.zeros(labels.size + 1, np.int32)
    count = _number_regions()(labels, background, image, parent)
    areas, boxes = np.zeros(count, np.int64), np.zeros((count, 4), np.int64)
    firsts, names = np.zeros(count, np.int64), np.zeros(count, np.int64)
    _measure_regions()(labels, image, parent, areas, boxes, firsts, names)
    owners = np.concatenate([np.array([BACKGROUND], np.uint64), ids])[names]
    sides = np.unique(filled(functools.partial(_find_sides(), image), 1, ROOM))
    corners = np.unique(filled(functools.partial(_find_corners(), labels, image), 1, ROOM))
    found = Regions(
        owners=owners,
        areas=areas,
        boxes=boxes,
        firsts=firsts,
        open=np.zeros(count, bool),
        sides=_pairs(sides),
        corners=_pairs(np.setdiff1d(corners, sides)),
        top=image[0].astype(np.int64),
        left=image[:, 0].astype(np.int64),
        bottom=image[-1].astype(np.int64),
        right=image[:, -1].astype(np.int64),
    )
    return found, image


def _pairs(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(E, 2) regions, from 0, of keys with two regions from 1."""
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1) - 1


def repaint(labels: NDArray[np.uint32], seeds: NDArray[np.int64], name: int) -> None:
    """Call regions otherwise, in place: the k-th one `name + k`.

    Args:
        labels: (y, x), all of them smaller than `name`.
        seeds: (K,) a pixel of each region, y * width + x.
        name: of the first one.
    """
    if len(seeds):
        _flood()(labels, seeds, name, np.empty(labels.size, np.int32))


@functools.cache
def _number_regions() -> Callable[..., int]:
    return as_machine_code(_number_in_order)


@functools.cache
def _measure_regions() -> Callable[..., None]:
    return as_machine_code(_measure_numbered)


@functools.cache
def _find_sides() -> Callable[..., int]:
    return as_machine_code(_side_keys)


@functools.cache
def _find_corners() -> Callable[..., int]:
    return as_machine_code(_corner_keys)


@functools.cache
def _flood() -> Callable[..., None]:
    return as_machine_code(_flood_from)


def _number_in_order(labels: Any, background: bool, image: Any, parent: Any) -> int:
    """Find 4-connected regions of equal labels; returns how many there are.

    Args:
        labels: (H, W).
        background: whether 0 has regions too.
        image: (H, W) zeros, to be filled with places in `parent`.
        parent: (H * W + 1,) zeros, to be filled with numbers of regions, from 1 in order of their
            first pixels; 0 for none.
    """
    (height, width), count = labels.shape, 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0 and not background:
                continue
            above = image[y - 1, x] if y > 0 and labels[y - 1, x] == label else 0
            before = image[y, x - 1] if x > 0 and labels[y, x - 1] == label else 0
            if above == 0 and before == 0:
                count += 1
                parent[count], image[y, x] = count, count
                continue
            image[y, x] = above if above else before
            if above and before and above != before:
                while parent[above] != above:
                    parent[above] = parent[parent[above]]
                    above = parent[above]
                while parent[before] != before:
                    parent[before] = parent[parent[before]]
                    before = parent[before]
                parent[max(above, before)] = min(above, before)
    regions = 0
    for place in range(1, count + 1):
        # parents are not larger, so that of this one is a number already
        if parent[place] == place:
            regions += 1
            parent[place] = regions
        else:
            parent[place] = parent[parent[place]]
    return regions


def _measure_numbered(
    labels: Any, image: Any, parent: Any, areas: Any, boxes: Any, firsts: Any, names: Any
) -> None:
    """Replace places by numbers, and measure the regions: see `Regions`; `names` are labels."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            number = parent[image[y, x]]
            image[y, x] = number
            if number == 0:
                continue
            k = number - 1
            if areas[k] == 0:
                firsts[k], names[k] = y * width + x, labels[y, x]
                boxes[k, 0], boxes[k, 1] = y, x
            areas[k] += 1
            boxes[k, 1] = min(boxes[k, 1], x)
            boxes[k, 2] = y + 1
            boxes[k, 3] = max(boxes[k, 3], x + 1)


def _side_keys(image: Any, keys: Any) -> int:
    """Regions that share sides, smaller << 32 | larger, some of them several times.

    Returns:
        how many there are; where that is more than there is room for, the others are not kept.
    """
    (height, width), found, room = image.shape, 0, len(keys)
    for y in range(height):
        last_below = np.int64(0)
        for x in range(width):
            here = np.int64(image[y, x])
            for step in range(2):
                below, beside = y + 1 - step, x + step
                if here == 0 or below == height or beside == width:
                    continue
                there = np.int64(image[below, beside])
                if there == 0 or there == here:
                    continue
                key = (min(here, there) << 32) | max(here, there)
                if step == 0 and key == last_below:
                    continue
                if step == 0:
                    last_below = key
                if found < room:
                    keys[found] = key
                found += 1
    return found


def _corner_keys(labels: Any, image: Any, keys: Any) -> int:
    """Regions of objects that share corners, like `_side_keys`."""
    (height, width), found, room = image.shape, 0, len(keys)
    for y in range(height - 1):
        last = np.int64(0)
        for x in range(width - 1):
            for step in range(2):
                left, right = x + step, x + 1 - step
                if labels[y, left] == 0 or labels[y + 1, right] == 0:
                    continue
                here, there = np.int64(image[y, left]), np.int64(image[y + 1, right])
                key = (min(here, there) << 32) | max(here, there)
                if here == there or key == last:
                    continue
                last = key
                if found < room:
                    keys[found] = key
                found += 1
    return found


def _flood_from(labels: Any, seeds: Any, name: int, stack: Any) -> None:
    """See `repaint`; `stack` has room for all pixels."""
    height, width = labels.shape
    for k in range(len(seeds)):
        label = labels[seeds[k] // width, seeds[k] % width]
        labels[seeds[k] // width, seeds[k] % width] = name + k
        stack[0], waiting = seeds[k], 1
        while waiting:
            waiting -= 1
            y, x = stack[waiting] // width, stack[waiting] % width
            for side in range(4):
                beside_y = y + (side == 0) - (side == 1)
                beside_x = x + (side == 2) - (side == 3)
                if not (0 <= beside_y < height and 0 <= beside_x < width):
                    continue
                if labels[beside_y, beside_x] == label:
                    labels[beside_y, beside_x] = name + k
                    stack[waiting] = beside_y * width + beside_x
                    waiting += 1

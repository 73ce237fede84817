"""Where the pixels of a mask went in the next slice, told by small patches of the pictures.

For each pixel of the next slice, the patches around it are compared with those of the last slice at
every offset within a reach; the labels found there are averaged with the weights of the
resemblance. What has ended resembles its surroundings and fades.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from samplat_volume.shapes import around
from samplat_volume.slices import Mask

Picture = NDArray[np.float32]
"""(H, W) or (H, W, band) in 0..255."""

PATCH = 1.0
"""Standard deviation of a patch's weights, in pixels."""
NOISE = 2.0
"""Mean squared grey levels by which equal patches may differ,"""
SELECTIVITY = 0.3
"""and the share of the best offset's difference that is added."""
FEWEST, MOST = 3, 8
"""Pixels looked at around a pixel, at least and at most: the time grows with the square."""


def carried(
    soft: NDArray[np.float32], last: NDArray[np.uint8], now: NDArray[np.uint8], reach: int
) -> NDArray[np.float32]:
    """A soft mask (H, W) in 0..1 moved from one picture to another.

    Args:
        soft: how far each pixel of `last` belongs to the object; somewhere above 0.5.
        last: (H, W[, band]), its picture.
        now: the picture it is moved to.
        reach: pixels by which it may have moved.
    """
    window = around(soft > 0.5, 3 * reach + 4)
    moved = np.zeros_like(soft)
    before, after = (a[window].astype(np.float32) for a in (last, now))
    moved[window] = _averaged(soft[window], before, after, reach)
    return moved


def _averaged(soft: Picture, last: Picture, now: Picture, reach: int) -> NDArray[np.float32]:
    differences = [(at, _difference(last, now, at, reach)) for at in _offsets(reach)]
    least = np.min([d for _, d in differences], axis=0)
    total, weights = np.zeros_like(soft), np.zeros_like(soft)
    for (dy, dx), difference in differences:
        weight = np.exp(-difference / (SELECTIVITY * least + NOISE))
        weight *= np.exp(-(dy * dy + dx * dx) / (2 * reach**2))
        total += weight * _shifted(soft, dy, dx, reach, mode="constant")
        weights += weight
    out: NDArray[np.float32] = total / weights
    return out


def _offsets(reach: int) -> Iterator[tuple[int, int]]:
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= reach * reach + 0.5:
                yield dy, dx


def _difference(
    last: Picture, now: Picture, at: tuple[int, int], reach: int
) -> NDArray[np.float32]:
    """(H, W) mean squared difference of the patches, one of them at an offset."""
    from scipy.ndimage import gaussian_filter

    squared = (now - _shifted(last, *at, reach, mode="edge")) ** 2
    grey = squared if squared.ndim == 2 else squared.mean(axis=-1)
    smooth: NDArray[np.float32] = gaussian_filter(grey, PATCH, truncate=2.5)
    return smooth


def _shifted(values: Picture, dy: int, dx: int, reach: int, *, mode: str) -> Picture:
    border = [(reach, reach)] * 2 + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, border, mode=mode)  # type: ignore[call-overload]
    height, width = values.shape[:2]
    y, x = reach + dy, reach + dx
    out: Picture = padded[y : y + height, x : x + width]
    return out


def reach_in_pixels(slope: float, distance: float, steps: tuple[float, float]) -> int:
    """Pixels by which an edge may move from a slice to one `distance` mm away.

    Args:
        slope: mm sideways for each mm of distance.
        distance: mm between the slices.
        steps: mm between rows and between columns.
    """
    return int(np.clip(round(slope * distance / min(steps)) + FEWEST, FEWEST, MOST))


def joined_pieces(mask: Mask, expected: Mask) -> Mask:
    """The pieces of a mask that lie where the object was, without specks beside them.

    All of it where no piece does.
    """
    from scipy.ndimage import label

    pieces, count = label(mask, np.ones((3, 3)))
    if count < 2:
        return mask
    shared = np.bincount(pieces[expected & mask], minlength=count + 1)
    shared[0] = 0
    if not shared.any():
        return mask
    kept = shared >= max(1, LEAST_SHARE * shared.max())
    kept[0] = False
    joined: Mask = kept[pieces]
    return joined


LEAST_SHARE = 0.2
"""A piece is kept if it meets the object in so large a share of what the best piece meets."""

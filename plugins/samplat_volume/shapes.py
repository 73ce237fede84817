"""Masks of slices as shapes: boxes, reach in mm, what lies between two of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samplat_volume.slices import Mask


def mask_box(mask: Mask) -> tuple[int, int, int, int]:
    """The tight box x0, y0, x1, y1 of a mask that is not empty, half-open."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def scaled_box(
    box: tuple[float, float, float, float], factor: float, size: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """A box with its sides times `factor` about its centre, at least a pixel long, cut to a slice.

    Args:
        box: x0, y0, x1, y1, half-open; it meets the slice.
        factor: of both sides.
        size: rows and columns of the slice.
    """
    x0, x1 = _scaled(box[0], box[2], factor, size[1])
    y0, y1 = _scaled(box[1], box[3], factor, size[0])
    return x0, y0, x1, y1


def _scaled(start: float, stop: float, factor: float, length: int) -> tuple[float, float]:
    half, middle = max((stop - start) * factor, 1) / 2, (start + stop) / 2
    return max(middle - half, 0), min(middle + half, length)


def around(mask: Mask, margin: int) -> tuple[slice, slice]:
    """Rows and columns of a mask's box with a margin, cut to the slice; the mask is not empty."""
    x0, y0, x1, y1 = mask_box(mask)
    rows = slice(max(y0 - margin, 0), min(y1 + margin, mask.shape[0]))
    return rows, slice(max(x0 - margin, 0), min(x1 + margin, mask.shape[1]))


def depth(mask: Mask, steps: tuple[float, float]) -> NDArray[np.float64]:
    """(H, W) mm from each pixel's centre to the edge of a mask, positive inside, negative outside.

    The edge runs half a pixel off the outermost centres. Where the mask is empty all is far
    outside.
    """
    from scipy.ndimage import distance_transform_edt

    half = min(steps) / 2
    if not mask.any():
        return np.full(mask.shape, -np.inf)
    inside = distance_transform_edt(np.pad(mask, 1), sampling=steps)[1:-1, 1:-1]
    outside = distance_transform_edt(~mask, sampling=steps)
    signed: NDArray[np.float64] = np.where(mask, inside - half, half - outside)
    return signed


def between(near: Mask, far: Mask, share: float, steps: tuple[float, float]) -> Mask:
    """The shape at `share` of the way from one mask to another: 0 is the first, 1 the second.

    Signed distances are averaged after the shapes were laid over each other by their centres, so
    that what moves sideways neither vanishes nor doubles.
    """
    if not near.any() or not far.any():
        return near if share < 0.5 else far
    here, there = (np.argwhere(m).mean(axis=0) for m in (near, far))
    middle = here + share * (there - here)
    parts = [
        (1 - share) * moved(depth(near, steps), middle - here),
        share * moved(depth(far, steps), middle - there),
    ]
    shape: Mask = parts[0] + parts[1] > 0
    return shape


def moved(values: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values (H, W) shifted by rows and columns, linear between pixels, the border repeated."""
    from scipy.ndimage import shift

    out: NDArray[np.float64] = shift(values, by, order=1, mode="nearest")
    return out

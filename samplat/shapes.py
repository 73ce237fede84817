"""Masks as shapes: how deep in them a pixel lies, and what lies between two of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mask_depth(mask: NDArray[np.bool_], steps: tuple[float, float]) -> NDArray[np.float64]:
    """(H, W) mm from each pixel's centre to the edge of a mask, positive inside, negative outside.

    The edge runs half a pixel off the outermost centres. Where the mask is empty all is far
    outside.

    Args:
        mask: (H, W).
        steps: mm between rows and between columns.
    """
    from scipy.ndimage import distance_transform_edt

    half = min(steps) / 2
    if not mask.any():
        return np.full(mask.shape, -np.inf)
    inside = distance_transform_edt(np.pad(mask, 1), sampling=steps)[1:-1, 1:-1]
    outside = distance_transform_edt(~mask, sampling=steps)
    signed: NDArray[np.float64] = np.where(mask, inside - half, half - outside)
    return signed


def between_masks(
    near: NDArray[np.bool_], far: NDArray[np.bool_], share: float, steps: tuple[float, float]
) -> NDArray[np.bool_]:
    """The shape at `share` of the way from one mask to another: 0 is the first, 1 the second.

    Signed distances are averaged after the shapes were laid over each other by their centres, so
    that what moves sideways neither vanishes nor doubles.

    Args:
        near: (H, W) the first mask.
        far: (H, W) the second one.
        share: of the way, 0..1.
        steps: mm between rows and between columns.
    """
    if not near.any() or not far.any():
        return near if share < 0.5 else far
    here, there = (np.argwhere(m).mean(axis=0) for m in (near, far))
    middle = here + share * (there - here)
    parts = [
        (1 - share) * _moved(mask_depth(near, steps), middle - here),
        share * _moved(mask_depth(far, steps), middle - there),
    ]
    shape: NDArray[np.bool_] = parts[0] + parts[1] > 0
    return shape


def _moved(values: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values (H, W) shifted by rows and columns, linear between pixels, the border repeated."""
    from scipy.ndimage import shift

    out: NDArray[np.float64] = shift(values, by, order=1, mode="nearest")
    return out

"""Boxes of masks in slices."""

from __future__ import annotations

import numpy as np

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

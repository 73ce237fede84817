"""What an object looks like in a slice where it is known, beside what surrounds it there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat import mask_depth
from samplat_volume.slices import Mask

LEVELS = 64
"""Bins of grey levels,"""
BLUR = 2.0
"""smoothed with this standard deviation, in bins."""
FLOOR = 0.05
"""Share of every histogram that is spread over all bins: few pixels say little."""
RING = 0.6
"""Width of the surroundings in radii of the object."""
CERTAINTY = 2.0
"""Log odds are cut off here."""
SMOOTH = 0.6
"""Standard deviation, in pixels, with which log odds are smoothed."""
TELLING = 0.2
"""Mean log odds of the object itself below which its grey levels say nothing of it."""
ALIKE = 0.5
"""A mask with this share of them looks like the object."""
UNLIKE = 0.05
"""Likeness of a mask whose grey levels are those of the surroundings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Appearance:
    """Histograms of an object and of its surroundings, as log odds."""

    log_odds: NDArray[np.float32]
    """(LEVELS,) of a grey level: above 0 where it is commoner inside."""
    typical: float
    """Mean of the object's pixels."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W) log odds of a slice (H, W[, band])."""
        from scipy.ndimage import gaussian_filter

        smooth: NDArray[np.float32] = gaussian_filter(self.log_odds[_levels(pixels)], SMOOTH)
        return smooth

    def likeness(self, odds: NDArray[np.float32], mask: Mask) -> float:
        """How far a mask looks like the object, UNLIKE..1.

        Args:
            odds: (H, W) log odds of its slice.
            mask: (H, W).
        """
        if self.typical < TELLING or not mask.any():
            return 1.0
        return float(np.clip(odds[mask].mean() / (ALIKE * self.typical), UNLIKE, 1))


def appearance(pixels: NDArray[np.uint8], mask: Mask, steps: tuple[float, float]) -> Appearance:
    """Of an object that is not empty, in the slice it lies in.

    Args:
        pixels: (H, W[, band]).
        mask: (H, W).
        steps: mm between rows and between columns.
    """
    levels = _levels(pixels)
    inside, outside = (_histogram(levels[m]) for m in (mask, surroundings(mask, steps)))
    odds = np.clip(np.log(inside / outside), -CERTAINTY, CERTAINTY).astype(np.float32)
    return Appearance(log_odds=odds, typical=float(odds[levels[mask]].mean()))


def surroundings(mask: Mask, steps: tuple[float, float]) -> Mask:
    """The ring around a mask."""
    radius = np.sqrt(np.count_nonzero(mask) * steps[0] * steps[1] / np.pi)
    away = mask_depth(mask, steps)
    ring: Mask = (away < 0) & (away > -max(RING * radius, 2 * max(steps)))
    return ring


def _levels(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    grey = pixels if pixels.ndim == 2 else pixels.mean(axis=-1)
    return (grey * (LEVELS / 256)).astype(np.int64)


def _histogram(levels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(LEVELS,), its sum 1; even where there are no pixels."""
    from scipy.ndimage import gaussian_filter1d

    counts = np.bincount(levels, minlength=LEVELS).astype(np.float64)
    smooth = gaussian_filter1d(counts, BLUR, mode="nearest") + (0 if len(levels) else 1)
    shares: NDArray[np.float64] = smooth / smooth.sum()
    return (1 - FLOOR) * shares + FLOOR / LEVELS

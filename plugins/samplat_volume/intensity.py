"""Window and level: the part of the Hounsfield scale that the 256 grey values show.

The map is fixed for a whole volume, so a voxel looks the same whatever plane or slice it is shown
in, and the embedding of a slice has one key. For MR and microscopy, whose numbers have no fixed
meaning, the core's "percentile" does the same with percentiles of the volume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from samplat import InputError, Stretch

if TYPE_CHECKING:
    from samplat import ImageSource

PRESETS: dict[str, tuple[float, float]] = {
    "soft-tissue": (400.0, 40.0),
    "lung": (1500.0, -600.0),
    "bone": (1800.0, 400.0),
    "brain": (80.0, 40.0),
    "liver": (150.0, 30.0),
}
"""Width and level in Hounsfield units, as radiologists use them."""
SHOWN = 1e-3
"""Share of voxels that must differ from black and white."""
LOOKED_AT = 64
"""Voxels along each axis that are looked at to tell; a person waits for the first mask."""


def parse_window(window: str) -> tuple[float, float]:
    """Width and level of a preset's name, or of "W,L".

    Raises:
        InputError: neither.
    """
    if window in PRESETS:
        return PRESETS[window]
    try:
        width, level = (float(number) for number in window.split(","))
    except ValueError:
        width, level = math.nan, math.nan
    if not (math.isfinite(level) and math.isfinite(width) and width > 0):
        raise InputError(
            f"expected a window of {', '.join(PRESETS)} or W,L in Hounsfield units such as 400,40; "
            f"got {window!r}"
        )
    return width, level


@dataclass(frozen=True, kw_only=True)
class WindowRescaler:
    """level - width / 2 becomes 0, level + width / 2 becomes 255."""

    name: str = "window"

    def fit(self, source: ImageSource, *, window: str = "soft-tissue") -> Stretch:
        """The map of a preset or of "W,L".

        Raises:
            InputError: it would show next to nothing, because the numbers are no Hounsfield units.
        """
        width, level = parse_window(window)
        low, high = level - width / 2, level + width / 2
        pixels, valid = source.thumbnail(LOOKED_AT)
        values = pixels[valid].astype(np.float64)
        if values.size and np.mean((values > low) & (values < high)) < SHOWN:
            raise InputError(
                f"window {window} shows values from {low:g} to {high:g}, the volume's go from "
                f"{values.min():g} to {values.max():g}: all would be black or white; windows are "
                "for CT in Hounsfield units, use percentiles for anything else"
            )
        bands = source.info.bands
        return Stretch(low=(low,) * bands, high=(high,) * bands)

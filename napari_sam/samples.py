"""Pictures to try it on, in napari's menu *File → Open Sample*. Nothing is downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Window
from napari_sam.lazy import Lazy
from napari_sam.reading import LayerData

FIELD = 50_000
"""Pixels a side of the large picture."""
CELL = 400
"""Pixels a side of the ground that each disc of it has."""
PIXEL = 0.3
"""Metres."""
SPACING = (3.0, 1.0, 1.0)
"""Millimetres (z, y, x) of the volume."""


def coins() -> list[LayerData]:
    """The photograph of coins that scikit-image brings along."""
    from skimage import data

    picture: Any = data.coins  # without types
    return [(picture(), {"name": "coins"}, "image")]


def field() -> list[LayerData]:
    """A raster of 50 000 x 50 000 pixels, which are computed when they are looked at."""
    steps = [2**n for n in range(7)]
    levels = [_level(step) for step in steps]
    told = {
        "name": "field of 50 000 x 50 000",
        "multiscale": True,
        "scale": [PIXEL, PIXEL],
        "units": ("metre", "metre"),
        "contrast_limits": (0, 255),
    }
    return [(levels, told, "image")]


def _level(step: int) -> Lazy:
    side = -(-FIELD // step)

    def read(window: Window) -> NDArray[np.uint8]:
        rows, columns = (np.arange(w.start, w.stop, dtype=np.int64) * step for w in window)
        return discs(rows, columns)

    return Lazy((side, side), np.uint8, read)


def discs(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Pixels at these places: a disc in each cell, of a place, size and brightness of its own."""
    y, x = rows[:, None], columns[None]
    number = (y // CELL) * 1_000_003 + x // CELL
    radius = 40 + 0.28 * CELL * _random(number, 1)
    room = CELL - 2 * radius
    middle = [radius + room * _random(number, n) for n in (2, 3)]
    far = np.hypot(y % CELL - middle[0], x % CELL - middle[1])
    bright = np.where(
        far < radius, 130 + 100 * _random(number, 4), 50 + 12 * np.sin(y / 90 + x / 70)
    )
    grain = 8 * _random(y * 65_537 + x, 5)
    return (bright + grain).astype(np.uint8)


def _random(number: NDArray[np.int64], which: int) -> NDArray[np.float64]:
    """The same numbers from 0 to 1 for the same integers, on every machine."""
    mixed = number.astype(np.uint64) * np.uint64(6364136223846793005) + np.uint64(
        which * 77_777_777
    )
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray((mixed >> np.uint64(40)).astype(np.float64) / 2**24)


def volume() -> list[LayerData]:
    """Three bodies, one in another, in slices that lie 3 mm apart."""
    rng = np.random.default_rng(11)
    z, y, x = np.meshgrid(
        *(np.arange(n) * s for n, s in zip((40, 160, 180), SPACING, strict=True)), indexing="ij"
    )
    values = np.full(z.shape, 40.0)
    for middle, half, value in (
        ((60, 80, 90), (54, 70, 80), 90),
        ((60, 60, 60), (25, 22, 26), 150),
        ((65, 95, 120), (30, 30, 24), 190),
    ):
        parts = zip((z, y, x), middle, half, strict=True)
        values[sum(((a - m) / h) ** 2 for a, m, h in parts) < 1] = value
    noisy = np.clip(values + rng.normal(0, 6, values.shape), 0, 255).astype(np.uint8)
    told: dict[str, Any] = {
        "name": "bodies",
        "scale": list(SPACING),
        "units": ("mm",) * 3,
        "axis_labels": ("z", "y", "x"),
        "contrast_limits": (0, 255),
    }
    return [(noisy, told, "image")]

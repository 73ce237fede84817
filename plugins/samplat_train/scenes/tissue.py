"""Tissue of medical phantoms: grey levels with a mottle, organs and what lies in them."""

import numpy as np

from .canvas import Canvas, Floats, Stamp
from .textures import fractal


def grey(field: Floats) -> Floats:
    """(H, W, 3) of grey levels (H, W)."""
    return np.repeat(np.asarray(field, np.float32)[..., None], 3, -1)


def fill_grey(
    rng: np.random.Generator, canvas: Canvas, stamp: Stamp, level: float, rough: float = 0.02
) -> None:
    """Paint tissue about the grey `level`."""
    if stamp.alpha.size:
        mottle = fractal(rng, stamp.alpha.shape, slope=1.0, grain=2.5)
        canvas.paint(stamp, grey(level + rough * mottle))


def organ(
    rng: np.random.Generator, canvas: Canvas, stamp: Stamp, level: float, rough: float = 0.02
) -> int:
    """Paint tissue that is an object of its own, and give its number."""
    fill_grey(rng, canvas, stamp, level, rough)
    return canvas.claim(stamp)


def inner(rng: np.random.Generator, canvas: Canvas, stamp: Stamp, owner: int, level: float) -> None:
    """Paint tissue that is a part of an organ."""
    fill_grey(rng, canvas, stamp, level)
    canvas.claim_part(stamp, owner)

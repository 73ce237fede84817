"""Plain shapes on textures, nested in one another."""

from __future__ import annotations

import numpy as np

from . import shapes
from .canvas import PART, WHOLE, Canvas, blank
from .finish import Finish
from .shapes import Points
from .textures import Bank, any_colour, skin, wild_bank

FINISH = Finish(blur=1.5, noise=0.08, grey=0.1, bias=0.2, vignette=0.2, jpeg=0.4)


def draw(rng: np.random.Generator, size: int) -> tuple[Canvas, Finish]:
    """From a few large shapes to many small ones, with things on them."""
    bank, canvas = wild_bank(rng, size), blank(size)
    strength = rng.uniform(0, 0.2)
    canvas.image += skin(rng, bank, (size, size), any_colour(rng), strength)
    count = int(np.exp(rng.uniform(np.log(2), np.log(60))))
    for _ in range(count):
        radius = size * np.exp(rng.uniform(np.log(0.012), np.log(0.6 / count**0.4)))
        spot = rng.uniform(0, size, 2)
        if _shape(rng, bank, canvas, spot, radius, strength, WHOLE):
            for _ in range(rng.integers(0, 4) if radius > 12 else 0):
                inner = spot + rng.uniform(-0.35, 0.35, 2) * radius
                _shape(rng, bank, canvas, inner, radius * rng.uniform(0.1, 0.3), strength, PART)
    return canvas, FINISH


def _shape(rng: np.random.Generator, bank: Bank, canvas: Canvas, spot: Points, radius: float,
           strength: float, level: int) -> bool:
    cover = shapes.stencil(_outlines(rng, spot, radius, level), canvas.size)
    if cover is None:
        return False
    shape = (cover.cover.shape[0], cover.cover.shape[1])
    canvas.paint(cover, skin(rng, bank, shape, any_colour(rng), strength * rng.uniform(0, 2)))
    canvas.mark(cover, level)
    return True


def _outlines(rng: np.random.Generator, spot: Points, radius: float, level: int) -> list[Points]:
    kind, spin = rng.integers(6 if level == WHOLE else 4), rng.uniform(0, 2 * np.pi)
    squash = np.array([1.0, rng.uniform(0.4, 1)])
    if kind == 0:
        corners = shapes.ellipse(2 * radius, 2 * radius, int(rng.integers(3, 9)))
        return [shapes.turn(corners * squash, spin) + spot]
    if kind == 1:
        tips = int(rng.integers(3, 12))
        return [shapes.turn(shapes.star(tips, radius, radius * rng.uniform(0.3, 0.8)), spin) + spot]
    if kind == 2:
        return [shapes.turn(shapes.blob(rng, radius, rng.uniform(0, 0.4)) * squash, spin) + spot]
    if kind == 3:
        return [shapes.turn(shapes.superellipse(2 * radius, 2 * radius * squash[1], 5), spin) + spot]
    if kind == 4:
        turns = shapes.ellipse(2 * radius, 2 * radius * squash[1], 40)
        ring = np.concatenate([turns, turns[:1]])
        return shapes.ribbons(shapes.turn(ring, spin) + spot, radius * rng.uniform(0.1, 0.6))
    path = shapes.wander(rng, spot, spin, radius * rng.uniform(2, 6), rng.uniform(0, 5))
    return shapes.ribbons(path, max(3.0, radius * rng.uniform(0.05, 0.5)))

"""Shapes on textures: polygons, stars, rings, strokes like letters and thin curves, nested."""

from collections.abc import Callable

import numpy as np

from .canvas import Canvas, Points, Scene, Stamp, blank_canvas, dense_levels
from .finish import Camera, expose
from .shapes import blob, curve, cut, ellipse, fill, outline, rectangle, star, stroke, within
from .textures import material, render


def draw_abstract(rng: np.random.Generator, size: int) -> Scene:
    """Three to forty shapes; those drawn on others are their parts."""
    canvas = blank_canvas(render(rng, material(rng), (size, size)))
    count = int(np.exp(rng.uniform(np.log(3), np.log(40))))
    for _ in range(count):
        _draw_one(rng, canvas, size * 0.9 / np.sqrt(count))
    camera = Camera(blur=2.0, noise=0.08, light=0.3, grey=0.15, cast=0.1, invert=0.1)
    image = expose(rng, canvas.image, camera)
    return Scene(image=image, labels=dense_levels(canvas), kind="abstract")


def _draw_one(rng: np.random.Generator, canvas: Canvas, largest: float) -> None:
    at, radius = rng.uniform(0, canvas.size, 2), largest * np.exp(rng.uniform(-1.8, 0))
    stamp = _shape(rng, at, radius, canvas.size)
    _cover(rng, canvas, stamp)
    owner = canvas.claim(stamp)
    for _ in range(rng.poisson(1.2)):
        spot = at + rng.normal(size=2) * radius * 0.35
        inner = _shape(rng, spot, radius * rng.uniform(0.15, 0.6), canvas.size)
        inner = within(inner, stamp)
        _cover(rng, canvas, inner)
        canvas.claim_part(inner, owner)


def _cover(rng: np.random.Generator, canvas: Canvas, stamp: Stamp) -> None:
    canvas.paint(stamp, render(rng, material(rng, vivid=0.9), stamp.alpha.shape))


def _shape(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    return SHAPES[int(rng.integers(len(SHAPES)))](rng, at, radius, size)


def _star(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    return fill([star(rng, at, radius)], size)


def _box(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    return fill([rectangle(at, radius * rng.uniform(0.3, 2, 2), rng.uniform(0, 3))], size)


def _oval(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    return fill([ellipse(at, radius * rng.uniform(0.4, 1, 2), rng.uniform(0, 3))], size)


def _polygon(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    return fill([at + rng.normal(size=(int(rng.integers(3, 6)), 2)) * radius * 0.6], size)


def _lump(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    radii = radius * rng.uniform(0.5, 1, 2)
    return fill([blob(rng, at, radii, rough=0.5, angle=rng.uniform(0, 3))], size)


def _thread(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    width = max(2.5, radius * rng.uniform(0.04, 0.4))
    return stroke(curve(rng, at, radius * 4, 0.5), width, size)


def _ring(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    points = blob(rng, at, (radius, radius), rough=rng.uniform(0, 0.3))
    if rng.random() < 0.5:
        return outline(points, max(2.5, radius * rng.uniform(0.05, 0.4)), size)
    hole = fill([(points - at) * rng.uniform(0.3, 0.9) + at], size)
    return cut(fill([points], size), hole)


def _glyph(rng: np.random.Generator, at: Points, radius: float, size: int) -> Stamp:
    """Joined strokes between points of a 3 by 3 grid, like a letter of an unknown script."""
    grid = np.stack(np.meshgrid([-0.6, 0, 0.6], [-1, 0, 1]), -1).reshape(-1, 2)
    order = rng.permutation(9)[: int(rng.integers(3, 6))]
    return stroke(grid[order] * radius + at, max(2.5, radius * rng.uniform(0.15, 0.4)), size)


SHAPES: tuple[Callable[[np.random.Generator, Points, float, int], Stamp], ...] = (
    _star,
    _box,
    _oval,
    _polygon,
    _lump,
    _thread,
    _ring,
    _glyph,
)

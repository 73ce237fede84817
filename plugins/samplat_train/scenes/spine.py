"""MR of the spine: the cord in its fluid, across with grey matter in it, or along the vertebrae."""

import numpy as np

from .canvas import Canvas, Points, blank_canvas
from .shapes import blob, ellipse, fill, limb, place, rectangle, stroke, within
from .textures import fractal
from .tissue import fill_grey, grey, inner, organ


def spine(rng: np.random.Generator, size: int) -> Canvas:
    """A slice across the cord or along it."""
    level = rng.uniform(0.1, 0.5)
    ground = level + rng.uniform(0.02, 0.1) * fractal(rng, (size, size), slope=1.5, grain=4.0)
    canvas = blank_canvas(grey(ground))
    (_across if rng.random() < 0.5 else _along)(rng, canvas)
    return canvas


def _levels(rng: np.random.Generator) -> tuple[float, float, float]:
    """Of fluid, white and grey matter; the matters differ little."""
    cord = rng.uniform(0.25, 0.65)
    fluid = rng.uniform(0.75, 1.0) if rng.random() < 0.6 else rng.uniform(0.02, 0.2)
    return fluid, cord, cord + rng.choice([-1, 1]) * rng.uniform(0.04, 0.2)


def _across(rng: np.random.Generator, canvas: Canvas) -> None:
    size = canvas.size
    fluid, white, matter = _levels(rng)
    middle = size * rng.uniform(0.35, 0.65, 2)
    turn, side = rng.normal() * 0.15, float(rng.choice([-1, 1]))
    radius = size * np.exp(rng.uniform(np.log(0.05), np.log(0.25)))
    bone = place(np.array([[0.0, side * 2.2 * radius]]), middle, turn)[0]
    body = blob(rng, bone, radius * rng.uniform(0.9, 1.6, 2), rough=0.15)
    organ(rng, canvas, fill([body], size), rng.uniform(0.1, 0.6), 0.04)
    canal = blob(rng, middle, radius * np.array([1.6, rng.uniform(1.1, 1.5)]), rough=0.1)
    fill_grey(rng, canvas, fill([canal], size), fluid)
    cord = ellipse(middle, radius * np.array([1, rng.uniform(0.65, 0.95)]), turn)
    stamp = fill([cord], size)
    owner = organ(rng, canvas, stamp, white)
    horns = [place(part * radius, middle, turn) for part in _butterfly(rng, side)]
    inner(rng, canvas, within(fill(horns, size), stamp), owner, matter)


def _butterfly(rng: np.random.Generator, side: float) -> list[Points]:
    """Grey matter in a cord of radius 1: on each side a thick horn, a thin one, and the bar."""
    out, thick, thin = rng.uniform(0.22, 0.4), rng.uniform(0.1, 0.2), rng.uniform(0.05, 0.1)
    front, back = rng.uniform(0.25, 0.45), rng.uniform(0.4, 0.6)
    bar = limb((-out, 0), (out, 0), thin, thin)
    parts = [bar]
    for half in (-1, 1):
        root = (half * out, 0.0)
        parts.append(limb(root, (half * out * rng.uniform(0.9, 1.3), side * front), thick, thick))
        parts.append(limb(root, (half * out * rng.uniform(1.2, 1.7), -side * back), thick, thin))
    return parts


def _along(rng: np.random.Generator, canvas: Canvas) -> None:
    size = canvas.size
    fluid, white, _ = _levels(rng)
    y = np.linspace(-0.1, 1.1, 40) * size
    bend = (
        size * rng.uniform(-0.12, 0.12) * np.cos(y / size * rng.uniform(1, 4) + rng.uniform(0, 6))
    )
    x = size * rng.uniform(0.3, 0.7) + bend
    line, width = np.stack([x, y], 1), size * np.exp(rng.uniform(np.log(0.015), np.log(0.07)))
    room, side = width * rng.uniform(1.3, 2.4), float(rng.choice([-1, 1]))
    _vertebrae(rng, canvas, line, side * room)
    fill_grey(rng, canvas, stroke(line, room, size), fluid)
    shift = np.array([rng.uniform(-0.5, 0.5) * (room - width), 0.0])
    first, last = sorted(rng.integers(0, 40, 2)) if rng.random() < 0.3 else (0, 40)
    cord = line[first : max(last, first + 6)] + shift
    organ(rng, canvas, stroke(cord, width, size), white)


def _vertebrae(rng: np.random.Generator, canvas: Canvas, line: Points, room: float) -> None:
    """Bodies with discs between them on one side, spines of bone on the other."""
    tall, bright = canvas.size * rng.uniform(0.06, 0.16), rng.uniform(0.15, 0.8)
    wide = tall * rng.uniform(1.0, 1.6)
    for top in np.arange(-tall, canvas.size + tall, tall * 1.25):
        x = float(np.interp(top, line[:, 1], line[:, 0]))
        at = np.array([x + np.sign(room) * (abs(room) / 2 + wide * 0.55), top])
        body = rectangle(at, (wide, tall)) + rng.normal(size=(1, 2)) * tall * 0.02
        organ(rng, canvas, fill([body], canvas.size), bright, 0.05)
        back = np.array([x - np.sign(room) * (abs(room) / 2 + wide * 0.6), top + tall * 0.3])
        process = blob(rng, back, (wide * 0.4, tall * 0.25), rough=0.3, angle=np.sign(room) * 0.4)
        organ(rng, canvas, fill([process], canvas.size), bright * rng.uniform(0.8, 1.1), 0.05)

"""Everyday pictures: a few large figures made of parts, in front of busy backgrounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import shapes
from .canvas import PART, Array, Canvas, Stencil, blank
from .finish import Finish
from .shapes import Points
from .textures import (
    Bank, any_colour, blurred, fractal, hue, near, photo, resized, skin, smooth, wild_bank,
)

FINISH = Finish(blur=1.6, noise=0.06, grey=0.06, bias=0.2, vignette=0.25, jpeg=0.5)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a figure: its outlines (pixels, local) and how it looks."""

    outlines: tuple[Points, ...]
    colour: Array
    named: bool = True


Figure = tuple[Piece, ...]


def draw(rng: np.random.Generator, size: int) -> tuple[Canvas, Finish]:
    """Background, then figures from far to near, then perhaps twigs before the lens."""
    bank = wild_bank(rng, size)
    canvas = blank(size)
    canvas.image[:] = _background(rng, bank, size)
    count = 1 + min(int(rng.geometric(0.38)) - 1, 7)
    largest = rng.uniform(0.25, 0.95) * size
    heights = np.sort(largest * rng.uniform(0.35, 1, count))
    for height in heights:
        _figure(rng, bank, canvas, float(height))
    if rng.random() < 0.15:
        _twigs(rng, canvas)
    if rng.random() < 0.12:
        canvas.image[:] = _panned(rng, canvas.image)
    return canvas, FINISH


# backgrounds


def _background(rng: np.random.Generator, bank: Bank, size: int) -> Array:
    kind = rng.random()
    if kind < 0.3:
        image = _landscape(rng, bank, size)
    elif kind < 0.5:
        image = _foliage(rng, bank, size)
    elif kind < 0.65:
        image = _room(rng, bank, size)
    elif kind < 0.8:
        image = _photograph(rng, size)
    else:
        image = skin(rng, bank, (size, size), any_colour(rng), rng.uniform(0.01, 0.25))
    image = image * (1 + 0.15 * rng.random() * smooth(rng, size, size / 2))[..., None]
    return _defocused(rng, np.asarray(image, np.float32))


def _defocused(rng: np.random.Generator, image: Array) -> Array:
    if rng.random() < 0.45:
        return image
    sigma = rng.uniform(0.5, 9)
    return np.stack([blurred(image[..., c], sigma) for c in range(3)], -1)


def _landscape(rng: np.random.Generator, bank: Bank, size: int) -> Array:
    """Sky, a rough horizon or two, ground."""
    sky = hue(rng.uniform(0.5, 0.65), rng.uniform(0, 0.5), rng.uniform(0.5, 1))
    image = np.zeros((size, size, 3), np.float32) + sky
    image += rng.uniform(0, 0.12) * np.maximum(fractal(rng, size, size, 3), 0)[..., None]
    y = np.arange(size)[:, None]
    horizon = rng.uniform(0.05, 0.6) * size
    for _ in range(rng.integers(1, 4)):
        rough = resized(fractal(rng, 2, size, rng.uniform(2, 20), 0.6), 1, size)
        line = horizon + rough * rng.uniform(0, 0.05) * size
        colour = hue(rng.uniform(0.05, 0.45), rng.uniform(0.05, 0.6), rng.uniform(0.15, 0.8))
        layer = skin(rng, bank, (size, size), colour, rng.uniform(0.03, 0.2))
        image = np.where((y > line)[..., None], layer, image)
        horizon += rng.uniform(0.05, 0.3) * size
    return image


def _foliage(rng: np.random.Generator, bank: Bank, size: int) -> Array:
    """Leaves, stones or litter: many strong edges, nobody's objects."""
    canvas = blank(size)
    base = any_colour(rng) if rng.random() < 0.4 else hue(rng.uniform(0.15, 0.4), 0.5, 0.35)
    canvas.image += skin(rng, bank, (size, size), base * 0.6, rng.uniform(0.02, 0.15))
    reach, slim = rng.uniform(4, 30), rng.uniform(0.15, 0.9)
    for _ in range(int(rng.integers(60, 260))):
        leaf = shapes.ellipse(reach * rng.uniform(0.5, 1.5) * slim, reach * rng.uniform(0.5, 2), 14)
        outline = shapes.turn(leaf, rng.uniform(0, np.pi)) + rng.uniform(0, size, 2)
        cover = shapes.stencil([outline], size)
        if cover is not None:
            canvas.paint(cover, near(rng, base, 0.12))
    return canvas.image


def _room(rng: np.random.Generator, bank: Bank, size: int) -> Array:
    """Walls, a floor, panels: large flat regions with straight edges."""
    canvas = blank(size)
    canvas.image += skin(rng, bank, (size, size), any_colour(rng), rng.uniform(0.01, 0.1))
    for _ in range(rng.integers(2, 12)):
        local = shapes.rectangle(*rng.uniform(0.05, 1.2, 2) * size)
        angle = rng.normal(0, 0.05) + rng.choice([0, 0, rng.uniform(0, 3)])
        cover = shapes.stencil([shapes.turn(local, angle) + rng.uniform(0, size, 2)], size)
        if cover is not None:
            shape = (cover.cover.shape[0], cover.cover.shape[1])
            canvas.paint(cover, skin(rng, bank, shape, any_colour(rng), rng.uniform(0.0, 0.12)))
    return canvas.image


def _photograph(rng: np.random.Generator, size: int) -> Array:
    """A real picture's structure between two colours."""
    field = np.clip(0.5 + 0.3 * photo(rng, size, size), 0, 1)[..., None]
    first, second = any_colour(rng), any_colour(rng)
    return np.asarray(first + field * (second - first), np.float32)


# figures


def _figure(rng: np.random.Generator, bank: Bank, canvas: Canvas, height: float) -> None:
    make = rng.choice(5, p=[0.28, 0.22, 0.16, 0.22, 0.12])
    pieces = (_person, _animal, _vehicle, _lump, _thing)[make](rng, height)
    pieces = _posed(rng, pieces, canvas.size)
    whole = shapes.stencil([o for piece in pieces for o in piece.outlines], canvas.size)
    if whole is None or whole.inside.sum() < 0.004 * canvas.size**2:
        return
    if rng.random() < 0.35:
        _contact_shadow(rng, canvas, whole)
    layer = blank(canvas.size)
    layer.image[whole.box] = canvas.image[whole.box]
    canvas.mark(whole)
    contrast = rng.uniform(0, 0.22) * rng.choice([0.3, 1])
    for piece in pieces:
        _piece(rng, bank, canvas, layer, piece, contrast)
    _shaded(rng, layer, whole)
    _blend(rng, canvas, layer, whole)


def _posed(rng: np.random.Generator, pieces: Figure, size: int) -> Figure:
    """Lean, mirror and put somewhere, mostly within the picture."""
    lean, side = rng.normal(0, 0.15), rng.choice([-1.0, 1.0])
    spot = size * rng.uniform(0.15, 0.85, 2)
    return tuple(
        Piece(colour=p.colour, named=p.named, outlines=tuple(
            shapes.turn(o, lean) * np.array([1.0, side]) + spot for o in p.outlines))
        for p in pieces
    )


def _piece(rng: np.random.Generator, bank: Bank, canvas: Canvas, layer: Canvas, piece: Piece,
           contrast: float) -> None:
    cover = shapes.stencil(piece.outlines, canvas.size)
    if cover is None:
        return
    shape = (cover.cover.shape[0], cover.cover.shape[1])
    second = any_colour(rng) if rng.random() < 0.15 else None
    layer.paint(cover, skin(rng, bank, shape, piece.colour, contrast * rng.uniform(0.2, 1.4),
                            second))
    if piece.named:
        canvas.mark(cover, PART)


def _shaded(rng: np.random.Generator, layer: Canvas, whole: Stencil) -> None:
    """Round the figure: a light from one side, rims darker or brighter."""
    depth = blurred(whole.cover, 0.06 * max(whole.cover.shape) + 1)
    dy, dx = np.gradient(depth)
    lamp = shapes.heading(rng.uniform(0, 2 * np.pi))
    slope = -(dy * lamp[0] + dx * lamp[1])
    slope = slope / (np.abs(slope).max() + 1e-6)
    fall = np.linspace(-1, 1, whole.cover.shape[0])[:, None] * rng.normal(0, 0.12)
    tone = 1 + rng.uniform(0, 0.6) * slope + fall + rng.normal(0, 0.15) * (depth - 0.7)
    layer.image[whole.box] *= np.clip(tone, 0.2, 1.9)[..., None].astype(np.float32)


def _blend(rng: np.random.Generator, canvas: Canvas, layer: Canvas, whole: Stencil) -> None:
    """Lay the figure over the picture, its rim sharp or a little out of focus."""
    soft = whole
    if rng.random() < 0.3:
        soft = Stencil(top=whole.top, left=whole.left,
                       cover=np.minimum(blurred(whole.cover, rng.uniform(0.5, 2)) * 1.0, 1))
    canvas.paint(soft, layer.image[whole.box])


def _contact_shadow(rng: np.random.Generator, canvas: Canvas, whole: Stencil) -> None:
    """A dark pool on the ground under a figure."""
    height, width = whole.cover.shape
    foot = np.array([whole.top + height * 0.98, whole.left + width / 2])
    local = shapes.ellipse(height * rng.uniform(0.06, 0.25), width * rng.uniform(0.8, 1.8))
    cover = shapes.stencil([local + foot + np.array([0, rng.normal(0, 0.2) * width])], canvas.size)
    if cover is not None:
        canvas.shade(Stencil(top=cover.top, left=cover.left,
                             cover=blurred(cover.cover, height * 0.02 + 0.5)),
                     rng.uniform(0.3, 0.85))


def _at(y: float, x: float) -> Points:
    return np.array([y, x])


def _limb(rng: np.random.Generator, root: Points, angle: float, length: float, thick: float,
          taper: float = 0.7) -> tuple[tuple[Points, ...], Points]:
    """Two bones with a joint: outlines and where the limb ends."""
    knee = root + shapes.heading(angle) * length / 2
    foot = knee + shapes.heading(angle + rng.normal(0, 0.5)) * length / 2
    return (shapes.capsule(root, knee, thick, thick * (1 + taper) / 2),
            shapes.capsule(knee, foot, thick * (1 + taper) / 2, thick * taper)), foot


def _person(rng: np.random.Generator, tall: float) -> Figure:
    """Head, trunk, arms, legs; skin and clothes in colours of their own."""
    flesh = hue(rng.uniform(0.03, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.95))
    shirt, trousers, hair = any_colour(rng), any_colour(rng), any_colour(rng) * 0.6
    stout, down = rng.uniform(0.7, 1.5), np.pi / 2
    hip, neck = _at(0.02 * tall, 0), _at(-0.3 * tall, rng.normal(0, 0.04) * tall)
    pieces = []
    for side in (-1, 1):
        root = hip + _at(0, side * 0.045 * tall * stout)
        outlines, foot = _limb(rng, root, down + rng.normal(0, 0.35), 0.46 * tall,
                               0.045 * tall * stout)
        shoe = shapes.capsule(foot, foot + _at(0, 0.05 * tall), 0.025 * tall, 0.02 * tall)
        pieces += [Piece(outlines=outlines, colour=trousers),
                   Piece(outlines=(shoe,), colour=any_colour(rng) * 0.5)]
    trunk = shapes.capsule(neck + _at(0.06 * tall, 0), hip, 0.1 * tall * stout, 0.08 * tall * stout)
    arms = [_arm(rng, neck, side, tall, stout) for side in (-1, 1)]
    pieces += [Piece(outlines=arms[0][:1], colour=shirt),
               Piece(outlines=arms[0][1:], colour=flesh),
               Piece(outlines=(trunk,), colour=shirt)]
    pieces += [Piece(outlines=arms[1][:1], colour=shirt, named=False),
               Piece(outlines=arms[1][1:], colour=flesh)]
    return (*pieces, *_head(rng, neck, tall, flesh, hair))


def _arm(rng: np.random.Generator, neck: Points, side: int, tall: float,
         stout: float) -> tuple[Points, ...]:
    root = neck + _at(0.06 * tall, side * 0.09 * tall * stout)
    angle = np.pi / 2 - side * abs(rng.normal(0.3, 0.7))
    return _limb(rng, root, angle, 0.36 * tall, 0.033 * tall * stout)[0]


def _head(rng: np.random.Generator, neck: Points, tall: float, flesh: Array,
          hair: Array) -> Figure:
    middle = neck + _at(-0.09 * tall, rng.normal(0, 0.01) * tall)
    face = shapes.ellipse(0.17 * tall, 0.13 * tall) + middle
    throat = shapes.capsule(neck + _at(0.02 * tall, 0), middle, 0.03 * tall, 0.03 * tall)
    top = shapes.ellipse(0.19 * tall, 0.15 * tall) + middle
    wig = top[top[:, 0] < middle[0] - rng.uniform(-0.03, 0.04) * tall]
    pieces = [Piece(outlines=(face, throat), colour=flesh)]
    return (*pieces, Piece(outlines=(wig,), colour=hair)) if len(wig) > 3 else tuple(pieces)


def _animal(rng: np.random.Generator, tall: float) -> Figure:
    """A barrel on four legs, a neck, a head, a tail."""
    coat = near(rng, any_colour(rng), 0.05)
    long, deep = tall * rng.uniform(0.4, 0.7), tall * rng.uniform(0.14, 0.26)
    body = shapes.blob(rng, 0.5, 0.06) * np.array([deep * 2, long])
    leg, legs = tall * rng.uniform(0.2, 0.5), []
    for x in (-0.36, -0.26, 0.26, 0.36):
        legs.append(_limb(rng, _at(deep * 0.4, x * long), np.pi / 2 + rng.normal(0, 0.3), leg,
                          deep * 0.24, 0.5)[0])
    neck = _at(-deep * 0.3, long * 0.42)
    skull = neck + _at(-rng.uniform(-0.1, 0.4) * tall, rng.uniform(0.08, 0.25) * tall)
    head = (shapes.capsule(neck, skull, deep * 0.5, deep * 0.33),)
    snout = shapes.capsule(skull, skull + _at(rng.uniform(0, 0.1), 0.12) * tall, deep * 0.36,
                           deep * 0.2)
    ear = shapes.ellipse(deep * 0.5, deep * 0.25) + skull + _at(-deep * 0.4, 0)
    tail = shapes.wander(rng, _at(-deep * 0.2, -long * 0.47), np.pi + rng.normal(0, 0.8),
                         tall * rng.uniform(0.1, 0.5), 3, 10)
    dark = coat * np.float32(rng.uniform(0.5, 1.1))
    return (
        Piece(outlines=(*legs[0], *legs[2]), colour=dark, named=False),
        Piece(outlines=tuple(shapes.ribbons(tail, deep * 0.2)), colour=coat),
        Piece(outlines=(body, *legs[1], *legs[3]), colour=coat, named=False),
        Piece(outlines=(*head, snout, ear), colour=near(rng, coat, rng.choice([0.02, 0.2]))),
    )


def _vehicle(rng: np.random.Generator, tall: float) -> Figure:
    """A body, a cabin with panes, wheels."""
    paint, long = any_colour(rng), tall * rng.uniform(0.7, 1.1)
    deep, cab = long * rng.uniform(0.14, 0.3), long * rng.uniform(0.35, 0.85)
    body = shapes.superellipse(deep, long, rng.uniform(3, 9))
    roof = np.array([[-deep * rng.uniform(0.9, 1.5), cab * s * rng.uniform(0.3, 0.5)]
                     for s in (-1, 1)])
    base = np.array([[-deep * 0.2, cab * 0.5], [-deep * 0.2, -cab * 0.5]])
    cabin = np.concatenate([roof, base]) + _at(0, rng.uniform(-0.1, 0.1) * long)
    middle = cabin.mean(0)
    panes = [(cabin - middle) * np.array([0.6, 0.38]) + middle + _at(0, s * cab * 0.22)
             for s in (-1, 1)]
    glass = hue(0.55, rng.uniform(0, 0.4), rng.uniform(0.05, 0.6))
    wheel, tyre = deep * rng.uniform(0.5, 0.9), np.float32(0.06) * np.ones(3, np.float32)
    pieces = [Piece(outlines=(body, cabin), colour=paint, named=False)]
    pieces += [Piece(outlines=(pane,), colour=glass) for pane in panes]
    for x in (-0.32, 0.32):
        hub = _at(deep * 0.45, x * long)
        pieces.append(Piece(outlines=(shapes.ellipse(wheel, wheel) + hub,), colour=tyre))
        pieces.append(Piece(outlines=(shapes.ellipse(wheel * 0.5, wheel * 0.5) + hub,),
                            colour=hue(0, 0, rng.uniform(0.3, 0.8))))
    return tuple(pieces)


def _lump(rng: np.random.Generator, tall: float) -> Figure:
    """A smooth random thing with patches on it."""
    radius, squash = tall * 0.4, np.array([1.0, rng.uniform(0.4, 1.2)])
    spin = rng.uniform(0, np.pi)
    body = shapes.turn(shapes.blob(rng, radius, rng.uniform(0, 0.3)) * squash, spin)
    pieces = [Piece(outlines=(body,), colour=any_colour(rng), named=False)]
    for _ in range(rng.integers(0, 4)):
        spot = body.mean(0) + rng.uniform(-0.3, 0.3, 2) * radius
        patch = shapes.blob(rng, radius * rng.uniform(0.1, 0.35), 0.15) * 0.9 + spot
        pieces.append(Piece(outlines=(patch,), colour=any_colour(rng)))
    return tuple(pieces)


def _thing(rng: np.random.Generator, tall: float) -> Figure:
    """Furniture and tools: rods and boards joined together."""
    pieces, colour = [], any_colour(rng)
    for _ in range(rng.integers(2, 6)):
        sides = rng.uniform(0.05, 0.6, 2) * tall
        board = shapes.turn(shapes.superellipse(*sides, rng.uniform(2, 10)),
                            rng.choice([0, np.pi / 2, rng.uniform(0, 3)]))
        spot = rng.uniform(-0.2, 0.2, 2) * tall
        tone = near(rng, colour, 0.04) if rng.random() < 0.5 else any_colour(rng)
        pieces.append(Piece(outlines=(board + spot,), colour=tone))
    return tuple(pieces)


# before the lens


def _twigs(rng: np.random.Generator, canvas: Canvas) -> None:
    """Thin dark or bright lines over everything; not objects."""
    colour = any_colour(rng)
    for _ in range(rng.integers(2, 12)):
        path = shapes.wander(rng, rng.uniform(0, canvas.size, 2), rng.uniform(0, 6.3),
                             canvas.size * rng.uniform(0.2, 1.2), 2)
        cover = shapes.stencil(shapes.ribbons(path, rng.uniform(1.5, 6)), canvas.size)
        if cover is not None:
            canvas.paint(cover, near(rng, colour, 0.04))
            canvas.hide(cover)


def _panned(rng: np.random.Generator, image: Array) -> Array:
    """Motion blur along rows or columns."""
    reach, axis = int(rng.integers(2, 9)), int(rng.integers(2))
    return np.mean([np.roll(image, step, axis) for step in range(reach)], 0, dtype=np.float32)

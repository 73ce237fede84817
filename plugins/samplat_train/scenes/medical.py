"""Phantoms of CT and MR slices: a body, organs, bones, vessels, lesions."""

from __future__ import annotations

import numpy as np

from . import shapes
from .canvas import PART, Array, Canvas, Stencil, blank
from .finish import Finish
from .shapes import Points
from .textures import blurred, fractal, smooth

FINISH = Finish(blur=1.8, noise=0.1, grey=1.0, bias=0.25, vignette=0.05, jpeg=0.15, cast=0.0)


def draw(rng: np.random.Generator, size: int) -> tuple[Canvas, Finish]:
    """A slice: skin, fat, cavity, organs that may hold lesions, bones, vessels."""
    canvas = blank(size, rng.uniform(0, 0.05))
    contrast = rng.uniform(0.04, 0.3)
    extent = size * rng.uniform(0.6, 1.3, 2)
    middle = np.full(2, size / 2) + rng.normal(0, 0.05, 2) * size
    body = shapes.blob(rng, 0.5, 0.04, 4) * extent + middle
    tissue = rng.uniform(0.2, 0.6)
    _organ(rng, canvas, body, tissue + rng.choice([-0.15, 0.2]), 0.01)
    rim = 1 - rng.uniform(0.04, 0.15)
    _organ(rng, canvas, (body - middle) * rim + middle, tissue, 0.02, marked=False)
    for spot in _spots(rng, middle, extent):
        radius = min(extent) * np.exp(rng.uniform(np.log(0.03), np.log(0.22)))
        outline = shapes.blob(rng, radius, rng.uniform(0.03, 0.22)) * _squash(rng) + spot
        whole = _organ(rng, canvas, outline, tissue + rng.normal(0, contrast), 0.02)
        if whole is not None and rng.random() < 0.4:
            _lesion(rng, canvas, outline, radius, contrast)
    _bones(rng, canvas, middle, extent)
    _vessels(rng, canvas, middle, extent, tissue)
    return _scanned(rng, canvas), FINISH


def _squash(rng: np.random.Generator) -> Points:
    return np.exp(rng.normal(0, 0.25, 2))


def _spots(rng: np.random.Generator, middle: Points, extent: Points) -> Points:
    count = int(rng.integers(3, 16))
    angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count)) * 0.36
    offsets = np.stack([np.sin(angle), np.cos(angle)], 1) * reach[:, None] * extent
    return np.asarray(middle + offsets)


def _organ(rng: np.random.Generator, canvas: Canvas, outline: Points, grey: float, grain: float,
           marked: bool = True) -> Stencil | None:
    cover = shapes.stencil([outline], canvas.size)
    if cover is None:
        return None
    shape = (cover.cover.shape[0], cover.cover.shape[1])
    texture = fractal(rng, *shape, rng.uniform(3, 20), 0.8) if min(shape) > 4 else 0.0
    tone = np.float32(np.clip(grey, 0.03, 1)) + np.float32(grain * rng.random() * 2) * texture
    canvas.paint(cover, np.broadcast_to(np.asarray(tone, np.float32), shape)[..., None])
    if marked:
        canvas.mark(cover)
    return cover


def _lesion(rng: np.random.Generator, canvas: Canvas, outline: Points, radius: float,
            contrast: float) -> None:
    """Something small within an organ."""
    spot = outline.mean(0) + rng.uniform(-0.35, 0.35, 2) * radius
    small = shapes.blob(rng, radius * rng.uniform(0.15, 0.4), 0.12) + spot
    cover = shapes.stencil([small], canvas.size)
    if cover is not None:
        tone = canvas.image[cover.box][cover.inside].mean() if cover.inside.any() else 0.3
        shift = rng.choice([-1, 1]) * (0.05 + abs(rng.normal(0, contrast)))
        canvas.paint(cover, np.full(3, tone + shift, np.float32))
        canvas.mark(cover, PART)


def _bones(rng: np.random.Generator, canvas: Canvas, middle: Points, extent: Points) -> None:
    """Bright rings and discs, with marrow inside, around the body's wall."""
    count, bright = int(rng.choice([0, 1, 2, 6, 10])), rng.choice([rng.uniform(0.7, 1), 0.08])
    for angle in rng.uniform(0, 6.3) + np.arange(count) * 6.28 / max(count, 1):
        spot = middle + shapes.heading(angle) * extent * rng.uniform(0.36, 0.42)
        radius = min(extent) * rng.uniform(0.02, 0.06)
        outline = shapes.turn(shapes.blob(rng, radius, 0.1) * np.array([0.6, 1.5]),
                              angle + np.pi / 2)
        _organ(rng, canvas, outline + spot, bright, 0.01)
        marrow = shapes.stencil([outline * 0.6 + spot], canvas.size)
        if marrow is not None:
            canvas.paint(marrow, np.full(3, rng.uniform(0.3, 0.7), np.float32))
            canvas.mark(marrow, PART)


def _vessels(rng: np.random.Generator, canvas: Canvas, middle: Points, extent: Points,
             tissue: float) -> None:
    """Small round sections and long branches."""
    shift = rng.normal(0, 0.25)
    for spot in _spots(rng, middle, extent)[: rng.integers(0, 9)]:
        radius = min(extent) * rng.uniform(0.008, 0.03)
        if rng.random() < 0.6:
            outlines = [shapes.ellipse(2 * radius, 2 * radius * rng.uniform(0.8, 1.6)) + spot]
        else:
            path = shapes.wander(rng, spot, rng.uniform(0, 6.3), min(extent) * 0.3, 2.5, 14)
            outlines = shapes.ribbons(path, np.linspace(1.6, 0.7, len(path)) * radius)
        cover = shapes.stencil(outlines, canvas.size)
        if cover is not None:
            canvas.paint(cover, np.full(3, np.clip(tissue + shift, 0.05, 1), np.float32))
            canvas.mark(cover)


def _scanned(rng: np.random.Generator, canvas: Canvas) -> Canvas:
    """Thick slices blur, magnitudes are Rician, coils are nearer on one side."""
    size = canvas.size
    flat: Array = canvas.image[..., 0]
    flat = blurred(flat, rng.uniform(0.3, 2.2) * size / 512)
    flat = flat * np.exp(rng.uniform(0, 0.3) * smooth(rng, size, size / rng.uniform(1, 3)))
    level, grain = rng.uniform(0, 0.06), rng.uniform(0.3, 1.2)
    real, imaginary = (blurred(rng.standard_normal((size, size), np.float32), grain)
                       for _ in range(2))
    noise = np.float32(level / (real.std() + 1e-6))
    flat = np.hypot(flat + noise * real, noise * imaginary)
    canvas.image[:] = flat[..., None]
    return canvas

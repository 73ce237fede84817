"""Micrographs: fluorescent nuclei, stained tissue, phase contrast, axons, epithelia."""

from __future__ import annotations

import numpy as np

from . import shapes
from .canvas import PART, Array, Canvas, Mask, blank
from .finish import Finish
from .shapes import Cells
from .textures import blurred, fractal, hue, near, resized, smooth, standard

FINISH = Finish(blur=1.4, noise=0.1, grey=0.25, bias=0.3, vignette=0.3, jpeg=0.2, cast=0.04)


def draw(rng: np.random.Generator, size: int) -> tuple[Canvas, Finish]:
    """One of five kinds of micrograph."""
    kind = rng.choice(5, p=[0.34, 0.16, 0.12, 0.26, 0.12])
    make = (_fluorescence, _stained, _phase_contrast, _axons, _epithelium)[kind]
    return make(rng, size), FINISH


def _warp(rng: np.random.Generator, size: int, radius: float, reach: float) -> tuple[Array, Array]:
    """Displacements that make round things a little less so."""
    by = np.float32(reach * radius)
    return by * smooth(rng, size, radius), by * smooth(rng, size, radius)


def _seeds(rng: np.random.Generator, size: int, radius: float, crowd: float, reach: float = 1.6,
           spread: float = 0.22) -> Cells:
    """Cells of about `radius` pixels; `crowd` 1 is packed, 0.3 sparse and in groups."""
    centres = shapes.scatter(rng, size, radius * rng.uniform(1.6, 2.1), rng.uniform(0.1, 0.3))
    lively = smooth(rng, size, size / 4)
    y, x = np.clip(centres, 0, size - 1).astype(int).T
    odds = np.clip(crowd + 0.3 * lively[y, x] * (crowd < 0.95), 0.02, 1)
    centres = centres[rng.random(len(centres)) < odds]
    count = len(centres)
    radii = radius * np.exp(rng.normal(0, spread, count))
    stretch = np.exp(np.abs(rng.normal(0, 0.18, count)))
    return shapes.cells(centres, radii, stretch, rng.uniform(0, np.pi, count), size, reach,
                        _warp(rng, size, radius, rng.uniform(0.05, 0.25)))


def _per_cell(rng: np.random.Generator, owner: shapes.Ids, mean: float, spread: float) -> Array:
    """A random number for each cell, spread over its pixels; log-normal."""
    table = mean * np.exp(rng.normal(0, spread, int(owner.max()) + 2))
    return table.astype(np.float32)[owner]


def _mark_cells(canvas: Canvas, owner: shapes.Ids, inside: Mask, level: int = 0) -> None:
    """Every cell's pixels get an id of their own."""
    ids = np.where(inside & (owner >= 0), owner + 1 + canvas.used, 0)
    canvas.ids[level] = np.where(ids > 0, ids, canvas.ids[level])
    canvas.used += int(owner.max()) + 1


def _inner(found: Cells, gap: float) -> Array:
    """How far inside its cell a pixel is: 0 on the rim or at a neighbour; (H, W)."""
    return np.minimum(1 - found.near, (found.second - found.near) / 2 + gap)


def _radius(rng: np.random.Generator, low: float, high: float, size: int) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) * size / 512


def _fluorescence(rng: np.random.Generator, size: int) -> Canvas:
    """Bright nuclei on black, each with its own brightness and focus."""
    radius = _radius(rng, 6, 50, size)
    found = _seeds(rng, size, radius, rng.uniform(0.15, 0.95))
    canvas, inside = blank(size), found.near < 1
    light = _per_cell(rng, found.owner, 0.5, rng.uniform(0.1, 0.6)) * inside
    chromatin = fractal(rng, size, size, size / radius * 2, 0.8)
    dome = np.clip(1.6 * (1 - found.near), 0, 1) ** rng.uniform(0.1, 0.8)
    light = light * dome * (1 + rng.uniform(0.02, 0.3) * chromatin)
    light = blurred(light, rng.uniform(0.3, 2)) + 0.25 * rng.random() * blurred(light, radius)
    light += rng.uniform(0.01, 0.12) * (1 + 0.3 * smooth(rng, size, size / 3))
    tint = hue(rng.random(), 0.9, 1) if rng.random() < 0.35 else np.ones(3, np.float32)
    canvas.image += np.clip(light, 0, 1.1)[..., None] * tint
    _mark_cells(canvas, found.owner, inside)
    return canvas


def _stained(rng: np.random.Generator, size: int) -> Canvas:
    """Haematoxylin and eosin: purple nuclei in pink fibres."""
    radius = _radius(rng, 7, 26, size)
    found = _seeds(rng, size, radius, rng.uniform(0.3, 0.9))
    canvas, inside = blank(size), found.near < 1
    pink = hue(rng.uniform(0.83, 0.97), rng.uniform(0.15, 0.45), rng.uniform(0.7, 0.95))
    purple = hue(rng.uniform(0.68, 0.8), rng.uniform(0.35, 0.7), rng.uniform(0.25, 0.6))
    fibre = standard(np.tanh(2 * fractal(rng, size, size, rng.uniform(4, 20), 0.75)))
    canvas.image += pink + np.float32(rng.uniform(0.02, 0.09)) * fibre[..., None]
    holes = fractal(rng, size, size, rng.uniform(3, 12), 0.5, 4) > rng.uniform(1, 2.5)
    canvas.image[holes] = near(rng, np.full(3, 0.93, np.float32), 0.02)
    chromatin = fractal(rng, size, size, size / radius * 2.5, 0.8)
    strength = _per_cell(rng, found.owner, 0.8, 0.2) * inside * (1 - 0.2 * found.near)
    strength = np.clip(blurred(strength * (1 + 0.18 * chromatin), 0.7), 0, 1)[..., None]
    canvas.image += strength * (purple - canvas.image)
    _mark_cells(canvas, found.owner, inside)
    return canvas


def _phase_contrast(rng: np.random.Generator, size: int) -> Canvas:
    """Grey cells with bright halos on grey."""
    radius = _radius(rng, 10, 55, size)
    found = _seeds(rng, size, radius, rng.uniform(0.2, 0.8), 1.9)
    canvas, inside = blank(size), found.near < 1
    body = fractal(rng, size, size, size / radius * 2, 0.85)
    halo = np.exp(-((found.near - 1.06) / rng.uniform(0.06, 0.2)) ** 2)
    light = rng.uniform(0.35, 0.6) + 0.02 * fractal(rng, size, size, 40)
    light = light + rng.uniform(0.1, 0.45) * np.where(np.isfinite(found.near), halo, 0)
    light -= inside * (rng.uniform(0.0, 0.2) - rng.uniform(0.03, 0.12) * body)
    canvas.image += light[..., None].astype(np.float32)
    _mark_cells(canvas, found.owner, inside)
    if rng.random() < 0.6:
        core = found.near < rng.uniform(0.35, 0.55)
        canvas.image[core] += np.float32(rng.normal(0, 0.1))
        _mark_cells(canvas, found.owner, core, PART)
    return canvas


def _axons(rng: np.random.Generator, size: int) -> Canvas:
    """Electron micrograph: dark myelin around grey or bright lumens, densely packed."""
    radius = _radius(rng, 10, 60, size)
    found = _seeds(rng, size, radius, rng.uniform(0.7, 1), 1.7, rng.uniform(0.2, 0.5))
    gap = rng.uniform(-0.06, 0.05)
    depth = _inner(found, gap)
    sheath = _per_cell(rng, found.owner, rng.uniform(0.12, 0.3), 0.25)
    inside = (depth > 0) & (found.owner >= 0)
    lumen = inside & (depth > sheath)
    canvas, grain = blank(size), fractal(rng, size, size, rng.uniform(30, 120), 0.9)
    matrix = rng.uniform(0.3, 0.65) + rng.uniform(0.03, 0.1) * grain
    body = _per_cell(rng, found.owner, rng.uniform(0.45, 0.8), 0.12)
    body = body + rng.uniform(0.01, 0.08) * fractal(rng, size, size, size / radius * 2, 0.9)
    myelin = rng.uniform(0.05, 0.25) + 0.02 * grain
    light = np.where(inside, np.where(lumen, body, myelin), matrix)
    light = _organelles(rng, blurred(light.astype(np.float32), rng.uniform(0.3, 1.1)), lumen)
    canvas.image += (1 - light if rng.random() < 0.15 else light)[..., None]
    _mark_cells(canvas, found.owner, inside)
    _mark_cells(canvas, found.owner, lumen, PART)
    return canvas


def _organelles(rng: np.random.Generator, light: Array, lumen: Mask) -> Array:
    """Mitochondria and filaments: darker specks within the lumens."""
    size = light.shape[0]
    specks = fractal(rng, size, size, rng.uniform(30, 80), 0.6, 3) > rng.uniform(1.6, 2.6)
    return np.asarray(light - 0.25 * rng.random() * blurred((specks & lumen).astype(np.float32), 1),
                      np.float32)


def _epithelium(rng: np.random.Generator, size: int) -> Canvas:
    """Cells wall to wall, their membranes bright or dark, perhaps with nuclei."""
    radius = _radius(rng, 11, 50, size)
    centres = shapes.scatter(rng, size, radius * 2, rng.uniform(0.08, 0.25))
    count = len(centres)
    found = shapes.cells(centres, np.full(count, radius), np.exp(rng.normal(0, 0.15, count)),
                         rng.uniform(0, np.pi, count), size, 2.6,
                         _warp(rng, size, radius, rng.uniform(0.02, 0.2)))
    edge = (found.second - found.near) * radius / 2
    wall = np.exp(-((edge / rng.uniform(0.8, 3)) ** 2)) * (1 + 0.3 * smooth(rng, size, radius))
    light = _per_cell(rng, found.owner, 0.3, rng.uniform(0, 0.3))
    light += rng.uniform(0.01, 0.06) * fractal(rng, size, size, size / radius, 0.8)
    light += rng.choice([-0.25, 0.5]) * wall
    canvas = blank(size)
    tint = hue(rng.random(), rng.choice([0.0, 0.8]), 1)
    canvas.image += blurred(light.astype(np.float32), rng.uniform(0.3, 1.2))[..., None] * tint
    _mark_cells(canvas, found.owner, found.owner >= 0)
    if rng.random() < 0.5:
        core = found.near < rng.uniform(0.3, 0.5)
        shift = rng.choice([-0.15, 0.35]) * (hue(rng.random(), rng.choice([0.0, 0.8]), 1))
        canvas.image += core[..., None] * shift.astype(np.float32)
        _mark_cells(canvas, found.owner, core, PART)
    return canvas

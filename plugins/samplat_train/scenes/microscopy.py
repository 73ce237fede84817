"""Micrographs: fluorescent nuclei, stained tissue, phase contrast, axons, epithelia, rods."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .canvas import Canvas, Floats, Ids, Points, Scene, Stamp, blank_canvas, dense_levels
from .choices import weighted
from .finish import Camera, expose
from .packing import Cells, compete, scatter
from .roofs import hexes
from .shapes import blob, curve, enlarge, fill, limb
from .textures import colour, fractal, near_colour

Reals = NDArray[np.floating] | NDArray[np.bool_]

PURPLE = ("#6a4a8c", "#4f3a78", "#7c5a9c", "#5a3f6e", "#83528f", "#3f3366", "#5b4b86")
PINK = ("#d9a3c0", "#e3b7cc", "#c98fb4", "#e8cbd8", "#d7b2d0", "#c9a0bf", "#b68ab8")


def draw_microscopy(rng: np.random.Generator, size: int) -> Scene:
    """A micrograph; cells are labelled, and what they enclose where it shows."""
    setting = weighted(rng, SETTINGS)
    canvas, camera = setting(rng, size)
    image = expose(rng, canvas.image, camera)
    return Scene(image=image, labels=dense_levels(canvas), kind="microscopy")


def _radii(rng: np.random.Generator, size: int, count: int, low: float, high: float) -> Points:
    """(count,) radii about one scale between `low` and `high` pixels at 512, with some spread."""
    scale = np.exp(rng.uniform(np.log(low), np.log(high))) * size / 512
    return np.asarray(scale * np.exp(rng.normal(size=count) * rng.uniform(0.05, 0.4)))


def _labelled(image: Floats, whole: Ids, part: Ids | None = None) -> Canvas:
    canvas = blank_canvas(np.asarray(image, np.float32))
    canvas.whole[:] = whole
    canvas.part[:] = 0 if part is None else part
    return canvas


def _per_cell(values: Reals, cells: Cells) -> Floats:
    """Spread (n + 1, ...) values of cells over the pixels they own."""
    return np.asarray(values[cells.owner], np.float32)


def _amount(cells: Cells) -> int:
    return len(cells.radius)


def _grey(field: Floats) -> Floats:
    return np.repeat(np.asarray(field, np.float32)[..., None], 3, -1)


def _nuclei(rng: np.random.Generator, size: int, low: float, high: float) -> Cells:
    """Roundish cells, spread evenly or gathered in colonies where they press on each other."""
    count = int(np.exp(rng.uniform(np.log(8), np.log(600))))
    radii = _radii(rng, size, count, low, high)
    spots, radii = scatter(rng, size, radii, rng.uniform(0.6, 1.1), margin=20)
    if rng.random() < 0.4:
        spots = _clustered(rng, spots, size)
    stretch, rough = rng.uniform(0.1, 0.6), rng.uniform(0, 0.22)
    return compete(rng, size, spots, radii, stretch=stretch, rough=rough)


def _clustered(rng: np.random.Generator, spots: Points, size: int) -> Points:
    """Pull cells towards a few colonies."""
    colonies = rng.uniform(0, size, (int(rng.integers(1, 6)), 2))
    distance = np.hypot(*np.moveaxis(spots[:, None] - colonies, -1, 0))
    return np.asarray(spots + (colonies[distance.argmin(1)] - spots) * rng.uniform(0.1, 0.4))


def _fluorescence(rng: np.random.Generator, size: int) -> tuple[Canvas, Camera]:
    """Bright nuclei of uneven brightness on a dark ground, some out of focus."""
    cells = _nuclei(rng, size, 5, 50)
    whole = cells.inside(1.0, rng.uniform(0, 0.04))
    shape = (size, size)
    level = np.exp(rng.normal(size=_amount(cells)) * rng.uniform(0.05, 0.6)) * rng.uniform(0.2, 0.8)
    mottle = 1 + rng.uniform(0.05, 0.35) * fractal(rng, shape, slope=1.0, grain=2.0)
    dome = 1 - rng.uniform(0, 0.6) * cells.depth**2
    glow = np.where(whole > 0, _per_cell(level, cells) * mottle * dome, 0).astype(np.float32)
    haze = ndimage.gaussian_filter(glow[::4, ::4], rng.uniform(2, 10))
    floor = rng.uniform(0, 0.12) * (1 + 0.3 * fractal(rng, shape, slope=2.0, grain=3.0))
    sharp = ndimage.gaussian_filter(glow, rng.uniform(0.5, 2.0))
    light = sharp + enlarge(haze, size, size) * rng.uniform(0, 0.5) + floor
    tint = np.ones(3) if rng.random() < 0.75 else colour(rng, vivid=1.0) + 0.2
    camera = Camera(blur=1.0, noise=0.1, light=0.4, grey=0.0, cast=0.0, tone=0.6, invert=0.08)
    return _labelled(np.clip(light, 0, 1.1)[..., None] * tint, whole), camera


def _stained(rng: np.random.Generator, size: int) -> tuple[Canvas, Camera]:
    """Purple nuclei in pink tissue with fibres, holes and folds."""
    cells = _nuclei(rng, size, 5, 34)
    whole = cells.inside(1.0, rng.uniform(0, 0.05))
    n, shape = _amount(cells), (size, size)
    dye = hexes(rng, PURPLE, 0.1)
    tints = np.stack([near_colour(rng, dye, rng.uniform(0.02, 0.15)) for _ in range(n)])
    faint = rng.uniform(0.4, 1.0, n) if rng.random() < 0.5 else rng.uniform(0.8, 1.0, n)
    chromatin = 1 + rng.uniform(0.05, 0.3) * fractal(rng, shape, slope=1.0, grain=1.5)
    rim = 1 - rng.uniform(0, 0.35) * (cells.depth > 0.75)
    inside = _per_cell(tints, cells) * (chromatin * rim)[..., None]
    cover = ndimage.gaussian_filter((whole > 0).astype(np.float32), 0.8) * _per_cell(faint, cells)
    image = _tissue(rng, size)
    image = image + cover[..., None] * (inside - image)
    camera = Camera(blur=1.6, noise=0.04, light=0.15, grey=0.1, cast=0.05, tone=0.4, invert=0.03)
    return _labelled(image, whole), camera


def _tissue(rng: np.random.Generator, size: int) -> Floats:
    """(S, S, 3) ground of a stained section: fibres, unnamed purple stains, holes of bare glass."""
    shape = (size, size)
    pale, deep = hexes(rng, PINK), hexes(rng, PINK + PURPLE)
    pair = (float(rng.uniform(1, 5)), float(rng.uniform(1, 5)))
    fibre = 1 - np.abs(fractal(rng, shape, slope=1.5, grain=pair))
    fine = fractal(rng, shape, slope=1.0, grain=1.5)
    mix = 0.4 + 0.25 * fractal(rng, shape, slope=1.5, grain=3.0) + 0.2 * fibre + 0.1 * fine
    image = pale + np.clip(mix, 0, 1)[..., None] * (deep - pale)
    holes = fractal(rng, shape, slope=2.0, grain=float(rng.uniform(0.7, 3))) > rng.uniform(0.7, 3)
    cover = ndimage.gaussian_filter(holes.astype(np.float32), 1.5)[..., None]
    return np.asarray(
        image + cover * (np.array([0.93, 0.91, 0.93], np.float32) - image), np.float32
    )


def _phase(rng: np.random.Generator, size: int) -> tuple[Canvas, Camera]:
    """Grey cells with bright halos and grainy bodies on an uneven grey ground."""
    cells = _nuclei(rng, size, 8, 55)
    whole = cells.inside(1.0, 0.02)
    shape, inside = (size, size), whole > 0
    body = rng.normal(size=_amount(cells)) * 0.05 + rng.uniform(-0.2, 0.1)
    grains = rng.uniform(0.02, 0.1) * fractal(rng, shape, slope=0.5, grain=1.5)
    halo = np.exp(-(((cells.depth - rng.uniform(1.02, 1.12)) / rng.uniform(0.05, 0.15)) ** 2))
    rim = np.exp(-(((cells.depth - 0.92) / 0.06) ** 2))
    ground = rng.uniform(0.35, 0.65) + 0.03 * fractal(rng, shape, slope=2.0, grain=4.0)
    field = ground + np.where(inside, _per_cell(body, cells) + grains, 0.3 * grains)
    field = field + rng.uniform(0.05, 0.4) * halo - rng.uniform(0.05, 0.3) * rim * inside
    nucleus = np.where(cells.depth < rng.uniform(0.3, 0.5), whole, 0)
    shows = rng.random() < 0.5
    field = field + 0.12 * rng.choice([-1, 1]) * (nucleus > 0) * shows
    field = ndimage.gaussian_filter(field, rng.uniform(0.5, 1.5))
    camera = Camera(blur=1.2, noise=0.06, light=0.25, grey=0.2, cast=0.04, tone=0.4, invert=0.15)
    return _labelled(_grey(field), whole, nucleus if shows else None), camera


def _axons(rng: np.random.Generator, size: int) -> tuple[Canvas, Camera]:
    """Nerve in cross section: myelin rings, lumens with organelles, unlabelled glia between."""
    scale = np.exp(rng.uniform(np.log(7), np.log(60))) * size / 512
    count = int(min(1500, 6 * (size / scale) ** 2 * rng.uniform(0.3, 1.0)))
    radii = scale * np.exp(rng.normal(size=count) * rng.uniform(0.2, 0.55))
    spots, radii = scatter(rng, size, radii, rng.uniform(0.75, 1.0), margin=2 * scale)
    stretch, rough = rng.uniform(0.2, 0.9), rng.uniform(0.05, 0.3)
    cells = compete(rng, size, spots, radii, stretch=stretch, rough=rough, reach=1.3)
    whole = cells.inside(rng.uniform(0.97, 1.25), rng.uniform(0.0, 0.05))
    ratio = np.clip(rng.uniform(0.55, 0.85) + 0.07 * rng.normal(size=_amount(cells)), 0.35, 0.92)
    ripple = 0.03 * fractal(rng, (size, size), slope=1.5, grain=2.0)
    lumen = np.where(_lumen(cells, ratio) + ripple > 0, whole, 0)
    field = _axon_greys(rng, size, cells, whole, lumen)
    camera = Camera(blur=1.4, noise=0.08, light=0.25, grey=0.0, cast=0.0, tone=0.4, invert=0.4)
    return _labelled(_grey(field), whole, lumen), camera


def _lumen(cells: Cells, ratio: Reals) -> Floats:
    """(S, S), positive inside the myelin, which lies along the neighbours where they press."""
    share = _per_cell(ratio, cells)
    pressed = (cells.rivalry - (1 - share) * 0.9) * 0.6
    return np.asarray(np.minimum(share - cells.depth, pressed))


def _axon_greys(
    rng: np.random.Generator, size: int, cells: Cells, whole: Ids, lumen: Ids
) -> Floats:
    """(S, S) brightness with dark myelin; the camera may invert it."""
    shape, n = (size, size), _amount(cells)
    axoplasm = rng.uniform(0.45, 0.9) + rng.normal(size=n) * rng.uniform(0.02, 0.12)
    inner = _per_cell(axoplasm, cells) + rng.uniform(0.02, 0.09) * fractal(rng, shape, slope=0.5)
    inner = inner - _organelles(rng, shape)
    myelin = rng.uniform(0.05, 0.3) + rng.normal(size=n) * 0.04
    reach = cells.depth * _per_cell(cells.radius, cells)
    wraps = rng.choice([0.0, rng.uniform(0, 0.35)]) * np.sin(reach * rng.uniform(0.8, 1.6))
    ring = _per_cell(myelin, cells) * (1 + wraps) + 0.03 * fractal(rng, shape, slope=1.0)
    naked = rng.random(n) < rng.choice([0.0, 0.0, 0.15])
    ring = np.where(_per_cell(naked, cells) > 0, inner - 0.1 * (cells.depth > 0.9), ring)
    field = np.where(whole > 0, np.where(lumen > 0, inner, ring), _glia(rng, shape))
    return np.asarray(ndimage.gaussian_filter(field, rng.uniform(0.4, 1.2)), np.float32)


def _glia(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """(h, w) brightness of what lies between axons: processes parted by dark membranes."""
    ground = rng.uniform(0.35, 0.75) + rng.uniform(0.04, 0.15) * fractal(
        rng, shape, slope=1.0, grain=2.0
    )
    lines = np.abs(fractal(rng, shape, slope=1.5, grain=float(rng.uniform(0.5, 1.5))))
    return np.asarray(ground - rng.uniform(0, 0.35) * np.exp(-((lines / 0.12) ** 2)), np.float32)


def _organelles(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """(h, w) darkening by mitochondria, with a dark outline and a greyer inside, and filaments."""
    lumps = fractal(rng, shape, slope=2.0, grain=float(rng.uniform(0.25, 0.7)))
    edge = rng.uniform(1.5, 2.4)
    filled, border = lumps > edge, np.abs(lumps - edge) < 0.15
    depth = rng.uniform(0, 0.4)
    return np.asarray(depth * (0.6 * filled + 0.6 * border), np.float32)


def _epithelium(rng: np.random.Generator, size: int) -> tuple[Canvas, Camera]:
    """Cells that fill the plane, parted by membranes, with or without nuclei."""
    scale = np.exp(rng.uniform(np.log(10), np.log(60))) * size / 512
    radii = scale * np.exp(0.15 * rng.normal(size=int(min(2500, 3 * (size / scale) ** 2))))
    spots, radii = scatter(rng, size, radii, rng.uniform(0.7, 0.85), margin=scale)
    cells = compete(rng, size, spots, radii, stretch=0.4, rough=0.06, reach=2.2)
    width = rng.uniform(1.0, 3.5) / scale
    whole, shape = cells.inside(2.0, width), (size, size)
    mesh = 1 + 0.3 * fractal(rng, shape, slope=1.0)
    wall = np.exp(-((cells.rivalry / (width * 1.3)) ** 2)) * mesh
    body = _per_cell(rng.normal(size=_amount(cells)) * rng.uniform(0, 0.1), cells)
    grains = rng.uniform(0.02, 0.1) * fractal(rng, shape, slope=0.5, grain=2.0)
    sign = rng.choice([-1, 1])
    field = 0.5 - 0.2 * sign + body + grains + sign * rng.uniform(0.2, 0.6) * wall
    nucleus = np.where(cells.depth < rng.uniform(0.35, 0.6), whole, 0)
    shows = rng.random() < 0.5
    field = field + shows * rng.choice([-1, 1]) * rng.uniform(0.08, 0.3) * (nucleus > 0)
    image = _two_dyes(rng, ndimage.gaussian_filter(field, rng.uniform(0.5, 1.3)))
    camera = Camera(blur=1.4, noise=0.08, light=0.3, grey=0.3, cast=0.05, tone=0.4, invert=0.1)
    return _labelled(image, whole, nucleus if shows else None), camera


def _two_dyes(rng: np.random.Generator, field: Floats) -> Floats:
    """Map a grey field between a dark and a bright random colour, or leave it grey."""
    if rng.random() < 0.5:
        return _grey(field)
    dark, bright = colour(rng) * np.float32(0.3), colour(rng) * np.float32(0.5) + np.float32(0.5)
    return np.asarray(dark + np.asarray(field)[..., None] * (bright - dark), np.float32)


def _rods(rng: np.random.Generator, size: int) -> tuple[Canvas, Camera]:
    """Bacteria, yeast or spindle cells: capsules and bent threads, crossing each other."""
    ground = rng.uniform(0.35, 0.6) + 0.05 * fractal(rng, (size, size), slope=1.5, grain=3.0)
    canvas = blank_canvas(_grey(ground))
    width = np.exp(rng.uniform(np.log(4), np.log(20))) * size / 512
    contrast, halo = rng.choice([-1, 1]) * rng.uniform(0.1, 0.3), rng.uniform(0.8, 1.3)
    stout = rng.uniform(0.8, 5)
    for _ in range(int(rng.integers(15, 160))):
        body = _rod(rng, width, stout, size)
        if not body.alpha.size:
            continue
        tone = rng.uniform(0.4, 0.55) + contrast * rng.uniform(0.7, 1.3)
        grains = tone + 0.05 * fractal(rng, body.alpha.shape, slope=0.5, grain=1.5)
        canvas.shade(_spread(body), halo)
        canvas.paint(body, _grey(grains))
        canvas.claim(body)
    camera = Camera(blur=1.4, noise=0.06, light=0.3, grey=0.3, cast=0.08, tone=0.4, invert=0.2)
    return canvas, camera


def _rod(rng: np.random.Generator, width: float, stout: float, size: int) -> Stamp:
    """One cell `width` pixels thick and about `stout` times longer."""
    at, radius = rng.uniform(0, size, 2), width / 2 * rng.uniform(0.8, 1.2)
    if rng.random() < 0.15:
        return fill([blob(rng, at, (radius * 2, radius * 1.5), angle=rng.uniform(0, 3))], size)
    line = curve(rng, at, width * stout * rng.uniform(0.5, 1.5), 0.25)
    return fill([limb(p, q, radius, radius) for p, q in pairwise(line)], size)


def _spread(stamp: Stamp) -> Stamp:
    """The stamp grown by two pixels, as far as its window goes."""
    grown = ndimage.maximum_filter(stamp.alpha, 5)
    return Stamp(top=stamp.top, left=stamp.left, alpha=grown)


SETTINGS: dict[str, tuple[Callable[[np.random.Generator, int], tuple[Canvas, Camera]], float]] = {
    "fluorescence": (_fluorescence, 0.3),
    "stained": (_stained, 0.18),
    "phase": (_phase, 0.12),
    "axons": (_axons, 0.24),
    "epithelium": (_epithelium, 0.1),
    "rods": (_rods, 0.06),
}

"""Nadir views of towns and countryside: roofs, trees, cars, fields and pools."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import shapes
from .canvas import PART, Array, Canvas, Mask, Stencil, blank
from .finish import Finish
from .shapes import Points
from .textures import Bank, blurred, fractal, hue, near, noise_bank, phase, skin

FINISH = Finish(blur=1.5, noise=0.06, grey=0.2, bias=0.08, vignette=0.1, jpeg=0.5)
MOST_BUILDINGS = 170


@dataclass(frozen=True, kw_only=True)
class Place:
    """What all things in one view share.

    scale: pixels per metre. streets: angle of the grid, radians. sun: unit vector (y, x) that
    shadows point along. low: shadow length over height. dark: what a shadow leaves of the light.
    """

    scale: float
    streets: float
    sun: Points
    low: float
    dark: float
    relief: float
    ground: tuple[Array, ...]
    roofs: tuple[Array, ...]
    leaf: Array
    bank: Bank
    styles: Points
    clutter: float


@dataclass(frozen=True, kw_only=True)
class House:
    """A footprint as rectangles (y, x, height, width; metres, local), and where it stands."""

    wings: tuple[tuple[float, float, float, float], ...]
    centre: Points
    angle: float
    height: float
    outline: Points


def draw(rng: np.random.Generator, size: int) -> tuple[Canvas, Finish]:
    """A town, a village or fields."""
    place = _place(rng, size)
    canvas = _ground(rng, place, size)
    view = rng.random()
    if view < 0.28:
        _countryside(rng, place, canvas)
        _houses(rng, place, canvas, _few_houses(rng, place, size))
    else:
        _houses(rng, place, canvas, _town(rng, place, canvas))
    _woods(rng, place, canvas)
    return canvas, FINISH


def _place(rng: np.random.Generator, size: int) -> Place:
    sun = rng.uniform(0, 2 * np.pi)
    earth = _earth(rng)
    ground = tuple(near(rng, earth, 0.06) for _ in range(3))
    return Place(
        scale=float(np.exp(rng.uniform(np.log(2.2), np.log(11)))) * size / 512,
        streets=rng.uniform(0, np.pi),
        sun=shapes.heading(sun),
        low=rng.uniform(0.15, 1.2),
        dark=rng.uniform(0.3, 0.75),
        relief=rng.uniform(0.05, 0.35),
        ground=ground,
        roofs=_roof_colours(rng, earth),
        leaf=hue(rng.uniform(0.2, 0.38), rng.uniform(0.2, 0.6), rng.uniform(0.18, 0.5)),
        bank=noise_bank(rng, size, 4),
        styles=rng.dirichlet([1.2, 0.7, 0.7, 0.7]),
        clutter=rng.choice([0, 1, 3, 7]),
    )


def _earth(rng: np.random.Generator) -> Array:
    kind = rng.random()
    if kind < 0.4:
        return hue(rng.uniform(0.05, 0.14), rng.uniform(0.05, 0.35), rng.uniform(0.35, 0.75))
    if kind < 0.7:
        return hue(rng.uniform(0.16, 0.36), rng.uniform(0.15, 0.45), rng.uniform(0.25, 0.55))
    return hue(rng.random(), rng.uniform(0, 0.1), rng.uniform(0.3, 0.7))


def _roof_colours(rng: np.random.Generator, earth: Array) -> tuple[Array, ...]:
    """A few colours that a town's roofs keep to; sometimes hardly off the ground's."""
    options = [
        lambda: near(rng, earth, 0.06),
        lambda: hue(rng.random(), rng.uniform(0, 0.08), rng.uniform(0.35, 0.92)),
        lambda: hue(rng.uniform(0, 0.07), rng.uniform(0.35, 0.7), rng.uniform(0.35, 0.75)),
        lambda: hue(rng.uniform(0.5, 0.66), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.8)),
        lambda: hue(rng.random(), rng.uniform(0, 0.12), rng.uniform(0.1, 0.35)),
    ]
    odds = rng.dirichlet([1.5, 2, 1.2, 0.6, 0.7])
    return tuple(options[rng.choice(5, p=odds)]() for _ in range(6))


def _ground(rng: np.random.Generator, place: Place, size: int) -> Canvas:
    """Soil, grass and concrete that run into one another, hard or soft."""
    canvas = blank(size)
    canvas.image += skin(rng, place.bank, (size, size), place.ground[0], rng.uniform(0.02, 0.09))
    for colour in place.ground[1:]:
        field = fractal(rng, size, size, rng.uniform(2, 9), 0.6, 3)
        cover = np.clip((field - rng.uniform(-0.3, 1.2)) * rng.uniform(1, 8), 0, 1)
        over = Stencil(top=0, left=0, cover=cover.astype(np.float32))
        canvas.paint(over, skin(rng, place.bank, (size, size), colour, rng.uniform(0.02, 0.09)))
    return canvas


def _put(place: Place, points: Points, centre: Points, angle: float) -> Points:
    """Local metres to canvas pixels."""
    return shapes.turn(points * place.scale, angle) + centre


def _fill(rng: np.random.Generator, place: Place, canvas: Canvas, outline: Points, colour: Array,
          strength: float = 0.04) -> Stencil | None:
    cover = shapes.stencil([outline], canvas.size)
    if cover is not None:
        shape = (cover.cover.shape[0], cover.cover.shape[1])
        canvas.paint(cover, skin(rng, place.bank, shape, colour, strength))
    return cover


def _shadow(place: Place, canvas: Canvas, outline: Points, height: float) -> None:
    """Darken what lies behind an outline of `height` metres, seen from the sun."""
    reach = place.sun * min(height * place.low * place.scale, canvas.size / 6)
    cover = shapes.stencil(shapes.swept(outline, reach), canvas.size)
    if cover is not None:
        canvas.shade(cover, place.dark)


# towns


def _town(rng: np.random.Generator, place: Place, canvas: Canvas) -> list[House]:
    """Blocks between streets, and the houses on them."""
    half = canvas.size / place.scale * 0.75
    across, along = _street_lines(rng, half), _street_lines(rng, half)
    road = near(rng, hue(0.1, 0.05, rng.uniform(0.25, 0.65)), 0.04)
    width = rng.uniform(2.5, 9)
    _roads(rng, place, canvas, road, width, half)
    dense, houses = rng.random(), []
    for v0, v1 in zip(across, across[1:], strict=False):
        for u0, u1 in zip(along, along[1:], strict=False):
            block = (v0 + width / 2, u0 + width / 2, v1 - width / 2, u1 - width / 2)
            houses += _block(rng, place, canvas, block, dense)
    _cars(rng, place, canvas, across, along, width)
    return [houses[i] for i in rng.permutation(len(houses))[:MOST_BUILDINGS]]


def _street_lines(rng: np.random.Generator, half: float) -> Points:
    gaps = rng.uniform(22, 75) * rng.uniform(0.6, 1.5, 60)
    lines = np.cumsum(gaps) - half - rng.uniform(0, 30)
    return lines[: np.searchsorted(lines, half) + 1]


def _roads(rng: np.random.Generator, place: Place, canvas: Canvas, road: Array, width: float,
           half: float) -> None:
    """The whole grid is asphalt at first; the blocks are painted over it."""
    middle = np.full(2, canvas.size / 2)
    outline = _put(place, shapes.rectangle(3 * half, 3 * half), middle, place.streets)
    cover = shapes.stencil([outline], canvas.size)
    if cover is not None and rng.random() < 0.7:
        canvas.paint(cover, road, rng.uniform(0.3, 0.95))


def _block(rng: np.random.Generator, place: Place, canvas: Canvas,
           block: tuple[float, float, float, float], dense: float) -> list[House]:
    v0, u0, v1, u1 = block
    if v1 - v0 < 6 or u1 - u0 < 6:
        return []
    middle = _street_point(place, canvas, (v0 + v1) / 2, (u0 + u1) / 2)
    if np.abs(middle - canvas.size / 2).max() > canvas.size / 2 + 60 * place.scale:
        return []
    yard = _put(place, shapes.rectangle(v1 - v0, u1 - u0), middle, place.streets)
    colour = near(rng, place.ground[rng.integers(3)], 0.03)
    _fill(rng, place, canvas, yard, colour, rng.uniform(0.02, 0.08))
    use = rng.random()
    if use < 0.08:
        return []
    if use < 0.2:
        return [_house(rng, place, middle, v1 - v0 - 3, u1 - u0 - 3)]
    return _plots(rng, place, canvas, block, dense)


def _street_point(place: Place, canvas: Canvas, v: float, u: float) -> Points:
    return _put(place, np.array([[v, u]]), np.full(2, canvas.size / 2), place.streets)[0]


def _plots(rng: np.random.Generator, place: Place, canvas: Canvas,
           block: tuple[float, float, float, float], dense: float) -> list[House]:
    """Rows of plots, each with a house; in dense towns walls touch."""
    v0, u0, v1, u1 = block
    rows = max(1, round((v1 - v0) / rng.uniform(11, 24)))
    deep, houses = (v1 - v0) / rows, []
    for row in range(rows):
        u = u0
        while u < u1 - 3:
            wide = min(rng.uniform(5.5, 10 + 9 * (1 - dense)), u1 - u)
            gap = 0.0 if rng.random() < dense * 0.8 else rng.uniform(0.4, 4.5 - 3 * dense)
            depth = deep * rng.uniform(0.55, 0.98) if dense > 0.3 else deep * rng.uniform(0.4, 0.8)
            if rng.random() > 0.12 and wide - gap > 3:
                v = v0 + deep * (row + 0.5) + rng.normal(0, 0.04) * deep
                spot = _street_point(place, canvas, v, u + wide / 2)
                houses.append(_house(rng, place, spot, depth, wide - gap))
            u += wide
    return [h for h in houses if _on_canvas(h.outline, canvas.size)]


def _on_canvas(outline: Points, size: int) -> bool:
    return bool((outline.max(0) > 2).all() and (outline.min(0) < size - 2).all())


def _house(rng: np.random.Generator, place: Place, centre: Points, deep: float,
           wide: float) -> House:
    angle = place.streets + rng.normal(0, 0.03) * rng.choice([0, 1, 3])
    wings = _wings(rng, deep, wide)
    outline = _put(place, _union(wings), centre, angle)
    tall = rng.uniform(2.5, 9) * rng.choice([1, 1, 1.6])
    return House(wings=wings, centre=centre, angle=angle, height=tall, outline=outline)


def _wings(rng: np.random.Generator, deep: float,
           wide: float) -> tuple[tuple[float, float, float, float], ...]:
    """A rectangle, or an L, T or U of two or three of them."""
    kind = rng.random()
    if kind < 0.62 or min(deep, wide) < 6:
        return ((0.0, 0.0, deep, wide),)
    thick = rng.uniform(0.35, 0.6)
    side = rng.choice([-1, 1])
    main = (side * deep * (1 - thick) / 2, 0.0, deep * thick, wide)
    arm = rng.uniform(0.3, 0.45) * wide
    if kind < 0.85:
        return (main, (0.0, rng.choice([-1, 1]) * (wide - arm) / 2, deep, arm))
    if kind < 0.93:
        return (main, (0.0, rng.uniform(-0.2, 0.2) * wide, deep, arm))
    arm *= 0.8
    return (main, (0.0, (wide - arm) / 2, deep, arm), (0.0, -(wide - arm) / 2, deep, arm))


def _wing(wing: tuple[float, float, float, float]) -> Points:
    return shapes.rectangle(wing[2], wing[3]) + np.array(wing[:2])


def _union(wings: tuple[tuple[float, float, float, float], ...]) -> Points:
    """Corners of all wings: enough for tests of where it lies."""
    return np.concatenate([_wing(wing) for wing in wings])


def _houses(rng: np.random.Generator, place: Place, canvas: Canvas, houses: list[House]) -> None:
    """Low ones first: the shadow of a tall house falls on low roofs."""
    for house in sorted(houses, key=lambda h: h.height):
        _build(rng, place, canvas, house)


def _build(rng: np.random.Generator, place: Place, canvas: Canvas, house: House) -> None:
    walls = [_put(place, _wing(wing), house.centre, house.angle) for wing in house.wings]
    whole = shapes.stencil(walls, canvas.size)
    if whole is None:
        return
    reach = place.sun * min(house.height * place.low * place.scale, canvas.size / 8)
    cast = shapes.stencil([part for wall in walls for part in shapes.swept(wall, reach)],
                          canvas.size)
    if cast is not None:
        canvas.shade(cast, place.dark)
    canvas.mark(whole)
    colour = near(rng, place.roofs[rng.integers(6)], 0.04)
    style = rng.choice(4, p=place.styles)
    (_flat, _gable, _hip, _sheet)[style](rng, place, canvas, house, whole, colour)


def _flat(rng: np.random.Generator, place: Place, canvas: Canvas, house: House, whole: Stencil,
          colour: Array) -> None:
    """Concrete with stains, a parapet and what people keep on a roof."""
    shape = (whole.cover.shape[0], whole.cover.shape[1])
    wall = rng.uniform(0.15, 0.5) * rng.choice([0, 1, 1])
    canvas.paint(whole, np.clip(colour * rng.uniform(0.9, 1.35), 0, 1))
    inner = [_put(place, shapes.rectangle(max(w[2] - 2 * wall, 0.5), max(w[3] - 2 * wall, 0.5))
                  + np.array(w[:2]), house.centre, house.angle) for w in house.wings]
    floor = shapes.stencil(inner, canvas.size)
    if floor is None:
        return
    shape = (floor.cover.shape[0], floor.cover.shape[1])
    canvas.paint(floor, skin(rng, place.bank, shape, colour, rng.uniform(0.01, 0.08)))
    if wall and place.relief > 0.1:
        shifted = shapes.stencil([o + place.sun * wall * place.scale for o in inner], canvas.size)
        _rim_shadow(canvas, floor, shifted)
    for _ in range(rng.poisson(place.clutter)):
        _clutter(rng, place, canvas, house, floor)


def _rim_shadow(canvas: Canvas, floor: Stencil, lit: Stencil | None) -> None:
    """Darken the strip of floor that a parapet keeps the sun from."""
    if lit is None:
        return
    light = np.zeros((canvas.size, canvas.size), np.float32)
    light[lit.box] = lit.cover
    strip = floor.cover * (1 - light[floor.box])
    canvas.shade(Stencil(top=floor.top, left=floor.left, cover=strip), 0.72)


def _clutter(rng: np.random.Generator, place: Place, canvas: Canvas, house: House,
             floor: Stencil) -> None:
    """A tank, a stair house, a panel or a line of washing."""
    wing = house.wings[rng.integers(len(house.wings))]
    spot = np.array(wing[:2]) + rng.uniform(-0.4, 0.4, 2) * np.array(wing[2:])
    kind = rng.random()
    if kind < 0.35:
        local, tall, colour = shapes.ellipse(*[rng.uniform(0.8, 1.8)] * 2), 1.2, _tank(rng)
    elif kind < 0.6:
        local, tall = shapes.rectangle(rng.uniform(2, 4.5), rng.uniform(2, 4.5)), 2.4
        colour = near(rng, place.roofs[rng.integers(6)], 0.05)
    elif kind < 0.75:
        local, tall = shapes.rectangle(rng.uniform(1, 2), rng.uniform(2, 4)), 0.4
        colour = hue(0.6, rng.uniform(0.2, 0.6), rng.uniform(0.1, 0.3))
    else:
        local, tall = shapes.rectangle(*rng.uniform(0.3, 2, 2)), 0.5
        colour = hue(rng.random(), rng.beta(1, 2), rng.uniform(0.2, 0.95))
    _raise(place, canvas, _put(place, local + spot, house.centre, house.angle), tall, colour,
           floor)


def _tank(rng: np.random.Generator) -> Array:
    return hue(rng.random(), 0.05, rng.choice([0.08, 0.95, 0.7]))


def _raise(place: Place, canvas: Canvas, outline: Points, tall: float, colour: Array,
           floor: Stencil) -> None:
    """A thing on a roof, with its shadow, kept within the roof."""
    allowed = np.zeros((canvas.size, canvas.size), np.float32)
    allowed[floor.box] = floor.cover
    shift = place.sun * tall * place.low * place.scale
    cast = _kept(shapes.stencil(shapes.swept(outline, shift), canvas.size), allowed)
    thing = _kept(shapes.stencil([outline], canvas.size), allowed)
    if cast is not None and thing is not None:
        canvas.shade(cast, place.dark)
        canvas.paint(thing, colour)
        canvas.mark(thing, PART)


def _kept(over: Stencil | None, allowed: Array) -> Stencil | None:
    if over is None:
        return None
    return Stencil(top=over.top, left=over.left, cover=over.cover * allowed[over.box])


def _planes(wing: tuple[float, float, float, float], hipped: float) -> list[tuple[Points, float]]:
    """Roof planes of a wing as (outline in local metres, downhill direction in radians)."""
    y, x, deep, wide = wing
    tall = deep > wide
    length, breadth = (deep, wide) if tall else (wide, deep)
    a, b, ridge = length / 2, breadth / 2, max(length / 2 - hipped * breadth / 2, 0.0)
    outlines = [
        (np.array([[-b, -a], [-b, a], [0, ridge], [0, -ridge]]), -np.pi / 2),
        (np.array([[b, -a], [b, a], [0, ridge], [0, -ridge]]), np.pi / 2),
    ]
    if hipped:
        outlines += [(np.array([[-b, -a], [b, -a], [0, -ridge]]), np.pi),
                     (np.array([[-b, a], [b, a], [0, ridge]]), 0.0)]
    spin = np.pi / 2 if tall else 0.0
    return [(shapes.turn(o, spin) + np.array([y, x]), d + spin) for o, d in outlines]


def _pitched(rng: np.random.Generator, place: Place, canvas: Canvas, house: House, colour: Array,
             hipped: float) -> None:
    strength, rows = rng.uniform(0.01, 0.06), rng.random() < 0.5
    for wing in house.wings:
        for local, downhill in _planes(wing, hipped):
            outline = _put(place, local, house.centre, house.angle)
            cover = shapes.stencil([outline], canvas.size)
            if cover is None:
                continue
            lit = 1 - place.relief * float(shapes.heading(downhill + house.angle) @ place.sun)
            shape = (cover.cover.shape[0], cover.cover.shape[1])
            paint = skin(rng, place.bank, shape, colour * np.float32(lit), strength)
            if rows:
                paint = paint + _rows(place, shape, downhill + house.angle, strength)
            canvas.paint(cover, paint)
            canvas.mark(cover, PART)


def _rows(place: Place, shape: tuple[int, int], angle: float, strength: float) -> Array:
    """Courses of tiles."""
    period = max(0.4 * place.scale, 2.5)
    return np.float32(strength) * np.sin(phase(*shape, angle, period))[..., None]


def _gable(rng: np.random.Generator, place: Place, canvas: Canvas, house: House, whole: Stencil,
           colour: Array) -> None:
    """Two planes, one lit and one not."""
    canvas.paint(whole, colour)
    _pitched(rng, place, canvas, house, colour, 0.0)


def _hip(rng: np.random.Generator, place: Place, canvas: Canvas, house: House, whole: Stencil,
         colour: Array) -> None:
    """Four planes."""
    canvas.paint(whole, colour)
    _pitched(rng, place, canvas, house, colour, rng.uniform(0.6, 1.0))


def _sheet(rng: np.random.Generator, place: Place, canvas: Canvas, house: House, whole: Stencil,
           colour: Array) -> None:
    """Corrugated metal: stripes, sheets of slightly different tone, rust."""
    shape = (whole.cover.shape[0], whole.cover.shape[1])
    angle = house.angle + rng.choice([0, np.pi / 2])
    rust = hue(rng.uniform(0.03, 0.08), 0.6, 0.4)
    paint = skin(rng, place.bank, shape, colour, 0.02)
    if rng.random() < 0.5:
        stain = np.clip(place.bank.piece(rng, *shape)[..., None] * 0.5 - 0.3, 0, 0.8)
        paint = paint + stain * (rust - paint)
    ridges = np.sin(phase(*shape, angle, max(rng.uniform(0.25, 1.2) * place.scale, 2.2)))
    sheet = np.floor(phase(*shape, angle, 1.0 * place.scale * 2.5) / 6.283).astype(int)
    tone = rng.normal(0, 0.03, 512)[sheet % 512]
    paint = paint + (rng.uniform(0.01, 0.08) * ridges + tone)[..., None].astype(np.float32)
    canvas.paint(whole, paint)


# cars, trees


def _cars(rng: np.random.Generator, place: Place, canvas: Canvas, across: Points, along: Points,
          width: float) -> None:
    half = canvas.size / place.scale * 0.7
    for _ in range(rng.poisson(rng.choice([0, 8, 30]))):
        place_on, turned = rng.uniform(-half, half), rng.random() < 0.5
        line = rng.choice(along if turned else across) + rng.choice([-1, 1]) * width * 0.25
        v, u = (place_on, line) if turned else (line, place_on)
        spot = _street_point(place, canvas, v, u)
        angle = place.streets + (np.pi / 2 if turned else 0) + rng.normal(0, 0.05)
        _car(rng, place, canvas, spot, angle)


def _car(rng: np.random.Generator, place: Place, canvas: Canvas, spot: Points,
         angle: float) -> None:
    long, wide = rng.uniform(3.6, 5), rng.uniform(1.6, 2)
    body = _put(place, shapes.superellipse(wide, long, 6, 24), spot, angle)
    cover = shapes.stencil([body], canvas.size)
    if cover is None or not _on_canvas(body, canvas.size):
        return
    _shadow(place, canvas, body, 1.4)
    colour = hue(rng.random(), rng.choice([0.05, 0.7]), rng.uniform(0.1, 0.98))
    canvas.paint(cover, colour)
    canvas.mark(cover)
    for offset, length in ((long * 0.12, 0.5), (-long * 0.28, 0.4)):
        glass = shapes.rectangle(wide * 0.8, length) + np.array([0, offset])
        pane = shapes.stencil([_put(place, glass, spot, angle)], canvas.size)
        if pane is not None:
            canvas.paint(pane, np.float32([0.08, 0.1, 0.13]), 0.85)


def _woods(rng: np.random.Generator, place: Place, canvas: Canvas) -> None:
    """Single trees and clumps of them, on whatever is not too built over."""
    for _ in range(rng.poisson(rng.choice([2, 10, 35]))):
        spot = rng.uniform(0, canvas.size, 2)
        y, x = spot.astype(int)
        if canvas.ids[0, y, x] and rng.random() < 0.85:
            continue
        _tree(rng, place, canvas, spot, rng.uniform(1.2, 4.5) * place.scale)
    for _ in range(rng.poisson(0.8)):
        _clump(rng, place, canvas)


def _crown(rng: np.random.Generator, place: Place, shape: tuple[int, int], centre: Points,
           radius: float) -> Array:
    """Leaves on a dome: bright towards the sun, dark away from it."""
    colour = near(rng, place.leaf, 0.05)
    y, x = np.ogrid[: shape[0], : shape[1]]
    slope = ((y - centre[0]) * place.sun[0] + (x - centre[1]) * place.sun[1]) / radius
    grain = rng.standard_normal(shape, np.float32)
    leaves = blurred(grain, float(np.clip(radius / 9, 0.6, 4)))
    leaves = leaves / (leaves.std() + 1e-6)
    tone = 1 - rng.uniform(0.2, 0.5) * slope + rng.uniform(0.12, 0.4) * leaves
    return np.asarray(colour * np.clip(tone, 0.15, 2.5)[..., None], np.float32)


def _tree(rng: np.random.Generator, place: Place, canvas: Canvas, spot: Points, radius: float,
          level: int = 0) -> None:
    outline = shapes.blob(rng, radius, 0.09, 9) + spot
    cover = shapes.stencil([outline], canvas.size)
    if cover is None or radius < 2.5:
        return
    _shadow(place, canvas, outline, rng.uniform(2, 6))
    shape = (cover.cover.shape[0], cover.cover.shape[1])
    middle = spot - np.array([cover.top, cover.left])
    canvas.paint(cover, _crown(rng, place, shape, middle, radius))
    canvas.mark(cover, level)


def _clump(rng: np.random.Generator, place: Place, canvas: Canvas) -> None:
    """Trees grown together: one object, its crowns the parts."""
    middle, spread = rng.uniform(0, canvas.size, 2), rng.uniform(4, 14) * place.scale
    radius = rng.uniform(1.5, 3.5) * place.scale
    spots = middle + rng.normal(0, 0.5, (int(rng.integers(4, 16)), 2)) * spread
    discs = [shapes.ellipse(2 * radius, 2 * radius, 16) + spot for spot in spots]
    cover = shapes.stencil(discs, canvas.size)
    if cover is None:
        return
    canvas.mark(cover)
    for spot in spots:
        _tree(rng, place, canvas, spot, radius * rng.uniform(0.8, 1.05), PART)


# countryside


def _countryside(rng: np.random.Generator, place: Place, canvas: Canvas) -> None:
    """Fields within fields' bounds, a track, perhaps a stream."""
    margin, half = rng.uniform(0, 2.5), canvas.size * 0.75
    for top, left, bottom, right in _split(rng, (-half, -half, half, half), canvas.size * 0.12):
        local = shapes.rectangle(bottom - top - 2 * margin, right - left - 2 * margin)
        centre = np.array([(top + bottom) / 2, (left + right) / 2])
        corners = local + centre + rng.normal(0, canvas.size * 0.012, (4, 2))
        outline = shapes.turn(corners, place.streets) + canvas.size / 2
        if rng.random() < 0.93:
            _field(rng, place, canvas, outline)
    for _ in range(rng.integers(0, 3)):
        _track(rng, place, canvas)


def _split(rng: np.random.Generator, box: tuple[float, float, float, float],
           least: float) -> list[tuple[float, float, float, float]]:
    """Cut a box in two, again and again, until the pieces are field-sized."""
    top, left, bottom, right = box
    long = max(bottom - top, right - left)
    if long < 2 * least or (long < 8 * least and rng.random() < 0.12):
        return [box]
    cut = rng.uniform(0.3, 0.7)
    if bottom - top > right - left:
        middle = top + cut * (bottom - top)
        halves = [(top, left, middle, right), (middle, left, bottom, right)]
    else:
        middle = left + cut * (right - left)
        halves = [(top, left, bottom, middle), (top, middle, bottom, right)]
    return [piece for half in halves for piece in _split(rng, half, least)]


def _field(rng: np.random.Generator, place: Place, canvas: Canvas, outline: Points) -> None:
    cover = shapes.stencil([outline], canvas.size)
    if cover is None:
        return
    shape = (cover.cover.shape[0], cover.cover.shape[1])
    crop = hue(rng.uniform(0.07, 0.36), rng.uniform(0.1, 0.55), rng.uniform(0.25, 0.75))
    paint = skin(rng, place.bank, shape, near(rng, crop, 0.03), rng.uniform(0.01, 0.1))
    if rng.random() < 0.6:
        angle = place.streets + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.05)
        furrows = np.sin(phase(*shape, angle, rng.uniform(2.5, 14)))
        paint = paint + np.float32(rng.uniform(0.01, 0.07)) * furrows[..., None]
    canvas.paint(cover, paint)
    canvas.mark(cover)
    if rng.random() < 0.4:
        _hedge(rng, place, canvas, outline)


def _hedge(rng: np.random.Generator, place: Place, canvas: Canvas, outline: Points) -> None:
    """Bushes along two sides; nobody's object, but they cover the fields' edges."""
    width = rng.uniform(2, 7)
    path = outline[[0, 1, 2]]
    steps = np.linspace(0, 1, 25)[:, None]
    line = np.concatenate([path[i] + steps * (path[i + 1] - path[i]) for i in range(2)])
    line = line + rng.normal(0, width * 0.2, line.shape)
    cover = shapes.stencil(shapes.ribbons(line, rng.uniform(0.5, 1.2, len(line)) * width),
                           canvas.size)
    if cover is None:
        return
    shape = (cover.cover.shape[0], cover.cover.shape[1])
    canvas.paint(cover, skin(rng, place.bank, shape, near(rng, place.leaf, 0.04), 0.12))
    canvas.hide(cover)


def _track(rng: np.random.Generator, place: Place, canvas: Canvas) -> None:
    """A road or a stream right across the view: one object."""
    start = np.array([rng.uniform(0.1, 0.9) * canvas.size, -20.0])
    path = shapes.wander(rng, start, rng.normal(0, 0.4), canvas.size * 1.6, 1.2)
    if rng.random() < 0.5:
        path = path[:, ::-1]
    cover = shapes.stencil(shapes.ribbons(path, rng.uniform(5, 40)), canvas.size)
    if cover is None:
        return
    water = hue(rng.uniform(0.25, 0.6), rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.4))
    road = hue(0.1, rng.uniform(0, 0.3), rng.uniform(0.35, 0.8))
    shape = (cover.cover.shape[0], cover.cover.shape[1])
    colour = water if rng.random() < 0.4 else road
    canvas.paint(cover, skin(rng, place.bank, shape, colour, rng.uniform(0.005, 0.04)))
    canvas.mark(cover)


def _few_houses(rng: np.random.Generator, place: Place, size: int) -> list[House]:
    count = rng.poisson(rng.choice([1, 6]))
    return [_house(rng, place, rng.uniform(0, size, 2), *rng.uniform(5, 22, 2))
            for _ in range(count)]

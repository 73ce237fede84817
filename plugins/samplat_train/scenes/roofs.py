"""Buildings from above: footprints, roofs of several styles, and what stands on them."""

from dataclasses import dataclass, replace

import numpy as np

from .canvas import Canvas, Floats, Points, Stamp
from .shapes import ellipse, fill, outline, place, rectangle, swept, within
from .textures import Material, near_colour, render

STYLES = ("concrete", "metal", "gable", "hip", "plain")

CONCRETE = ("#9b968c", "#b3ada2", "#86837d", "#c6c1b6", "#a08f80", "#777470", "#d8d5cf", "#b09a86")
METAL = (
    "#3f6ea3",
    "#7fa3bd",
    "#4f8a6a",
    "#9a5340",
    "#b9bcbe",
    "#8d9092",
    "#d5d8da",
    "#6e4a3c",
    "#88a89a",
    "#35528a",
)
TILES = ("#9a5a43", "#b06a4c", "#7c4a3c", "#5f5a58", "#4b4a4e", "#8a7a6c", "#a8836a", "#6b5046")


@dataclass(frozen=True, kw_only=True)
class Flight:
    """What all buildings of one picture share."""

    sun: tuple[float, float]
    """xy direction in which shadows fall, unit length."""
    reach: float
    """Length of a shadow per height."""
    dark: float
    """Brightness of a shadow relative to sunlit ground."""
    metre: float
    """Pixels per metre."""
    lean: tuple[float, float]
    """xy displacement of a roof per height, from looking aslant."""
    styles: Floats
    """(5,) probability of each of `STYLES`."""


@dataclass(frozen=True, kw_only=True)
class Building:
    """A footprint, in metres about its own centre, and what is built on it."""

    centre: tuple[float, float]
    """xy, pixels."""
    angle: float
    """Radians."""
    sides: tuple[float, float]
    """Pixels along and across."""
    height: float
    """Pixels."""
    style: str
    plan: str
    """'box', 'l', 't' or 'u'."""

    def local(self, points: Points) -> Points:
        """Points given in half sides, [-1, 1], in pixels of the picture."""
        half = np.asarray(self.sides) / 2
        return place(np.asarray(points) * half, self.centre, self.angle)

    @property
    def outline(self) -> Points:
        """(N, 2) vertices of the roof."""
        return self.local(PLANS[self.plan])


PLANS: dict[str, Points] = {
    "box": np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64),
    "l": np.array([[-1, -1], [1, -1], [1, 0], [0.1, 0], [0.1, 1], [-1, 1]], np.float64),
    "t": np.array(
        [[-1, -1], [1, -1], [1, 0], [0.4, 0], [0.4, 1], [-0.4, 1], [-0.4, 0], [-1, 0]], np.float64
    ),
    "u": np.array(
        [[-1, -1], [1, -1], [1, 1], [0.4, 1], [0.4, -0.1], [-0.4, -0.1], [-0.4, 1], [-1, 1]],
        np.float64,
    ),
}


def hexes(rng: np.random.Generator, palette: tuple[str, ...], spread: float = 0.07) -> Floats:
    """(3,) a colour near one of a palette of '#rrggbb'."""
    code = str(rng.choice(palette))
    base = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / np.float32(255)
    return near_colour(rng, base, spread)


def draw_building(rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building) -> None:
    """Shadow, wall and roof of one building; lower ones are to be drawn first."""
    cast_shadow(canvas, flight, b.outline, b.height)
    lean = np.asarray(flight.lean) * b.height
    if np.hypot(*lean) > 1:
        walls = fill(swept(b.outline, lean), canvas.size)
        canvas.hide(walls)
        canvas.paint(walls, hexes(rng, CONCRETE) * np.float32(rng.uniform(0.4, 0.9)))
    x, y = b.centre
    roofed = replace(b, centre=(x + lean[0], y + lean[1]))
    stamp = fill([roofed.outline], canvas.size)
    if stamp.alpha.size:
        ROOFS[b.style](rng, canvas, flight, roofed, stamp)


def cast_shadow(canvas: Canvas, flight: Flight, points: Points, height: float) -> None:
    """Darken where something of `height` pixels keeps the sun away."""
    by = np.asarray(flight.sun) * flight.reach * height
    canvas.shade(fill(swept(points, by), canvas.size), flight.dark)


def _roof_material(rng: np.random.Generator, b: Building) -> Material:
    palette = {"concrete": CONCRETE, "metal": METAL, "plain": CONCRETE + METAL}
    base = hexes(rng, palette.get(b.style, TILES))
    return Material(
        base=base,
        other=near_colour(rng, base * np.float32(rng.uniform(0.5, 1.1)), 0.15),
        pattern=str(rng.choice(["rough", "cloud", "blotch", "speckle", "streak"])),
        grain=float(rng.uniform(3, 40)),
        angle=b.angle,
        contrast=float(rng.uniform(0.05, 0.45)),
        noise=float(rng.uniform(0.01, 0.05)),
    )


def _cover(rng: np.random.Generator, canvas: Canvas, stamp: Stamp, material: Material) -> int:
    canvas.paint(stamp, render(rng, material, stamp.alpha.shape))
    return canvas.claim(stamp)


def _flat(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, stamp: Stamp
) -> None:
    """A concrete slab with a parapet and clutter."""
    owner = _cover(rng, canvas, stamp, _roof_material(rng, b))
    if rng.random() < 0.3:
        _extension(rng, canvas, b, owner)
    if rng.random() < 0.7:
        _parapet(rng, canvas, flight, b, stamp)
    for _ in range(rng.poisson(1.6)):
        CLUTTER[int(rng.integers(len(CLUTTER)))](rng, canvas, flight, b, owner, stamp)


def _extension(rng: np.random.Generator, canvas: Canvas, b: Building, owner: int) -> None:
    """Part of the roof lies a storey lower or is covered otherwise."""
    at = rng.uniform(-0.4, 0.5)
    corners = np.array([[at, -1], [1, -1], [1, 1], [at, 1]])
    corners = corners if rng.random() < 0.5 else corners[:, ::-1]
    part = within(fill([b.local(corners)], canvas.size), fill([b.outline], canvas.size))
    style = str(rng.choice(["concrete", "metal"]))
    canvas.paint(part, render(rng, _roof_material(rng, replace(b, style=style)), part.alpha.shape))
    canvas.claim_part(part, owner)


def _parapet(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, stamp: Stamp
) -> None:
    width = max(1.0, flight.metre * rng.uniform(0.2, 0.5))
    inner = np.asarray(flight.sun) * width
    rim = within(outline(b.outline + inner, width * 1.6, canvas.size), stamp)
    canvas.shade(rim, float(rng.uniform(0.55, 0.9)))
    edge = within(outline(b.outline, width * 2, canvas.size), stamp)
    canvas.shade(edge, float(rng.uniform(0.9, 1.45)))


def _place_on(
    rng: np.random.Generator, b: Building, sides: tuple[float, float]
) -> tuple[float, float]:
    room = np.maximum(0, 1 - np.asarray(sides) / np.asarray(b.sides) - 0.1)
    where = rng.uniform(-1, 1, 2) * room
    x, y = b.local(where[None])[0]
    return float(x), float(y)


def _hut(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, owner: int, roof: Stamp
) -> None:
    """A stair house or lift head with a shadow of its own."""
    sides = (rng.uniform(0.15, 0.45) * b.sides[0], rng.uniform(0.15, 0.45) * b.sides[1])
    points = rectangle(_place_on(rng, b, sides), sides, b.angle)
    _raised(rng, canvas, flight, points, 2.5 * flight.metre, owner, roof, hexes(rng, CONCRETE))


def _tank(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, owner: int, roof: Stamp
) -> None:
    """One to four round water tanks in a row."""
    radius = flight.metre * rng.uniform(0.5, 1.0)
    x, y = _place_on(rng, b, (2 * radius, 2 * radius))
    tint = hexes(rng, ("#1d1d20", "#26384f", "#e8e8e6", "#c9a23c", "#3b6fb0"))
    for i in range(int(rng.integers(1, 5))):
        at = (x + 2.3 * i * radius * np.cos(b.angle), y + 2.3 * i * radius * np.sin(b.angle))
        points = ellipse(at, (radius, radius))
        _raised(rng, canvas, flight, points, 1.5 * flight.metre, owner, roof, tint)


def _panels(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, owner: int, roof: Stamp
) -> None:
    """A field of solar panels."""
    sides = (rng.uniform(0.2, 0.7) * b.sides[0], rng.uniform(0.2, 0.6) * b.sides[1])
    points = rectangle(_place_on(rng, b, sides), sides, b.angle)
    stamp = within(fill([points], canvas.size), roof)
    dark = hexes(rng, ("#1f2a44", "#22283a", "#2c3f66"))
    grid = Material(
        base=dark,
        other=dark + 0.25,
        pattern="plaid",
        grain=float(max(4, 1.5 * flight.metre)),
        angle=b.angle,
        contrast=0.3,
    )
    canvas.paint(stamp, render(rng, grid, stamp.alpha.shape))
    canvas.claim_part(stamp, owner)


def _litter(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, owner: int, roof: Stamp
) -> None:
    """Small things without names: washing, pots, bricks."""
    for _ in range(int(rng.integers(1, 7))):
        sides = tuple(flight.metre * rng.uniform(0.3, 1.8, 2))
        points = rectangle(_place_on(rng, b, sides), sides, b.angle + rng.normal() * 0.4)
        stamp = within(fill([points], canvas.size), roof)
        canvas.paint(stamp, near_colour(rng, hexes(rng, CONCRETE + METAL), 0.3))


CLUTTER = (_hut, _tank, _panels, _litter, _hut, _tank, _litter)


def _raised(
    rng: np.random.Generator,
    canvas: Canvas,
    flight: Flight,
    points: Points,
    height: float,
    owner: int,
    roof: Stamp,
    tint: Floats,
) -> None:
    by = np.asarray(flight.sun) * flight.reach * height
    canvas.shade(within(fill(swept(points, by), canvas.size), roof), flight.dark)
    stamp = within(fill([points], canvas.size), roof)
    canvas.paint(stamp, tint * np.float32(rng.uniform(0.9, 1.1)))
    canvas.claim_part(stamp, owner)


def _metal(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, stamp: Stamp
) -> None:
    """Corrugated sheets, patched and rusty, flat or with a low ridge."""
    owner = _cover(rng, canvas, stamp, _roof_material(rng, b))
    _corrugate(rng, canvas, flight, stamp, b.angle + np.pi / 2)
    for _ in range(rng.poisson(0.8)):
        sheet = rectangle(b.local(rng.uniform(-0.8, 0.8, (1, 2)))[0], _sheet(rng, b), b.angle)
        patch = within(fill([sheet], canvas.size), stamp)
        canvas.paint(patch, near_colour(rng, hexes(rng, METAL), 0.1))
    if rng.random() < 0.6:
        _planes(rng, canvas, flight, b, owner, stamp, hip=0.0)


def _sheet(rng: np.random.Generator, b: Building) -> tuple[float, float]:
    return (b.sides[0] * rng.uniform(0.1, 0.4), b.sides[1] * rng.uniform(0.2, 0.6))


def _corrugate(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, stamp: Stamp, angle: float
) -> None:
    period = max(2.5, flight.metre * rng.uniform(0.3, 1.2))
    one = np.ones(3, np.float32)
    waves = Material(base=one, other=0 * one, pattern="stripe", grain=period, angle=angle, noise=0)
    shape = stamp.alpha.shape
    field = render(rng, replace(waves, contrast=float(rng.uniform(0.02, 0.12))), shape)[..., 0]
    canvas.shade(stamp, field)


def _gable(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, stamp: Stamp
) -> None:
    """Two tiled planes."""
    owner = _cover(rng, canvas, stamp, _roof_material(rng, b))
    _corrugate(rng, canvas, flight, stamp, b.angle + np.pi / 2 * float(rng.integers(2)))
    _planes(rng, canvas, flight, b, owner, stamp, hip=0.0)
    _chimney(rng, canvas, flight, b, owner, stamp)


def _hip(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, stamp: Stamp
) -> None:
    """Four tiled planes."""
    owner = _cover(rng, canvas, stamp, _roof_material(rng, b))
    _planes(rng, canvas, flight, b, owner, stamp, hip=float(rng.uniform(0.3, 1.0)))
    _chimney(rng, canvas, flight, b, owner, stamp)


def _plain(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, stamp: Stamp
) -> None:
    """A bare slab or sheet, the hardest to tell from the ground."""
    _cover(rng, canvas, stamp, _roof_material(rng, b))


def _chimney(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, b: Building, owner: int, roof: Stamp
) -> None:
    for _ in range(rng.poisson(0.7)):
        sides = (flight.metre * 0.8, flight.metre * 0.8)
        points = rectangle(_place_on(rng, b, sides), sides, b.angle)
        _raised(rng, canvas, flight, points, 1.5 * flight.metre, owner, roof, hexes(rng, TILES))


def _planes(
    rng: np.random.Generator,
    canvas: Canvas,
    flight: Flight,
    b: Building,
    owner: int,
    roof: Stamp,
    hip: float,
) -> None:
    """Light each plane of the roof after the way it faces; `hip` is how far the ends slope in."""
    strength = rng.uniform(0.08, 0.4)
    for wing in WINGS[b.plan]:
        along = abs(np.diff(wing[:, 0]).max()) * b.sides[0]
        across = abs(np.diff(wing[:, 1]).max()) * b.sides[1]
        for points, normal in _wing_planes(wing, along < across, hip * min(along, across), b):
            stamp = within(fill([points], canvas.size), roof)
            facing = -float(np.dot(normal, flight.sun))
            canvas.shade(stamp, 1 + strength * facing)
            canvas.claim_part(stamp, owner)


def _wing_planes(
    wing: Points, turned: bool, slope: float, b: Building
) -> list[tuple[Points, Points]]:
    """(vertices, outward xy direction) of the planes of one rectangular wing."""
    (x0, y0), (x1, y1) = wing
    sides = b.sides
    if turned:
        x0, y0, x1, y1, sides = y0, x0, y1, x1, sides[::-1]
    end = min(slope / sides[0], (x1 - x0) * 0.49)
    m = (y0 + y1) / 2
    planes = [
        ([[x0, y0], [x1, y0], [x1 - end, m], [x0 + end, m]], [0, -1]),
        ([[x0, y1], [x1, y1], [x1 - end, m], [x0 + end, m]], [0, 1]),
    ]
    if end > 0:
        planes.append(([[x0, y0], [x0, y1], [x0 + end, m]], [-1, 0]))
        planes.append(([[x1, y0], [x1, y1], [x1 - end, m]], [1, 0]))
    order = slice(None, None, -1 if turned else 1)
    return [
        (b.local(np.array(p)[:, order]), place(np.array([d])[:, order], (0, 0), b.angle)[0])
        for p, d in planes
    ]


WINGS: dict[str, list[Points]] = {
    "box": [np.array([[-1.0, -1.0], [1.0, 1.0]])],
    "l": [np.array([[-1.0, -1.0], [0.1, 1.0]]), np.array([[-0.45, -1.0], [1.0, 0.0]])],
    "t": [np.array([[-1.0, -1.0], [1.0, 0.0]]), np.array([[-0.4, -0.5], [0.4, 1.0]])],
    "u": [
        np.array([[-1.0, -1.0], [1.0, -0.1]]),
        np.array([[-1.0, -1.0], [-0.4, 1.0]]),
        np.array([[0.4, -1.0], [1.0, 1.0]]),
    ],
}

ROOFS = {"concrete": _flat, "metal": _metal, "gable": _gable, "hip": _hip, "plain": _plain}

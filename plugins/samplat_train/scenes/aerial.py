"""Towns and countryside seen from straight above at about 0.1 to 0.5 m a pixel."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from skimage import measure

from .canvas import Canvas, Floats, Points, Scene, Stamp, blank_canvas, dense_levels
from .choices import weighted
from .finish import Camera, expose
from .layout import Box, Frame, extent, inset, random_frame, row, split
from .roofs import STYLES, Building, Flight, cast_shadow, draw_building, hexes
from .shapes import blob, fill, place, rectangle, relief, stroke
from .textures import Material, fractal, near_colour, render

SOIL = ("#8d7a63", "#a39079", "#7b6c58", "#b5a58d", "#938878", "#6f675c", "#a8a196")
GREEN = ("#4f6238", "#5e6b42", "#3f5130", "#76804f", "#6b7a4c", "#55604a")
CROP = ("#7d8a4a", "#a49a5e", "#c2ad73", "#8c7a58", "#5b7540", "#94a062", "#b59c76", "#6d5f49")
ROAD = ("#6d6c6b", "#86847f", "#5a5a5c", "#9a968e", "#a89c8a", "#b5b0a6")
POOL = ("#4fb3cf", "#62c7d6", "#3a93b8", "#7ec8d8")
CARS = ("#e9e9ea", "#202022", "#8b8d90", "#b4232a", "#234a8c", "#c9c9c4", "#5a5d61", "#d8b33a")


def draw_aerial(rng: np.random.Generator, size: int) -> Scene:
    """A nadir picture; buildings, trees, cars, pools and fields are labelled."""
    setting = weighted(rng, SETTINGS)
    flight = _flight(rng, size)
    canvas = setting(rng, size, flight)
    canvas.image[:] = _hazy(rng, canvas.image)
    camera = Camera(blur=1.6, noise=0.05, light=0.12, tone=0.4, grey=0.2, cast=0.06, jpeg=0.6)
    return Scene(
        image=expose(rng, canvas.image, camera), labels=dense_levels(canvas), kind="aerial"
    )


def _hazy(rng: np.random.Generator, image: Floats) -> Floats:
    """Air between the ground and the camera: paler colours, less contrast, a cast."""
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * np.float32(rng.uniform(0.25, 1.1))
    veil = near_colour(rng, np.array([0.5, 0.52, 0.54], np.float32), 0.1)
    share = np.float32(rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0)
    return np.asarray(image * (1 - share) + veil * share, np.float32)


def _flight(rng: np.random.Generator, size: int) -> Flight:
    angle = rng.uniform(0, 2 * np.pi)
    lean = rng.uniform(0, 2 * np.pi)
    aslant = rng.uniform(0, 0.45) if rng.random() < 0.5 else 0.0
    return Flight(
        sun=(float(np.cos(angle)), float(np.sin(angle))),
        reach=float(rng.uniform(0.1, 1.3)),
        dark=float(rng.uniform(0.3, 0.8)),
        metre=float(np.exp(rng.uniform(np.log(2.0), np.log(9.0))) * size / 512),
        lean=(float(aslant * np.cos(lean)), float(aslant * np.sin(lean))),
        styles=rng.dirichlet(np.full(len(STYLES), 0.6)).astype(np.float32),
    )


def _ground(rng: np.random.Generator, palette: tuple[str, ...], grain: float = 1.0) -> Material:
    base = hexes(rng, palette)
    return Material(
        base=base,
        other=hexes(rng, palette + GREEN),
        pattern=str(rng.choice(["rough", "cloud", "blotch", "speckle", "ridge"])),
        grain=float(rng.uniform(6, 60) * grain),
        contrast=float(rng.uniform(0.1, 0.5)),
        noise=float(rng.uniform(0.01, 0.06)),
    )


def _land(rng: np.random.Generator, size: int, palette: tuple[str, ...]) -> Canvas:
    return blank_canvas(render(rng, _ground(rng, palette, 2), (size, size)))


def _town(rng: np.random.Generator, size: int, flight: Flight) -> Canvas:
    """Dense irregular building of flat and metal roofs around narrow streets."""
    canvas = _land(rng, size, ROAD + SOIL)
    frame = random_frame(rng, size, rng.uniform(0, 0.06) * size)
    metre, buildings = flight.metre, []
    loose = rng.uniform(0.0, 0.12)
    for block in split(rng, extent(size), rng.uniform(35, 80) * metre, rng.uniform(3, 9) * metre):
        if _outside(frame, block, size):
            continue
        _yard(rng, canvas, frame, block)
        for plot in split(rng, block, rng.uniform(9, 16) * metre, rng.uniform(0, 1.5) * metre):
            if rng.random() < 0.88:
                buildings.append(_build(rng, frame, flight, inset(rng, plot, 0, 0.04 + loose)))
    _furnish(rng, canvas, flight, buildings, cars=(0, 25), trees=(0, 25))
    return canvas


def _terraces(rng: np.random.Generator, size: int, flight: Flight) -> Canvas:
    """European rows of touching houses with gardens behind."""
    canvas = _land(rng, size, ROAD)
    frame = random_frame(rng, size, rng.uniform(0, 0.05) * size)
    metre, buildings = flight.metre, []
    width, depth = rng.uniform(5, 10) * metre, rng.uniform(8, 12) * metre
    flight = replace(flight, styles=np.array([0.15, 0.1, 0.5, 0.15, 0.1], np.float32))
    for block in split(rng, extent(size), rng.uniform(40, 90) * metre, rng.uniform(8, 14) * metre):
        if _outside(frame, block, size):
            continue
        _yard(rng, canvas, frame, block, GREEN + SOIL)
        style, height = _style(rng, flight), rng.uniform(5, 10) * metre
        for plot in row(rng, inset(rng, block, 0.02, 0.1), width, depth):
            house = _build(rng, frame, flight, plot)
            same = rng.random() < 0.8
            buildings.append(replace(house, style=style, height=height) if same else house)
    _furnish(rng, canvas, flight, buildings, cars=(5, 50), trees=(5, 60))
    return canvas


def _suburb(rng: np.random.Generator, size: int, flight: Flight) -> Canvas:
    """Detached houses in gardens with pools and trees."""
    canvas = _land(rng, size, ROAD)
    frame = random_frame(rng, size, rng.uniform(0, 0.12) * size)
    metre, buildings = flight.metre, []
    for block in split(rng, extent(size), rng.uniform(50, 100) * metre, rng.uniform(6, 10) * metre):
        if _outside(frame, block, size):
            continue
        for plot in split(rng, block, rng.uniform(18, 30) * metre, rng.uniform(0, 1) * metre):
            _yard(rng, canvas, frame, plot, GREEN + GREEN + SOIL)
            buildings.append(_build(rng, frame, flight, inset(rng, plot, 0.1, 0.35)))
            if rng.random() < 0.15:
                _pool(rng, canvas, frame, flight, plot)
    _furnish(rng, canvas, flight, buildings, cars=(3, 30), trees=(20, 90))
    return canvas


def _industry(rng: np.random.Generator, size: int, flight: Flight) -> Canvas:
    """Large sheds, concrete yards and rows of parked cars."""
    canvas = _land(rng, size, ROAD)
    frame = random_frame(rng, size, 0.0)
    metre, buildings = flight.metre, []
    flight = replace(flight, styles=np.array([0.35, 0.4, 0.05, 0.0, 0.2], np.float32))
    for block in split(rng, extent(size), rng.uniform(40, 90) * metre, rng.uniform(6, 20) * metre):
        if _outside(frame, block, size):
            continue
        _yard(rng, canvas, frame, block, ROAD + SOIL)
        if rng.random() < 0.3:
            _parking(rng, canvas, frame, flight, block)
        else:
            buildings.append(_build(rng, frame, flight, inset(rng, block, 0.02, 0.25)))
    _furnish(rng, canvas, flight, buildings, cars=(5, 30), trees=(0, 25))
    return canvas


def _country(rng: np.random.Generator, size: int, flight: Flight) -> Canvas:
    """Fields with furrows and hedges, a road, a few farms."""
    canvas = _land(rng, size, SOIL + GREEN)
    frame = random_frame(rng, size, rng.uniform(0, 0.12) * size)
    flight = replace(flight, metre=flight.metre * 0.6)
    for box in split(rng, extent(size), rng.uniform(0.15, 0.5) * size, rng.uniform(1, 8)):
        if not _outside(frame, box, size):
            _field(rng, canvas, frame, box)
    for _ in range(rng.integers(0, 3)):
        _road(rng, canvas, size)
    farms = [_farm(rng, frame, flight, size) for _ in range(rng.integers(0, 7))]
    buildings = [house for farm in farms for house in farm]
    _furnish(rng, canvas, flight, buildings, cars=(0, 5), trees=(5, 70))
    return canvas


def _paddies(rng: np.random.Generator, size: int, flight: Flight) -> Canvas:
    """Terraced fields along a hillside's contours, some houses among them."""
    hill = fractal(rng, (size, size), slope=2.0, grain=float(rng.uniform(3, 7)))
    steps = np.floor(hill * rng.uniform(3, 8)).astype(np.int32)
    across = np.floor(fractal(rng, (size, size), slope=2.0, grain=5.0) * rng.uniform(1, 3))
    pieces = measure.label(  # type: ignore[no-untyped-call]
        steps * 1000 + across.astype(np.int32), background=-(10**6), connectivity=1
    )
    canvas = _land(rng, size, CROP)
    shades = np.stack([hexes(rng, CROP, 0.12) for _ in range(64)])
    canvas.image[:] = canvas.image * 0.4 + shades[pieces % 64] * np.float32(0.6)
    edge = ndimage.morphological_gradient(pieces, 3) > 0
    canvas.image[edge] *= np.float32(rng.uniform(0.5, 1.3))
    canvas.whole[:] = np.where(edge | (np.bincount(pieces.ravel())[pieces] < 150), 0, pieces)
    for _ in range(pieces.max() + 1):
        next(canvas.ids)
    frame = random_frame(rng, size, 0.0)
    farms = [_farm(rng, frame, flight, size) for _ in range(rng.integers(1, 8))]
    buildings = [house for farm in farms for house in farm]
    _furnish(rng, canvas, flight, buildings, cars=(0, 1), trees=(5, 60))
    return canvas


SETTINGS = {
    "town": (_town, 0.4),
    "terraces": (_terraces, 0.14),
    "suburb": (_suburb, 0.16),
    "industry": (_industry, 0.08),
    "country": (_country, 0.15),
    "paddies": (_paddies, 0.07),
}


def _outside(frame: Frame, box: Box, size: int) -> bool:
    corners = frame.quad(box)
    return bool((corners.max(0) < 0).any() or (corners.min(0) > size).any())


def _yard(
    rng: np.random.Generator,
    canvas: Canvas,
    frame: Frame,
    box: Box,
    palette: tuple[str, ...] = SOIL + GREEN + ROAD,
) -> None:
    stamp = fill([frame.quad(box)], canvas.size)
    canvas.paint(stamp, render(rng, _ground(rng, palette), stamp.alpha.shape))


def _style(rng: np.random.Generator, flight: Flight) -> str:
    p = flight.styles.astype(float)
    return str(rng.choice(STYLES, p=p / p.sum()))


def _build(rng: np.random.Generator, frame: Frame, flight: Flight, box: Box) -> Building:
    """A building that fills a box of the town."""
    x0, y0, x1, y1 = box
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    centre = frame.to_picture(np.array([middle]))[0]
    turn = np.pi * float(rng.integers(2)) + rng.normal() * 0.02
    large = min(x1 - x0, y1 - y0) > 9 * flight.metre
    plan = str(rng.choice(["box", "l", "t", "u"], p=[0.6, 0.24, 0.08, 0.08])) if large else "box"
    return Building(
        centre=(float(centre[0]), float(centre[1])),
        angle=frame.heading(middle) + turn,
        sides=(x1 - x0, y1 - y0),
        height=float(rng.choice([1, 1, 2, 2, 3, 4]) * 3.2 * flight.metre * rng.uniform(0.8, 1.2)),
        style=_style(rng, flight),
        plan=plan,
    )


def _farm(rng: np.random.Generator, frame: Frame, flight: Flight, size: int) -> list[Building]:
    """A few buildings around a yard."""
    x, y = rng.uniform(-0.5, 0.5, 2) * size
    metre = flight.metre
    spots = rng.normal(size=(int(rng.integers(1, 5)), 2)) * 22 * metre + (x, y)
    sides = rng.uniform(5, 14, (len(spots), 2)) * metre
    boxes = [(*(s - d / 2), *(s + d / 2)) for s, d in zip(spots, sides, strict=True)]
    return [_build(rng, frame, flight, box) for box in boxes]


def _furnish(
    rng: np.random.Generator,
    canvas: Canvas,
    flight: Flight,
    buildings: Sequence[Building],
    *,
    cars: tuple[int, int],
    trees: tuple[int, int],
) -> None:
    """Cars first, then buildings from low to high, then trees over them."""
    for _ in range(int(rng.integers(*cars))):
        at = rng.uniform(0, canvas.size, 2)
        _car(rng, canvas, flight, at, rng.uniform(0, np.pi))
    for building in sorted(buildings, key=lambda b: b.height):
        if _in_sight(building, canvas.size):
            draw_building(rng, canvas, flight, building)
    _wood(rng, canvas, flight, int(rng.integers(*trees)))


def _in_sight(b: Building, size: int) -> bool:
    reach = max(b.sides)
    return all(-reach < c < size + reach for c in b.centre) and min(b.sides) > 3


def _car(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, at: Points, angle: float
) -> None:
    length, width = flight.metre * rng.uniform(3.8, 5.2), flight.metre * rng.uniform(1.7, 2.1)
    body = rectangle(at, (length, width), angle)
    cast_shadow(canvas, flight, body, 1.4 * flight.metre)
    stamp = fill([body], canvas.size)
    canvas.paint(stamp, hexes(rng, CARS))
    canvas.claim(stamp)
    for end in (-0.22, 0.18):
        glass = place(rectangle((end * length, 0), (0.12 * length, 0.8 * width)), at, angle)
        canvas.paint(fill([glass], canvas.size), np.array([0.12, 0.14, 0.17], np.float32))


def _parking(
    rng: np.random.Generator, canvas: Canvas, frame: Frame, flight: Flight, box: Box
) -> None:
    """Rows of cars in bays."""
    bay, lane = 2.7 * flight.metre, 11 * flight.metre
    x0, y0, x1, y1 = box
    full = rng.uniform(0.2, 0.9)
    for y in np.arange(y0 + 3 * flight.metre, y1 - 3 * flight.metre, lane):
        for x in np.arange(x0 + bay, x1 - bay, bay):
            if rng.random() < full:
                at = frame.to_picture(np.array([[x, y]]))[0]
                if ((at > 0) & (at < canvas.size)).all():
                    _car(rng, canvas, flight, at, frame.heading((x, y)) + np.pi / 2)


def _pool(rng: np.random.Generator, canvas: Canvas, frame: Frame, flight: Flight, box: Box) -> None:
    x0, y0, x1, y1 = box
    at = frame.to_picture(np.array([[rng.uniform(x0, x1), rng.uniform(y0, y1)]]))[0]
    radii = flight.metre * rng.uniform(2, 5, 2)
    angle = frame.heading((x0, y0))
    points = rectangle(at, 2 * radii, angle)
    if rng.random() < 0.4:
        points = blob(rng, at, radii, angle=angle)
    border = fill([place((points - at) * 1.25, at, 0)], canvas.size)
    canvas.paint(border, hexes(rng, ROAD))
    stamp = fill([points], canvas.size)
    canvas.paint(stamp, render(rng, _ground(rng, POOL), stamp.alpha.shape))
    canvas.claim(stamp)


def _field(rng: np.random.Generator, canvas: Canvas, frame: Frame, box: Box) -> None:
    base = hexes(rng, CROP, 0.1)
    crop = Material(
        base=base,
        other=near_colour(rng, base * np.float32(rng.choice([0.6, 1.35])), 0.1),
        pattern=str(rng.choice(["stripe", "wavy", "rough", "speckle", "cloud", "streak"])),
        grain=float(rng.uniform(3, 16)),
        angle=frame.heading(box[:2]) + np.pi / 2 * float(rng.integers(2)),
        contrast=float(rng.uniform(0.05, 0.5)),
        noise=float(rng.uniform(0.01, 0.05)),
    )
    stamp = fill([frame.quad(box)], canvas.size)
    canvas.paint(stamp, render(rng, crop, stamp.alpha.shape))
    stains = 1 + 0.12 * fractal(rng, stamp.alpha.shape, slope=2.0)
    canvas.shade(stamp, stains)
    canvas.claim(stamp)


def _road(rng: np.random.Generator, canvas: Canvas, size: int) -> None:
    angle, bend = rng.uniform(0, np.pi), rng.uniform(0, 0.1) * size
    t = np.linspace(-1, 1, 40)
    line = np.stack([t * size, bend * np.sin(3 * t + rng.uniform(0, 6))], 1)
    stamp = stroke(place(line, rng.uniform(0.2, 0.8, 2) * size, angle), rng.uniform(4, 22), size)
    canvas.paint(stamp, render(rng, _ground(rng, ROAD), stamp.alpha.shape))
    canvas.hide(stamp)


def _wood(rng: np.random.Generator, canvas: Canvas, flight: Flight, trees: int) -> None:
    """Single trees and clumps; a clump is one object whose crowns are parts."""
    leaf = hexes(rng, GREEN)
    left = trees
    while left > 0:
        crowns = min(left, 1 + int(rng.poisson(6)) if rng.random() < 0.25 else 1)
        _clump(rng, canvas, flight, near_colour(rng, leaf, 0.12), crowns)
        left -= crowns


def _clump(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, leaf: Floats, crowns: int
) -> None:
    radius = flight.metre * rng.uniform(1.0, 4.5)
    middle = rng.uniform(0, canvas.size, 2)
    spread = radius * np.sqrt(crowns) * 0.8
    spots = middle + rng.normal(size=(crowns, 2)) * (spread if crowns > 1 else 0)
    outlines = [blob(rng, s, [radius * rng.uniform(0.7, 1.2)] * 2, rough=0.28) for s in spots]
    for points in outlines:
        cast_shadow(canvas, flight, points, radius * 1.5)
    owner = canvas.claim(fill(outlines, canvas.size))
    for points in outlines:
        stamp = fill([points], canvas.size)
        _crown(rng, canvas, flight, stamp, near_colour(rng, leaf, 0.05))
        if crowns > 1:
            canvas.claim_part(stamp, owner)


def _crown(
    rng: np.random.Generator, canvas: Canvas, flight: Flight, stamp: Stamp, leaf: Floats
) -> None:
    """Foliage: dark gaps, bright tufts, and the sunny side lit."""
    tufts = Material(
        base=leaf,
        other=leaf * np.float32(0.25),
        pattern=str(rng.choice(["rough", "rough", "speckle"])),
        grain=float(np.clip(flight.metre * rng.uniform(0.6, 1.5), 2, 12)),
        contrast=float(rng.uniform(0.2, 0.5)),
    )
    canvas.paint(stamp, render(rng, tufts, stamp.alpha.shape))
    light = (-flight.sun[0], -flight.sun[1])
    canvas.shade(stamp, relief(stamp.alpha, light, rng.uniform(0.2, 0.6)))

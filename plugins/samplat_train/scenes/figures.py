"""People, animals, vehicles and things: jointed outlines of differently coloured parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .canvas import Floats, Points, Vector
from .choices import weighted
from .roofs import hexes
from .shapes import blob, curve, ellipse, limb, place, rectangle, shifted, star
from .textures import Material, colour, material, near_colour

SKIN = ("#f0c8a8", "#d9a47c", "#b07a52", "#7d4f33", "#4f3222", "#e3b491")
HAIR = ("#1c1512", "#3a271b", "#6b4a2c", "#a5793f", "#c9b08a", "#8a8a88")
COAT = ("#3b2a1e", "#7a5534", "#b98f5e", "#d8c7a8", "#1f1d1c", "#8b8883", "#e9e5de", "#a0662f")

PLUMAGE = (*COAT, "#b23a2e", "#2e5fa3", "#d8b02c")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Outlines that share a material; drawn in front of the parts before it."""

    polygons: list[Points]
    """In units of the figure's height, origin at its middle, y down."""
    material: Material


Figure = list[Part]


def random_figure(rng: np.random.Generator, tint: Floats | None = None) -> Figure:
    """A figure about one unit high; `tint`, (3,), is a colour to hide in."""
    maker = weighted(rng, FIGURES)
    figure: Figure = maker(rng, tint)
    return figure


def posed(figure: Figure, centre: Vector, scale: float, turn: float, flip: bool) -> Figure:
    """The figure `scale` pixels long at `centre`, turned by `turn` radians, perhaps mirrored."""
    corners = np.concatenate([p for part in figure for p in part.polygons])
    scale = scale / float(np.ptp(corners, axis=0).max())
    mirror = np.array([-1 if flip else 1, 1])
    return [
        Part(
            polygons=[place(p * mirror * scale, centre, turn) for p in part.polygons],
            material=part.material,
        )
        for part in figure
    ]


def _dye(rng: np.random.Generator, tint: Floats | None) -> Material:
    """Cloth, paint or plastic."""
    base = None if tint is None else near_colour(rng, tint, 0.1)
    return material(rng, base, photo=0.2, vivid=float(rng.choice([0.3, 0.6, 1.0])))


def _skin(rng: np.random.Generator) -> Material:
    base = hexes(rng, SKIN)
    return Material(base=base, other=base * np.float32(0.7), pattern="cloud", contrast=0.1)


def _coat(rng: np.random.Generator, tint: Floats | None, palette: Sequence[str] = COAT) -> Material:
    """Fur, feathers or scales."""
    base = hexes(rng, tuple(palette)) if tint is None else near_colour(rng, tint, 0.1)
    return Material(
        base=base,
        other=near_colour(rng, base * np.float32(rng.choice([0.3, 0.6, 1.5])), 0.1),
        pattern=str(rng.choice(["blotch", "rough", "speckle", "streak", "wavy", "dots", "cloud"])),
        grain=float(rng.uniform(4, 40)),
        angle=float(rng.uniform(0, np.pi)),
        contrast=float(rng.uniform(0.1, 0.6)),
    )


def _chain(start: Vector, turns: Vector, lengths: Vector) -> Points:
    """Joints of a limb hanging from `start`; turn 0 points down."""
    steps = [[np.sin(t) * n, np.cos(t) * n] for t, n in zip(turns, lengths, strict=True)]
    return np.cumsum([np.asarray(start, float), *np.asarray(steps)], axis=0)


def _sleeve(joints: Points, radii: Vector) -> list[Points]:
    return [
        limb(p, q, a, b)
        for p, q, a, b in zip(joints[:-1], joints[1:], radii[:-1], radii[1:], strict=True)
    ]


def person(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A walking, standing, sitting or leaping person with clothes, skin, hair and shoes."""
    lively, stout = rng.uniform(0.15, 0.8), rng.uniform(0.8, 1.35)
    hip, neck = np.array([0, 0.03]), np.array([rng.normal() * 0.05, -0.29])
    legs = [_leg(rng, shifted(hip, side * 0.05 * stout, 0), lively) for side in (-1, 1)]
    arms = [_arm(rng, shifted(neck, side * 0.1 * stout, 0.035), lively) for side in (-1, 1)]
    skin, shirt, trousers = _skin(rng), _dye(rng, tint), _dye(rng, tint)
    bare = rng.random() < 0.3
    long = rng.random() < 0.6
    leg_radii, arm_radii = (
        np.array([0.062, 0.045, 0.032]) * stout,
        np.array([0.042, 0.034, 0.025]) * stout,
    )
    thighs = [p for leg in legs for p in _sleeve(leg, leg_radii)[: 1 if bare else 2]]
    calves = [p for leg in legs for p in _sleeve(leg, leg_radii)]
    sleeves = [_sleeve(arm, arm_radii)[: 2 if long else 1] for arm in arms]
    bare_arms = [[*_sleeve(arm, arm_radii), ellipse(arm[2], (0.03, 0.03))] for arm in arms]
    throat = limb(shifted(neck, 0, 0.05), shifted(neck, 0, -0.06), 0.035, 0.03)
    torso = [_torso(rng, hip, neck, stout), throat]
    shoes = [limb(leg[2], leg[2] + (rng.uniform(-0.02, 0.09), 0.015), 0.03, 0.025) for leg in legs]
    figure = [
        Part(polygons=bare_arms[0], material=skin),
        Part(polygons=sleeves[0], material=shirt),
        Part(polygons=calves, material=skin),
        Part(polygons=thighs, material=trousers),
        Part(polygons=shoes, material=_dye(rng, None)),
        Part(polygons=torso, material=shirt),
        *_head(rng, neck, skin),
        Part(polygons=bare_arms[1], material=skin),
        Part(polygons=sleeves[1], material=shirt),
    ]
    if rng.random() < 0.25:
        bag = blob(
            rng,
            shifted(neck + rng.normal(size=2) * 0.05, 0, 0.18),
            rng.uniform(0.06, 0.13, 2),
            rough=0.15,
        )
        figure.insert(
            int(rng.choice([0, len(figure)])), Part(polygons=[bag], material=_dye(rng, None))
        )
    if rng.random() < 0.2:
        skirt = np.array([[-0.08, -0.03], [0.08, -0.03], [0.19, 0.3], [-0.19, 0.3]]) * (stout, 1)
        figure.insert(6, Part(polygons=[skirt + hip], material=trousers))
    return figure


def _torso(rng: np.random.Generator, hip: Points, neck: Points, stout: float) -> Points:
    """Shoulders, waist and hips."""
    shoulder, waist, seat = np.array([0.125, rng.uniform(0.075, 0.11), 0.105]) * stout
    middle = (hip + neck) / 2
    right = [
        shifted(neck, 0.04, -0.02),
        shifted(neck, shoulder, 0.03),
        shifted(neck, shoulder, 0.08),
    ]
    right += [shifted(middle, waist, 0.03), shifted(hip, seat, 0.0), shifted(hip, seat * 0.8, 0.05)]
    left = [p * (-1, 1) + (2 * (hip if i > 3 else neck)[0], 0) for i, p in enumerate(right)]
    return np.array(right + left[::-1])


def _leg(rng: np.random.Generator, hip: Points, lively: float) -> Points:
    thigh = rng.normal() * lively
    return _chain(hip, [thigh, thigh - abs(rng.normal()) * lively], [0.23, 0.23])


def _arm(rng: np.random.Generator, shoulder: Points, lively: float) -> Points:
    upper = rng.normal() * lively * 1.3
    return _chain(shoulder, [upper, upper + rng.normal() * lively * 1.5], [0.16, 0.15])


def _head(rng: np.random.Generator, neck: Points, skin: Material) -> Figure:
    at = shifted(neck, rng.normal() * 0.02, -0.11)
    face = Part(polygons=[ellipse(at, (0.058, 0.075))], material=skin)
    base = hexes(rng, HAIR)
    hair = Material(base=base, other=base * np.float32(1.6), pattern="streak", contrast=0.3)
    top = ellipse(shifted(at, rng.normal() * 0.015, -0.035), (0.068, 0.055))
    look = hair if rng.random() < 0.7 else _dye(rng, None)
    return [face, Part(polygons=[top], material=look)] if rng.random() < 0.9 else [face]


def beast(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A four-legged animal from the side."""
    coat = _coat(rng, tint)
    long, thick = rng.uniform(0.3, 0.5), rng.uniform(0.13, 0.22)
    body = blob(rng, (0, 0), (long, thick), rough=0.12)
    legs: list[Points] = []
    far: list[Points] = []
    for i, x in enumerate((-0.75, -0.6, 0.6, 0.75)):
        swing = rng.normal() * 0.35
        joints = _chain((x * long, thick * 0.4), [swing, swing - rng.normal() * 0.3], [0.22, 0.2])
        (far if i % 2 else legs).extend(_sleeve(joints, [0.07, 0.04, 0.03]))
    rise = rng.uniform(-0.6, 0.9)
    nape = np.array([long * 0.8, -thick * 0.4])
    head = nape + np.array([np.cos(rise), -np.sin(rise)]) * rng.uniform(0.12, 0.4)
    neck = limb(nape, head, thick * 0.65, 0.075)
    muzzle = limb(head, shifted(head, rng.uniform(0.08, 0.18), rng.uniform(0, 0.08)), 0.085, 0.045)
    ears = [
        limb(shifted(head, -0.03, -0.05), shifted(head, -0.05 + dx, -0.14), 0.03, 0.01)
        for dx in (0, 0.06)
    ]
    tail = curve(rng, (-long * 0.95, -0.03), 0.4, 0.3)
    tails = [limb(p, q, 0.03, 0.025) for p, q in pairwise(tail)]
    shade = Material(
        base=coat.base * np.float32(0.7), other=coat.other, pattern=coat.pattern, contrast=0.2
    )
    figure = [
        Part(polygons=far, material=shade),
        Part(polygons=[body, neck, *legs, *tails, muzzle, *ears], material=coat),
    ]
    if rng.random() < 0.4:
        figure.append(Part(polygons=[muzzle, *ears], material=_coat(rng, None)))
    if rng.random() < 0.25:
        figure.append(
            Part(
                polygons=[blob(rng, (0, -thick * 0.3), (0.15, thick * 0.6))],
                material=_dye(rng, None),
            )
        )
    return figure


def bird(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A bird standing or flying."""
    coat = _coat(rng, tint, PLUMAGE)
    body = blob(rng, (0, 0), (0.3, 0.18), rough=0.1, angle=-0.3)
    long = rng.uniform(0.05, 0.4)
    head = np.array([0.27 + 0.3 * long, -0.15 - long * 0.7])
    neck = limb((0.18, -0.06), head, 0.1, 0.06)
    beak = np.array(
        [shifted(head, 0.03, -0.04), shifted(head, 0.18, 0.02), shifted(head, 0.03, 0.04)]
    )
    tail = limb((-0.22, 0.05), (-0.5, rng.uniform(0, 0.2)), 0.08, 0.05)
    wing = blob(rng, (-0.05, 0), (0.26, 0.12), rough=0.2, angle=rng.uniform(-0.5, 0.3))
    if rng.random() < 0.35:
        tip = (rng.uniform(-0.4, 0.2), rng.choice([-1, 1]) * rng.uniform(0.4, 0.6))
        wing = limb((0, 0), tip, 0.15, 0.04)
    legs = [limb((x, 0.12), (x + rng.normal() * 0.05, 0.45), 0.02, 0.012) for x in (0.0, 0.08)]
    return [
        Part(polygons=legs, material=_dye(rng, None)),
        Part(polygons=[body, tail, neck, ellipse(head, (0.09, 0.08))], material=coat),
        Part(polygons=[beak], material=_dye(rng, None)),
        Part(polygons=[wing], material=_coat(rng, tint)),
    ]


def fish(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A fish from the side."""
    tall = rng.uniform(0.12, 0.3)
    fins = [
        np.array([[-0.35, 0], [-0.58, -0.22], [-0.5, 0], [-0.58, 0.22]]),
        blob(rng, (0, -tall), (0.2, 0.09)),
        blob(rng, (0.05, tall), (0.1, 0.08)),
    ]
    return [
        Part(polygons=fins, material=_dye(rng, tint)),
        Part(polygons=[blob(rng, (0, 0), (0.42, tall), rough=0.1)], material=_coat(rng, tint)),
        Part(polygons=[ellipse((0.28, -0.05), (0.03, 0.03))], material=_dye(rng, None)),
    ]


def car(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A car, van, lorry or bus from the side."""
    paint = material(rng, colour(rng, vivid=0.9) if tint is None else tint, photo=0.02)
    paint = Material(base=paint.base, other=paint.other, pattern="plain", contrast=0.2)
    tall, back = rng.uniform(0.16, 0.4), rng.uniform(-0.6, -0.3)
    body = blob(rng, (0, 0.08), (0.75, 0.17), rough=0.03)
    hull = np.array([[-0.7, -0.02], [0.7, 0.0], [0.75, 0.2], [-0.75, 0.2]])
    cabin = np.array([[back, -0.02], [back + 0.12, -tall], [0.2, -tall], [0.42, 0.0]])
    windows = [cabin * (0.85, 0.75) + (0.0, -0.025)]
    wheels = [ellipse((x, 0.22), (0.13, 0.13)) for x in (-0.45, 0.45)]
    hubs = [ellipse((x, 0.22), (0.07, 0.07)) for x in (-0.45, 0.45)]
    glass, rubber = (
        hexes(rng, ("#1c2630", "#30404f", "#7f93a0")),
        np.array([0.07, 0.07, 0.08], np.float32),
    )
    return [
        Part(polygons=[body, hull, cabin], material=paint),
        Part(polygons=windows, material=Material(base=glass, other=glass + 0.4, pattern="cloud")),
        Part(polygons=wheels, material=Material(base=rubber, other=rubber * 2)),
        Part(polygons=hubs, material=_dye(rng, None)),
        Part(
            polygons=[ellipse((x, 0.06), (0.05, 0.03)) for x in (-0.7, 0.7)],
            material=_dye(rng, None),
        ),
    ]


def rider(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """Someone on two wheels; person and machine are one object."""
    metal = _dye(rng, tint)
    rubber = Material(base=np.array([0.08] * 3, np.float32), other=np.array([0.3] * 3, np.float32))
    radius, heavy = rng.uniform(0.17, 0.24), rng.random() < 0.5
    wheels = [ellipse((x, 0.28), (radius, radius)) for x in (-0.36, 0.36)]
    spokes = [_rim(w, 0.7 if heavy else 0.85) for w in wheels]
    bars = np.array(
        [[-0.36, 0.28], [-0.1, 0.05], [0.0, 0.3], [-0.1, 0.05], [0.25, 0.0], [0.36, 0.28]]
    )
    width = 0.07 if heavy else 0.022
    frame = [limb(p, q, width, width) for p, q in pairwise(bars)]
    hip, neck = np.array([-0.12, 0.0]), np.array([rng.uniform(-0.1, 0.18), -0.3])
    skin, cloth = _skin(rng), _dye(rng, tint)
    legs = [
        _chain(hip, [1.0 + rng.normal() * 0.2, -0.3 + rng.normal() * 0.2], [0.2, 0.22])
        for _ in "ab"
    ]
    arm = np.array([shifted(neck, 0, 0.04), shifted(neck, 0.12, 0.14), (0.27, 0.0)])
    return [
        Part(polygons=spokes, material=rubber),
        Part(polygons=frame, material=metal),
        Part(
            polygons=[p for leg in legs for p in _sleeve(leg, [0.06, 0.045, 0.035])],
            material=_dye(rng, tint),
        ),
        Part(
            polygons=[limb(hip, neck, 0.08, 0.08), *_sleeve(arm, [0.045, 0.035, 0.028])],
            material=cloth,
        ),
        *_head(rng, neck, skin),
    ]


def _rim(wheel: Points, inner: float) -> Points:
    """A ring as one polygon: out along the rim, back along its inner side."""
    centre = wheel.mean(0)
    closed = np.concatenate([wheel, wheel[:1]])
    return np.concatenate([closed, ((closed - centre) * inner + centre)[::-1]])


def boat(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A hull, perhaps with a mast and sails."""
    hull = np.array([[-0.6, 0.2], [0.7, 0.15], [0.5, 0.4], [-0.5, 0.4]])
    figure = [Part(polygons=[hull], material=_dye(rng, tint))]
    if rng.random() < 0.6:
        figure.append(
            Part(polygons=[limb((0, 0.2), (0, -0.6), 0.012, 0.01)], material=_dye(rng, None))
        )
        sails = [
            np.array([[0.03, -0.55], [0.5, 0.12], [0.03, 0.12]]),
            np.array([[-0.03, -0.5], [-0.4, 0.12], [-0.03, 0.12]]),
        ]
        figure.append(Part(polygons=sails[: int(rng.integers(1, 3))], material=_dye(rng, tint)))
    else:
        figure.append(
            Part(polygons=[rectangle((-0.1, 0.1), (0.5, 0.25))], material=_dye(rng, tint))
        )
    return figure


def vessel(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A bottle, vase, lamp or jar: a turned profile with bands."""
    heights = np.linspace(-0.5, 0.5, 14)
    knots = rng.uniform(0.05, 0.3, 5)
    half = np.interp(heights, np.linspace(-0.5, 0.5, 5), knots)
    outline = np.stack([np.r_[half, -half[::-1]], np.r_[heights, heights[::-1]]], 1)
    figure = [Part(polygons=[outline], material=_dye(rng, tint))]
    for _ in range(rng.poisson(1.0)):
        a, b = sorted(rng.integers(0, 14, 2))
        rows = slice(a, b + 2)
        band = np.stack(
            [np.r_[half[rows], -half[rows][::-1]], np.r_[heights[rows], heights[rows][::-1]]], 1
        )
        figure.append(Part(polygons=[band], material=_dye(rng, None)))
    if rng.random() < 0.3:
        figure.insert(
            0,
            Part(polygons=[_rim(ellipse((0.25, 0), (0.2, 0.2)), 0.7)], material=figure[0].material),
        )
    return figure


def seat(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A chair or table: thin legs under a slab, perhaps a back."""
    wood, w = _dye(rng, tint), rng.uniform(0.2, 0.5)
    lean = rng.uniform(-0.08, 0.08)
    legs = [
        limb((x, 0.05), (x + lean * np.sign(x), 0.5), 0.022, 0.018)
        for x in (-w, -w * 0.6, w * 0.6, w)
    ]
    figure = [Part(polygons=legs, material=wood)]
    slab = np.array([[-w - 0.03, -0.0], [w + 0.03, 0.0], [w * 0.8, -0.12], [-w * 0.8, -0.12]])
    if rng.random() < 0.6:
        back = rectangle((0, -0.3), (1.6 * w, 0.4))
        bars = [limb((x, -0.1), (x, -0.5), 0.02, 0.02) for x in np.linspace(-0.8 * w, 0.8 * w, 4)]
        figure.append(Part(polygons=[back] if rng.random() < 0.5 else bars, material=wood))
    figure.append(Part(polygons=[slab], material=_dye(rng, None) if rng.random() < 0.5 else wood))
    return figure


def oddity(rng: np.random.Generator, tint: Floats | None) -> Figure:
    """A shape without a name: a blob or star with things growing out of it."""
    wholly = _dye(rng, tint)
    core = blob(rng, (0, 0), rng.uniform(0.2, 0.5, 2), rough=rng.uniform(0.1, 0.6))
    figure = [Part(polygons=[core], material=wholly)]
    for _ in range(int(rng.integers(0, 6))):
        root = core[int(rng.integers(len(core)))]
        growth = blob(rng, root, rng.uniform(0.05, 0.25, 2), rough=0.4, angle=rng.uniform(0, 3))
        if rng.random() < 0.5:
            growth = limb(root * 0.8, root * rng.uniform(1.2, 2.2), *rng.uniform(0.015, 0.1, 2))
        elif rng.random() < 0.2:
            growth = star(rng, root, rng.uniform(0.1, 0.25))
        same = rng.random() < 0.4
        figure.append(Part(polygons=[growth], material=wholly if same else _dye(rng, None)))
    return figure


FIGURES: dict[str, tuple[Callable[[np.random.Generator, Floats | None], Figure], float]] = {
    "person": (person, 0.27),
    "beast": (beast, 0.2),
    "bird": (bird, 0.08),
    "fish": (fish, 0.04),
    "car": (car, 0.11),
    "rider": (rider, 0.1),
    "boat": (boat, 0.04),
    "vessel": (vessel, 0.05),
    "seat": (seat, 0.04),
    "oddity": (oddity, 0.07),
}

"""Phantoms of slices: CT trunk, MR head and spine, ultrasound, organs of little contrast."""

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from .canvas import Canvas, Floats, Points, Scene, Stamp, blank_canvas, dense_levels
from .choices import weighted
from .finish import Camera, expose
from .shapes import blob, curve, ellipse, fill, outline, stroke, within
from .spine import spine
from .textures import fractal
from .tissue import fill_grey, grey, inner, organ


def draw_medical(rng: np.random.Generator, size: int) -> Scene:
    """A slice; organs are labelled, and lesions and cavities in them as parts."""
    setting = weighted(rng, SETTINGS)
    canvas = setting(rng, size)
    image = _acquired(rng, canvas.image)
    camera = Camera(
        blur=1.5, noise=0.05, light=0.25, grey=0, cast=0, tone=0.4, invert=0.05, jpeg=0.3
    )
    return Scene(image=expose(rng, image, camera), labels=dense_levels(canvas), kind="medical")


def _acquired(rng: np.random.Generator, image: Floats) -> Floats:
    """The window of grey levels, the thickness of the slice, and Gaussian or Rician noise."""
    sigma, flat = rng.uniform(0.4, 1.8), rng.choice([1.0, 1.0, 2.0])
    field = ndimage.gaussian_filter(image[..., 0], (sigma * flat, sigma))
    low, high = rng.uniform(-0.05, 0.15), rng.uniform(0.7, 1.1)
    field = (field - low) / (high - low)
    if rng.random() < 0.35:
        field = _coarse(field, rng.uniform(2, 8))
    noise, grain = rng.uniform(0, 0.06), float(rng.choice([1.0, 1.4]))
    real = field + noise * fractal(rng, field.shape, slope=0.0, grain=grain)
    if rng.random() < 0.5:
        real = np.hypot(real, noise * fractal(rng, field.shape, slope=0.0))
    return grey(real)


def _coarse(field: Floats, factor: float) -> Floats:
    """As a slice of few pixels shows it, enlarged by `factor`."""
    size = max(8, round(len(field) / factor))
    small = _resized(field, size)
    return _resized(small, len(field))


def _resized(field: Floats, size: int) -> Floats:
    image = Image.fromarray(np.asarray(field, np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _lesion(
    rng: np.random.Generator, canvas: Canvas, stamp: Stamp, owner: int, level: float
) -> None:
    """A small spot inside an organ, lighter or darker."""
    if not stamp.alpha.size or not stamp.mask.any():
        return
    y, x = np.argwhere(stamp.mask)[int(rng.integers(stamp.mask.sum()))]
    radius = np.sqrt(stamp.mask.sum()) * rng.uniform(0.04, 0.2)
    points = blob(rng, (x + stamp.left, y + stamp.top), (radius, radius * rng.uniform(0.6, 1)))
    spot = within(fill([points], canvas.size), stamp)
    inner(rng, canvas, spot, owner, level + rng.choice([-1, 1]) * rng.uniform(0.05, 0.2))


def _body(rng: np.random.Generator, size: int) -> tuple[Points, Points]:
    """Centre and radii of a trunk, pixels."""
    middle = 0.5 * size + rng.normal(size=2) * 0.02 * size
    radii = np.array([rng.uniform(0.38, 0.55), rng.uniform(0.28, 0.45)]) * size
    return middle, radii


def _trunk(rng: np.random.Generator, size: int) -> Canvas:
    """CT: skin, fat, muscle wall, organs, spine, ribs, vessels, perhaps lungs."""
    canvas = blank_canvas(np.full((size, size, 3), rng.uniform(0, 0.06), np.float32))
    middle, radii = _body(rng, size)
    fat, soft = rng.uniform(0.15, 0.4), rng.uniform(0.4, 0.6)
    wall = rng.uniform(0.82, 0.95)
    shells = ((1.0, fat), (wall, soft - rng.uniform(0, 0.06)), (wall - 0.1, rng.uniform(fat, soft)))
    skin = blob(rng, (0, 0), radii, rough=0.06)
    for share, level in shells:
        fill_grey(rng, canvas, fill([skin * share + middle], size), level, 0.025)
    (_lungs if rng.random() < 0.35 else _belly)(rng, canvas, middle, radii * wall, soft)
    _bones(rng, canvas, middle, radii * wall)
    _vessels(rng, canvas, middle, radii, soft)
    return canvas


def _belly(
    rng: np.random.Generator, canvas: Canvas, middle: Points, radii: Points, soft: float
) -> None:
    """Organs that push into each other, the last drawn in front."""
    cavity = fill([ellipse(middle, radii * 0.88)], canvas.size)
    spread = rng.uniform(0.02, 0.1)
    for _ in range(int(rng.integers(4, 16))):
        at = middle + radii * rng.uniform(-0.65, 0.65, 2)
        reach = radii.min() * rng.uniform(0.07, 0.5) * np.array([1, rng.uniform(0.4, 1)])
        points = blob(rng, at, reach, rough=rng.uniform(0.1, 0.5), angle=rng.uniform(0, 3))
        stamp = within(fill([points], canvas.size), cavity)
        level = soft + rng.normal() * spread
        owner = organ(rng, canvas, stamp, level, rng.uniform(0.01, 0.04))
        if rng.random() < 0.4:
            rim = within(outline(points, 4, canvas.size), stamp)
            canvas.shade(rim, rng.uniform(0.75, 1.2))
        for _ in range(rng.poisson(0.6)):
            _lesion(rng, canvas, stamp, owner, level)


def _lungs(
    rng: np.random.Generator, canvas: Canvas, middle: Points, radii: Points, soft: float
) -> None:
    air = rng.uniform(0.02, 0.15)
    for side in (-1, 1):
        at = middle + radii * (side * rng.uniform(0.4, 0.48), rng.normal() * 0.04)
        points = blob(rng, at, radii * (0.34, rng.uniform(0.55, 0.72)), rough=0.15)
        stamp = fill([points], canvas.size)
        owner = organ(rng, canvas, stamp, air, 0.02)
        _branches(rng, canvas, at, radii[0], stamp, soft)
        for _ in range(rng.poisson(0.8)):
            _lesion(rng, canvas, stamp, owner, air + 0.25)
    heart = middle + radii * (rng.uniform(-0.1, 0.15), rng.uniform(-0.2, 0.1))
    reach = radii.min() * rng.uniform(0.3, 0.45, 2)
    stamp = fill([blob(rng, heart, reach, rough=0.2)], canvas.size)
    owner = organ(rng, canvas, stamp, soft + 0.05)
    _lesion(rng, canvas, stamp, owner, soft + 0.1)


def _branches(
    rng: np.random.Generator, canvas: Canvas, at: Points, reach: float, lung: Stamp, soft: float
) -> None:
    """Vessels of the lung, no objects."""
    for _ in range(int(rng.integers(5, 40))):
        start = at + rng.normal(size=2) * reach * 0.12
        line = curve(rng, start, reach * rng.uniform(0.1, 0.4), 0.5)
        tube = within(stroke(line, rng.uniform(1, 4), canvas.size), lung)
        canvas.paint(tube, np.full(3, soft * rng.uniform(0.5, 1), np.float32))


def _bones(rng: np.random.Generator, canvas: Canvas, middle: Points, radii: Points) -> None:
    bright = rng.uniform(0.75, 1.0)
    spine = middle + radii * (0, rng.uniform(0.5, 0.65))
    body = blob(rng, spine, radii.min() * rng.uniform(0.13, 0.2, 2), rough=0.15)
    arch = blob(rng, spine + radii * (0, 0.24), radii.min() * np.array([0.24, 0.07]), rough=0.4)
    for points in (body, arch):
        stamp = fill([points], canvas.size)
        owner = organ(rng, canvas, stamp, bright, 0.04)
        marrow = within(fill([(points - spine) * 0.75 + spine], canvas.size), stamp)
        inner(rng, canvas, marrow, owner, bright * 0.75)
    for turn in np.arange(0.25, 6.1, rng.uniform(0.3, 0.7)):
        at = middle + _to_rib(radii, turn)
        reach = radii.min() * np.array([rng.uniform(0.05, 0.14), rng.uniform(0.02, 0.04)])
        organ(rng, canvas, fill([ellipse(at, reach, -turn)], canvas.size), bright, 0.03)


def _to_rib(radii: Points, turn: float) -> Points:
    """Xy from the centre to the ribs, `turn` radians from straight down."""
    return np.asarray(radii * 0.93 * np.array([np.sin(turn), np.cos(turn)]))


def _vessels(
    rng: np.random.Generator, canvas: Canvas, middle: Points, radii: Points, soft: float
) -> None:
    level = soft + rng.uniform(-0.05, 0.35)
    for _ in range(int(rng.integers(1, 7))):
        at = middle + radii * rng.uniform((-0.3, -0.1), (0.3, 0.4))
        radius = radii.min() * rng.uniform(0.02, 0.08)
        stamp = fill([blob(rng, at, (radius, radius * 1.1), rough=0.1)], canvas.size)
        organ(rng, canvas, stamp, level)


def _head(rng: np.random.Generator, size: int) -> Canvas:
    """MR: scalp, skull, folded grey and white matter, ventricles, lesions."""
    canvas = blank_canvas(np.full((size, size, 3), rng.uniform(0, 0.04), np.float32))
    middle = 0.5 * size + rng.normal(size=2) * 0.02 * size
    radii = np.array([rng.uniform(0.3, 0.42), rng.uniform(0.36, 0.48)]) * size
    scalp = blob(rng, (0, 0), radii, rough=0.05, angle=rng.normal() * 0.1)
    bone = rng.uniform(0.02, 0.15)
    for share, level in ((1.0, rng.uniform(0.5, 0.9)), (0.95, bone), (0.9, rng.uniform(0.05, 0.3))):
        fill_grey(rng, canvas, fill([scalp * share + middle], size), level, 0.03)
    matter = rng.permutation([rng.uniform(0.3, 0.45), rng.uniform(0.5, 0.75)])
    brain = fill([scalp * 0.86 + middle], size)
    owner = organ(rng, canvas, brain, matter[0], 0.03)
    _folds(rng, canvas, brain, rng.uniform(0.05, 0.3), matter[0])
    _white(rng, canvas, brain, owner, middle, radii, matter[1])
    _ventricles(rng, canvas, owner, middle, radii, rng.choice([0.08, 0.15, 0.9]))
    for _ in range(rng.poisson(1.2)):
        _lesion(rng, canvas, brain, owner, matter[1])
    return canvas


def _folds(
    rng: np.random.Generator, canvas: Canvas, brain: Stamp, fluid: float, level: float
) -> None:
    """Dark furrows between the windings of the cortex."""
    h, w = brain.alpha.shape
    lines = np.abs(fractal(rng, (h, w), slope=2.0, grain=float(rng.uniform(0.25, 0.5))))
    depth = np.exp(-((lines / 0.12) ** 2)) * rng.uniform(0.3, 1.0)
    canvas.shade(brain, np.asarray(1 - depth * (1 - fluid / level), np.float32))


def _white(
    rng: np.random.Generator,
    canvas: Canvas,
    brain: Stamp,
    owner: int,
    middle: Points,
    radii: Points,
    level: float,
) -> None:
    """White matter: the inner brain, its border folded."""
    h, w = brain.alpha.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    across, down = (x + brain.left - middle[0]) / radii[0], (y + brain.top - middle[1]) / radii[1]
    folds = fractal(rng, (h, w), slope=2.0, grain=float(rng.uniform(0.3, 0.6)))
    border = rng.uniform(0.62, 0.72) + folds * rng.uniform(0.05, 0.1)
    cleft = np.abs(across) > 0.012 + 0.15 * np.clip(np.abs(down) - 0.4, 0, 1)
    inside = np.clip((border - np.hypot(across, down)) * 50, 0, 1) * cleft
    stamp = Stamp(top=brain.top, left=brain.left, alpha=(inside * brain.alpha).astype(np.float32))
    inner(rng, canvas, stamp, owner, level)


def _ventricles(
    rng: np.random.Generator,
    canvas: Canvas,
    owner: int,
    middle: Points,
    radii: Points,
    level: float,
) -> None:
    """Two horns of fluid and two grey nuclei beside them."""
    offset, tall, wide = rng.uniform(0.06, 0.11), rng.uniform(0.12, 0.3), rng.uniform(0.03, 0.07)
    lean, grey = rng.uniform(-0.35, 0.35), rng.uniform(0.35, 0.6)
    for side in (-1, 1):
        deep = middle + radii * (side * (offset + 0.14), 0.05 + rng.normal() * 0.02)
        nucleus = fill([blob(rng, deep, radii * (0.07, 0.14), rough=0.2)], canvas.size)
        inner(rng, canvas, nucleus, owner, grey)
        at = middle + radii * (side * offset, rng.normal() * 0.02)
        horn = blob(rng, at, radii * (wide, tall), rough=0.25, angle=side * lean)
        inner(rng, canvas, fill([horn], canvas.size), owner, level)


def _ultrasound(rng: np.random.Generator, size: int) -> Canvas:
    """A speckled fan with dark cysts and echoing masses."""
    base = 0.35 + 0.12 * fractal(rng, (size, size), slope=1.5, grain=(1.0, 4.0))
    canvas = blank_canvas(grey(base))
    for _ in range(int(rng.integers(1, 5))):
        at, radii = rng.uniform(0.2, 0.8, 2) * size, rng.uniform(0.04, 0.2, 2) * size
        stamp = fill([blob(rng, at, radii, rough=0.3, angle=rng.uniform(0, 3))], size)
        level = rng.uniform(0.03, 0.2) if rng.random() < 0.7 else rng.uniform(0.45, 0.6)
        organ(rng, canvas, stamp, level, 0.04)
    speckle = np.abs(fractal(rng, (size, size), slope=0.0, grain=(1.5, float(rng.uniform(2, 5)))))
    canvas.image[:] *= (0.4 + 0.75 * speckle)[..., None]
    outside = ~_fan(rng, size)
    canvas.image[outside], canvas.whole[outside] = 0.02, 0
    return canvas


def _fan(rng: np.random.Generator, size: int) -> np.ndarray:
    """(S, S), True where the probe sees."""
    if rng.random() < 0.4:
        return np.ones((size, size), bool)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    turn, depth = np.arctan2(x - 0.5, y + 0.15), np.hypot(x - 0.5, y + 0.15)
    seen = (np.abs(turn) < rng.uniform(0.5, 0.9)) & (depth > 0.2) & (depth < rng.uniform(0.95, 1.2))
    return np.asarray(seen)


def _organs(rng: np.random.Generator, size: int) -> Canvas:
    """A close view: a few smooth organs with hardly any contrast, filling the picture."""
    level, spread = rng.uniform(0.3, 0.6), rng.uniform(0.03, 0.12)
    ground = level + rng.uniform(0.02, 0.06) * fractal(rng, (size, size), slope=1.5, grain=4.0)
    canvas = blank_canvas(grey(ground))
    for _ in range(int(rng.integers(3, 16))):
        at = rng.uniform(0, 1, 2) * size
        radii = size * np.exp(rng.uniform(-3.4, -1.1)) * np.array([1, rng.uniform(0.4, 1)])
        points = blob(rng, at, radii, rough=rng.uniform(0.1, 0.5), angle=rng.uniform(0, 3))
        stamp = fill([points], size)
        own = level + rng.choice([-1, 1]) * spread * rng.uniform(0.6, 2)
        owner = organ(rng, canvas, stamp, own, rng.uniform(0.01, 0.05))
        if rng.random() < 0.4:
            rim = within(outline(points, rng.uniform(2, 8), size), stamp)
            canvas.shade(rim, rng.uniform(0.7, 1.3))
        for _ in range(rng.poisson(0.5)):
            _lesion(rng, canvas, stamp, owner, own)
    return canvas


SETTINGS: dict[str, tuple[Callable[[np.random.Generator, int], Canvas], float]] = {
    "trunk": (_trunk, 0.36),
    "head": (_head, 0.22),
    "spine": (spine, 0.13),
    "ultrasound": (_ultrasound, 0.09),
    "organs": (_organs, 0.2),
}

"""What stands behind the objects of an everyday picture and is itself no object."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from .canvas import Canvas, Floats, blank_canvas
from .choices import weighted
from .photos import GROUNDS, NAMES, has_photos, photo_patch, photo_view
from .roofs import hexes
from .shapes import blob, curve, ellipse, fill, limb, rectangle, shifted, stroke
from .textures import Material, cells, colour, fractal, material, near_colour, render

SKY = ("#8fb4d9", "#c3d3e0", "#6c8fb8", "#e0dcd2", "#a8a9ad", "#e6b58a", "#3b4a66")
TURF = ("#6b7f3f", "#8c8a52", "#a3936a", "#55682f", "#8a7a5c", "#b9ac8c", "#7a8a5a", "#d5cbb8")
PHOTO_SHARE = 0.6
"""How often a photograph is the backdrop, where there is a folder of them."""
LEAF = ("#3f5a2a", "#5d7a35", "#2c4020", "#7a8a40", "#8a6a35", "#486b4a")


def random_backdrop(rng: np.random.Generator, size: int) -> Canvas:
    """A canvas without objects: scenery, clutter, and the blur of what lies out of focus."""
    canvas = _any_backdrop(rng, size)
    if rng.random() < 0.5:
        _clutter(rng, canvas)
    if rng.random() < 0.4:
        detail = photo_patch(rng, (size, size), GROUNDS if rng.random() < 0.6 else NAMES).mean(-1)
        detail = 1 + (detail - detail.mean()) * np.float32(rng.uniform(0.3, 1.2))
        canvas.image[:] *= detail[..., None]
    blur = rng.choice([0.0, rng.uniform(0.5, 2), rng.uniform(2, 8)]) * size / 512
    if blur < 0.4:
        return canvas
    return blank_canvas(_blurred(canvas.image, blur))


def _any_backdrop(rng: np.random.Generator, size: int) -> Canvas:
    if has_photos() and rng.random() < PHOTO_SHARE:
        return blank_canvas(photo_view(rng, size))
    maker = weighted(rng, BACKDROPS)
    canvas: Canvas = maker(rng, size)
    return canvas


def _blurred(image: Floats, sigma: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter(image, (sigma, sigma, 0), truncate=3), np.float32)


def _clutter(rng: np.random.Generator, canvas: Canvas) -> None:
    """Poles, beams, stains and lights that belong to the background."""
    for _ in range(int(rng.integers(1, 9))):
        at, reach = rng.uniform(0, canvas.size, 2), canvas.size * rng.uniform(0.05, 0.5)
        choice = rng.integers(4)
        if choice == 0:
            foot = shifted(at, rng.normal() * 0.1 * reach, reach)
            pole = limb(shifted(at, 0, -reach), foot, *rng.uniform(1, 12, 2))
            stamp = fill([pole], canvas.size)
        elif choice == 1:
            stamp = stroke(curve(rng, at, reach * 3, 0.2), rng.uniform(1, 6), canvas.size)
        elif choice == 2:
            stamp = fill(
                [rectangle(at, reach * rng.uniform(0.2, 1.2, 2), rng.normal() * 0.1)], canvas.size
            )
        else:
            stamp = fill([ellipse(at, [reach * 0.15] * 2)], canvas.size)
        below = canvas.image[stamp.window].mean((0, 1)) if stamp.alpha.size else colour(rng)
        look = material(rng, near_colour(rng, np.asarray(below, np.float32), 0.2))
        canvas.paint(stamp, render(rng, look, stamp.alpha.shape))


def _ramp(size: int, top: Floats, bottom: Floats) -> Floats:
    t = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    return np.broadcast_to(top + t * (bottom - top), (size, size, 3)).copy()


def _outdoors(rng: np.random.Generator, size: int) -> Canvas:
    """Sky, a ridge of hills, trees or houses, and ground."""
    sky = _ramp(size, hexes(rng, SKY), near_colour(rng, hexes(rng, SKY), 0.1))
    clouds = np.clip(fractal(rng, (size, size), slope=1.5, grain=(1.5, 4.0)), 0, 2) * rng.uniform(
        0, 0.2
    )
    canvas = blank_canvas(sky + clouds[..., None])
    horizon = rng.uniform(0.1, 0.75) * size
    for _ in range(int(rng.integers(0, 4))):
        _ridge(rng, canvas, horizon)
    if rng.random() < 0.3:
        _houses(rng, canvas, horizon)
    _floor(rng, canvas, horizon, hexes(rng, TURF))
    return canvas


def _ridge(rng: np.random.Generator, canvas: Canvas, horizon: float) -> None:
    """Hills or a row of trees against the sky."""
    x = np.linspace(-10, canvas.size + 10, 90)
    wave = ndimage.gaussian_filter1d(rng.normal(size=90), rng.uniform(1, 12), mode="wrap")
    top = horizon - rng.uniform(0, 0.35) * canvas.size * (
        0.5 + wave / (np.abs(wave).max() * 2 + 1e-6)
    )
    outline = np.stack([np.r_[x, x[::-1]], np.r_[top, np.full(90, horizon + 4)]], 1)
    base = hexes(rng, LEAF + SKY)
    look = Material(base=base, other=base * np.float32(0.4), pattern="rough", grain=6, contrast=0.2)
    stamp = fill([outline], canvas.size)
    canvas.paint(stamp, render(rng, look, stamp.alpha.shape))


def _houses(rng: np.random.Generator, canvas: Canvas, horizon: float) -> None:
    """Facades with windows, all background."""
    left = -20.0
    while left < canvas.size:
        wide, tall = rng.uniform(0.1, 0.35, 2) * canvas.size
        wall = fill([rectangle((left + wide / 2, horizon - tall / 2), (wide, tall))], canvas.size)
        canvas.paint(wall, render(rng, material(rng, photo=0, vivid=0.4), wall.alpha.shape))
        tint, step = colour(rng), rng.uniform(14, 40)
        for x in np.arange(left + step / 2, left + wide - step / 2, step):
            for y in np.arange(horizon - tall + step / 2, horizon - step / 2, step * 1.3):
                canvas.paint(fill([rectangle((x, y), (step * 0.5, step * 0.7))], canvas.size), tint)
        left += wide * rng.uniform(1, 1.5)


def _floor(rng: np.random.Generator, canvas: Canvas, horizon: float, base: Floats) -> None:
    """Ground whose texture grows towards the viewer."""
    size, top = canvas.size, int(horizon)
    rows = size - top
    if rows < 4:
        return
    near = np.arange(1, rows + 1, dtype=np.float32) / rows
    field = fractal(rng, (rows, size), slope=0.5, grain=(rng.uniform(1, 3), rng.uniform(2, 6)))
    fine = fractal(rng, (rows, size), slope=1.0, grain=(1.0, 2.5))
    mix = near[:, None] * field + (1 - near[:, None]) * fine * 0.6
    other = near_colour(rng, base * np.float32(rng.choice([0.5, 1.4])), 0.1)
    lit = 0.8 + 0.3 * near[:, None, None]
    step = (other - base) * np.float32(rng.uniform(0.15, 0.6))
    canvas.image[top:] = (base + mix[..., None] * step) * lit
    if rng.random() < 0.4:
        _blades(rng, canvas, top)


def _blades(rng: np.random.Generator, canvas: Canvas, top: int) -> None:
    """Tufts of grass."""
    for _ in range(int(rng.integers(20, 90))):
        y = rng.uniform(top, canvas.size)
        high = 3 + 0.1 * (y - top) * rng.uniform(0.3, 1.5)
        x = rng.uniform(0, canvas.size)
        tip = (x + rng.normal() * high * 0.4, y - high)
        stamp = fill([limb((x, y), tip, 1 + high * 0.03, 0.6)], canvas.size)
        canvas.paint(stamp, near_colour(rng, hexes(rng, TURF), 0.15))


def _water(rng: np.random.Generator, size: int) -> Canvas:
    """Waves to the horizon."""
    sky = _ramp(size, hexes(rng, SKY), hexes(rng, SKY))
    canvas = blank_canvas(sky)
    top = int(rng.uniform(0, 0.5) * size)
    base = hexes(rng, ("#2f5a78", "#3f6a6a", "#5c7f8f", "#1f3548", "#6a7a72"))
    waves = fractal(rng, (size - top, size), slope=1.0, grain=(1.0, rng.uniform(3, 9)))
    glint = np.clip(waves - 1.2, 0, 1) * rng.uniform(0, 1.2)
    shade = 1 + rng.uniform(0.1, 0.4) * waves
    canvas.image[top:] = base * shade[..., None] + glint[..., None]
    return canvas


def _wall(rng: np.random.Generator, size: int) -> Canvas:
    """One textured surface, brick, cloth, plaster or a photograph."""
    if rng.random() < 0.35:
        return blank_canvas(photo_patch(rng, (size, size)).copy())
    return blank_canvas(render(rng, material(rng, photo=0.0, vivid=0.5), (size, size)))


def _room(rng: np.random.Generator, size: int) -> Canvas:
    """A wall with frames and doors above a floor or table top."""
    canvas = blank_canvas(render(rng, material(rng, photo=0.05, vivid=0.4), (size, size)))
    edge = rng.uniform(0.45, 0.85) * size
    for _ in range(int(rng.integers(0, 6))):
        at, sides = rng.uniform(0, edge, 2), rng.uniform(0.08, 0.45, 2) * size
        frame = fill([rectangle(at, sides)], size)
        canvas.paint(frame, colour(rng, vivid=0.3))
        pane = fill([rectangle(at, sides * rng.uniform(0.7, 0.95))], size)
        canvas.paint(pane, render(rng, material(rng, photo=0.3), pane.alpha.shape))
    tilt = rng.normal() * 0.1 * size
    floor = np.array([[0, edge + tilt], [size, edge - tilt], [size, size], [0, size]])
    stamp = fill([floor], size)
    canvas.paint(stamp, render(rng, material(rng, photo=0.05), stamp.alpha.shape))
    return canvas


def _foliage(rng: np.random.Generator, size: int) -> Canvas:
    """Leaves upon leaves, dark gaps between them."""
    shape = (size, size)
    leaf = hexes(rng, LEAF)
    grain = float(np.exp(rng.uniform(-0.5, 1.2)))
    tone = cells(rng, shape, which="value", grain=grain) * 0.25
    edge = np.tanh(1.5 * cells(rng, shape, which="border", grain=grain) + 1.2)
    light = 0.8 + 0.35 * fractal(rng, shape, slope=1.5, grain=2.5)
    image = leaf * ((1 + tone) * (0.7 + 0.3 * edge) * np.clip(light, 0.1, 2))[..., None]
    canvas = blank_canvas(image.astype(np.float32))
    for _ in range(int(rng.integers(0, 60))):
        at, long = rng.uniform(0, size, 2), rng.uniform(6, 30) * grain
        points = blob(rng, at, (long, long * 0.4), rough=0.1, angle=rng.uniform(0, 3))
        canvas.paint(fill([points], size), near_colour(rng, leaf, 0.25))
    return canvas


BACKDROPS: dict[str, tuple[Callable[[np.random.Generator, int], Canvas], float]] = {
    "outdoors": (_outdoors, 0.4),
    "water": (_water, 0.1),
    "wall": (_wall, 0.18),
    "room": (_room, 0.16),
    "foliage": (_foliage, 0.16),
}

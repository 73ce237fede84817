"""Everyday pictures: figures of many parts before scenery, few or one alone, or fallen leaves."""

import numpy as np
from scipy import ndimage

from .backdrops import random_backdrop
from .canvas import Canvas, Floats, Points, Scene, Stamp, blank_canvas, dense_levels
from .cutouts import has_cutouts, set_cutout
from .figures import Figure, posed, random_figure
from .finish import Camera, expose
from .shapes import blob, curve, ellipse, fill, relief, stroke
from .textures import material, near_colour, render

CUTOUT_SHARE = 0.75
"""How often a scene is made of cut-outs, where there is a folder of them."""


def draw_natural(rng: np.random.Generator, size: int) -> Scene:
    """One to eight figures, or dozens of overlapping pieces."""
    choice = rng.random()
    drawn = _leaves if choice < 0.12 else _portrait if choice < 0.45 else _staged
    if has_cutouts() and rng.random() < CUTOUT_SHARE:
        drawn = _collage
    canvas = drawn(rng, size)
    camera = Camera(blur=1.3, noise=0.05, light=0.3, tone=0.4, grey=0.06, cast=0.06, jpeg=0.6)
    image = expose(rng, canvas.image, camera)
    return Scene(image=image, labels=dense_levels(canvas), kind="natural")


def _portrait(rng: np.random.Generator, size: int) -> Canvas:
    """One large figure that nothing hides, as most photographs have it."""
    canvas = random_backdrop(rng, size)
    scale = np.exp(rng.uniform(np.log(0.35), np.log(1.0))) * size
    centre = np.clip(rng.normal(0.5, 0.15, 2), 0.2, 0.8) * size
    figure = random_figure(rng, _hiding(rng, canvas, centre))
    flip = bool(rng.random() < 0.5)
    turn = rng.normal() * (0.15 if rng.random() < 0.8 else 1.0)
    _draw_figure(rng, canvas, posed(figure, centre, scale, turn, flip), _light(rng))
    return canvas


def _collage(rng: np.random.Generator, size: int) -> Canvas:
    """One to five cut-outs, mostly one; now and then drawn figures before or behind them."""
    canvas = random_backdrop(rng, size)
    count = 1 + int(rng.poisson(0.7))
    scales = np.sort(np.exp(rng.uniform(np.log(0.2), np.log(1.0), count))) * size
    for scale in scales[-5:]:
        centre = rng.normal(0.5, 0.18, 2).clip(0.1, 0.9) * size
        if rng.random() < 0.85:
            stamp = set_cutout(rng, canvas, centre, scale)
            if stamp.alpha.size and rng.random() < 0.3:
                canvas.shade(stamp, relief(stamp.alpha, _light(rng), rng.uniform(0.1, 0.4)))
        else:
            figure = posed(random_figure(rng), centre, scale, rng.normal() * 0.15, False)
            _draw_figure(rng, canvas, figure, _light(rng))
        if rng.random() < 0.06:
            _foreground(rng, canvas)
    return canvas


def _light(rng: np.random.Generator) -> Points:
    """Where it comes from, mostly above."""
    light = np.array([rng.normal(), rng.normal() - 1])
    return np.asarray(light / np.hypot(*light))


def _staged(rng: np.random.Generator, size: int) -> Canvas:
    """Figures before a backdrop, the nearer the larger and the lower."""
    canvas = random_backdrop(rng, size)
    light = _light(rng)
    count = 1 + int(rng.poisson(1.5))
    scales = np.sort(np.exp(rng.uniform(np.log(0.22), np.log(1.3), count))) * size
    kin = random_figure(rng) if rng.random() < 0.3 else None
    for scale in scales[-8:]:
        centre = _stand(rng, size, scale)
        figure = (
            kin if kin and rng.random() < 0.8 else random_figure(rng, _hiding(rng, canvas, centre))
        )
        flip = bool(rng.random() < 0.5)
        turn = rng.normal() * (0.1 if rng.random() < 0.9 else 1.0)
        _draw_figure(rng, canvas, posed(figure, centre, scale, turn, flip), light)
        if rng.random() < 0.12:
            _foreground(rng, canvas)
    return canvas


def _stand(rng: np.random.Generator, size: int, scale: float) -> Points:
    x = rng.normal(0.5, 0.27) * size
    y = rng.normal(0.5, 0.1) * size + 0.1 * (scale - 0.4 * size)
    return np.asarray(np.clip([x, y], 0.05 * size, 0.95 * size))


def _hiding(rng: np.random.Generator, canvas: Canvas, centre: Points) -> Floats | None:
    """Sometimes the colour of what lies behind, so that the figure hardly stands out."""
    if rng.random() > 0.25:
        return None
    x, y = centre.astype(int)
    return np.asarray(canvas.image[max(0, y - 30) : y + 30, max(0, x - 30) : x + 30].mean((0, 1)))


def _draw_figure(rng: np.random.Generator, canvas: Canvas, figure: Figure, light: Points) -> None:
    polygons = [p for part in figure for p in part.polygons]
    whole = fill(polygons, canvas.size)
    if not whole.alpha.size:
        return
    _ground_shadow(rng, canvas, polygons)
    before = canvas.image[whole.window].copy()
    owner = canvas.claim(whole)
    depth = rng.uniform(0.15, 0.7)
    for part in figure:
        stamp = fill(part.polygons, canvas.size)
        canvas.paint(stamp, render(rng, part.material, stamp.alpha.shape))
        canvas.shade(stamp, relief(stamp.alpha, light, depth * rng.uniform(0.5, 1)))
        canvas.claim_part(stamp, owner)
    canvas.shade(whole, relief(whole.alpha, light, depth * 0.5))
    canvas.image[whole.window] = _focused(rng, canvas.image[whole.window], before, whole)


def _ground_shadow(rng: np.random.Generator, canvas: Canvas, polygons: list[Points]) -> None:
    """A soft dark patch where the figure stands."""
    if rng.random() < 0.4:
        return
    corners = np.concatenate(polygons)
    (x0, _), (x1, y1) = corners.min(0), corners.max(0)
    wide = (x1 - x0) / 2
    at = ((x0 + x1) / 2 + rng.normal() * wide * 0.4, y1 - wide * 0.04)
    flat, dark = wide * rng.uniform(0.08, 0.25), rng.uniform(0.88, 0.98)
    for share in np.linspace(1.3, 0.6, 14):
        canvas.shade(fill([ellipse(at, (wide * share, flat * share))], canvas.size), dark)


def _focused(rng: np.random.Generator, drawn: Floats, before: Floats, whole: Stamp) -> Floats:
    """The figure as it moves or lies out of focus, mixed with what is behind it."""
    choice = rng.random()
    alpha = whole.alpha[..., None]
    if choice < 0.12:
        axis, length = int(rng.integers(2)), int(rng.integers(3, 14))
        front = ndimage.uniform_filter1d(drawn * alpha, length, axis=axis, mode="constant")
        cover = ndimage.uniform_filter1d(alpha, length, axis=axis, mode="constant")
    elif choice < 0.4:
        sigma = rng.uniform(0.5, 2.0)
        front = ndimage.gaussian_filter(drawn * alpha, (sigma, sigma, 0), mode="constant")
        cover = ndimage.gaussian_filter(alpha, (sigma, sigma, 0), mode="constant")
    else:
        return drawn
    return np.asarray(front + (1 - cover) * before, np.float32)


def _foreground(rng: np.random.Generator, canvas: Canvas) -> None:
    """A branch, rail or stalks across the view, no object."""
    look = near_colour(rng, np.asarray(canvas.image[::16, ::16].mean((0, 1)), np.float32), 0.4)
    for _ in range(int(rng.integers(1, 8))):
        line = curve(rng, rng.uniform(0, canvas.size, 2), canvas.size * rng.uniform(0.3, 1.2), 0.1)
        stamp = stroke(line, rng.uniform(1.5, 9), canvas.size)
        canvas.paint(stamp, look * np.float32(rng.uniform(0.8, 1.2)))
        canvas.hide(stamp)


def _leaves(rng: np.random.Generator, size: int) -> Canvas:
    """Textured pieces of all sizes falling on each other until nothing of the ground shows."""
    canvas = blank_canvas(render(rng, material(rng), (size, size)))
    count = int(np.exp(rng.uniform(np.log(12), np.log(80))))
    light = np.array([np.cos(rng.uniform(0, 6)), np.sin(rng.uniform(0, 6))])
    for _ in range(count):
        at, scale = rng.uniform(0, size, 2), size * min(0.7, 0.08 / rng.uniform(0.08, 1))
        stamp = fill(
            [blob(rng, at, scale * rng.uniform(0.3, 1, 2), rough=rng.uniform(0, 0.6))], size
        )
        canvas.paint(stamp, render(rng, material(rng, photo=0.25), stamp.alpha.shape))
        canvas.shade(stamp, relief(stamp.alpha, light, rng.uniform(0, 0.5)))
        canvas.claim(stamp)
    return canvas

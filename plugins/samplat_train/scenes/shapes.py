"""Outlines as vertices, and their antialiased stamps."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from .canvas import Floats, Points, Stamp, Vector


def ellipse(centre: Vector, radii: Vector, angle: float = 0.0) -> Points:
    """Vertices of an ellipse with `radii` (along, across) pixels turned by `angle` radians."""
    t = np.linspace(0, 2 * np.pi, _corners(radii), endpoint=False)
    return place(np.stack([radii[0] * np.cos(t), radii[1] * np.sin(t)], 1), centre, angle)


def _corners(radii: Vector) -> int:
    """How many vertices make a curve look smooth; figures are drawn in units below a pixel."""
    reach = max(radii)
    return 72 if reach < 1 or reach > 18 else max(16, int(4 * reach))


def rectangle(centre: Vector, sides: Vector, angle: float = 0.0) -> Points:
    """Vertices of a rectangle with `sides` (along, across) pixels turned by `angle` radians."""
    a, b = sides[0] / 2, sides[1] / 2
    return place(np.array([[-a, -b], [a, -b], [a, b], [-a, b]]), centre, angle)


def shifted(point: Vector, dx: float, dy: float) -> Points:
    """(2,) the point moved by `dx`, `dy`."""
    return np.array([point[0] + dx, point[1] + dy])


def place(points: Points, centre: Vector, angle: float) -> Points:
    """Turn points about the origin by `angle` radians, then move the origin to `centre`."""
    c, s = np.cos(angle), np.sin(angle)
    turned = points @ np.array([[c, s], [-s, c]])
    return np.asarray(turned + np.asarray(centre, np.float64))


def wobbly_radius(rng: np.random.Generator, n: int, rough: float, waves: int = 6) -> Points:
    """(n,) radii about 1 of a smooth closed curve; `rough` 0 is a circle, 0.5 very irregular."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    orders = np.arange(2, 2 + waves)
    amplitude = rough * rng.normal(size=waves) / orders
    wave = amplitude[:, None] * np.cos(orders[:, None] * t + rng.uniform(0, 2 * np.pi, (waves, 1)))
    return np.asarray(np.maximum(0.25, 1 + wave.sum(0)))


def blob(
    rng: np.random.Generator,
    centre: Vector,
    radii: Vector,
    *,
    rough: float = 0.3,
    angle: float = 0.0,
) -> Points:
    """Vertices of a smooth closed random curve filling roughly an ellipse of `radii` pixels."""
    n = _corners(radii)
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radius = wobbly_radius(rng, n, rough)
    points = np.stack([radii[0] * radius * np.cos(t), radii[1] * radius * np.sin(t)], 1)
    return place(points, centre, angle)


def limb(start: Vector, end: Vector, first: float, last: float) -> Points:
    """A tapered capsule from `start` to `end` with radii `first` and `last` pixels."""
    p, q = np.asarray(start, np.float64), np.asarray(end, np.float64)
    heading = np.arctan2(*(q - p)[::-1])
    t = np.linspace(np.pi / 2, 3 * np.pi / 2, 9)
    cap = np.stack([np.cos(t), np.sin(t)], 1)
    return np.concatenate([place(cap * first, p, heading), place(-cap * last, q, heading)])


def star(rng: np.random.Generator, centre: Vector, radius: float) -> Points:
    """A star with 4 to 9 spikes of length `radius` pixels."""
    spikes = int(rng.integers(4, 10))
    t = np.linspace(0, 2 * np.pi, 2 * spikes, endpoint=False) + rng.uniform(0, 2)
    r = np.where(np.arange(2 * spikes) % 2, rng.uniform(0.3, 0.7), 1.0) * radius
    return place(np.stack([r * np.cos(t), r * np.sin(t)], 1), centre, 0.0)


def curve(rng: np.random.Generator, start: Vector, length: float, bend: float) -> Points:
    """A smooth open random curve from `start`, `length` pixels long; `bend` radians per step."""
    steps = max(4, int(length / 8))
    turning = ndimage.gaussian_filter1d(rng.normal(size=steps), 1.5) * bend
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turning)
    step = np.stack([np.cos(heading), np.sin(heading)], 1) * length / steps
    return np.asarray(np.asarray(start) + np.cumsum(step, 0))


def swept(points: Points, by: Vector) -> list[Points]:
    """Polygons whose union is `points` dragged along the vector `by`: a cast shadow."""
    moved = points + np.asarray(by)
    following = np.roll(np.arange(len(points)), -1)
    sides = np.stack([points, points[following], moved[following], moved], 1)
    return [points, moved, *sides]


def fill(polygons: Sequence[Points], size: int) -> Stamp:
    """Stamp of the union of polygons, clipped to a canvas of side `size` pixels."""
    return _rasterise(polygons, size, margin=1.0, width=None)


def stroke(line: Points, width: float, size: int) -> Stamp:
    """Stamp of an open polyline `width` pixels wide, clipped to the canvas."""
    return _rasterise([line], size, margin=width / 2 + 1, width=width)


def outline(points: Points, width: float, size: int) -> Stamp:
    """Stamp of a polygon's border, `width` pixels wide."""
    return stroke(np.concatenate([points, points[:2]]), width, size)


def _rasterise(lines: Sequence[Points], size: int, margin: float, width: float | None) -> Stamp:
    corners = np.concatenate(lines)
    low = np.clip(np.floor(corners.min(0) - margin), 0, size).astype(int)
    high = np.clip(np.ceil(corners.max(0) + margin), 0, size).astype(int)
    w, h = (int(side) for side in np.maximum(high - low, 0))
    if w == 0 or h == 0:
        return Stamp(top=0, left=0, alpha=np.zeros((0, 0), np.float32))
    scale = 4 if w * h < 20_000 else 2
    picture = Image.new("L", (w * scale, h * scale))
    draw = ImageDraw.Draw(picture)
    for line in lines:
        vertices = ((line - low) * scale - 0.5).ravel().tolist()
        if width is None:
            draw.polygon(vertices, fill=255)
        else:
            draw.line(vertices, fill=255, width=max(1, round(width * scale)), joint="curve")
    alpha = np.asarray(picture.reduce(scale), np.float32) / np.float32(255)
    return Stamp(top=int(low[1]), left=int(low[0]), alpha=alpha)


def cut(stamp: Stamp, hole: Stamp) -> Stamp:
    """The stamp without what `hole` covers."""
    whole = np.zeros(_reach(stamp, hole), np.float32)
    whole[hole.window] = hole.alpha
    return Stamp(top=stamp.top, left=stamp.left, alpha=stamp.alpha * (1 - whole[stamp.window]))


def within(stamp: Stamp, frame: Stamp) -> Stamp:
    """The stamp where `frame` covers it too."""
    whole = np.zeros(_reach(stamp, frame), np.float32)
    whole[frame.window] = frame.alpha
    return Stamp(top=stamp.top, left=stamp.left, alpha=stamp.alpha * whole[stamp.window])


def _reach(first: Stamp, second: Stamp) -> tuple[int, int]:
    rows = max(s.top + s.alpha.shape[0] for s in (first, second))
    columns = max(s.left + s.alpha.shape[1] for s in (first, second))
    return rows, columns


def relief(alpha: Floats, light: Vector, depth: float) -> Floats:
    """(h, w) shading factor about 1 of a shape bulging towards the viewer.

    `light` is the xy direction towards the lamp, `depth` the contrast between lit and dark side.
    """
    h, w = alpha.shape
    if min(h, w) < 4:
        return np.ones((h, w), np.float32)
    step = max(1, min(h, w) // 24)
    small = np.pad(alpha[::step, ::step], 3)
    soft = ndimage.gaussian_filter(small, 0.13 * min(small.shape))
    dy, dx = np.gradient(soft)
    slope = -(light[0] * dx + light[1] * dy)[3:-3, 3:-3]
    slope *= depth / max(1e-6, float(np.abs(slope).max()))
    if step > 1:
        slope = enlarge(slope, h, w)
    return np.asarray(1 + slope, np.float32)


def enlarge(field: Floats, height: int, width: int) -> Floats:
    """Bilinear resize of a (h, w) field to (height, width)."""
    picture = Image.fromarray(np.ascontiguousarray(field, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))

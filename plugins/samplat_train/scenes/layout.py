"""How a town is laid out: blocks and parcels, split in a frame of its own and then bent."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .canvas import Points

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in the town's frame, pixels."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The town's axes: turned about the picture's centre and bent a little."""

    angle: float
    """Radians."""
    centre: tuple[float, float]
    bend: float
    """Greatest displacement, pixels."""
    wave: tuple[float, float, float, float]
    """Two wave numbers (radians per pixel) and two phases of the bending."""

    def to_picture(self, points: Points) -> Points:
        """(N, 2) points of the town in pixels of the picture."""
        kx, ky, px, py = self.wave
        shift = np.stack([np.sin(points[:, 1] * ky + py), np.sin(points[:, 0] * kx + px)], 1)
        bent = points + self.bend * shift
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.asarray(bent @ np.array([[c, s], [-s, c]]) + np.asarray(self.centre))

    def heading(self, point: tuple[float, float]) -> float:
        """Direction of the town's x axis at a point of the town, radians in the picture."""
        ends = self.to_picture(np.array([point, (point[0] + 1, point[1])]))
        dx, dy = ends[1] - ends[0]
        return float(np.arctan2(dy, dx))

    def quad(self, box: Box) -> Points:
        """Outline of a box of the town in the picture, with points along its sides."""
        x0, y0, x1, y1 = box
        t = np.linspace(0, 1, 9)[:-1]
        right, left = x0 + t * (x1 - x0), x1 - t * (x1 - x0)
        down, up = y0 + t * (y1 - y0), y1 - t * (y1 - y0)
        sides = [(right, y0 + 0 * t), (x1 + 0 * t, down), (left, y1 + 0 * t), (x0 + 0 * t, up)]
        return self.to_picture(np.concatenate([np.stack(side, 1) for side in sides]))


def random_frame(rng: np.random.Generator, size: int, bend: float) -> Frame:
    """A frame with random heading and bending waves a few hundred pixels long."""
    waves = 2 * np.pi / rng.uniform(0.8 * size, 3 * size, 2)
    phases = rng.uniform(0, 2 * np.pi, 2)
    return Frame(
        angle=float(rng.uniform(0, 2 * np.pi)),
        centre=(size / 2, size / 2),
        bend=bend,
        wave=(float(waves[0]), float(waves[1]), float(phases[0]), float(phases[1])),
    )


def extent(size: int) -> Box:
    """A box of the town that covers the picture however the frame is turned."""
    half = 0.8 * size
    return (-half, -half, half, half)


def split(rng: np.random.Generator, box: Box, target: float, gap: float) -> list[Box]:
    """Split until sides are near `target` pixels, leaving `gap` pixels between the pieces."""
    x0, y0, x1, y1 = box
    w, h = x1 - x0, y1 - y0
    if max(w, h) < target * rng.uniform(1.1, 1.9) or max(w, h) < 2 * gap + 4:
        return [box]
    at, half = rng.uniform(0.35, 0.65), gap / 2 * rng.uniform(0.7, 1.3)
    if w > h * rng.uniform(0.8, 1.25):
        m = x0 + at * w
        first, second = (x0, y0, m - half, y1), (m + half, y0, x1, y1)
    else:
        m = y0 + at * h
        first, second = (x0, y0, x1, m - half), (x0, m + half, x1, y1)
    return split(rng, first, target, gap) + split(rng, second, target, gap)


def row(rng: np.random.Generator, box: Box, width: float, depth: float) -> list[Box]:
    """Terraced plots along both long sides of a block, touching each other."""
    x0, y0, x1, y1 = box
    if x1 - x0 < y1 - y0:
        return [(b, a, d, c) for a, b, c, d in row(rng, (y0, x0, y1, x1), width, depth)]
    cuts = np.arange(x0, x1 - width / 2, width)
    cuts = np.append(cuts, x1)
    sides = [(y0, min(y0 + depth, y1))]
    if y1 - y0 > 2 * depth:
        sides.append((y1 - depth, y1))
    return [
        (float(a), top, float(b), bottom)
        for top, bottom in sides
        for a, b in pairwise(cuts)
        if rng.random() < 0.94
    ]


def inset(rng: np.random.Generator, box: Box, low: float, high: float) -> Box:
    """A smaller box with random margins between `low` and `high` of the smaller side."""
    x0, y0, x1, y1 = box
    side = min(x1 - x0, y1 - y0)
    a, b, c, d = rng.uniform(low, high, 4) * side
    return (x0 + a, y0 + b, x1 - c, y1 - d)

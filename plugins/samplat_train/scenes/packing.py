"""Many cells that touch without overlapping: each pixel goes to the cell it lies deepest in."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .canvas import Floats, Ids, Points
from .shapes import wobbly_radius

ANGLES = 64


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells in competition for the pixels of a picture."""

    owner: Ids
    """(S, S), id from 1 of the cell each pixel lies deepest in, 0 = none in reach."""
    depth: Floats
    """(S, S), that distance: 0 at the centre, 1 at the border an unhindered cell would have."""
    rivalry: Floats
    """(S, S), how much farther the second nearest cell is; 0 along borders between cells."""
    radius: Floats
    """(n + 1,), mean radius of each cell, pixels; entry 0 is unused."""

    def inside(self, depth: float = 1.0, gap: float = 0.0) -> Ids:
        """(S, S) ids where the cell reaches to `depth`, and `gap` clear of its neighbours."""
        return np.where((self.depth < depth) & (self.rivalry >= gap), self.owner, 0)


def scatter(
    rng: np.random.Generator, size: int, radii: Points, spacing: float, margin: float = 0.0
) -> tuple[Points, Points]:
    """Centres and radii of discs; those too near to a larger one are dropped.

    Too near is less than `spacing` times the sum of the two radii.
    """
    order = np.sort(radii)[::-1]
    spots = rng.uniform(-margin, size + margin, (len(order), 2))
    tree = cKDTree(spots)
    reach = tree.query_ball_point(spots, spacing * (order + order.max()))
    kept = np.ones(len(order), bool)
    for i, near in enumerate(reach):
        before = np.array([j for j in near if j < i and kept[j]], int)
        distance = np.hypot(*(spots[before] - spots[i]).T)
        kept[i] = bool((distance >= spacing * (order[before] + order[i])).all())
    return spots[kept], order[kept]


def compete(
    rng: np.random.Generator,
    size: int,
    centres: Points,
    radii: Points,
    *,
    stretch: float = 0.3,
    rough: float = 0.15,
    reach: float = 1.3,
    angle: float | None = None,
) -> Cells:
    """Cells about `centres` with mean `radii`; `reach` is the depth to which they are followed.

    `stretch` is the log of the greatest elongation, `angle` radians a heading common to all.
    """
    best = np.full((size, size), np.inf, np.float32)
    second = best.copy()
    owner = np.zeros((size, size), np.int32)
    for i, (centre, radius) in enumerate(zip(centres, radii, strict=True), start=1):
        profile = _profile(rng, radius, stretch, rough, angle)
        box = _box(centre, profile.max() * reach, size)
        _claim(best[box], second[box], owner[box], i, _depth(box, centre, profile), reach)
    rivalry = np.minimum(second, 9) - np.minimum(best, 9)
    return Cells(
        owner=owner,
        depth=np.minimum(best, 9),
        rivalry=rivalry,
        radius=np.concatenate([[0], radii]).astype(np.float32),
    )


def _profile(
    rng: np.random.Generator, radius: float, stretch: float, rough: float, angle: float | None
) -> Floats:
    """(ANGLES,) distance to the border in every direction, pixels."""
    t = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    ratio = np.exp(rng.uniform(0, stretch))
    turn = rng.uniform(0, np.pi) if angle is None else angle + 0.2 * rng.normal()
    oval = 1 / np.hypot(np.cos(t - turn) / ratio, np.sin(t - turn) * ratio)
    return np.asarray(radius * oval * wobbly_radius(rng, ANGLES, rough, 4), np.float32)


def _box(centre: Points, reach: float, size: int) -> tuple[slice, slice]:
    low = np.clip(np.floor(centre - reach), 0, size).astype(int)
    high = np.clip(np.ceil(centre + reach) + 1, 0, size).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _depth(box: tuple[slice, slice], centre: Points, profile: Floats) -> Floats:
    y = np.arange(box[0].start, box[0].stop, dtype=np.float32)[:, None] - np.float32(centre[1])
    x = np.arange(box[1].start, box[1].stop, dtype=np.float32)[None] - np.float32(centre[0])
    turn = np.arctan2(y, x) * np.float32(ANGLES / (2 * np.pi))
    low = np.floor(turn)
    index = low.astype(np.int32)
    first, second = profile[index % ANGLES], profile[(index + 1) % ANGLES]
    return np.asarray(np.hypot(y, x) / (first + (turn - low) * (second - first)), np.float32)


def _claim(
    best: Floats, second: Floats, owner: Ids, cell: int, depth: Floats, reach: float
) -> None:
    depth = np.where(depth < reach, depth, np.float32(np.inf))
    np.minimum(second, np.maximum(best, depth), out=second)
    won = depth < best
    owner[won] = cell
    best[won] = depth[won]

"""Which objects of neighbouring tiles are one, and what they are called in the end.

Two tiles see the same pixels where their read windows overlap. In that strip, an object that both
found covers nearly the same pixels in both. Links make groups; the smallest provisional id of a
group is its root; the ranks of the sorted roots are the final ids. Nothing depends on the order in
which tiles, links or groups are visited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError, JobError
from samplat.objects import TileObjects
from samplat.tiles import TileGrid

if TYPE_CHECKING:
    import pyarrow as pa

MAX_OBJECTS = 2**32 - 2
"""Largest final id: ids are uint32, and the last value marks holes."""

OBJECT_COLUMNS = (
    "id",  # uint32, 1..N in order
    *("z0", "y0", "x0", "z1", "y1", "x1"),  # int64, half-open box of the painted pixels
    "area_px",  # int64, painted pixels
    "predicted_iou",  # float32, mean over the tiles, weighted by painted pixels
    "stability",  # float32, likewise
    "point_x",  # float32, prompt point of the tile that paints most of the object; NaN without one
    "point_y",
    "truncated",  # bool, True: cut by a tile's edge, and no neighbour completed it
    "tiles",  # list of int32, the tiles that paint it
    "prompt",  # int64, number of the prompt that asked for it; null without one
)
"""Columns of the table of objects; coordinates are global pixels."""


@dataclass(frozen=True, kw_only=True)
class SeamRules:
    """When two objects are one, judged inside the strip that both tiles see.

    Raises:
        InputError: a threshold is not in 0..1, or the strict one is below 0.5, where an object
            could match two neighbours at once.
    """

    iou: float = 0.5
    """Strict: the same object when the IoU inside the strip is above this."""
    containment: float = 0.75
    """Lenient, only when a side is truncated: the same object when at least this share of the
    smaller one lies in the other."""
    min_shared: int = 16
    """Lenient links need this many shared pixels: a sliver proves nothing."""

    def __post_init__(self) -> None:
        if not (0.5 <= self.iou < 1 and 0 < self.containment <= 1 and self.min_shared >= 1):
            raise InputError(
                "seams need 0.5 <= iou < 1, 0 < containment <= 1 and min_shared >= 1; got "
                f"{self.iou}, {self.containment} and {self.min_shared}"
            )


@dataclass(frozen=True, kw_only=True)
class Contingency:
    """Shared pixels of two label images, sparse. The arrays share the first axis P of pairs."""

    first: NDArray[np.int64]
    """(P,) label in the first image, >= 1."""
    second: NDArray[np.int64]
    """(P,) label in the second image, >= 1."""
    shared: NDArray[np.int64]
    """(P,) pixels that bear both."""
    first_size: NDArray[np.int64]
    """(P,) pixels of the first label."""
    second_size: NDArray[np.int64]
    """(P,) pixels of the second label."""


def contingency(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> Contingency:
    """Every pair of labels that meets in two label images of one shape; 0 is background."""
    a, b = first.ravel().astype(np.int64), second.ravel().astype(np.int64)
    meet = (a > 0) & (b > 0)
    keys, shared = np.unique((a[meet] << 32) | b[meet], return_counts=True)
    i, j = keys >> 32, keys & 0xFFFFFFFF
    return Contingency(
        first=i,
        second=j,
        shared=shared.astype(np.int64),
        first_size=np.bincount(a, minlength=1)[i],
        second_size=np.bincount(b, minlength=1)[j],
    )


def match_strip(
    first: TileObjects,
    second: TileObjects,
    first_labels: NDArray[np.uint32],
    second_labels: NDArray[np.uint32],
    rules: SeamRules,
) -> NDArray[np.uint64]:
    """Pairs of provisional ids that are one object, (E, 2).

    Args:
        first: objects of a tile.
        second: objects of another tile, whose read window overlaps.
        first_labels: what `first.labels()` returned.
        second_labels: what `second.labels()` returned.
        rules: thresholds.
    """
    strip = first.tile.read.intersection(second.tile.read)
    table = contingency(
        first_labels[strip.relative_to(first.tile.read).slices],
        second_labels[strip.relative_to(second.tile.read).slices],
    )
    i, j = table.first - 1, table.second - 1
    linked = _is_same(table, first.truncated[i] | second.truncated[j], rules)
    return np.stack([first.ids[i[linked]], second.ids[j[linked]]], axis=1)


def _is_same(
    table: Contingency, truncated: NDArray[np.bool_], rules: SeamRules
) -> NDArray[np.bool_]:
    union = table.first_size + table.second_size - table.shared
    smaller = np.minimum(table.first_size, table.second_size)
    strict = table.shared > rules.iou * union
    inside = (table.shared >= rules.containment * smaller) & (table.shared >= rules.min_shared)
    same: NDArray[np.bool_] = strict | (truncated & inside)
    return same


def find_roots(ids: NDArray[np.uint64], links: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The smallest id of each one's group.

    Args:
        ids: (N,) ascending.
        links: (E, 2) pairs of them.

    Raises:
        JobError: a link names an id that does not exist.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(ids):
        return ids
    ends = np.searchsorted(ids, links).clip(max=len(ids) - 1)
    if not np.array_equal(ids[ends], links):
        raise JobError("a seam links objects that no tile holds; remove the job's `seams` folder")
    ones = np.ones(len(ends), np.int8)
    graph = coo_array((ones, (ends[:, 0], ends[:, 1])), shape=(len(ids), len(ids)))
    _, group = connected_components(graph, directed=False)
    # ids ascend, so the first member of a group is its smallest
    _, first = np.unique(group, return_index=True)
    roots: NDArray[np.uint64] = ids[first[group]]
    return roots


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All objects of all tiles, without their masks. Arrays share the first axis N."""

    ids: NDArray[np.uint64]
    """(N,) provisional ids, ascending."""
    owned_areas: NDArray[np.int64]
    """(N,) as in `TileObjects`."""
    owned_boxes: NDArray[np.int64]
    """(N, 6) as in `TileObjects`."""
    predicted_iou: NDArray[np.float32]
    """(N,) as in `TileObjects`."""
    stability: NDArray[np.float32]
    """(N,) as in `TileObjects`."""
    points: NDArray[np.float32]
    """(N, 2) as in `TileObjects`."""
    cut: NDArray[np.uint8]
    """(N,) as in `TileObjects`."""
    prompts: NDArray[np.int64]
    """(N,) as in `TileObjects`."""

    @property
    def tiles(self) -> NDArray[np.int64]:
        """(N,) ordinal of the tile of each."""
        return (self.ids >> np.uint64(32)).astype(np.int64)


def as_parts(objects: TileObjects) -> Parts:
    """The objects of one tile, without their masks."""
    return Parts(**{f.name: getattr(objects, f.name) for f in fields(Parts)})


def join_parts(parts: Sequence[Parts]) -> Parts:
    """The parts of several tiles, which come in order of tile."""
    empty = Parts(
        ids=np.zeros(0, np.uint64),
        owned_areas=np.zeros(0, np.int64),
        owned_boxes=np.zeros((0, 6), np.int64),
        predicted_iou=np.zeros(0, np.float32),
        stability=np.zeros(0, np.float32),
        points=np.zeros((0, 2), np.float32),
        cut=np.zeros(0, np.uint8),
        prompts=np.zeros(0, np.int64),
    )
    names = (f.name for f in fields(Parts))
    return Parts(**{n: np.concatenate([getattr(p, n) for p in (empty, *parts)]) for n in names})


def final_ids(parts: Parts, roots: NDArray[np.uint64], min_area: int) -> NDArray[np.uint32]:
    """(N,) the final id of each part: 1..M without gaps, by root; 0 for groups that are dropped.

    Args:
        parts: the parts.
        roots: (N,) smallest provisional id of each one's group.
        min_area: groups that paint fewer pixels are dropped, and always those that paint none.

    Raises:
        JobError: more objects than uint32 can number.
    """
    names, group = np.unique(roots, return_inverse=True)
    area = np.zeros(len(names), np.int64)
    np.add.at(area, group, parts.owned_areas)
    kept = area >= max(1, min_area)
    if int(kept.sum()) > MAX_OBJECTS:
        raise JobError(f"{int(kept.sum())} objects, at most {MAX_OBJECTS}; raise min_area")
    rank = np.where(kept, np.cumsum(kept), 0)
    ids: NDArray[np.uint32] = rank[group].astype(np.uint32)
    return ids


def object_table(
    parts: Parts, ids: NDArray[np.uint32], grid: TileGrid, interrupted: NDArray[np.bool_]
) -> pa.Table:
    """One row per final object, with `OBJECT_COLUMNS`.

    Args:
        parts: the parts.
        ids: (N,) final id of each.
        grid: the tiles.
        interrupted: (N,) True: the part reaches into a tile that failed.
    """
    import pyarrow as pa

    painted = np.flatnonzero((ids > 0) & (parts.owned_areas > 0))
    # stable, so that parts of one object stay in order of tile
    painted = painted[np.argsort(ids[painted], kind="stable")]
    starts = np.flatnonzero(np.diff(ids[painted], prepend=0))
    area = parts.owned_areas[painted]
    total = _reduce(np.add, area, starts)
    largest = painted[_largest(area, starts)]
    boxes = parts.owned_boxes[painted]
    low = _reduce(np.minimum, boxes[:, :3], starts)
    high = _reduce(np.maximum, boxes[:, 3:], starts)
    open_ends = interrupted | _cut_and_not_continued(parts, ids, grid)
    offsets = np.append(starts, len(painted)).astype(np.int32)
    columns = {
        "id": pa.array(ids[painted][starts], pa.uint32()),
        **{n: pa.array(low[:, k]) for k, n in enumerate(("z0", "y0", "x0"))},
        **{n: pa.array(high[:, k]) for k, n in enumerate(("z1", "y1", "x1"))},
        "area_px": pa.array(total, pa.int64()),
        "predicted_iou": _mean(parts.predicted_iou[painted], area, starts, total),
        "stability": _mean(parts.stability[painted], area, starts, total),
        "point_x": pa.array(parts.points[largest, 0]),
        "point_y": pa.array(parts.points[largest, 1]),
        "truncated": pa.array(_reduce(np.logical_or, open_ends[painted], starts).astype(bool)),
        "tiles": pa.ListArray.from_arrays(offsets, parts.tiles[painted].astype(np.int32)),
        "prompt": pa.array(parts.prompts[largest], pa.int64(), mask=parts.prompts[largest] < 0),
    }
    return pa.table({name: columns[name] for name in OBJECT_COLUMNS})


def _reduce(
    ufunc: np.ufunc, values: NDArray[np.generic], starts: NDArray[np.int64]
) -> NDArray[np.generic]:
    if not len(starts):
        return values[:0]
    result: NDArray[np.generic] = ufunc.reduceat(values, starts, axis=0)
    return result


def _largest(area: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the largest part of each object, the first one of equals."""
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(area))))
    order = np.lexsort((-area, group))
    return order[starts]


def _mean(
    values: NDArray[np.float32],
    area: NDArray[np.int64],
    starts: NDArray[np.int64],
    total: NDArray[np.generic],
) -> pa.Array:
    import pyarrow as pa

    weighted = _reduce(np.add, values.astype(np.float64) * area, starts)
    return pa.array((weighted / total).astype(np.float32))  # type: ignore[operator]


def _cut_and_not_continued(
    parts: Parts, ids: NDArray[np.uint32], grid: TileGrid
) -> NDArray[np.bool_]:
    """(N,) True: cut at a side across which the next tile has no part of the same object."""
    known = np.unique((ids.astype(np.int64) << 32) | parts.tiles)
    open_end = np.zeros(len(ids), bool)
    stride = 1
    for axis in reversed(range(len(grid.counts))):
        for bit, step in ((1 << (2 * axis), -stride), (2 << (2 * axis), stride)):
            cut = np.flatnonzero(parts.cut & bit)
            next_tile = (ids[cut].astype(np.int64) << 32) | (parts.tiles[cut] + step)
            open_end[cut] |= ~np.isin(next_tile, known)
        stride *= grid.counts[axis]
    return open_end

"""What objects are called in the end, and the table of them.

Links make groups of the tiles' objects; the smallest provisional id of a group is its root; the
ranks of the sorted roots, of those that are kept, are the final ids. Nothing depends on the order
in which links are found. Objects pass by tile by tile: only some numbers of each group stay in
memory, and neither masks nor boxes of all tiles are ever there together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.claims import Claims
from samplat.errors import JobError
from samplat.machine_code import as_machine_code
from samplat.shards import HOLE
from samplat.tiles import TileGrid

if TYPE_CHECKING:
    import pyarrow as pa

OBJECT_COLUMNS = (
    "id",  # uint32 in order, 1..N; uint64 where there are more than 2**32 - 2
    *("z0", "y0", "x0", "z1", "y1", "x1"),  # int64, half-open box of the painted pixels
    "area_px",  # int64, painted pixels
    "predicted_iou",  # float32, mean over the tiles that found it, weighted by their painted pixels
    "stability",  # float32, likewise
    "point_x",  # float32, prompt point of the tile that paints most of the object; NaN without one
    "point_y",
    "truncated",  # bool, True: cut by a tile's edge, and no neighbour completed it
    "tiles",  # list of int32, the tiles that paint it
    "prompt",  # int64, number of the prompt that asked for it; null without one
)
"""Columns of the table of objects; coordinates are global pixels."""

BOX_COLUMNS = OBJECT_COLUMNS[1:7]
ROWS = 2**16
"""Rows of the table that are made at a time."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The objects of one tile, without their masks. Arrays share the first axis N."""

    index: int
    """Ordinal of the tile."""
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


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Which group each object of each tile is in; groups are numbered in order of their roots."""

    starts: NDArray[np.int64]
    """(T + 1,) where in `group` each tile's objects begin."""
    group: NDArray[np.int64]
    """(N,) group of every object, in order of provisional id."""
    count: int
    """Number of groups."""

    def of_tile(self, index: int) -> NDArray[np.int64]:
        """Groups of a tile's objects."""
        return self.group[self.starts[index] : self.starts[index + 1]]

    def of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Groups of some provisional ids."""
        return self.group[places(ids, self.starts)]


def places(ids: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where objects stand among all, in order of provisional id.

    Raises:
        JobError: an id that no tile holds.
    """
    tiles = (ids >> np.uint64(32)).astype(np.int64)
    ranks = (ids & np.uint64(0xFFFFFFFF)).astype(np.int64)
    known = tiles < len(starts) - 1
    tiles = np.where(known, tiles, 0)
    place = starts[tiles] + ranks
    if not (known & (place < starts[tiles + 1])).all():
        raise JobError("a seam links objects that no tile holds; remove the job's `seams` folder")
    return place


def group_objects(counts: NDArray[np.int64], links: Iterable[NDArray[np.uint64]]) -> Groups:
    """Put linked objects into groups.

    Args:
        counts: (T,) objects of each tile.
        links: (E, 2) pairs of provisional ids, any number of times.

    Raises:
        JobError: a link names an id that does not exist.
    """
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    group = np.arange(starts[-1])
    for pairs in links:
        if len(pairs):
            unite()(group, places(pairs[:, 0], starts), places(pairs[:, 1], starts))
    return Groups(starts=starts, group=group, count=int(number()(group)))


def group_by_prompt(counts: NDArray[np.int64], prompts: Sequence[NDArray[np.int64]]) -> Groups:
    """Put into a group what one prompt asked for; groups are in order of the prompts.

    Args:
        counts: (T,) objects of each tile.
        prompts: numbers of the prompts of the objects of each tile that has some, in order.
    """
    numbers = np.concatenate([np.zeros(0, np.int64), *prompts])
    names, group = np.unique(numbers, return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Groups(starts=starts, group=group.astype(np.int64), count=len(names))


@functools.cache
def unite() -> Callable[..., None]:
    """See `_unite_pairs`."""
    return as_machine_code(_unite_pairs)


@functools.cache
def number() -> Callable[..., int]:
    """See `_number_groups`."""
    return as_machine_code(_number_groups)


@functools.cache
def _add() -> Callable[..., None]:
    return as_machine_code(_add_parts)


def _unite_pairs(parent: Any, first: Any, second: Any) -> None:
    """Union-find, in which the smaller root becomes the root of both."""
    for k in range(len(first)):
        a, b = first[k], second[k]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        parent[max(a, b)] = min(a, b)


def _number_groups(parent: Any) -> int:
    """Replace parents by numbers of groups, in order of root; returns how many there are."""
    count = 0
    for i in range(len(parent)):
        # parents are not larger, so that of this one is a number already
        if parent[i] == i:
            parent[i], count = count, count + 1
        else:
            parent[i] = parent[parent[i]]
    return count


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What is known of G groups. The arrays share the first axis G, but for the last two."""

    owned: NDArray[np.int64]
    """(G,) pixels painted by the tiles that found them."""
    claimed: NDArray[np.int64]
    """(G,) pixels painted by other tiles, see `claims`."""
    sizes: NDArray[np.float64]
    """(G,) all of these, in the unit of the area of a pixel."""
    boxes: NDArray[np.int32]
    """(G, 6) of all of these, z0, y0, x0, z1, y1, x1."""
    scores: NDArray[np.float64]
    """(G, 2) predicted IoU and stability, times owned pixels, summed."""
    largest: NDArray[np.int64]
    """(G,) owned pixels of the tile that owns most."""
    points: NDArray[np.float32]
    """(G, 2) prompt point of that tile."""
    truncated: NDArray[np.bool_]
    """(G,) True: cut by a tile's edge, and no neighbour completed it."""
    prompts: NDArray[np.int64]
    """(G,) number of the prompt that asked for it, -1 without one."""
    mended: NDArray[np.int64]
    """(G,) pixels gained with filled holes, less those lost with dropped islands; see `mending`.
    Sizes, boxes and `painted` tell of what is painted then."""
    painted: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)
    """Tiles in order, and the groups that each paints, ascending."""

    @property
    def areas(self) -> NDArray[np.int64]:
        """(G,) painted pixels."""
        return self.owned + self.claimed + self.mended


def tally(
    groups: Groups,
    tiles: Iterable[tuple[Parts, Claims]],
    grid: TileGrid,
    interrupted: NDArray[np.uint64],
    pixel_areas: NDArray[np.float64],
) -> Tally:
    """Add up the parts of every group.

    Args:
        groups: of all objects.
        tiles: objects and claims of each tile that has some, in order of tile.
        grid: the tiles.
        interrupted: provisional ids of parts that reach into a tile that failed.
        pixel_areas: (T,) area of a pixel of each tile.
    """
    count = groups.count
    found = Tally(
        owned=np.zeros(count, np.int64),
        claimed=np.zeros(count, np.int64),
        sizes=np.zeros(count),
        boxes=np.repeat(np.array([[2**31 - 1] * 3 + [0] * 3], np.int32), count, axis=0),
        scores=np.zeros((count, 2)),
        largest=np.zeros(count, np.int64),
        points=np.full((count, 2), np.nan, np.float32),
        truncated=np.zeros(count, bool),
        prompts=np.full(count, -1, np.int64),
        mended=np.zeros(count, np.int64),
    )
    for parts, claims in tiles:
        mine, others = groups.of_tile(parts.index), groups.of(claims.ids)
        scores = np.stack([parts.predicted_iou, parts.stability], axis=1)
        own = (mine, parts.owned_areas, parts.owned_boxes, scores, parts.points)
        _add()(*own, found.owned, found.boxes, found.scores, found.largest, found.points)
        found.prompts[mine] = parts.prompts
        np.add.at(found.claimed, others, claims.areas)
        np.add.at(found.sizes, mine, parts.owned_areas * pixel_areas[parts.index])
        np.add.at(found.sizes, others, claims.areas * pixel_areas[parts.index])
        np.minimum.at(found.boxes[:, :3], others, claims.boxes[:, :3])
        np.maximum.at(found.boxes[:, 3:], others, claims.boxes[:, 3:])
        painting = np.unique(np.concatenate([mine[parts.owned_areas > 0], others]))
        found.painted.append((parts.index, painting))
        _note_open_ends(found.truncated, groups, parts, grid)
        refused = groups.of(claims.refused)
        found.truncated[refused[~np.isin(refused, mine)]] = True
    found.truncated[groups.of(interrupted)] = True
    return found


def _add_parts(
    groups: Any,
    areas: Any,
    boxes: Any,
    scores: Any,
    points: Any,
    total: Any,
    total_boxes: Any,
    total_scores: Any,
    largest: Any,
    total_points: Any,
) -> None:
    """Add parts that paint something to their groups; see `Tally`."""
    for k in range(len(groups)):
        area, group = areas[k], groups[k]
        if area == 0:
            continue
        total[group] += area
        for axis in range(3):
            total_boxes[group, axis] = min(total_boxes[group, axis], boxes[k, axis])
            high = axis + 3
            total_boxes[group, high] = max(total_boxes[group, high], boxes[k, high])
        for kind in range(2):
            total_scores[group, kind] += np.float64(scores[k, kind]) * area
        if area > largest[group]:
            largest[group] = area
            total_points[group, 0], total_points[group, 1] = points[k, 0], points[k, 1]


def _note_open_ends(
    truncated: NDArray[np.bool_], groups: Groups, parts: Parts, grid: TileGrid
) -> None:
    """Parts cut at a side across which the next tile has no part of the same group."""
    painting = (parts.cut > 0) & (parts.owned_areas > 0)
    if not painting.any():
        return
    mine, stride = groups.of_tile(parts.index), 1
    position = grid.position(parts.index)
    for axis in reversed(range(len(grid.counts))):
        for bit, step in ((1 << (2 * axis), -1), (2 << (2 * axis), 1)):
            cut = mine[painting & (parts.cut & bit > 0)]
            # where a part of an image is segmented, it goes on beyond the last tile
            inside = 0 <= position[axis] + step < grid.counts[axis]
            if len(cut) and inside:
                cut = cut[~np.isin(cut, groups.of_tile(parts.index + step * stride))]
            truncated[cut] = True
        stride *= grid.counts[axis]


def slivers_of(found: Tally, spacing: Sequence[float], least: float) -> NDArray[np.bool_]:
    """(G,) whether a group is shorter than `least` along any axis.

    Args:
        found: what is known of the groups.
        spacing: length of a pixel along (z, y, x), as `least` is measured.
        least: 0 for none.
    """
    pixels = found.boxes[:, 3:].astype(np.int64) - found.boxes[:, :3]
    short: NDArray[np.bool_] = (pixels * np.asarray(spacing) < least - 1e-9).any(axis=1)
    return short if least > 0 else np.zeros(len(short), bool)


def final_ids(
    areas: NDArray[np.int64],
    sizes: NDArray[np.float64],
    min_area: float = 0.0,
    max_area: float | None = None,
    *,
    slivers: NDArray[np.bool_] | None = None,
    hole: int = HOLE,
) -> NDArray[np.uint32] | NDArray[np.uint64]:
    """(G,) the final id of each group: 1..M by root; 0 for those that are dropped.

    There are no gaps, but that no object bears the number of holes: past it, ids are uint64.

    Args:
        areas: (G,) painted pixels.
        sizes: (G,) the same as `min_area` and `max_area` are measured.
        min_area: smaller groups are dropped, and always those that paint no pixel.
        max_area: larger ones are dropped; None keeps them.
        slivers: (G,) True: dropped, too. None: no other ones are.
        hole: label of the pixels of quarantined tiles.
    """
    kept = (areas > 0) & (sizes >= min_area) & (sizes <= (np.inf if max_area is None else max_area))
    if slivers is not None:
        kept &= ~slivers
    count = int(kept.sum())
    ids: NDArray[Any] = np.cumsum(kept, dtype=np.uint32 if count < hole else np.uint64)
    if count >= hole:
        ids[ids >= hole] += 1
    ids[~kept] = 0
    return ids


def object_batches(found: Tally, ids: NDArray[Any]) -> Iterator[pa.RecordBatch]:
    """The table of objects, `ROWS` rows at a time, one per final object, with `OBJECT_COLUMNS`.

    Args:
        found: what is known of the groups.
        ids: (G,) their final ids.
    """
    import pyarrow as pa

    kept, (starts, painters) = np.flatnonzero(ids), _painters(found)
    for begin in range(0, max(1, len(kept)), ROWS):
        rows = kept[begin : begin + ROWS]
        columns = _columns(found, rows)
        columns["id"] = ids[rows]
        columns["tiles"] = lists_of(starts, painters, rows)
        asked = found.prompts[rows]
        columns["prompt"] = pa.array(asked, pa.int64(), mask=asked < 0)
        yield pa.record_batch({name: columns[name] for name in OBJECT_COLUMNS})


def _columns(found: Tally, rows: NDArray[np.int64]) -> dict[str, Any]:
    scores = (found.scores[rows] / found.owned[rows, None]).astype(np.float32)
    boxes = found.boxes[rows].astype(np.int64)
    return {
        **{name: np.ascontiguousarray(boxes[:, k]) for k, name in enumerate(BOX_COLUMNS)},
        "area_px": found.owned[rows] + found.claimed[rows] + found.mended[rows],
        "predicted_iou": np.ascontiguousarray(scores[:, 0]),
        "stability": np.ascontiguousarray(scores[:, 1]),
        "point_x": np.ascontiguousarray(found.points[rows, 0]),
        "point_y": np.ascontiguousarray(found.points[rows, 1]),
        "truncated": found.truncated[rows],
    }


def _painters(found: Tally) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The tiles that paint each group, group by group, and where those of each begin."""
    groups = [g for _, g in found.painted]
    tiles = [np.full(len(g), index, np.int32) for index, g in found.painted]
    joined = np.concatenate([np.zeros(0, np.int64), *groups])
    found.painted.clear()
    counts = np.bincount(joined, minlength=len(found.owned))
    order = np.argsort(joined, kind="stable")
    painters = np.concatenate([np.zeros(0, np.int32), *tiles])[order]
    return np.concatenate([[0], np.cumsum(counts)]), painters


def lists_of(
    starts: NDArray[np.int64], values: NDArray[Any], rows: NDArray[np.int64]
) -> pa.ListArray:
    """For each row a list: the values from its start to the next one."""
    import pyarrow as pa

    counts = starts[rows + 1] - starts[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    taken = np.repeat(starts[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[taken]))

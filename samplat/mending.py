"""Which islands of objects are dropped and which holes in them are filled, over all tiles.

An island is an 8-connected part of an object that is not its largest one; it becomes background.
Then a hole is a 4-connected patch of background that meets one object and nothing else; it becomes
that object's. Both are put together from the regions of the tiles (`regions`), which are looked at
tile by tile, some times over: some numbers of every region stay in memory, but neither pixels nor
what the regions of all tiles meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from samplat.merging import Groups, Tally, number, unite
from samplat.regions import BACKGROUND, Regions
from samplat.tiles import TileGrid

Pairs = NDArray[np.int64]
"""(E, 2) regions of all tiles, by number."""
NOBODY = -1
"""Group of regions of background."""
NO_PAIRS = np.zeros((0, 2), np.int64)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The regions of all tiles, numbered tile by tile."""

    grid: TileGrid
    """The tiles."""
    groups: Groups
    """Of all objects."""
    pixel_areas: NDArray[np.float64]
    """(T,) area of a pixel of each tile."""
    read: Callable[[int], Regions | None]
    """The regions of a tile; None where no pixel is valid, or the tile failed."""


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Regions of one tile that change hands."""

    seeds: NDArray[np.int64]
    """(K,) first pixel of each, y * width + x in the write window."""
    groups: NDArray[np.int64]
    """(K,) whose they become; `NOBODY`: background."""


def mend(
    found: Tally, ground: Ground, *, fill_holes: float, drop_islands: float
) -> tuple[Tally, dict[int, Patches]]:
    """Drop islands, then fill holes.

    Args:
        found: what is known of the groups.
        ground: all regions.
        fill_holes: holes of a smaller area are filled; 0 fills none.
        drop_islands: islands of a smaller area are dropped; 0 drops none.

    Returns:
        what is known of the groups afterwards, and by tile what changes.
    """
    facts = _Facts.of(ground)
    owners = facts.groups
    if drop_islands > 0:
        owners = _without_islands(ground, facts, drop_islands)
    if fill_holes > 0:
        owners = _with_holes_filled(ground, facts, owners, fill_holes)
    return _told(found, ground, facts, owners)


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """Of the R regions of all tiles."""

    starts: NDArray[np.int64]
    """(T + 1,) the number of each tile's first region."""
    groups: NDArray[np.int64]
    """(R,) whose they are, or `NOBODY`."""
    areas: NDArray[np.int64]
    """(R,) pixels."""
    sizes: NDArray[np.float64]
    """(R,) the same in the unit of the area of a pixel."""
    firsts: NDArray[np.int64]
    """(R,) first pixel in the image, (z * height + y) * width + x."""
    open: NDArray[np.bool_]
    """(R,) as in `Regions`."""

    @classmethod
    def of(cls, ground: Ground) -> _Facts:
        counts = [0]
        groups, areas = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        sizes, firsts, opened = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
        for index in range(len(ground.grid)):
            regions = ground.read(index)
            counts.append(0 if regions is None else len(regions))
            if regions is not None:
                groups.append(_owning(ground.groups, regions))
                areas.append(regions.areas)
                sizes.append(regions.areas * ground.pixel_areas[index])
                firsts.append(_in_image(ground.grid, index, regions.firsts))
                opened.append(regions.open)
        return cls(
            starts=np.cumsum(counts),
            groups=np.concatenate(groups),
            areas=np.concatenate(areas),
            sizes=np.concatenate(sizes),
            firsts=np.concatenate(firsts),
            open=np.concatenate(opened),
        )


def _owning(groups: Groups, regions: Regions) -> NDArray[np.int64]:
    owned = regions.owners != BACKGROUND
    owners = np.full(len(regions), NOBODY, np.int64)
    owners[owned] = groups.of(regions.owners[owned])
    return owners


def _in_image(grid: TileGrid, index: int, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    write, (_, height, width) = grid[index].write, grid.shape
    z, y, x = write.start
    row, column = np.divmod(pixels, write.shape[2])
    return (z * height + y + row) * width + x + column


@dataclass(kw_only=True)
class _Meetings:
    """What the regions of a tile meet: each other, and those of tiles before it."""

    sides: list[Pairs] = field(default_factory=list)
    """Regions that share sides of pixels."""
    corners: list[Pairs] = field(default_factory=list)
    """Regions of objects that share corners."""
    outside: list[NDArray[np.int64]] = field(default_factory=list)
    """Regions beside a pixel that has none."""

    def beside(self, theirs: NDArray[np.int64], mine: NDArray[np.int64]) -> None:
        """Add what meets along a border; regions + 1 of the pixels on both sides of it."""
        pairs = np.unique(np.stack([theirs, mine], axis=1), axis=0)
        self.sides.append(pairs[(pairs > 0).all(axis=1)] - 1)
        alone = pairs[(pairs == 0).any(axis=1)].ravel()
        self.outside.append(alone[alone > 0] - 1)
        self.across(theirs[:-1], mine[1:])
        self.across(theirs[1:], mine[:-1])

    def across(self, theirs: NDArray[np.int64], mine: NDArray[np.int64]) -> None:
        """Add what shares corners."""
        both = (theirs > 0) & (mine > 0)
        pairs = np.stack([theirs[both], mine[both]], axis=1)
        self.corners.append(np.unique(pairs, axis=0) - 1)


@dataclass(frozen=True, kw_only=True)
class _Edges:
    """Region + 1 of the pixels along the sides of a write window."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    bottom: NDArray[np.int64]
    right: NDArray[np.int64]

    @classmethod
    def of(cls, regions: Regions | None, shape: tuple[int, ...], start: int) -> _Edges:
        _, height, width = shape
        lengths = {"top": width, "left": height, "bottom": width, "right": height}
        if regions is None:
            return cls(**{side: np.zeros(n, np.int64) for side, n in lengths.items()})
        local = {side: getattr(regions, side) for side in lengths}
        return cls(**{side: np.where(e > 0, e + start, 0) for side, e in local.items()})


def _meetings(ground: Ground, facts: _Facts) -> Iterator[_Meetings]:
    """Of all tiles in order."""
    grid, edges = ground.grid, dict[int, _Edges]()
    for index in range(len(grid)):
        regions, start = ground.read(index), int(facts.starts[index])
        edges[index] = _Edges.of(regions, grid[index].write.shape, start)
        found = _Meetings()
        if regions is not None:
            found.sides.append(regions.sides + start)
            found.corners.append(regions.corners + start)
        _meet_tiles_before(found, grid, index, edges)
        # the next tile meets those of one row before it, and the one up and left of it
        edges.pop(index - grid.counts[2] - 1, None)
        yield found


def _meet_tiles_before(
    found: _Meetings, grid: TileGrid, index: int, edges: dict[int, _Edges]
) -> None:
    mine, columns = edges[index], grid.counts[2]
    _, row, column = grid.position(index)
    if column > 0:
        found.beside(edges[index - 1].right, mine.left)
    if row > 0:
        found.beside(edges[index - columns].bottom, mine.top)
    if row > 0 and column > 0:
        found.across(edges[index - columns - 1].bottom[-1:], mine.top[:1])
    if row > 0 and column < columns - 1:
        found.across(edges[index - columns + 1].bottom[:1], mine.top[-1:])


def _without_islands(ground: Ground, facts: _Facts, least: float) -> NDArray[np.int64]:
    """(R,) whose the regions are when islands are dropped."""
    parts = np.arange(len(facts.groups))
    for met in _meetings(ground, facts):
        for pairs in (*met.sides, *met.corners):
            groups = facts.groups[pairs]
            one = pairs[(groups[:, 0] == groups[:, 1]) & (groups[:, 0] != NOBODY)]
            unite()(parts, one[:, 0], one[:, 1])
    count = int(number()(parts))
    areas, sizes = np.zeros(count, np.int64), np.zeros(count)
    firsts, groups = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.add.at(areas, parts, facts.areas)
    np.add.at(sizes, parts, facts.sizes)
    np.minimum.at(firsts, parts, facts.firsts)
    groups[parts] = facts.groups
    # group by group, the largest part first, of equal ones the one that begins first
    order = np.lexsort([firsts, -areas, groups])
    main = np.zeros(count, bool)
    main[order[np.diff(groups[order], prepend=NOBODY - 1) != 0]] = True
    islands = ~main & (sizes < least)
    return np.where(islands[parts], NOBODY, facts.groups)


def _with_holes_filled(
    ground: Ground, facts: _Facts, owners: NDArray[np.int64], least: float
) -> NDArray[np.int64]:
    """(R,) whose the regions are when holes are filled."""
    parts, opened = np.arange(len(owners)), facts.open.copy()
    lowest, highest = np.full(len(owners), np.iinfo(np.int64).max), np.full(len(owners), NOBODY)
    for met in _meetings(ground, facts):
        for outside in met.outside:
            opened[outside] = True
        for pairs in met.sides:
            free = owners[pairs] == NOBODY
            both = pairs[free.all(axis=1)]
            unite()(parts, both[:, 0], both[:, 1])
            for one, other in ((0, 1), (1, 0)):
                shore = free[:, one] & ~free[:, other]
                np.minimum.at(lowest, pairs[shore, one], owners[pairs[shore, other]])
                np.maximum.at(highest, pairs[shore, one], owners[pairs[shore, other]])
    count = int(number()(parts))
    sizes, touching = np.zeros(count), np.zeros(count, bool)
    around = np.full((2, count), [[np.iinfo(np.int64).max], [NOBODY]])
    np.add.at(sizes, parts, facts.sizes)
    np.logical_or.at(touching, parts, opened)
    np.minimum.at(around[0], parts, lowest)
    np.maximum.at(around[1], parts, highest)
    holes = ~touching & (sizes < least) & (around[0] == around[1])
    return np.where((owners == NOBODY) & holes[parts], around[0][parts], owners)


def _told(
    found: Tally, ground: Ground, facts: _Facts, owners: NDArray[np.int64]
) -> tuple[Tally, dict[int, Patches]]:
    """What is known of the groups now, and by tile what changed."""
    areas, sizes = np.zeros_like(found.owned), np.zeros_like(found.sizes)
    boxes = np.repeat(np.array([[2**31 - 1] * 3 + [0] * 3], np.int32), len(areas), axis=0)
    painted, patches = [], {}
    for index in range(len(ground.grid)):
        if (regions := ground.read(index)) is None:
            continue
        part = slice(facts.starts[index], facts.starts[index + 1])
        mine, owned = owners[part], owners[part] != NOBODY
        (z, y, x), groups = ground.grid[index].write.start, mine[owned]
        low, high = regions.boxes[owned, :2] + (y, x), regions.boxes[owned, 2:] + (y, x)
        np.add.at(areas, groups, regions.areas[owned])
        np.add.at(sizes, groups, facts.sizes[part][owned])
        np.minimum.at(boxes[:, :3], groups, np.insert(low, 0, z, axis=1).astype(np.int32))
        np.maximum.at(boxes[:, 3:], groups, np.insert(high, 0, z + 1, axis=1).astype(np.int32))
        painted.append((index, np.unique(groups)))
        if (changed := mine != facts.groups[part]).any():
            patches[index] = Patches(seeds=regions.firsts[changed], groups=mine[changed])
    mended = areas - found.owned - found.claimed
    return replace(found, mended=mended, sizes=sizes, boxes=boxes, painted=painted), patches

"""What a tile paints of its neighbours' objects, so that they do not end at its border.

A tile may find an object that reaches across its border, and the tile on the other side may not see
it. It would end there in a straight line. So the other tile paints it on, where it has nothing of
its own::

    |  A  . oooo|ooo .          o: found by A alone
    |     . oooo|cc# .  B       c: claimed in B    #: B's own object, which stays

What may be claimed is decided from the objects of the two tiles alone; of several claims on a pixel
the smallest provisional id wins. So neither order nor number of workers plays a part, and the tile
that writes a pixel is still the only one that does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat.masks import encode_labels
from samplat.objects import TileObjects, decode_folded, folded, measured
from samplat.tiles import Window

MOST_COVERED = 0.5
"""A tile that has objects of its own on a larger share of a neighbour's has seen it otherwise."""
SLIVER = 16
"""Fewer pixels beyond a border make no object incomplete."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """C objects of neighbours that a tile paints on. The arrays share the first axis C."""

    ids: NDArray[np.uint64]
    """(C,) provisional ids, ascending."""
    areas: NDArray[np.int64]
    """(C,) pixels to paint, at least 1."""
    boxes: NDArray[np.int64]
    """(C, 6) of these, z0, y0, x0, z1, y1, x1, half-open, global."""
    rles: tuple[bytes, ...]
    """Their run-length counts over the write window's (y, x), its slices one below the other."""
    refused: NDArray[np.uint64]
    """(R,) objects of neighbours that reach into the tile, but end at its border."""

    def labels(self, write: Window) -> NDArray[np.uint32]:
        """(z, y, x) over the write window: index of the claim + 1, or 0."""
        return decode_folded(self.rles, write.shape)


NO_CLAIMS = Claims(
    ids=np.zeros(0, np.uint64),
    areas=np.zeros(0, np.int64),
    boxes=np.zeros((0, 6), np.int64),
    rles=(),
    refused=np.zeros(0, np.uint64),
)


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """What a tile knows of one beside it."""

    objects: TileObjects
    """Its objects."""
    labels: NDArray[np.uint32]
    """(z, y, x) its labels where both tiles see."""
    own: NDArray[np.uint32]
    """(z, y, x) the tile's own labels there."""
    matched: NDArray[np.int64]
    """Local ranks of its objects that are one with some of the tile."""


def find_claims(mine: TileObjects, neighbours: Sequence[Neighbour]) -> Claims:
    """What a tile paints of its neighbours' objects.

    An object is claimed if the neighbour paints a part of it, it reaches into the tile's write
    window, none of the tile's objects is one with it, the neighbour saw its end there, and at
    least half of it there is background.

    Args:
        mine: the tile's objects.
        neighbours: in order of tile.
    """
    refused, ids, wanted = [], [], []
    for beside in neighbours:
        found = _Reach.of(mine, beside)
        if found is None:
            continue
        refused.append(beside.objects.ids[found.refused])
        ids.append(beside.objects.ids[found.permitted])
        if len(found.permitted):
            wanted.append(found)
    if not refused:
        return NO_CLAIMS
    return _painted(mine, wanted, np.concatenate(ids), np.concatenate(refused))


@dataclass(frozen=True, kw_only=True)
class _Reach:
    """A neighbour's objects that the tile does not know, inside of the tile's write window."""

    part: Window
    labels: NDArray[np.uint32]
    free: NDArray[np.bool_]
    permitted: NDArray[np.int64]
    refused: NDArray[np.int64]

    @classmethod
    def of(cls, mine: TileObjects, beside: Neighbour) -> _Reach | None:
        theirs, tile = beside.objects, mine.tile
        part = tile.write.intersection(theirs.tile.read)
        unknown = np.zeros(len(theirs), bool)
        unknown[theirs.meeting(part)] = True
        unknown &= theirs.owned_areas > 0
        unknown[beside.matched] = False
        if not part.size or not unknown.any():
            return None
        strip = tile.read.intersection(theirs.tile.read)
        place = part.relative_to(strip).slices
        labels, free = beside.labels[place], beside.own[place] == 0
        size = len(theirs) + 1
        reach = np.bincount(labels.ravel(), minlength=size)[1:]
        open_ground = np.bincount(labels[free], minlength=size)[1:]
        fits = open_ground >= np.maximum(1, (1 - MOST_COVERED) * reach)
        fits &= (theirs.cut & facing(theirs, tile.write)) == 0
        return cls(
            part=part,
            labels=labels,
            free=free,
            permitted=np.flatnonzero(unknown & fits),
            refused=np.flatnonzero(unknown & ~fits & (reach >= SLIVER)),
        )


def facing(theirs: TileObjects, write: Window) -> int:
    """Sides of a tile's read window that lie inside of another one's write window, as in `cut`."""
    sides = 0
    for axis, (low, high) in enumerate(zip(write.start, write.stop, strict=True)):
        read = theirs.tile.read
        sides |= (1 << (2 * axis)) * (low < read.start[axis] < high)
        sides |= (2 << (2 * axis)) * (low < read.stop[axis] < high)
    return sides


def _painted(
    mine: TileObjects,
    wanted: Sequence[_Reach],
    ids: NDArray[np.uint64],
    refused: NDArray[np.uint64],
) -> Claims:
    write = mine.tile.write
    claimed = np.zeros(write.shape, np.uint32)
    for found, first in zip(wanted, _firsts(wanted), strict=True):
        names = np.zeros(int(found.labels.max()) + 1, np.uint32)
        names[found.permitted + 1] = np.arange(first, first + len(found.permitted))
        ground, theirs = claimed[found.part.relative_to(write).slices], names[found.labels]
        # neighbours come in order, so what is painted is of a smaller id
        np.copyto(ground, theirs, where=found.free & (ground == 0))
    areas, _ = measured(claimed, len(ids), write)
    kept = np.flatnonzero(areas > 0)
    ranks = np.zeros(len(ids) + 1, np.uint32)
    ranks[kept + 1] = np.arange(1, len(kept) + 1)
    claimed = ranks[claimed]
    areas, boxes = measured(claimed, len(kept), write)
    rles = encode_labels(folded(claimed), len(kept))
    return Claims(ids=ids[kept], areas=areas, boxes=boxes, rles=rles, refused=refused)


def _firsts(wanted: Sequence[_Reach]) -> Iterator[int]:
    """The name of the first claim of each neighbour, from 1."""
    first = 1
    for found in wanted:
        yield first
        first += len(found.permitted)

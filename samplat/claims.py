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

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samplat.masks import encode_labels
from samplat.objects import TileObjects, decode_folded, folded, measured
from samplat.seams import Beside, Meetings
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


def find_claims(
    mine: TileObjects, beside: Beside, meetings: Meetings, matched: NDArray[np.int64]
) -> Claims:
    """What a tile paints of its neighbours' objects.

    An object is claimed if the neighbour paints a part of it, it reaches into the tile's write
    window, none of the tile's objects is one with it, the neighbour saw its end there, and at
    least half of it there is background.

    Args:
        mine: the tile's objects.
        beside: those of its neighbours.
        meetings: how they lie on each other.
        matched: places of those beside it that are one with some of the tile.
    """
    reach, free = meetings.reach, meetings.free
    unknown = (reach > 0) & (beside.owned_areas > 0)
    unknown[matched] = False
    sides = np.array([facing(each, mine.tile.write) for each in beside.objects], np.uint8)
    fits = free >= np.maximum(1, (1 - MOST_COVERED) * reach)
    fits &= (beside.cut & np.repeat(sides, np.diff(beside.starts))) == 0
    refused = beside.ids(np.flatnonzero(unknown & ~fits & (reach >= SLIVER)))
    permitted = np.flatnonzero(unknown & fits)
    if not len(permitted):
        return replace(NO_CLAIMS, refused=refused)
    return _painted(mine, beside, permitted, refused)


def facing(theirs: TileObjects, write: Window) -> int:
    """Sides of a tile's read window that lie inside of another one's write window, as in `cut`."""
    sides = 0
    for axis, (low, high) in enumerate(zip(write.start, write.stop, strict=True)):
        read = theirs.tile.read
        sides |= (1 << (2 * axis)) * (low < read.start[axis] < high)
        sides |= (2 << (2 * axis)) * (low < read.stop[axis] < high)
    return sides


def _painted(
    mine: TileObjects, beside: Beside, permitted: NDArray[np.int64], refused: NDArray[np.uint64]
) -> Claims:
    write, claimed = mine.tile.write, np.zeros(mine.tile.write.shape, np.uint32)
    free = mine.labels(write) == 0
    for k, theirs in enumerate(beside.objects):
        first, last = np.searchsorted(permitted, beside.starts[k : k + 2])
        if first == last:
            continue
        ranks, part = permitted[first:last] - beside.starts[k], write.intersection(theirs.tile.read)
        place = part.relative_to(write).slices
        names = np.zeros(len(theirs) + 1, np.uint32)
        names[ranks + 1] = np.arange(first + 1, last + 1)
        ground = claimed[place]
        # neighbours come in order, so what is painted is of a smaller id
        np.copyto(ground, names[theirs.labels(part, ranks)], where=free[place] & (ground == 0))
    areas, boxes = measured(claimed, len(permitted), write)
    kept = np.flatnonzero(areas > 0)
    names = np.zeros(len(permitted) + 1, np.uint32)
    names[kept + 1] = np.arange(1, len(kept) + 1)
    return Claims(
        ids=beside.ids(permitted[kept]),
        areas=areas[kept],
        boxes=boxes[kept],
        rles=encode_labels(folded(names[claimed]), len(kept)),
        refused=refused,
    )

"""Which objects of neighbouring tiles are one.

Two tiles see the same pixels where their read windows overlap. In that strip, an object that both
found covers nearly the same pixels in both. Nothing depends on which of the two is asked first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.label_loops import Codes, meet_runs, pair_table
from samplat.objects import TileObjects


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
    """Every pair of labels that meets in two label images (y, x) of one shape; 0 is background."""
    if not first.size:
        nothing = np.zeros(0, np.int64)
        return Contingency(
            first=nothing, second=nothing, shared=nothing, first_size=nothing, second_size=nothing
        )
    i, j, shared, first_size, second_size = pair_table()(first, second)
    return Contingency(
        first=i, second=j, shared=shared, first_size=first_size, second_size=second_size
    )


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The objects of a tile's neighbours, one tile's after the other's: M of K tiles."""

    objects: tuple[TileObjects, ...]
    """(K,) of each tile, in order of tile."""
    starts: NDArray[np.int64]
    """(K + 1,) where those of each begin."""
    owned_areas: NDArray[np.int64]
    """(M,) as in `TileObjects`."""
    cut: NDArray[np.uint8]
    """(M,) as in `TileObjects`."""

    @classmethod
    def of(cls, objects: Sequence[TileObjects]) -> Beside:
        """Those of some tiles, at least one."""
        counts = [len(each) for each in objects]
        return cls(
            objects=tuple(objects),
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            owned_areas=np.concatenate([each.owned_areas for each in objects]),
            cut=np.concatenate([each.cut for each in objects]),
        )

    def ids(self, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Provisional ids of some of them."""
        bases = np.array([each.tile.index << 32 for each in self.objects], np.uint64)
        tiles = np.searchsorted(self.starts, places, side="right") - 1
        return bases[tiles] + (places - self.starts[tiles]).astype(np.uint64)

    def codes(self) -> Codes:
        """Their run-length codes."""
        codes = [each.codes for each in self.objects]
        ends = np.cumsum([0, *(len(each.data) for each in codes)])
        bounds = [each.bounds[:-1] + end for each, end in zip(codes, ends, strict=False)]
        data = np.concatenate([each.data for each in codes])
        return Codes(data, np.concatenate([*bounds, ends[-1:]]))


@dataclass(frozen=True, kw_only=True)
class Meetings:
    """How a tile's objects and those beside it lie on each other."""

    table: Contingency
    """Shared pixels where both tiles see: `first` is the rank of the tile's own, plus 1; `second`
    the place of the other one beside it, plus 1."""
    reach: NDArray[np.int64]
    """(M,) pixels of the others in the tile's write window."""
    free: NDArray[np.int64]
    """(M,) those of them where the tile has nothing."""


def meet(mine: TileObjects, beside: Beside) -> Meetings:
    """See how a tile's objects and those beside it lie on each other."""
    read, write = (np.array([*w.start, *w.stop]) for w in (mine.tile.read, mine.tile.write))
    reads = np.array([[*o.tile.read.start, *o.tile.read.stop] for o in beside.objects])
    boxes = np.concatenate([each.boxes for each in beside.objects])
    others = reads, beside.starts, boxes, *beside.codes()
    pairs, reach, free = meet_runs()(mine.labels(), read, write, *others)
    table = Contingency(
        first=pairs[0],
        second=pairs[1] + 1,
        shared=pairs[2],
        first_size=pairs[3],
        second_size=pairs[4],
    )
    return Meetings(table=table, reach=reach, free=free)


def same_objects(
    mine: TileObjects, beside: Beside, meetings: Meetings, rules: SeamRules
) -> NDArray[np.int64]:
    """(E, 2) ranks of a tile's objects, and places of those beside it that are the same ones.

    In a strip that two tiles see, an object that both found covers nearly the same pixels in both.
    Nothing depends on which of the two is asked.
    """
    i, j = meetings.table.first - 1, meetings.table.second - 1
    linked = _is_same(meetings.table, (mine.cut[i] | beside.cut[j]) != 0, rules)
    pairs = np.empty((int(linked.sum()), 2), np.int64)
    pairs[:, 0], pairs[:, 1] = i[linked], j[linked]
    return pairs


def _is_same(
    table: Contingency, truncated: NDArray[np.bool_], rules: SeamRules
) -> NDArray[np.bool_]:
    union = table.first_size + table.second_size - table.shared
    smaller = np.minimum(table.first_size, table.second_size)
    strict = table.shared > rules.iou * union
    inside = (table.shared >= rules.containment * smaller) & (table.shared >= rules.min_shared)
    same: NDArray[np.bool_] = strict | (truncated & inside)
    return same

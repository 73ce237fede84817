"""Which objects of neighbouring tiles are one.

Two tiles see the same pixels where their read windows overlap. In that strip, an object that both
found covers nearly the same pixels in both. Nothing depends on which of the two is asked first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.label_loops import filled, pair_runs
from samplat.objects import TileObjects, folded


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
    sizes, other_sizes = (np.empty(int(i.max(initial=0)) + 1, np.int64) for i in (first, second))

    def find(keys: NDArray[np.int64], lengths: NDArray[np.int64]) -> int:
        return pair_runs()(first, second, keys, lengths, sizes, other_sizes)

    keys, lengths = filled(find, 2, 1024 + first.size // 16)
    order = np.argsort(keys, kind="stable")
    keys, lengths = keys[order], lengths[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    i, j = keys[starts] >> 32, keys[starts] & 0xFFFFFFFF
    return Contingency(
        first=i,
        second=j,
        shared=np.add.reduceat(lengths, starts) if len(starts) else lengths,
        first_size=sizes[i],
        second_size=other_sizes[j],
    )


def match_strip(
    first: TileObjects,
    second: TileObjects,
    first_labels: NDArray[np.uint32],
    second_labels: NDArray[np.uint32],
    rules: SeamRules,
) -> NDArray[np.int64]:
    """Pairs of local ranks (E, 2) that are one object.

    Args:
        first: objects of a tile.
        second: objects of another tile, whose read window overlaps.
        first_labels: labels (z, y, x) of the first one's objects where both see.
        second_labels: of the second one's.
        rules: thresholds.
    """
    table = contingency(folded(first_labels), folded(second_labels))
    i, j = table.first - 1, table.second - 1
    linked = _is_same(table, first.truncated[i] | second.truncated[j], rules)
    return np.stack([i[linked], j[linked]], axis=1)


def _is_same(
    table: Contingency, truncated: NDArray[np.bool_], rules: SeamRules
) -> NDArray[np.bool_]:
    union = table.first_size + table.second_size - table.shared
    smaller = np.minimum(table.first_size, table.second_size)
    strict = table.shared > rules.iou * union
    inside = (table.shared >= rules.containment * smaller) & (table.shared >= rules.min_shared)
    same: NDArray[np.bool_] = strict | (truncated & inside)
    return same

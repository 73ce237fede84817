"""Masks of slices become objects in three dimensions.

From slice to slice, masks are linked that are each other's best match. Where an object ends and
another begins a few slices on, these may be one that was missed in between::

    slice 0     aaaaaa    bbb
    slice 1      cccccc               a and c are linked
    slice 2        dddd   ===         c and d, too; b is missing, and bridged
    slice 3                eee        b and e are linked over the gap
    slice 4                 f         f, alone and inside of e, is its end

Whether two masks are linked depends on few slices: those from the one to the other and, for ends,
those that a gap may reach over on both sides. So tiles that see these slices agree, and the union
of what they find is what one tile would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.label_loops import measure
from samplat.masks import MaskSet, Overlaps
from samplat.merging import number, unite
from samplat.objects import TileObjects, labelled_objects, partition
from samplat.seams import Contingency, contingency
from samplat.shapes import between_masks
from samplat.tiles import Tile, Window

MOST_COVERED = 0.5
"""Where other masks cover a larger share of what is missing, something else was seen there."""

CUT_IOU = 0.5
"""Masks that the tile's edge cuts need at least this IoU: nothing is known of the rest of them.
What is linked too little here is seen whole by a neighbour; what is linked too much stays so."""

Shape = tuple[slice, slice]
Sides = tuple[bool, bool, bool, bool, bool, bool]


@dataclass(frozen=True, kw_only=True)
class StackRules:
    """How the masks of slices become objects of a volume.

    Raises:
        InputError: a share is not in 0..1, there is no such axis, or a length is impossible.
    """

    axis: int = 0
    """Axis of (z, y, x) that the slices are across."""
    block: int = 16
    """Slices that a tile writes."""
    iou: float = 0.25
    """Masks of neighbouring slices are linked if each is the other's best and their IoU is at least
    this,"""
    taper: float = 0.05
    """or at least this while the smaller one lies in the larger one. A mask without any link may be
    smaller still where it lies in one that ends there: it is the tip of that object."""
    containment: float = 0.75
    """A mask lies in another one with at least this share of it."""
    gap: float = 0.0
    """Longest part of an object that may be missing, in mm across the slices."""

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2) or self.block < 1:
            raise InputError(
                f"slices need an axis of 0, 1 and 2 and blocks of at least 1; got {self.axis} and "
                f"{self.block}"
            )
        if not (0 <= self.taper <= self.iou <= 1 and 0 < self.containment <= 1):
            raise InputError(
                "slices need 0 <= taper <= iou <= 1 and 0 < containment <= 1; got "
                f"{self.taper}, {self.iou} and {self.containment}"
            )
        if not (math.isfinite(self.gap) and self.gap >= 0):
            raise InputError(f"the gap must be at least 0 mm, got {self.gap}")

    @property
    def axes(self) -> tuple[int, int, int]:
        """Axes of (z, y, x) in the order slice, row, column."""
        first, second = (a for a in range(3) if a != self.axis)
        return self.axis, first, second

    def missing(self, spacing: tuple[float, ...]) -> int:
        """Slices that an object may be missing on.

        Args:
            spacing: mm along (z, y, x).
        """
        return math.floor(self.gap / spacing[self.axis] + 1e-6)

    def halo(self, spacing: tuple[float, ...]) -> int:
        """Slices that a tile has to see beyond those it writes, to know which are linked."""
        return self.missing(spacing) + 2


def stacked_objects(
    found: Iterable[MaskSet],
    *,
    tile: Tile,
    valid: NDArray[np.bool_],
    bounds: Window,
    overlaps: Overlaps,
    rules: StackRules,
    spacing: tuple[float, ...],
) -> TileObjects:
    """The objects of a tile, from the masks of its slices.

    Overlaps are settled slice by slice, then slices are linked. Scores are means over the slices,
    weighted by pixels; there is no single prompt point.

    Args:
        found: masks of each slice of the read window, in order.
        tile: the tile.
        valid: (z, y, x) of the read window. True: data; objects are cut to it.
        bounds: all that could be read, (z, y, x).
        overlaps: which mask gets a pixel that several of a slice claim.
        rules: when masks are one object.
        spacing: mm along (z, y, x).
    """
    across = valid.transpose(rules.axes)
    labels, scores, areas = np.zeros(across.shape, np.uint32), [], []
    for k, masks in enumerate(found):
        labels[k], kept, pixels = partition(masks, across[k], overlaps)
        scores.append(np.stack([masks.predicted_iou, masks.stability])[:, kept])
        areas.append(pixels)
    steps, missing = (spacing[rules.axes[1]], spacing[rules.axes[2]]), rules.missing(spacing)
    objects = stack_slices(
        labels,
        rules,
        missing=missing,
        steps=steps,
        valid=across,
        cut=_cut(tile.read.transposed(rules.axes), bounds.transposed(rules.axes)),
    )
    means = _means(objects, np.concatenate(areas), np.concatenate(scores, axis=1))
    return labelled_objects(
        np.ascontiguousarray(labels.transpose(np.argsort(rules.axes))),
        means.shape[1],
        tile=tile,
        bounds=bounds,
        reach=tuple(missing + 1 if axis == rules.axis else 1 for axis in range(3)),
        predicted_iou=means[0],
        stability=means[1],
    )


def _cut(read: Window, bounds: Window) -> Sides:
    before = (a > b for a, b in zip(read.start, bounds.start, strict=True))
    after = (a < b for a, b in zip(read.stop, bounds.stop, strict=True))
    (first, top, left), (last, bottom, right) = before, after
    return first, last, top, left, bottom, right


def _means(
    objects: NDArray[np.int64], areas: NDArray[np.int64], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    count = int(objects.max(initial=-1)) + 1
    pixels = np.bincount(objects, areas, count)
    sums = np.stack([np.bincount(objects, areas * each, count) for each in scores])
    means: NDArray[np.float32] = (sums / pixels).astype(np.float32)
    return means


def stack_slices(
    labels: NDArray[np.uint32],
    rules: StackRules,
    *,
    missing: int = 0,
    steps: tuple[float, float] = (1.0, 1.0),
    valid: NDArray[np.bool_] | None = None,
    cut: Sides = (False,) * 6,
) -> NDArray[np.int64]:
    """Which masks of slices are one object.

    Args:
        labels: (slice, y, x) of each slice the masks 1..n, or 0; overwritten in place by objects
            1..N, numbered by their first mask. What is missing of an object is painted, too.
        rules: when masks are linked.
        missing: slices that an object may be missing on.
        steps: mm between rows and between columns.
        valid: (slice, y, x). True: data; nothing else is painted. None: all of it.
        cut: whether there is more before the first slice and after the last one, and beyond the
            top, left, bottom and right of all.

    Returns:
        (M,) object of every mask, from 0, slice by slice.
    """
    stack = _Stack(labels=labels, rules=rules, steps=steps, sides=cut)
    for distance in range(1, missing + 2):
        for k in range(len(labels) - distance):
            stack.link(k, distance)
    stack.link_tips(missing)
    objects = np.arange(stack.starts[-1])
    for first, second in stack.links:
        unite()(objects, first, second)
    number()(objects)
    _rename(labels, objects, stack)
    _paint(labels, valid, objects, stack.bridges)
    return objects


@dataclass(frozen=True, kw_only=True)
class _Bridge:
    """What is missing of an object on one slice."""

    mask: int
    """Number of a mask of the object."""
    k: int
    place: Shape
    pixels: NDArray[np.bool_]


@dataclass(kw_only=True)
class _Stack:
    """Slices, and what is linked in them so far. Masks are numbered slice by slice."""

    labels: NDArray[np.uint32]
    rules: StackRules
    steps: tuple[float, float]
    sides: Sides
    links: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=list)
    bridges: list[_Bridge] = field(default_factory=list)
    boxes: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = [int(labels.max(initial=0)) for labels in self.labels]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.ends, self.begins = (np.ones(self.starts[-1], bool) for _ in range(2))
        self.cut = np.zeros(self.starts[-1], bool)
        for start, plane in zip(self.starts, self.labels, strict=False):
            edges = (plane[0], plane[:, 0], plane[-1], plane[:, -1])
            for edge in (e for e, side in zip(edges, self.sides[2:], strict=True) if side):
                self.cut[start + edge[edge > 0].astype(np.int64) - 1] = True

    def link(self, k: int, distance: int) -> None:
        """Link masks of two slices that have no link between these."""
        first, second = self.starts[k], self.starts[k + distance]
        if not self.ends[first : self.starts[k + 1]].any():
            return
        table = contingency(self.labels[k], self.labels[k + distance])
        here, there = first + table.first - 1, second + table.second - 1
        free = self.ends[here] & self.begins[there]
        free &= ~(self.cut[here] | self.cut[there]) | (iou(table) >= CUT_IOU)
        best = np.flatnonzero(free)[mutual_best(_rows(table, free), self.rules)]
        if distance > 1:
            pairs = zip(best, table.first[best], table.second[best], strict=True)
            best = np.array([n for n, a, b in pairs if self._bridge(k, distance, a, b)], np.int64)
        self.ends[here[best]], self.begins[there[best]] = False, False
        self.links.append((here[best], there[best]))

    def link_tips(self, missing: int) -> None:
        """Link masks without links to larger ones that end beside them; not where both sides do."""
        alone, last = self.ends & self.begins & ~self.cut, len(self.labels) - 1
        found = [np.zeros((0, 3), np.int64)]
        for k in range(last):
            # whether a mask has a link is known where all slices are seen that one could reach
            unseen = self.sides[0] and k <= missing, self.sides[1] and k + missing + 2 > last
            if not any(unseen) and alone[self.starts[k] : self.starts[k + 2]].any():
                found.append(self._tips(k, alone))
        pairs = np.concatenate(found)
        _, place, count = np.unique(pairs[:, 2], return_inverse=True, return_counts=True)
        pairs = pairs[count[place] == 1]
        self.links.append((pairs[:, 0], pairs[:, 1]))

    def _tips(self, k: int, alone: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(E, 3) pairs of masks of a slice and the next one, and which of them is the tip."""
        table = contingency(self.labels[k], self.labels[k + 1])
        here = self.starts[k] + table.first - 1
        there = self.starts[k + 1] + table.second - 1
        upper = alone[here] & self.begins[there] & (table.first_size < table.second_size)
        lower = alone[there] & self.ends[here] & (table.second_size < table.first_size)
        rows = np.flatnonzero((upper | lower) & ~self.cut[here] & ~self.cut[there])
        anything = replace(self.rules, iou=1.0, taper=0.0)
        rows = rows[mutual_best(_rows(table, rows), anything)]
        tips = np.where(upper, here, there)
        return np.stack([here[rows], there[rows], tips[rows]], axis=1)

    def _bridge(self, k: int, distance: int, name: int, other: int) -> bool:
        """Draw what lies between two masks; whether there is room for it."""
        boxes = self._boxes(k)[name], self._boxes(k + distance)[other]
        place = _around(boxes[0], boxes[1], self.labels.shape[1:])
        near, far = self.labels[k][place] == name, self.labels[k + distance][place] == other
        found = []
        for step in range(1, distance):
            shape = between_masks(near, far, step / distance, self.steps)
            room = shape & (self.labels[k + step][place] == 0)
            if room.sum() < (1 - MOST_COVERED) * shape.sum():
                return False
            mask = int(self.starts[k]) + int(name) - 1
            found.append(_Bridge(mask=mask, k=k + step, place=place, pixels=room))
        self.bridges += found
        return True

    def _boxes(self, k: int) -> NDArray[np.int64]:
        """(n + 1, 4) boxes y0, x0, y1, x1 of the masks of a slice, by label."""
        if k in self.boxes:
            return self.boxes[k]
        count = int(self.starts[k + 1] - self.starts[k])
        areas, boxes = np.zeros(count + 1, np.int64), np.zeros((count + 1, 6), np.int64)
        measure()(self.labels[k : k + 1], areas, boxes)
        self.boxes[k] = boxes[:, [1, 2, 4, 5]]
        return self.boxes[k]


def _rows(table: Contingency, chosen: NDArray[Any]) -> Contingency:
    return Contingency(
        first=table.first[chosen],
        second=table.second[chosen],
        shared=table.shared[chosen],
        first_size=table.first_size[chosen],
        second_size=table.second_size[chosen],
    )


def iou(table: Contingency) -> NDArray[np.float64]:
    """(P,) of the pairs of a table."""
    found: NDArray[np.float64] = table.shared / (
        table.first_size + table.second_size - table.shared
    )
    return found


def mutual_best(table: Contingency, rules: StackRules) -> NDArray[np.int64]:
    """Rows of a table whose two labels are each other's best match, and a good enough one.

    The best match has the largest IoU, of equal ones the smallest label.
    """
    score = iou(table)
    first = np.lexsort([table.second, -score, table.first])
    second = np.lexsort([table.first, -score, table.second])
    best = np.zeros((2, len(score)), bool)
    best[0, first[np.diff(table.first[first], prepend=-1) > 0]] = True
    best[1, second[np.diff(table.second[second], prepend=-1) > 0]] = True
    smaller = np.minimum(table.first_size, table.second_size)
    inside = table.shared >= rules.containment * smaller
    good = (score >= rules.iou) | (inside & (score >= rules.taper))
    return np.flatnonzero(best.all(axis=0) & good)


def _around(box: NDArray[np.int64], other: NDArray[np.int64], size: tuple[int, ...]) -> Shape:
    """Rows and columns of two boxes y0, x0, y1, x1, and around them as far as the edges move."""
    low, high = np.minimum(box, other)[:2], np.maximum(box, other)[2:]
    margin = np.abs(box - other).reshape(2, 2).max(axis=0) + 1
    (top, left), (bottom, right) = np.maximum(low - margin, 0), np.minimum(high + margin, size)
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def _rename(labels: NDArray[np.uint32], objects: NDArray[np.int64], stack: _Stack) -> None:
    for k, plane in enumerate(labels):
        mine = objects[stack.starts[k] : stack.starts[k + 1]]
        names = np.concatenate([[0], mine + 1]).astype(np.uint32)
        np.take(names, plane, out=plane)


def _paint(
    labels: NDArray[np.uint32],
    valid: NDArray[np.bool_] | None,
    objects: NDArray[np.int64],
    bridges: Iterable[_Bridge],
) -> None:
    """Paint what is missing, shorter gaps first, where nothing is painted yet."""
    for bridge in bridges:
        ground, room = labels[bridge.k][bridge.place], bridge.pixels
        if valid is not None:
            room = room & valid[bridge.k][bridge.place]
        ground[room & (ground == 0)] = objects[bridge.mask] + 1

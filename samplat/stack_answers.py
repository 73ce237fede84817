"""Masks of what prompts on slices point at: each object followed through a window of the volume.

The window runs through all slices and reads those that somebody asks for. An object that runs out
of it is followed anew in a wider one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat.answers import WIDEST, Answers, join_answers
from samplat.masks import encode_rle, mask_box
from samplat.pixels import ImageSource, Stretch, read_valid, to_rgb
from samplat.prompt_units import PromptUnit, Sight
from samplat.stack_prompts import SliceMark, StackPrompts
from samplat.tiles import Window

RECENT = 8
"""Slices of a view kept in memory."""

SliceSeen = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""Pixels (H, W, 3) of a slice, and where (H, W) they hold data."""


class StackView:
    """The slices of a window of a volume, read when they are asked for, by any thread.

    Args:
        source: the volume.
        stretch: what its values look like, fitted to the whole volume.
        window: what is seen of it, (z, y, x).
        axes: of (z, y, x) in the order slice, row, column.
        spacing: length of a voxel along (z, y, x).
    """

    def __init__(
        self,
        source: ImageSource,
        stretch: Stretch,
        window: Window,
        axes: tuple[int, int, int],
        spacing: tuple[float, float, float],
    ) -> None:
        self._source, self._stretch = source, stretch
        self.window, self.axes = window, axes
        first, rows, columns = axes
        self.steps = spacing[first], spacing[rows], spacing[columns]
        """Length of a voxel from slice to slice, from row to row, from column to column."""
        self.grey = source.info.bands == 1
        """Whether the three bands of its pixels are one."""
        self._recent: OrderedDict[int, SliceSeen] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, their rows and columns."""
        count, rows, columns = self.window.transposed(self.axes).shape
        return count, rows, columns

    def __call__(self, index: int) -> SliceSeen:
        """A slice."""
        with self._lock:
            if index in self._recent:
                self._recent.move_to_end(index)
                return self._recent[index]
        seen = self._read(index)
        with self._lock:
            self._recent[index] = seen
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return seen

    def _read(self, index: int) -> SliceSeen:
        first, start, stop = self.axes[0], list(self.window.start), list(self.window.stop)
        start[first] += index
        stop[first] = start[first] + 1
        raw, valid = read_valid(self._source, Window(start=tuple(start), stop=tuple(stop)))
        pixels = to_rgb(self._stretch(raw, valid).squeeze(first))
        return pixels, valid.squeeze(first)


@dataclass(frozen=True, kw_only=True)
class SliceFound:
    """An object on one slice."""

    mask: NDArray[np.bool_]
    """(H, W), with a pixel at least."""
    predicted_iou: float = 1.0
    """The segmenter's own estimate of the IoU with the true object."""
    stability: float = 1.0
    """How sure it is besides that this is the object which was pointed at, 0..1. Of several objects
    that claim a pixel of a slice, the one with the largest product of both has it."""


@dataclass(frozen=True, kw_only=True)
class StackAnswer:
    """One object, as far as it was followed."""

    slices: Mapping[int, SliceFound]
    """Those that it is in."""
    missed: int = 0
    """Slices on which it was asked for and nothing found."""


class StackSegmenter(Protocol):
    """Turns prompts on slices into an object of the volume; called from several threads at once."""

    def __call__(self, view: StackView, marks: Mapping[int, SliceMark]) -> StackAnswer:
        """The object, cut to what is valid.

        Args:
            view: the slices.
            marks: what is said of the object, by slice, in the frame of the view.
        """
        ...


Told = Callable[[int, int, SliceFound], bool | None]
"""Axis of (z, y, x) that the slices are across, number of the slice, the object there; False: no
more of it is wanted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StackFollowed:
    """An object that was followed while somebody looked on."""

    slices: Mapping[int, SliceFound]
    """Those that it is in, across the axis of its marks."""
    confidences: Mapping[int, NDArray[np.float32]]
    """By the axes of (z, y, x) that were looked along: (slices,) predicted IoU times how well each
    slice agrees with the others, NaN where the object is not."""
    marked: frozenset[int]
    """Slices that were marked, and need no second look."""
    cancelled: bool
    """True: it was ended early, and this is what there was by then."""
    memory: Any
    """Makes it less work to follow the object again with other marks; for the one who made it."""


class StackFollower(Protocol):
    """Follows an object for somebody who sees slice after slice, corrects, and asks again."""

    def __call__(
        self,
        views: Mapping[int, StackView],
        axis: int,
        marks: Mapping[int, SliceMark],
        *,
        taken: NDArray[np.bool_] | None = None,
        earlier: Any = None,
        told: Told | None = None,
    ) -> StackFollowed:
        """The object, cut to what is valid and not taken.

        Args:
            views: the same volume across one axis of (z, y, x), or across all three: then every
                voxel is decided by all of them.
            axis: the marks are on slices across it.
            marks: what is said of the object, by slice.
            taken: (z, y, x). True: the voxel belongs to another object.
            earlier: `memory` of the same object in the same views; only what other marks change is
                done again.
            told: hears of each slice when it is done, first of the marked ones; of these perhaps
                twice, of a draft before the mask.

        Raises:
            InputError: nothing says where the object is, or a mark finds nothing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class StackDesk:
    """What it takes to answer prompts of a volume."""

    source: ImageSource
    """The volume."""
    stretch: Stretch
    """What its values look like."""
    segmenter: StackSegmenter
    """Answers them."""
    sight: Sight
    """Whence they are looked at."""
    axes: tuple[int, int, int]
    """Of (z, y, x) in the order slice, row, column."""
    spacing: tuple[float, float, float]
    """Length of a voxel along (z, y, x)."""

    def look(self, window: Window) -> StackView:
        """The slices of a window."""
        return StackView(self.source, self.stretch, window, self.axes, self.spacing)

    def answer(self, unit: PromptUnit, prompts: StackPrompts, view: StackView) -> Answers:
        """The object of a unit, its window as it is seen."""
        (number,) = unit.prompts
        factor, marks, extent = unit.factor, prompts.marks[number], prompts.extents()[number]
        found = self.segmenter(view, _within(marks, view))
        while self._cut(view, found) and factor < WIDEST * unit.factor:
            factor *= 2
            around = self.sight.around(extent, factor)
            view = self.look(self.sight.through(around, self.axes))
            found = self.segmenter(view, _within(marks, view))
        pieces = [_piece(number, view, k, each) for k, each in sorted(found.slices.items())]
        return replace(
            joined := join_answers(pieces),
            factors=np.full(len(joined), factor, np.int32),
            truncated=np.full(len(joined), self._cut(view, found)),
            missed=np.full(len(joined), found.missed, np.int32),
        )

    def _cut(self, view: StackView, found: StackAnswer) -> bool:
        """Whether an object touches a side of the view that is not the volume's."""
        seen, (_, rows, columns) = view.window.transposed(self.axes), self.sight.shape
        (_, top, left), (_, bottom, right) = seen.start, seen.stop
        sides = (
            (0, 0, top > 0),
            (0, -1, bottom < rows),
            (1, 0, left > 0),
            (1, -1, right < columns),
        )
        inner = [(axis, place) for axis, place, is_open in sides if is_open]
        masks = [each.mask for each in found.slices.values()]
        return any(bool(m.take(place, axis).any()) for m in masks for axis, place in inner)


def _within(marks: Mapping[int, SliceMark], view: StackView) -> dict[int, SliceMark]:
    seen = view.window.transposed(view.axes)
    frame = Window(start=seen.start[1:], stop=seen.stop[1:])
    shown = {k: mark.within(frame) for k, mark in marks.items()}
    return {k: mark for k, mark in shown.items() if mark is not None}


def _piece(number: int, view: StackView, k: int, found: SliceFound) -> Answers:
    """An object on a slice, its mask turned as the volume is."""
    z, y, x = np.argsort(view.axes).tolist()
    x0, y0, x1, y1 = mask_box(found.mask)
    inner = found.mask[None, y0:y1, x0:x1].transpose(z, y, x)
    box = Window(start=(k, y0, x0), stop=(k + 1, y1, x1)).transposed((z, y, x))
    place = box.shifted(view.window.start)
    return Answers(
        prompts=np.array([number], np.int64),
        boxes=np.array([[*place.start, *place.stop]], np.int64),
        areas=np.array([inner.sum()], np.int64),
        predicted_iou=np.array([found.predicted_iou], np.float32),
        stability=np.array([found.stability], np.float32),
        points=np.full((1, 2), np.nan, np.float32),
        factors=np.ones(1, np.int32),
        truncated=np.zeros(1, bool),
        missed=np.zeros(1, np.int32),
        rles=(encode_rle(inner.reshape(-1, inner.shape[2])),),
    )

"""From an annotated slice outward, one slice after the other, until the object ends.

A walk depends on its annotated slice alone, and how far it goes changes no slice of it. So two of
them can meet anywhere between two annotated slices, and a correction leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from samplat import InputError, between_masks
from samplat_volume.appearance import Appearance
from samplat_volume.projection import (
    Known,
    Projection,
    Sight,
    Step,
    expected,
    prompts_for,
    radius_of,
    reach_of,
    settled,
)
from samplat_volume.slices import Mask, SliceReader, SliceSegmenter

SURE = 0.8
"""A predicted IoU of good masks."""
HALF = 0.5
"""With less agreement an answer hardly moves what was expected; see `Walk.tips`."""
Origin = Literal["prompt", "walk", "bridge"]
End = Literal["limit", "volume", "faded", "doubt", "cancelled"]
"""Why a walk ended: as far as it was asked to go, at the volume's last slice, the mask became
empty, too many slices in a row were doubtful, or the caller wanted it."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When the object has ended. Distances are in mm, so that thick slices end alike."""

    least_confidence: float = 0.3
    """Slices of less are doubtful: predicted IoU times agreement, as a share of the annotated
    slice's predicted IoU, which is how sure the segmenter is of such an object. More than SURE does
    not count there, since a drawn mask is certain and no answer is."""
    patience: float = 0.0
    """Mm of doubtful slices that are bridged when the object is found again after them; one slice
    always is."""
    tolerance: float = 0.75
    """Pixels by which edges are unsure, besides what they may move between slices."""
    least_area: float = 0.0
    """Mm² below which a slice's mask counts as none; at least one pixel."""

    def __post_init__(self) -> None:
        if not 0 <= self.least_confidence < 1:
            raise InputError(f"expected 0 <= least_confidence < 1, got {self.least_confidence}")
        if min(self.patience, self.tolerance, self.least_area) < 0:
            raise InputError("patience, tolerance and least_area of stop rules must not be below 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceResult:
    """The object in one slice."""

    mask: Mask
    """(H, W)."""
    predicted_iou: float
    """Of the segmenter; 1 of a drawn mask."""
    agreement: float
    """How far the segmenter's answer lies where the slice before it lets the object be, and has
    grey levels like it, 0..1."""
    origin: Origin
    """Annotated, walked to, or a doubtful slice between two better ones, filled by their shapes."""

    @property
    def confidence(self) -> float:
        """Predicted IoU times agreement, 0..1."""
        return self.predicted_iou * self.agreement


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """What every walk of one object works with."""

    segmenter: SliceSegmenter
    """Asked slice by slice."""
    pixels: SliceReader | None
    """Reads slices; None: pixels are not looked at."""
    steps: tuple[float, float, float]
    """Mm between slices, rows, columns."""
    projection: Projection
    """How a slice is asked."""
    rules: Rules
    """When it ends."""
    taken: Callable[[int], Mask] | None
    """(H, W) of a slice. True: the pixel belongs to another object."""
    on_draft: Callable[[int, SliceResult], object] | None
    """Told of annotated slices before they are finished; `CancelledError` may come out of it."""
    on_slice: Callable[[int, SliceResult], object]
    """Told of every slice; likewise."""

    def allowed(self, index: int) -> Mask | None:
        """(H, W) of a slice. False: another object's; None: all is free."""
        return None if self.taken is None else ~self.taken(index)


class CancelledError(Exception):
    """The caller wants no more slices."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """Slices in the order in which they were walked."""

    start: int
    """The annotated slice."""
    direction: int
    """1 or -1."""
    results: dict[int, SliceResult]
    """By slice, without the annotated one, in order and without gaps."""
    end: End
    """Why it went no farther."""
    reached: int
    """The last slice it asked; doubtful ones at the end are not among the results."""
    tips: dict[int, Mask]
    """Of slices whose answer disagrees with the slice before, what the two have in common: the
    object's tip, if nothing comes after it."""

    def settled(self) -> dict[int, SliceResult]:
        """The results, the end of the object drawn as its tip."""
        results = dict(self.results)
        if self.end not in ("faded", "doubt"):
            return results
        while results and (last := next(reversed(results))) in self.tips:
            tip = replace(results.pop(last), mask=self.tips[last])
            if tip.mask.any():
                return results | {last: tip}
        return results

    def cut(self, limit: int) -> Walk:
        """The walk as it would have been had it gone only as far as a slice."""
        if (limit - self.reached) * self.direction >= 0:
            return self
        kept = {i: r for i, r in self.results.items() if (limit - i) * self.direction >= 0}
        while kept and kept[last := next(reversed(kept))].origin == "bridge":
            del kept[last]
        return replace(self, results=kept, end="limit", reached=limit)

    def covers(self, limit: int) -> bool:
        """Whether walking as far as a slice would give nothing new."""
        ended = self.end in ("volume", "faded", "doubt")
        return ended or (self.reached - limit) * self.direction >= 0

    @property
    def last(self) -> int:
        """The last slice; the annotated one where there is none."""
        return next(reversed(self.results), self.start)


@dataclass(kw_only=True)
class _Front:
    """Where a walk stands: the slices behind it, and the doubtful ones at its head."""

    known: Known
    sure: Known
    least: float
    results: dict[int, SliceResult] = field(default_factory=dict)
    doubtful: dict[int, Step] = field(default_factory=dict)
    tips: dict[int, Mask] = field(default_factory=dict)


def walk(
    space: Space,
    known: Known,
    look: Appearance | None,
    direction: int,
    limit: int,
    *,
    predicted_iou: float = 1.0,
) -> Walk:
    """From an annotated slice as far as `limit` at most.

    Args:
        space: what to work with.
        known: the object in the annotated slice.
        look: what it looks like there.
        direction: 1 or -1.
        limit: the last slice that may be asked.
        predicted_iou: of the annotated slice.
    """
    least = space.rules.least_confidence * min(predicted_iou, SURE)
    front, end = _Front(known=known, sure=known, least=least), _end_at(space, limit)
    reached, radius = known.index, radius_of(known.mask, space.steps[1:])
    try:
        for index in range(known.index + direction, limit + direction, direction):
            reached = index
            step = take(space, front.known, look, radius, index)
            if not _accept(space, front, step):
                end = "faded" if _empty(space, step.known.mask) else "doubt"
                break
    except CancelledError:
        end = "cancelled"
    return Walk(
        start=known.index,
        direction=direction,
        results=front.results,
        end=end,
        reached=reached,
        tips=front.tips,
    )


def take(space: Space, last: Known, look: Appearance | None, radius: float, index: int) -> Step:
    """The object in the next slice; `radius` is that of the annotated slice, in mm."""
    sight = None
    if look is not None and space.pixels is not None:
        sight = Sight(look=look, odds=look(space.pixels(index)))
    soft = expected(
        last,
        index,
        pixels=space.pixels,
        sight=sight,
        steps=space.steps,
        projection=space.projection,
    )
    prompts = prompts_for(soft, last.logits, space.steps[1:], space.projection)
    answers = space.segmenter(index, prompts) if prompts else []
    reach = reach_of(
        last.mask,
        radius,
        space.steps[0] * abs(index - last.index),
        space.steps[1:],
        slope=space.projection.slope,
        tolerance=space.rules.tolerance,
    )
    return settled(soft, answers, index, reach, space.steps[1:], space.allowed(index), sight)


def _accept(space: Space, front: _Front, step: Step) -> bool:
    """Go on to a slice, or not: the walk is over."""
    result = SliceResult(
        mask=step.known.mask,
        predicted_iou=step.predicted_iou,
        agreement=step.agreement,
        origin="walk",
    )
    if _empty(space, result.mask):
        return False
    if result.confidence < front.least:
        return _doubt(space, front, step)
    for index, doubtful in front.doubtful.items():
        bridge = _bridged(space, front.sure, step.known, doubtful)
        front.results[index] = bridge
        space.on_slice(index, bridge)
    front.doubtful.clear()
    front.known = front.sure = step.known
    front.results[step.known.index] = result
    if step.agreement < HALF:
        front.tips[step.known.index] = step.common
    space.on_slice(step.known.index, result)
    return True


def _doubt(space: Space, front: _Front, step: Step) -> bool:
    front.doubtful[step.known.index] = step
    front.known = step.known
    most = max(1, int(space.rules.patience / space.steps[0]))
    return len(front.doubtful) <= most


def _bridged(space: Space, before: Known, after: Known, doubtful: Step) -> SliceResult:
    """A doubtful slice between two better ones, drawn from their shapes."""
    index = doubtful.known.index
    mask = shape_between(space, before.index, before.mask, after.index, after.mask, index)
    return SliceResult(
        mask=mask,
        predicted_iou=doubtful.predicted_iou,
        agreement=doubtful.agreement,
        origin="bridge",
    )


def shape_between(space: Space, first: int, near: Mask, last: int, far: Mask, index: int) -> Mask:
    """The shape of a slice between two others, without what belongs to other objects."""
    mask = between_masks(near, far, (index - first) / (last - first), space.steps[1:])
    allowed = space.allowed(index)
    return mask if allowed is None else mask & allowed


def _empty(space: Space, mask: Mask) -> bool:
    area = np.count_nonzero(mask) * space.steps[1] * space.steps[2]
    return area == 0 or bool(area < space.rules.least_area)


def _end_at(space: Space, limit: int) -> End:
    return "volume" if limit in (0, space.segmenter.shape[0] - 1) else "limit"

"""One step of propagation: from the mask of a slice to the mask of the next.

::

    last mask ── moved by patches, weighed by grey levels ──▶ expected mask
    expected mask ── box, points, logits ──▶ prompts ──▶ answers of the segmenter
    expected mask + answers, each with its confidence ──▶ mask
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, mask_depth
from samplat_volume.appearance import Appearance
from samplat_volume.matching import carried, joined_pieces, reach_in_pixels
from samplat_volume.shapes import mask_box, scaled_box
from samplat_volume.slices import Mask, SliceAnswer, SlicePrompt, SliceReader

Kind = Literal["box", "points", "logits", "box+points", "box+logits"]
KINDS: tuple[Kind, ...] = ("box", "points", "logits", "box+points", "box+logits")
EDGE = 0.02
"""Shares below this and above 1 minus this are taken as this, in log odds."""
POSSIBLE = 0.01
"""Grey levels add nothing where the last mask cannot have moved to."""
FAINT = 0.1
"""Of a soft mask, what is below this is nowhere."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """How the next slice is asked. The defaults measure best with the bundled model."""

    kinds: tuple[Kind, ...] = ("box",)
    """One prompt for each; the answers are averaged by confidence."""
    scales: tuple[float, ...] = (0.9, 1.0)
    """Each kind with a box is asked with the expected mask's box at each of these scales."""
    appearance: float = 0.6
    """Weight of the grey levels' log odds; 0: they are not looked at."""
    fading: float = 0.4
    """Log odds taken off at every step where pixels are read: what nothing speaks for fades."""
    slope: float = 1.0
    """Mm by which an object's edge may move sideways for each mm between slices."""

    def __post_init__(self) -> None:
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise InputError(f"expected kinds of {', '.join(KINDS)}; got {self.kinds}")
        if not self.scales or min(self.scales) <= 0:
            raise InputError(f"expected scales of boxes above 0, got {self.scales}")
        if not self.slope > 0 or not min(self.appearance, self.fading) >= 0:
            raise InputError(
                "expected a slope above 0, and appearance and fading of at least 0, got "
                f"{self.slope}, {self.appearance} and {self.fading}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What is known of the object in a slice."""

    index: int
    """The slice."""
    soft: NDArray[np.float32]
    """(H, W) how far each pixel belongs to it, 0..1."""
    logits: NDArray[np.float32] | None
    """(h, w) of the segmenter's answer."""

    @property
    def mask(self) -> Mask:
        """(H, W)."""
        inside: Mask = self.soft > 0.5
        return inside


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """How far a slice looks like an object."""

    look: Appearance
    """The object's."""
    odds: NDArray[np.float32]
    """(H, W) its log odds in the slice."""

    def likeness(self, mask: Mask) -> float:
        """How far a mask looks like the object."""
        return self.look.likeness(self.odds, mask)


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The next slice."""

    known: Known
    """The object there; its mask may be empty."""
    predicted_iou: float
    """Of the best answer."""
    agreement: float
    """How far the answers lie where the last slice lets the object be, and look like it, 0..1."""
    common: Mask
    """(H, W) what the best answer and the expected mask have in common."""


def expected(
    last: Known,
    index: int,
    *,
    pixels: SliceReader | None,
    sight: Sight | None,
    steps: tuple[float, float, float],
    projection: Projection,
) -> NDArray[np.float32]:
    """(H, W) soft mask of the object in a slice, before the segmenter is asked.

    Args:
        last: the object in a slice nearby.
        index: the slice.
        pixels: reads slices; None: the last mask stays where it is.
        sight: what the slice looks like.
        steps: mm between slices, rows, columns.
        projection: how far it can have moved, and what grey levels count.
    """
    if pixels is None:
        return last.soft
    distance = steps[0] * abs(index - last.index)
    reach = reach_in_pixels(projection.slope, distance, steps[1:])
    now = pixels(index)
    moved = carried(last.soft, pixels(last.index), now, reach)
    odds = np.log((moved + EDGE) / (1 + EDGE - moved)) - projection.fading
    if sight is not None:
        odds += projection.appearance * sight.odds * (moved > POSSIBLE)
    soft: NDArray[np.float32] = (1 / (1 + np.exp(-odds))).astype(np.float32)
    return soft


def prompts_for(
    soft: NDArray[np.float32],
    logits: NDArray[np.float32] | None,
    steps: tuple[float, float],
    projection: Projection,
) -> list[SlicePrompt]:
    """What the segmenter is asked about an expected mask; nothing where it is empty.

    A kind that needs logits is asked with the box alone where there are none.
    """
    mask = soft > 0.5
    if not mask.any():
        return []
    box, point = mask_box(mask), inmost_point(mask, steps)
    prompts = []
    for kind in projection.kinds:
        parts = set(kind.split("+"))
        if "logits" in parts and logits is None:
            parts = {"box"}
        given = {"points": [point] if "points" in parts else None}
        kept = logits if "logits" in parts else None
        for scale in projection.scales if "box" in parts else (None,):
            cut = None if scale is None else scaled_box(box, scale, mask.shape)
            prompts.append(SlicePrompt(box=cut, logits=kept, **given))
    return prompts


def inmost_point(mask: Mask, steps: tuple[float, float]) -> tuple[int, int]:
    """The pixel x, y farthest from the edge of a mask that is not empty."""
    y, x = np.unravel_index(mask_depth(mask, steps).argmax(), mask.shape)
    return int(x), int(y)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far an edge can lie from where it was expected, in mm."""

    inward: float
    """Towards the object's middle,"""
    outward: float
    """and away from it."""


def reach_of(
    mask: Mask,
    radius: float,
    distance: float,
    steps: tuple[float, float],
    *,
    slope: float,
    tolerance: float,
) -> Reach:
    """What an edge may move between two slices.

    Outward `slope` mm for each mm; inward that, or what the surface of a ball recedes, since every
    object closes like one at its ends.

    Args:
        mask: the object in the first of the slices.
        radius: of the ball, mm.
        distance: mm between the slices.
        steps: mm between rows and columns.
        slope: see above.
        tolerance: pixels by which edges are unsure besides.
    """
    unsure = tolerance * max(steps)
    here = min(radius_of(mask, steps), radius)
    height = np.sqrt(radius**2 - here**2) + distance
    there = np.sqrt(max(radius**2 - height**2, 0.0))
    steady = slope * distance
    return Reach(inward=max(steady, here - there) + unsure, outward=steady + unsure)


def radius_of(mask: Mask, steps: tuple[float, float]) -> float:
    """Mm: of the disc of a mask's area."""
    return float(np.sqrt(np.count_nonzero(mask) * steps[0] * steps[1] / np.pi))


def agreement(answer: Mask, wanted: Mask, reach: Reach, steps: tuple[float, float]) -> float:
    """How far a mask's edge lies within reach of another one's, 0..1.

    The share of it that is not farther outside, times the share of what lies farther inside that it
    holds. Any shape between the eroded and the dilated one agrees fully.
    """
    if not answer.any() or not wanted.any():
        return 0.0
    inward = mask_depth(wanted, steps)
    core = inward > reach.inward
    near = np.count_nonzero(answer & (inward > -reach.outward)) / np.count_nonzero(answer)
    return near * (np.count_nonzero(answer & core) / core.sum() if core.any() else 1.0)


def settled(
    soft: NDArray[np.float32],
    answers: Sequence[SliceAnswer],
    index: int,
    reach: Reach,
    steps: tuple[float, float],
    allowed: Mask | None,
    sight: Sight | None = None,
) -> Step:
    """The object in a slice: what was expected and the answers, by their confidence.

    An answer counts with the square of its confidence c, the expectation with what is left to 1.
    So a segmenter that is sure and agrees is followed, and one that fails is not.

    Args:
        soft: the expected mask (H, W).
        answers: of the segmenter.
        index: the slice.
        reach: how far edges can have moved.
        steps: mm between rows and columns.
        allowed: (H, W). False: the pixel belongs to another object.
        sight: what the slice looks like; None: that does not matter.
    """
    wanted = soft > 0.5
    if allowed is not None:
        soft = soft * allowed
    masks = [a.mask if allowed is None else a.mask & allowed for a in answers]
    like = [1.0 if sight is None else sight.likeness(m) for m in masks]
    agreed = [f * agreement(m, wanted, reach, steps) for f, m in zip(like, masks, strict=True)]
    sure = np.array([a.predicted_iou * g for a, g in zip(answers, agreed, strict=True)])
    if not sure.any():
        nothing = SliceAnswer(mask=np.zeros_like(wanted), predicted_iou=0.0)
        return _step(index, soft, wanted, nothing, 0.0)
    best = int(sure.argmax())
    weights = sure**2 / sure.sum()
    share = float(weights.sum())
    drawn = np.tensordot(weights, np.stack(masks).astype(np.float32), axes=1)
    mixed = ((1 - share) * soft + drawn).astype(np.float32)
    return _step(index, mixed, wanted, replace(answers[best], mask=masks[best]), agreed[best])


def _step(
    index: int,
    soft: NDArray[np.float32],
    wanted: Mask,
    best: SliceAnswer,
    agreed: float,
) -> Step:
    inside = soft > 0.5
    if inside.any():
        inside = joined_pieces(inside, wanted)
        soft = soft * joined_pieces(soft > FAINT, inside)
    return Step(
        known=Known(index=index, soft=soft, logits=best.logits),
        predicted_iou=float(best.predicted_iou),
        agreement=float(agreed),
        common=best.mask & wanted,
    )

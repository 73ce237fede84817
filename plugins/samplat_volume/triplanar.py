"""One object seen along all three axes, and what the three say together.

::

    prompt ── propagated along its own axis ──▶ a first volume
    a first volume ── a box on every slice of the two other axes ──▶ two more volumes
    three volumes, each voxel with its slice's confidence ──▶ the consensus
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat import InputError
from samplat_volume.projection import Projection, Reach, agreement
from samplat_volume.propagation import Propagation, Settings, Taken, propagate
from samplat_volume.shapes import mask_box
from samplat_volume.slices import (
    Mask,
    SliceAnswer,
    SlicePrompt,
    SliceReader,
    SliceSegmenter,
    reordered,
)
from samplat_volume.walks import CancelledError, Rules

OnPlane = Callable[[int, int, Mask, float], bool | None]
"""Told of the axis, number, mask and confidence of each slice across the others; False: no more."""
SMOOTH = 0.6
"""Standard deviation with which votes are smoothed, in the finest of the three spacings."""


class Planes(Protocol):
    """A volume that can be asked across every axis."""

    def segmenter(self, axis: int) -> SliceSegmenter:
        """Of the slices across an axis."""
        ...

    def reader(self, axis: int) -> SliceReader | None:
        """Reads them; None: pixels are not looked at."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaneReport:
    """What the slices across one axis said."""

    axis: int
    """0, 1 or 2: across z, y or x."""
    mask: Mask
    """(z, y, x)."""
    confidences: NDArray[np.float32]
    """(slices,) predicted IoU times agreement; NaN where the object is not."""
    dice: float
    """With the consensus."""

    @property
    def confidence(self) -> float:
        """The mean over the slices in which the object is."""
        known = self.confidences[np.isfinite(self.confidences)]
        return float(known.mean()) if known.size else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Consensus:
    """An object on which three axes agree."""

    mask: Mask
    """(z, y, x). True: the voxel belongs to the object."""
    support: NDArray[np.float32]
    """(z, y, x) the share of confidence that says so around the voxel, 0..1."""
    planes: tuple[PlaneReport, PlaneReport, PlaneReport]
    """Across z, y and x."""
    first: Propagation
    """Along the axis of the prompts."""


def triplanar(
    planes: Planes,
    axis: int,
    prompts: Mapping[int, SlicePrompt],
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    projection: Projection | None = None,
    rules: Rules | None = None,
    taken: Mask | None = None,
    earlier: Propagation | None = None,
    on_plane: OnPlane | None = None,
) -> Consensus:
    """Follow an object along its prompts' axis, look at it along the others, let all three vote.

    A prompt's box says how far the object goes in two axes; the propagation says it of the third.
    So every slice across the others has a box as well.

    Args:
        planes: the volume's slices.
        axis: 0, 1 or 2: the prompts are on slices across z, y or x.
        prompts: as of `propagate`.
        spacing: (z, y, x) mm.
        projection: as of `propagate`; the other axes need only its slope.
        rules: likewise.
        taken: (z, y, x). True: the voxel belongs to another object.
        earlier: as of `propagate`, along the prompts' axis.
        on_plane: told of each slice across the other axes as it is done.

    Raises:
        InputError: as `propagate`, or an axis that is none.
        CancelledError: `on_plane` returned False.
    """
    if axis not in (0, 1, 2):
        raise InputError(f"expected axis 0, 1 or 2 for z, y or x, got {axis}")
    settings = [
        Settings(
            steps=reordered(spacing, a),
            projection=projection or Projection(),
            rules=rules or Rules(),
        )
        for a in range(3)
    ]
    first = propagate(
        planes.segmenter(axis),
        prompts,
        settings=settings[axis],
        pixels=planes.reader(axis),
        taken=_slices_of(taken, axis),
        earlier=earlier,
    )
    start = np.moveaxis(first.mask(), 0, axis)
    views = {axis: (start, first.confidences())}
    for other in {0, 1, 2} - {axis}:
        views[other] = across(
            planes.segmenter(other), start, other, settings[other], on_plane=on_plane
        )
    return _agreed(views, first, spacing, taken)


def across(
    segmenter: SliceSegmenter,
    start: Mask,
    axis: int,
    settings: Settings,
    *,
    on_plane: OnPlane | None = None,
) -> tuple[Mask, NDArray[np.float32]]:
    """What the slices across an axis make of a volume (z, y, x), asked with its box in each.

    Returns:
        mask (z, y, x), and confidences (slices,), NaN where the volume is empty.
    """
    stack = np.moveaxis(start, axis, 0)
    mask, confidences = np.zeros_like(stack), np.full(len(stack), np.nan, np.float32)
    for index in np.flatnonzero(stack.any(axis=(1, 2))):
        box = mask_box(stack[index])
        answer = segmenter(int(index), [SlicePrompt(box=box)])[0]
        mask[index] = answer.mask
        confidences[index] = sure = _confidence(answer, stack[index], settings)
        if on_plane is not None and on_plane(axis, int(index), answer.mask, sure) is False:
            raise CancelledError
    return np.moveaxis(mask, 0, axis), confidences


def _confidence(answer: SliceAnswer, wanted: Mask, settings: Settings) -> float:
    steps = settings.steps
    far = settings.projection.slope * steps[0] + settings.rules.tolerance * max(steps[1:])
    reach = Reach(inward=far, outward=far)
    return answer.predicted_iou * agreement(answer.mask, wanted, reach, steps[1:])


def _slices_of(taken: Mask | None, axis: int) -> Taken | None:
    if taken is None:
        return None
    stack = np.moveaxis(taken, axis, 0)

    def held(index: int) -> Mask:
        part: Mask = stack[index]
        return part

    return held


def _agreed(
    views: Mapping[int, tuple[Mask, NDArray[np.float32]]],
    first: Propagation,
    spacing: tuple[float, float, float],
    taken: Mask | None,
) -> Consensus:
    """Each voxel is decided by its three slices, each with the square of its confidence.

    Neighbours have a say in it: slices are drawn one by one, and what only one of them holds is
    rarely there.
    """
    from scipy.ndimage import gaussian_filter

    masks = [views[axis][0] for axis in range(3)]
    weights = [_spread(views[axis][1], axis) for axis in range(3)]
    total = sum(weights, np.zeros(masks[0].shape, np.float32))
    votes: Any = sum(m * w for m, w in zip(masks, weights, strict=True))
    support = np.divide(votes, total, out=np.zeros_like(total), where=total > 0)
    support = gaussian_filter(support, [SMOOTH * min(spacing) / s for s in spacing])
    if taken is not None:
        support[taken] = 0
    mask = support > 0.5
    reports = [
        PlaneReport(axis=a, mask=masks[a], confidences=views[a][1], dice=dice(masks[a], mask))
        for a in range(3)
    ]
    return Consensus(
        mask=mask, support=support, planes=(reports[0], reports[1], reports[2]), first=first
    )


def _spread(confidences: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Weights of the slices across an axis, to be multiplied with a volume."""
    shape: Sequence[int] = [len(confidences) if a == axis else 1 for a in range(3)]
    # Where the object is not, a plane says so as surely as it says elsewhere that it is.
    known = np.isfinite(confidences)
    filled = np.where(known, confidences, confidences[known].mean() if known.any() else 0)
    weights: NDArray[np.float32] = (filled**2).astype(np.float32).reshape(shape)
    return weights


def dice(a: Mask, b: Mask) -> float:
    """Twice the intersection over the sum; 1 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0

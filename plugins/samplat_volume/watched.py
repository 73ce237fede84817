"""An object that is followed while somebody looks on: slice by slice, along one axis or all three.

::

    marks ── propagated along their axis ──▶ told, slice by slice ──▶ done, or:
    ── boxes across the other axes ──▶ told ──▶ what all three agree on
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import Embedding, InputError, SliceFound, SliceMark, StackFollowed, StackView
from samplat_volume.model_slices import ModelSlices
from samplat_volume.propagated import SeenStack, prompt_of
from samplat_volume.propagation import Propagation, Settings, propagate
from samplat_volume.slices import Mask, SlicePrompt, SliceSegmenter, SliceStack
from samplat_volume.triplanar import Consensus, triplanar
from samplat_volume.walks import CancelledError, SliceResult

if TYPE_CHECKING:
    from samplat import Model

Told = Callable[[int, int, SliceFound], bool | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Memory:
    """What an object is followed from again."""

    axis: int
    """Across which its slices are."""
    first: Propagation
    """Along it."""
    taken: Mask | None
    """(z, y, x) what belonged to others."""

    def helps(self, axis: int, taken: Mask | None) -> bool:
        """Whether its walks are worth something to `propagate`: no voxel became free."""
        if axis != self.axis:
            return False
        return self.taken is None or (taken is not None and not (self.taken & ~taken).any())


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Follows an object, and tells of every slice."""

    slices: Callable[[SliceStack], SliceSegmenter]
    """Who segments the slices of a stack."""

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
        """See `samplat.StackFollower`."""
        planes = _Planes(views=views, slices=self.slices)
        size = planes.reader(axis).shape[1:]
        prompts = {k: prompt_of(mark, size) for k, mark in sorted(marks.items())}
        helps = earlier is not None and earlier.helps(axis, taken)

        def on_slice(index: int, result: SliceResult) -> bool | None:
            return None if told is None else told(axis, index, _found(result))

        first = propagate(
            planes.segmenter(axis),
            prompts,
            settings=Settings(steps=planes.reader(axis).steps),
            pixels=planes.reader(axis),
            taken=planes.held(axis, taken),
            earlier=earlier.first if helps else None,
            on_draft=on_slice,
            on_slice=on_slice,
        )
        memory = Memory(axis=axis, first=first, taken=taken)
        if first.cancelled or len(views) == 1:
            return _along(memory, cancelled=first.cancelled)
        return _agreed(planes, memory, prompts, told)


def _along(memory: Memory, *, cancelled: bool) -> StackFollowed:
    """What its own axis says."""
    first = memory.first
    return StackFollowed(
        slices={k: _found(each) for k, each in first.slices.items() if each.mask.any()},
        confidences={memory.axis: first.confidences()},
        marked=frozenset(first.annotated),
        cancelled=cancelled,
        memory=memory,
    )


def _agreed(
    planes: _Planes, memory: Memory, prompts: Mapping[int, SlicePrompt], told: Told | None
) -> StackFollowed:
    """What all three axes say."""

    def on_plane(axis: int, index: int, mask: Mask, sure: float) -> bool | None:
        found = SliceFound(mask=mask, predicted_iou=sure)
        return None if told is None else told(axis, index, found)

    axis, held = memory.axis, planes.held_everywhere(memory.axis, memory.taken)
    np.moveaxis(held, axis, 0)[nowhere(prompts, memory.first.shape[0])] = True
    try:
        seen = triplanar(
            planes,
            axis,
            prompts,
            spacing=planes.spacing(axis),
            taken=held,
            earlier=memory.first,
            on_plane=on_plane,
        )
    except CancelledError:
        return _along(memory, cancelled=True)
    if not seen.mask.any():
        raise InputError("the three planes agree on no voxel; look along one axis alone")
    return StackFollowed(
        slices=_slices(seen, axis),
        confidences={each.axis: each.confidences for each in seen.planes},
        marked=frozenset(memory.first.annotated),
        cancelled=False,
        memory=memory,
    )


def nowhere(prompts: Mapping[int, SlicePrompt], count: int) -> list[int]:
    """Slices that stops say the object is not in: their own, and those that they shut off."""
    stops = {k for k, prompt in prompts.items() if prompt.stops}
    shut = set(stops)
    for first, last in pairwise([-1, *sorted(prompts), count]):
        ends = {first, last} - {-1, count}
        if ends and ends <= stops:
            shut |= set(range(first + 1, last))
    return sorted(shut)


def _slices(seen: Consensus, axis: int) -> dict[int, SliceFound]:
    stack, sure = np.moveaxis(seen.mask, axis, 0), seen.planes[axis].confidences
    return {
        int(k): SliceFound(mask=stack[k], predicted_iou=float(np.nan_to_num(sure[k])))
        for k in np.flatnonzero(stack.any(axis=(1, 2)))
    }


def _found(result: SliceResult) -> SliceFound:
    return SliceFound(
        mask=result.mask, predicted_iou=result.predicted_iou, stability=result.agreement
    )


class _Planes:
    """Views across one axis or three, and who segments their slices."""

    def __init__(
        self, *, views: Mapping[int, StackView], slices: Callable[[SliceStack], SliceSegmenter]
    ) -> None:
        self._stacks = {axis: SeenStack(view) for axis, view in views.items()}
        self._segmenters = {axis: slices(stack) for axis, stack in self._stacks.items()}

    def segmenter(self, axis: int) -> SliceSegmenter:
        """Of the slices across an axis."""
        return self._segmenters[axis]

    def reader(self, axis: int) -> SeenStack:
        """Reads them."""
        return self._stacks[axis]

    def spacing(self, axis: int) -> tuple[float, float, float]:
        """Lengths of a voxel along z, y, x."""
        steps = list(self._stacks[axis].steps)
        steps.insert(axis, steps.pop(0))
        return steps[0], steps[1], steps[2]

    def held(self, axis: int, taken: Mask | None) -> Callable[[int], Mask]:
        """Of a slice, what cannot be the object's: there is no voxel, or it is another's."""
        stack = self._stacks[axis]

        def mask(index: int) -> Mask:
            invalid = stack.invalid(index)
            return invalid if taken is None else invalid | taken.take(index, axis)

        return mask

    def held_everywhere(self, axis: int, taken: Mask | None) -> Mask:
        """(z, y, x) the same of all slices."""
        held, count = self.held(axis, taken), self._stacks[axis].shape[0]
        return np.stack([held(k) for k in range(count)], axis=axis)


def watcher(model: Model, embed: Callable[[NDArray[np.uint8]], Embedding]) -> Watcher:
    """Who follows objects with a model.

    Args:
        model: loaded.
        embed: pixels of a slice to their embedding, remembered by whoever asks.
    """

    def slices(stack: SliceStack) -> SliceSegmenter:
        return ModelSlices(model, stack, embed=lambda _, pixels: embed(pixels), remembered=1)

    return Watcher(slices=slices)

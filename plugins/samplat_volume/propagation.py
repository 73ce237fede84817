"""Prompts on one or more slices become an object in three dimensions.

::

    slices    0 . . . . . 5 . . . . . 11 . . . . . 17 . . .
    prompts               +           +            -
                <─────────┘──────><───┘───────────>┘            - : negative points alone, a stop

Annotated slices come first; from each one a walk goes outward on both sides, and two that face each
other meet in the middle. See `samplat_volume.walks` and `samplat_volume.projection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError
from samplat_volume.appearance import Appearance, appearance
from samplat_volume.projection import Known, Projection
from samplat_volume.slices import (
    DraftingSegmenter,
    Mask,
    SliceAnswer,
    SlicePrompt,
    SliceReader,
    SliceSegmenter,
)
from samplat_volume.walks import (
    CancelledError,
    Rules,
    SliceResult,
    Space,
    Walk,
    shape_between,
    walk,
)

OnSlice = Callable[[int, SliceResult], bool | None]
"""Told of each slice when it is done; False ends the propagation there."""
Taken = Callable[[int], Mask]
"""(H, W) of a slice. True: the pixel belongs to another object."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a propagation besides its prompts and the segmenter."""

    steps: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Mm between slices, rows, columns."""
    projection: Projection = field(default_factory=Projection)
    """How the next slice is asked."""
    rules: Rules = field(default_factory=Rules)
    """When the object has ended."""

    def __post_init__(self) -> None:
        if len(self.steps) != 3 or not all(np.isfinite(s) and s > 0 for s in self.steps):
            raise InputError(f"expected three steps in mm above 0, got {self.steps}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Propagation:
    """An object as far as it was followed."""

    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    slices: Mapping[int, SliceResult]
    """The slices in which it lies, in order."""
    prompts: Mapping[int, SlicePrompt]
    """What it was made from."""
    settings: Settings
    """Likewise."""
    annotated: Mapping[int, Known]
    """What the segmenter made of the prompts, stops excepted."""
    walks: tuple[Walk, ...]
    """One for each annotated slice and side; each says why it ended."""
    cancelled: bool
    """Whether the caller ended it early."""

    def mask(self) -> Mask:
        """(slices, rows, columns). True: the voxel belongs to the object."""
        volume = np.zeros(self.shape, bool)
        for index, result in self.slices.items():
            volume[index] = result.mask
        return volume

    def confidences(self) -> NDArray[np.float32]:
        """(slices,) NaN where the object is not."""
        values = np.full(self.shape[0], np.nan, np.float32)
        for index, result in self.slices.items():
            values[index] = result.confidence
        return values

    def doubtful(self, most: int = 5) -> list[int]:
        """The slices to look at, least confident first; annotated ones are not among them."""
        walked = [(r.confidence, i) for i, r in self.slices.items() if r.origin != "prompt"]
        return [index for _, index in sorted(walked)[:most]]


def propagate(
    segmenter: SliceSegmenter,
    prompts: Mapping[int, SlicePrompt],
    *,
    settings: Settings | None = None,
    pixels: SliceReader | None = None,
    taken: Taken | None = None,
    earlier: Propagation | None = None,
    on_draft: OnSlice | None = None,
    on_slice: OnSlice | None = None,
) -> Propagation:
    """Follow one object through a stack of slices.

    Args:
        segmenter: asked slice by slice; a slice that is not visited costs nothing.
        prompts: by slice. Negative points alone say that the object is not in a slice, and end it
            there.
        settings: spacing, projection and stop rules.
        pixels: reads the slices, so that masks are moved with the pictures; None: the segmenter's
            answers are all there is.
        taken: what belongs to other objects, and never to this one.
        earlier: a propagation of this object in the same stack with the same `pixels`. Walks that
            other prompts do not change are taken from it; `taken` may have grown since.
        on_draft: told of each annotated slice before a segmenter that looks twice has finished it;
            False ends the propagation with nothing.
        on_slice: told of each slice as it is done, first the annotated ones.

    Raises:
        InputError: no positive prompt, a prompt outside of the stack, or one that finds nothing.
    """
    settings = settings or Settings()
    check_prompts(prompts, segmenter.shape)
    space = _space(segmenter, settings, pixels, taken, on_draft, on_slice)
    kept = _Kept.of(earlier, settings, prompts, space)
    made = _Made(prompts={i: prompts[i] for i in sorted(prompts)}, settings=settings)
    try:
        _annotate(space, made, kept)
        for section in pairwise([-1, *made.prompts, segmenter.shape[0]]):
            _follow(space, made, kept, section)
    except CancelledError:
        made.cancelled = True
    return made.frozen(segmenter.shape)


def correct(
    segmenter: SliceSegmenter,
    earlier: Propagation,
    index: int,
    prompt: SlicePrompt | None,
    *,
    pixels: SliceReader | None = None,
    taken: Taken | None = None,
    on_slice: OnSlice | None = None,
) -> Propagation:
    """The same object with another prompt on one slice; None removes that slice's prompt.

    The result is that of `propagate` with all prompts, and only slices between this one and the
    annotated slices next to it are asked again.
    """
    prompts = {i: p for i, p in earlier.prompts.items() if i != index}
    if prompt is not None:
        prompts[index] = prompt
    return propagate(
        segmenter,
        prompts,
        settings=earlier.settings,
        pixels=pixels,
        taken=taken,
        earlier=earlier,
        on_slice=on_slice,
    )


def propagate_objects(
    segmenter: SliceSegmenter,
    objects: Sequence[Mapping[int, SlicePrompt]],
    *,
    settings: Settings | None = None,
    pixels: SliceReader | None = None,
    taken: Taken | None = None,
    on_slice: OnSlice | None = None,
) -> tuple[Propagation, ...]:
    """Several objects, one after the other: voxels of a finished one are not taken by the next.

    Arguments as of `propagate`. After a cancelled object no other one is begun.
    """
    done: list[Propagation] = []
    for prompts in objects:
        made = propagate(
            segmenter,
            prompts,
            settings=settings,
            pixels=pixels,
            taken=protected(segmenter.shape[1:], done, taken),
            on_slice=on_slice,
        )
        done.append(made)
        if made.cancelled:
            break
    return tuple(done)


def protected(
    size: tuple[int, int], finished: Sequence[Propagation], taken: Taken | None = None
) -> Taken:
    """What finished objects hold, slice by slice, and what was taken before."""
    objects = tuple(finished)

    def held(index: int) -> Mask:
        mask = np.zeros(size, bool) if taken is None else taken(index).copy()
        for each in objects:
            if index in each.slices:
                mask |= each.slices[index].mask
        return mask

    return held


def check_prompts(prompts: Mapping[int, SlicePrompt], shape: tuple[int, int, int]) -> None:
    """Refuse prompts that no propagation can begin with.

    Raises:
        InputError: names the first slice whose prompt is at fault.
    """
    for index, prompt in sorted(prompts.items()):
        if not 0 <= index < shape[0]:
            raise InputError(
                f"a prompt lies on slice {index}, but the slices are 0 to {shape[0] - 1}"
            )
        _check_inside(index, prompt, shape[1:])
    if all(p.stops for p in prompts.values()):
        raise InputError(
            "expected a slice with a box, a positive point or a mask; negative points alone only "
            "say where the object is not"
        )


def _check_inside(index: int, prompt: SlicePrompt, size: tuple[int, int]) -> None:
    from samplat import Prompts

    if prompt.drawn is not None and prompt.drawn.shape != size:
        raise InputError(f"the mask drawn on slice {index} is {prompt.drawn.shape}, not {size}")
    if prompt.points is None and prompt.box is None:
        return
    points = None if prompt.points is None else prompt.points[None]
    boxes = None if prompt.box is None else prompt.box[None]
    try:
        Prompts(points=points, boxes=boxes).check_inside(size)
    except InputError as error:
        raise InputError(f"slice {index}: {error}") from None


@dataclass(kw_only=True, eq=False)
class _Made:
    """A propagation in the making."""

    prompts: dict[int, SlicePrompt]
    settings: Settings
    slices: dict[int, SliceResult] = field(default_factory=dict)
    annotated: dict[int, Known] = field(default_factory=dict)
    walks: list[Walk] = field(default_factory=list)
    cancelled: bool = False

    def add(self, made: Walk) -> None:
        """Another walk and its slices."""
        self.walks.append(made)
        self.slices |= made.settled()

    def frozen(self, shape: tuple[int, int, int]) -> Propagation:
        """The value."""
        return Propagation(
            shape=shape,
            slices=MappingProxyType(dict(sorted(self.slices.items()))),
            prompts=MappingProxyType(self.prompts),
            settings=self.settings,
            annotated=MappingProxyType(self.annotated),
            walks=tuple(self.walks),
            cancelled=self.cancelled,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """What holds as it is of an earlier propagation."""

    slices: Mapping[int, SliceResult]
    """Annotated slices."""
    annotated: Mapping[int, Known]
    """The same for walks."""
    walks: Mapping[tuple[int, int], Walk]
    """By annotated slice and direction."""

    @classmethod
    def of(
        cls,
        earlier: Propagation | None,
        settings: Settings,
        prompts: Mapping[int, SlicePrompt],
        space: Space,
    ) -> _Kept:
        """What neither the prompts nor other objects have changed since."""
        if earlier is None or (earlier.settings, earlier.shape) != (
            settings,
            space.segmenter.shape,
        ):
            return cls(slices={}, annotated={}, walks={})
        same = {i for i in earlier.annotated if _equal(prompts.get(i), earlier.prompts[i])}
        free = {i for i in same if not _taken_from(space, {i: earlier.slices[i]})}
        return cls(
            slices={i: earlier.slices[i] for i in free},
            annotated={i: earlier.annotated[i] for i in free},
            walks={
                (w.start, w.direction): w
                for w in earlier.walks
                if w.start in free and not _taken_from(space, w.results)
            },
        )


def _taken_from(space: Space, results: Mapping[int, SliceResult]) -> bool:
    """Whether another object holds voxels of these slices."""
    if space.taken is None:
        return False
    return any((r.mask & space.taken(i)).any() for i, r in results.items())


def _annotate(space: Space, made: _Made, kept: _Kept) -> None:
    """The annotated slices, before all others."""
    for index, prompt in made.prompts.items():
        if prompt.stops:
            continue
        if index in kept.annotated:
            result, known = kept.slices[index], kept.annotated[index]
        else:
            result, known = _annotated(space, index, prompt)
        made.slices[index], made.annotated[index] = result, known
        space.on_slice(index, result)


def _annotated(space: Space, index: int, prompt: SlicePrompt) -> tuple[SliceResult, Known]:
    allowed = space.allowed(index)

    def seen(answer: SliceAnswer) -> SliceResult:
        mask = answer.mask if allowed is None else answer.mask & allowed
        return SliceResult(
            mask=mask, predicted_iou=answer.predicted_iou, agreement=1.0, origin="prompt"
        )

    def drafted(answer: SliceAnswer) -> None:
        if space.on_draft is not None:
            space.on_draft(index, seen(answer))

    answer = _answer(space, index, prompt, drafted)
    result = seen(answer)
    if not result.mask.any():
        raise InputError(
            f"the prompt on slice {index} finds nothing there that is not taken by another object; "
            "move it onto the object"
        )
    return result, Known(index=index, soft=result.mask.astype(np.float32), logits=answer.logits)


def _answer(
    space: Space, index: int, prompt: SlicePrompt, drafted: Callable[[SliceAnswer], object]
) -> SliceAnswer:
    if prompt.drawn is not None:
        return SliceAnswer(mask=prompt.drawn, predicted_iou=1.0)
    if space.on_draft is not None and isinstance(space.segmenter, DraftingSegmenter):
        return space.segmenter.drafted(index, prompt, drafted)
    return space.segmenter(index, [prompt])[0]


def _follow(space: Space, made: _Made, kept: _Kept, section: tuple[int, int]) -> None:
    """The slices between two that are annotated; -1 and the number of slices are the ends."""
    start, stop = section
    first, last = made.annotated.get(start), made.annotated.get(stop)
    if first is None or last is None:
        if first is not None:
            _walk(space, made, kept, first, 1, stop - 1)
        if last is not None:
            _walk(space, made, kept, last, -1, start + 1)
        return
    middle = (start + stop) // 2
    up = _walk(space, made, kept, first, 1, middle)
    down = _walk(space, made, kept, last, -1, up.last + 1)
    if down.last > middle + 1 and up.last == middle:
        # The other one ended early, and this one goes on to where it did.
        made.walks.remove(up)
        _walk(space, made, kept, first, 1, down.last - 1)
    _fill(space, made, start, stop)


def _walk(space: Space, made: _Made, kept: _Kept, known: Known, direction: int, limit: int) -> Walk:
    before = kept.walks.get((known.index, direction))
    if before is not None and before.covers(limit):
        walked = before.cut(limit)
    else:
        sure = made.slices[known.index].predicted_iou
        look = _look(space, known)
        walked = walk(space, known, look, direction, limit, predicted_iou=sure)
    made.add(walked)
    if walked.end == "cancelled":
        raise CancelledError
    return walked


def _look(space: Space, known: Known) -> Appearance | None:
    if space.pixels is None or not space.projection.appearance:
        return None
    return appearance(space.pixels(known.index), known.mask, space.steps[1:])


def _fill(space: Space, made: _Made, first: int, last: int) -> None:
    """What walks from both sides left open, drawn from the shapes beside it."""
    missing = [i for i in range(first + 1, last) if i not in made.slices]
    if not missing:
        return
    below, above = missing[0] - 1, missing[-1] + 1
    near, far = made.slices[below].mask, made.slices[above].mask
    for index in missing:
        mask = shape_between(space, below, near, above, far, index)
        # The segmenter did not find it here: there is no confidence in it.
        result = SliceResult(mask=mask, predicted_iou=0.0, agreement=0.0, origin="bridge")
        made.slices[index] = result
        space.on_slice(index, result)


def same_prompts(a: Mapping[int, SlicePrompt], b: Mapping[int, SlicePrompt]) -> bool:
    """Whether two objects are pointed at alike, slice by slice."""
    return a.keys() == b.keys() and all(_equal(a[index], b[index]) for index in b)


def _equal(a: SlicePrompt | None, b: SlicePrompt) -> bool:
    names = ("points", "labels", "box", "logits", "draft", "drawn")
    return a is not None and all(_same(getattr(a, n), getattr(b, n)) for n in names)


def _same(a: Any, b: Any) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _space(
    segmenter: SliceSegmenter,
    settings: Settings,
    pixels: SliceReader | None,
    taken: Taken | None,
    on_draft: OnSlice | None,
    on_slice: OnSlice | None,
) -> Space:
    def telling(hears: OnSlice) -> Callable[[int, SliceResult], None]:
        def told(index: int, result: SliceResult) -> None:
            if hears(index, result) is False:
                raise CancelledError

        return told

    return Space(
        segmenter=segmenter,
        pixels=pixels,
        steps=settings.steps,
        projection=settings.projection,
        rules=settings.rules,
        taken=taken,
        on_draft=None if on_draft is None else telling(on_draft),
        on_slice=telling(on_slice or (lambda index, result: None)),
    )

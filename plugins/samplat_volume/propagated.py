"""Objects of a job, each followed through a window of the volume by propagation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from samplat import (
    EmbeddingCache,
    InputError,
    SliceFound,
    SliceMark,
    StackAnswer,
    StackView,
    load_model,
    weights_digest,
)
from samplat_volume.model_slices import ModelSlices
from samplat_volume.propagation import Propagation, Settings, propagate
from samplat_volume.slices import (
    Mask,
    SliceAnswer,
    SlicePrompt,
    SliceSegmenter,
    SliceStack,
)
from samplat_volume.walks import SliceResult

if TYPE_CHECKING:
    from samplat import Embedding, Model, ModelSpec, StackFollower

ANNOTATED = 32
"""Annotated slices that are kept at a time; memory does not grow with their number."""
HALVED = 100
"""After so many slices an answer counts half: where two objects claim a voxel, and the segmenter is
as sure of both, the one that was pointed at nearer to it has it."""
MEMORY = 2**30
"""Bytes of embeddings that objects on the same slices share."""
NOT_ON_DISK: dict[str, Any] = {"quota": 0}
FOLLOWED = 1
"""Version of how objects are followed: answers of another one are not resumed."""
STOP = SlicePrompt(points=[(0, 0)], labels=[0])
"""Says that the object is not on a slice."""
UNKNOWN_SIGHT = 1024
"""Side of what is seen where no known model says it: the paper's models'."""


class SeenStack:
    """A view of a job as propagation reads it."""

    def __init__(self, view: StackView) -> None:
        self._view = view

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows, columns."""
        return self._view.shape

    @property
    def steps(self) -> tuple[float, float, float]:
        """Mm between slices, rows, columns."""
        return self._view.steps

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """One slice (H, W), or (H, W, 3) of a volume in colours."""
        pixels, _ = self._view(index)
        return pixels[..., 0] if self._view.grey else pixels

    def invalid(self, index: int) -> Mask:
        """(H, W) of a slice. True: there is no voxel."""
        _, valid = self._view(index)
        return ~valid


@dataclass(frozen=True, kw_only=True)
class PropagatedSegmenter:
    """Follows an object from slice to slice; see `propagate`."""

    slices: Callable[[SliceStack], SliceSegmenter]
    """Who segments the slices of a stack."""

    def __call__(self, view: StackView, marks: Mapping[int, SliceMark]) -> StackAnswer:
        """The object; slices on which nothing is found are walked through like others."""
        stack = SeenStack(view)
        once = _Once(self.slices(stack), stack)
        asked = {k: prompt_of(mark, view.shape[1:]) for k, mark in marks.items()}
        settings = Settings(steps=stack.steps)
        found: dict[int, SliceFound] = {}
        for section in sections(once.found(asked)):
            if any(not prompt.stops for prompt in section.values()):
                made = propagate(
                    once, section, settings=settings, pixels=stack, taken=stack.invalid
                )
                found |= {k: _found(k, each, made) for k, each in made.slices.items()}
        kept = {k: each for k, each in found.items() if each.mask.any()}
        return StackAnswer(slices=kept, missed=once.missed)


def _found(k: int, result: SliceResult, made: Propagation) -> SliceFound:
    walked = min(abs(k - annotated) for annotated in made.annotated)
    return SliceFound(
        mask=result.mask,
        predicted_iou=result.predicted_iou,
        stability=result.agreement / (1 + walked / HALVED),
    )


def sections(
    prompts: Iterable[tuple[int, SlicePrompt]], most: int = ANNOTATED
) -> Iterator[dict[int, SlicePrompt]]:
    """Prompts of slices in ascending order, some at a time, to be followed one after the other.

    What lies between two annotated slices depends on them alone. So two sections may meet at such a
    slice, and on either side of it a stop keeps the object where it is looked for.
    """
    section: dict[int, SlicePrompt] = {}
    last = -1
    for k, prompt in prompts:
        if len(section) >= most and not section[last].stops:
            yield {**section, last + 1: STOP}
            section = {last - 1: STOP, last: section[last]} if last else {last: section[last]}
        section[k], last = prompt, k
    if section:
        yield section


class _Once:
    """A segmenter that is asked about an annotated slice once, and may find nothing there."""

    def __init__(self, segmenter: SliceSegmenter, stack: SeenStack) -> None:
        self._segmenter, self._stack = segmenter, stack
        self._known: OrderedDict[int, tuple[SlicePrompt, SliceAnswer]] = OrderedDict()
        self.missed = 0
        """Slices so far on which a prompt found nothing."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows, columns."""
        return self._stack.shape

    def found(self, prompts: Mapping[int, SlicePrompt]) -> Iterator[tuple[int, SlicePrompt]]:
        """Those that find something, or say that nothing is there; in order."""
        for k, prompt in sorted(prompts.items()):
            if prompt.stops or (self._mask(k, prompt) & ~self._stack.invalid(k)).any():
                yield k, prompt
            else:
                self.missed += 1

    def _mask(self, index: int, prompt: SlicePrompt) -> Mask:
        if prompt.drawn is not None:
            drawn: Mask = prompt.drawn
            return drawn
        pixels = self._stack(index)
        if pixels.min() == pixels.max():  # there is nothing to see
            return np.zeros(self.shape[1:], bool)
        (answer,) = self._segmenter(index, [prompt])
        self._known[index] = prompt, answer
        while len(self._known) > ANNOTATED + 2:
            self._known.popitem(last=False)
        return answer.mask

    def __call__(self, index: int, prompts: Sequence[SlicePrompt]) -> Sequence[SliceAnswer]:
        """Answers in the order of the prompts."""
        prompt, answer = self._known.get(index, (None, None))
        if answer is not None and len(prompts) == 1 and prompts[0] is prompt:
            return [answer]
        return self._segmenter(index, prompts)


def prompt_of(mark: SliceMark, size: tuple[int, int]) -> SlicePrompt:
    """What is said of a slice, as propagation takes it: pixel centres are whole numbers."""
    points, mask = mark.prompt.points, mark.mask(size)
    if mark.certain:
        return SlicePrompt(drawn=mask)
    return SlicePrompt(
        points=points - 0.5 if len(points) else None,
        labels=mark.prompt.labels if len(points) else None,
        box=mark.prompt.box,
        draft=mask,
    )


@dataclass(frozen=True, kw_only=True)
class PropagatedFactory:
    """Makes the segmenter that follows what prompts point at, with a model."""

    name: str = "propagated"
    models: Mapping[str, ModelSpec] | None = None
    """Models by name; None for the core's own."""
    embeddings: str | None = None
    """Folder of an `EmbeddingCache`; None: they are kept in memory alone."""
    takes_prompts: ClassVar[bool] = True
    takes_stacks: ClassVar[bool] = True

    def with_models(self, models: Mapping[str, ModelSpec]) -> PropagatedFactory:
        """The same factory, knowing the models of plugins too."""
        return replace(self, models=models)

    def with_embeddings(self, folder: str) -> PropagatedFactory:
        """The same factory, whose segmenters keep embeddings in a folder."""
        return replace(self, embeddings=folder)

    def create(self, model: str | None, **options: Any) -> PropagatedSegmenter:
        """Load the model."""
        _check_none(options)
        loaded = load_model(_needed(model), models=self.models)
        # with all their bits, so that labels do not depend on what was there
        kept = EmbeddingCache(
            self.embeddings,
            storage="full",
            memory=MEMORY,
            **({} if self.embeddings else NOT_ON_DISK),
        )

        def slices(stack: SliceStack) -> SliceSegmenter:
            return ModelSlices(
                loaded, stack, embed=lambda _, pixels: kept.embed(loaded, pixels), remembered=1
            )

        return PropagatedSegmenter(slices=slices)

    def follower(
        self, model: Model, embed: Callable[[NDArray[np.uint8]], Embedding]
    ) -> StackFollower:
        """Who follows objects with a loaded model while somebody looks on."""
        from samplat_volume.watched import watcher

        return watcher(model, embed)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        """The weights' digest, and how objects are followed."""
        _check_none(options)
        return {"weights": weights_digest(_needed(model), models=self.models), "followed": FOLLOWED}

    def sight(self, model: str | None) -> int:
        """Side of the model's input, in pixels."""
        spec = (self.models or {}).get(_needed(model))
        return spec.image_size if spec else UNKNOWN_SIGHT


def _check_none(options: Mapping[str, Any]) -> None:
    if options:
        given = next(iter(options))
        raise InputError(f"the propagated segmenter does not take this option: {given}")


def _needed(model: str | None) -> str:
    if model is None:
        raise InputError("the segmenter needs a model; name one with --model")
    return model

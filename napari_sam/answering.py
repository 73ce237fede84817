"""What the model's process does: from a slice of an image and prompts to candidate masks."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import mask_block
from napari_sam.pointed import Seen, pointed
from napari_sam.state import Candidate, Plane, Preview, Question, ends_of
from napari_sam.views import WHOLE, View, centred_view, view_of
from napari_sam.worker import Stale, Superseded
from samplat import InputError, Stretch

if TYPE_CHECKING:
    from samplat import Embedding, EmbeddingCache, Model, Prediction

REMEMBERED = 24
"""Embeddings of views at hand without another look at the pixels."""
_NUMBERS = itertools.count()


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image as the model sees it. Equal only to itself."""

    data: Any
    """What can be cut like an array: of the image's axes, and bands last if `bands`."""
    shape: tuple[int, ...]
    """Extent in pixels, without bands."""
    bands: bool
    """True: the last axis of the data is colour."""
    limits: tuple[float, float] | None
    """Values shown black and white; None: uint8 that is shown as it is."""
    levels: tuple[Any, ...] = ()
    """The same at lower resolutions."""
    number: int = field(default_factory=_NUMBERS.__next__)
    """Tells it from all others of the window that made it."""

    def read(self, plane: Plane, view: View) -> NDArray[np.uint8]:
        """Pixels HxW or HxWxbands of a part of a slice."""
        data, cut = self._finest_needed(plane, view)
        pixels: NDArray[Any] = np.asarray(data[cut])
        if self.bands:
            pixels = pixels[..., :3]  # how opaque they are is no colour
        if self.limits is None:
            return pixels.astype(np.uint8, copy=False)
        banded = pixels if self.bands else pixels[..., None]
        low, high = ((each,) * banded.shape[-1] for each in self.limits)
        valid = np.isfinite(banded).all(axis=-1)
        shown: NDArray[np.uint8] = Stretch(low=low, high=high)(banded[None], valid[None])[0]
        return shown if self.bands else shown[..., 0]

    def _finest_needed(self, plane: Plane, view: View) -> tuple[Any, tuple[Any, ...]]:
        """What has every n-th pixel of a view, and where it has them."""
        for data in reversed(self.levels):
            factor = _factor(self.shape, data.shape, plane)
            if factor and not any(n % factor for n in (view.step, *(c.start for c in view.cut))):
                step = view.step // factor
                cut = [slice(c.start // factor, -(-c.stop // factor), step) for c in view.cut]
                return data, _in_plane(cut, plane)
        return self.data, _in_plane(view.cut, plane)


def _in_plane(cut: Sequence[slice], plane: Plane) -> tuple[Any, ...]:
    axes = iter(cut)
    return tuple(next(axes) if at is None else at for at in plane)


def _factor(shape: Sequence[int], level: Sequence[int], plane: Plane) -> int:
    """Pixels for one of a level, along both axes of a slice; 0 if they are no whole number."""
    shown = [n for n, at in enumerate(plane) if at is None]
    factor = round(shape[shown[0]] / level[shown[0]])
    whole = all(
        level[n] == (-(-shape[n] // factor) if at is None else shape[n])
        for n, at in enumerate(plane)
    )
    return factor if whole else 0


class Answerer:
    """A model and what it has seen. For one thread.

    Args:
        model: a name, or a checkpoint's path; loaded when something is asked.
        cache: of embeddings, or the folder of a job's; the user's if not given.
    """

    def __init__(self, model: str, cache: EmbeddingCache | Path | None = None) -> None:
        self.name = model
        self._cache = cache
        self._warm = False
        self._cut: Any = None  # whose mask went on beyond the tile of its first prompt
        self._seen: OrderedDict[Any, Embedding] = OrderedDict()

    def answer(
        self,
        picture: Picture,
        question: Question,
        held: Any,
        stale: Stale,
        drafted: Callable[[Preview], object] | None = None,
    ) -> Preview:
        """Candidate masks, best first.

        Args:
            picture: the image.
            question: what is asked.
            held: the refined object on that slice, an array of bool; None: a new one.
            stale: looked at between encoding and decoding.
            drafted: told of a mask to show until the others are there, if they will be others.

        Raises:
            InputError: the prompts lie outside of the image, or the model cannot be used.
            Superseded: it is not wanted any more.
        """
        places, size = _places(question), _size(picture, question.plane)
        _check_inside(places, size)
        about = (picture.number, question.plane, tuple(places[0]))
        view = centred_view(places, size) if self._cut == about else view_of(places, size)
        found, cut = self._look(picture, question, view, held, stale, drafted)
        again = centred_view(places, size)
        # more of it is seen from a view that has it in its middle
        if cut and again != view:
            self._cut = about
            found, _ = self._look(picture, question, again, held, stale, drafted)
        return Preview(question=question, candidates=found)

    def _look(
        self,
        picture: Picture,
        question: Question,
        view: View,
        held: Any,
        stale: Stale,
        drafted: Callable[[Preview], object] | None,
    ) -> tuple[tuple[Candidate, ...], bool]:
        """Candidates in a view, and whether the best of them goes on beyond it."""
        from samplat import predict

        embedding = self.embedding(picture, question.plane, view)
        if stale():
            raise Superseded
        prompts, ambiguous = self._prompts(embedding, question, view, held)

        def tell(draft: Prediction) -> None:
            if drafted is not None:
                found = _candidates(draft, question.plane, view)
                drafted(Preview(question=question, candidates=found))

        answer = predict(self.model(), embedding, prompts, multimask=ambiguous, on_draft=tell)
        size = _size(picture, question.plane)
        cut = max(size) > WHOLE and view.ends_in(answer.best()[0], size)
        return _candidates(answer, question.plane, view), cut

    def prepare(self, picture: Picture, plane: Plane, views: Iterable[View], stale: Stale) -> None:
        """Encode views, as long as nothing else is wanted; without any, load the model.

        The first one is answered once: the first answer of a process takes far longer.

        Raises:
            Superseded: something else is wanted.
        """
        from samplat import Prompts, predict

        model = self.model()
        for number, view in enumerate(views):
            if stale():
                raise Superseded
            with interrupted(stale):
                embedding = self.embedding(picture, plane, view)
            if not number and not self._warm:
                height, width = embedding.original_size
                middle = Prompts(points=[(width // 2, height // 2)], labels=[1])
                predict(model, embedding, middle)
                self._warm = True

    def embedding(self, picture: Picture, plane: Plane, view: View) -> Embedding:
        """Of a part of a slice; from memory or the cache if it was seen before."""
        key = (picture.number, plane, view.rows.start, view.columns.start, view.step)
        if key not in self._seen:
            self._seen[key] = self.embed(picture.read(plane, view))
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key]

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """Of any pixels, from the cache if they were seen before; for any thread."""
        from samplat import EmbeddingCache

        if self._cache is None:
            self._cache = EmbeddingCache()
        elif isinstance(self._cache, Path):
            self._cache = EmbeddingCache(self._cache, storage="full")  # as jobs keep them
        return self._cache.embed(self.model(), pixels)

    def model(self) -> Model:
        """The model; loaded once, and kept for the next session. For any thread."""
        with _LOADING:
            return _loaded(self.name)

    def _prompts(
        self, embedding: Embedding, question: Question, view: View, held: Any
    ) -> tuple[Any, bool]:
        from samplat import Prompts, mask_prompts

        if held is not None:
            held = held[view.cut]
        said = pointed(question.prompts, _seen(question.plane, view, embedding), held)
        masks = said.mask
        prompts = Prompts(
            points=said.points if len(said.points) else None,
            labels=said.labels if len(said.points) else None,
            boxes=said.box,
            masks=None if masks is None else mask_prompts(self.model(), embedding, [masks]),
        )
        return prompts, said.is_one_point


_LOADING = threading.Lock()
"""One thread loads it, others wait."""


@contextmanager
def interrupted(stale: Stale) -> Iterator[None]:
    """End what networks compute in this thread as soon as its result is not wanted.

    Raises:
        Superseded: it is not.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    mine = threading.get_ident()

    def look(module: Any, given: Any) -> None:
        if threading.get_ident() == mine and stale():
            raise Superseded

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


@functools.lru_cache(maxsize=1)
def _loaded(name: str) -> Model:
    from samplat import load_model, registry

    return load_model(name, models=registry().models())


def _seen(plane: Plane, view: View, embedding: Embedding) -> Seen:
    first, second = (n for n, at in enumerate(plane) if at is None)
    return Seen(
        axes=(first, second),
        start=(view.rows.start, view.columns.start),
        step=view.step,
        size=embedding.original_size,
    )


def _candidates(answer: Prediction, plane: Plane, view: View) -> tuple[Candidate, ...]:
    """Its masks that are not empty, best first."""
    order = np.argsort(-answer.predicted_iou[0], kind="stable")
    found = ((_placed(answer.masks[0, n], plane, view), answer.predicted_iou[0, n]) for n in order)
    return tuple(Candidate(mask=m, score=float(s)) for m, s in found if m is not None)


def _placed(mask: NDArray[np.bool_], plane: Plane, view: View) -> Any:
    """A mask of the view as a block of the image."""
    if view.step > 1:
        height = view.rows.stop - view.rows.start
        width = view.columns.stop - view.columns.start
        mask = mask.repeat(view.step, axis=0).repeat(view.step, axis=1)[:height, :width]
    starts = iter((view.rows.start, view.columns.start))
    sides = iter(mask.shape)
    start = tuple(next(starts) if at is None else at for at in plane)
    shape = tuple(next(sides) if at is None else 1 for at in plane)
    return mask_block(mask.reshape(shape), start)


def _places(question: Question) -> NDArray[np.float64]:
    axes = [n for n, at in enumerate(question.plane) if at is None]
    ends = [end for p in question.prompts for end in ends_of(p)]
    return np.array(ends, float)[:, axes]


def _size(picture: Picture, plane: Plane) -> tuple[int, int]:
    height, width = (n for n, at in zip(picture.shape, plane, strict=True) if at is None)
    for at, n in zip(plane, picture.shape, strict=True):
        if at is not None and not 0 <= at < n:
            raise InputError(f"slice {at} lies outside of the image of {n} slices")
    return height, width


def _check_inside(places: NDArray[np.float64], size: tuple[int, int]) -> None:
    outside = (places < -0.5).any(axis=1) | (places > np.array(size) - 0.5).any(axis=1)
    if outside.any():
        y, x = places[outside][0]
        raise InputError(
            f"a prompt at x {x:.0f}, y {y:.0f} lies outside of the image of {size[1]} x {size[0]} "
            "pixels; move or remove it"
        )

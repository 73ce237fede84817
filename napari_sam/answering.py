"""What the thread does: from a slice of an image and prompts to candidate masks."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import mask_block
from napari_sam.pointed import Seen, pointed
from napari_sam.state import Candidate, Plane, Preview, Question, ends_of
from napari_sam.worker import Stale, Superseded
from samplat import InputError, Stretch

if TYPE_CHECKING:
    from samplat import Embedding, EmbeddingCache, Model

WHOLE = 1536
"""Slices of at most so many pixels a side are seen whole."""
SIDE = 1024
"""Pixels a side of what is seen of larger ones; for large prompts every second, third, ... one."""
FILL = 0.75
"""Share of a view's side that prompts may take; views lie on a grid of a quarter of their side."""
REMEMBERED = 8
"""Embeddings of views at hand without another look at the pixels."""


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

    def read(self, plane: Plane, view: View) -> NDArray[np.uint8]:
        """Pixels HxW or HxWxbands of a part of a slice."""
        axes = iter((view.rows, view.columns))
        cut = tuple(_stepped(next(axes), view.step) if at is None else at for at in plane)
        pixels: NDArray[Any] = np.asarray(self.data[cut])
        if self.limits is None:
            return pixels.astype(np.uint8, copy=False)
        banded = pixels if self.bands else pixels[..., None]
        low, high = ((each,) * banded.shape[-1] for each in self.limits)
        valid = np.isfinite(banded).all(axis=-1)
        shown: NDArray[np.uint8] = Stretch(low=low, high=high)(banded[None], valid[None])[0]
        return shown if self.bands else shown[..., 0]


@dataclass(frozen=True, kw_only=True)
class View:
    """A part of a slice that is encoded at once."""

    rows: slice
    """Its pixels along the slice's first axis."""
    columns: slice
    """And along the second."""
    step: int
    """Every how many-th pixel is seen."""


def _stepped(part: slice, step: int) -> slice:
    return slice(part.start, part.stop, step)


def view_of(places: NDArray[np.float64], size: tuple[int, int]) -> View:
    """What to look at: a part of a slice with all prompts well inside of it.

    Prompts near each other share a view, so that a correction needs no other one.

    Args:
        places: (N, 2) positions of points and corners.
        size: (H, W) of the slice.
    """
    if max(size) <= WHOLE:
        return View(rows=slice(0, size[0]), columns=slice(0, size[1]), step=1)
    low, high = places.min(axis=0), places.max(axis=0)
    step = max(1, int(np.ceil((high - low).max() / (FILL * SIDE))))
    side = SIDE * step
    rows, columns = (
        _along(middle, side, n) for middle, n in zip((low + high) / 2, size, strict=True)
    )
    return View(rows=rows, columns=columns, step=step)


def _along(middle: float, side: int, length: int) -> slice:
    grid = side // 4
    start = min(max(0, round((middle - side / 2) / grid) * grid), max(0, length - side))
    return slice(start, min(length, start + side))


class Answerer:
    """A model and what it has seen. For one thread.

    Args:
        model: a name, or a checkpoint's path; loaded when something is asked.
        cache: of embeddings; the shared one if not given.
    """

    def __init__(self, model: str, cache: EmbeddingCache | None = None) -> None:
        self.name = model
        self._cache = cache
        # with each picture, so that its id stays its own
        self._seen: OrderedDict[Any, tuple[Picture, Embedding]] = OrderedDict()

    def answer(
        self, picture: Picture, question: Question, held: NDArray[np.bool_] | None, stale: Stale
    ) -> Preview:
        """Candidate masks, best first.

        Args:
            picture: the image.
            question: what is asked.
            held: the refined object on that slice; None: a new one.
            stale: looked at between encoding and decoding.

        Raises:
            InputError: the prompts lie outside of the image, or the model cannot be used.
            Superseded: it is not wanted any more.
        """
        places, size = _places(question), _size(picture, question.plane)
        _check_inside(places, size)
        view = view_of(places, size)
        embedding = self.embedding(picture, question.plane, view)
        if stale():
            raise Superseded
        return Preview(
            question=question, candidates=self._candidates(embedding, question, view, held)
        )

    def prepare(self, picture: Picture, plane: Plane, view: View) -> None:
        """Encode a view, and answer once: the first answer of a process takes far longer."""
        from samplat import Prompts, predict

        embedding = self.embedding(picture, plane, view)
        height, width = embedding.original_size
        middle = Prompts(points=[(width // 2, height // 2)], labels=[1])
        predict(self.model(), embedding, middle)

    def embedding(self, picture: Picture, plane: Plane, view: View) -> Embedding:
        """Of a part of a slice; from memory or the cache if it was seen before."""
        key = (id(picture), plane, view.rows.start, view.columns.start, view.step)
        if key not in self._seen:
            pixels = picture.read(plane, view)
            self._seen[key] = (picture, self.embed(pixels))
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key][1]

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """Of any pixels, from the cache if they were seen before; for any thread."""
        from samplat import EmbeddingCache

        self._cache = self._cache or EmbeddingCache()
        return self._cache.embed(self.model(), pixels)

    def model(self) -> Model:
        """The model; loaded once, and kept for the next session. For any thread."""
        with _LOADING:
            return _loaded(self.name)

    def _candidates(
        self, embedding: Embedding, question: Question, view: View, held: NDArray[np.bool_] | None
    ) -> tuple[Candidate, ...]:
        from samplat import predict

        prompts, ambiguous = self._prompts(embedding, question, view, held)
        answer = predict(self.model(), embedding, prompts, multimask=ambiguous)
        order = np.argsort(-answer.predicted_iou[0], kind="stable")
        found = (
            (_placed(answer.masks[0, n], question.plane, view), answer.predicted_iou[0, n])
            for n in order
        )
        return tuple(Candidate(mask=m, score=float(s)) for m, s in found if m is not None)

    def _prompts(
        self, embedding: Embedding, question: Question, view: View, held: NDArray[np.bool_] | None
    ) -> tuple[Any, bool]:
        from samplat import Prompts, mask_prompts

        if held is not None:
            held = held[view.rows, view.columns][:: view.step, :: view.step]
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

"""What the other thread does for a volume: from an image and prompts to an object, slice by slice.

The object is followed by whatever plugin registers `propagated`; see `samplat.StackFollower`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.answering import Picture
from napari_sam.blocks import Window, mask_block
from napari_sam.pointed import Pointed, Seen, pointed
from napari_sam.state import Candidate, Plane, Prompt, Region, StackPreview, StackQuestion, plane_of
from samplat import ImageInfo, InputError, ObjectPrompt, SliceMark, StackView, Stretch
from samplat import Window as Part

if TYPE_CHECKING:
    from samplat import Embedding, Model, SliceFound, StackFollowed

PROPAGATED = "propagated"
"""The segmenter that follows objects, of the volume plugin."""
Heard = Callable[[int, int, Candidate | None], bool]
"""Told of an axis, a slice across it, and the object there if the axis is that of the prompts.
False: no more is wanted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """An object, and how sure each slice is."""

    preview: StackPreview
    """The object."""
    confidences: Mapping[int, NDArray[np.float32]]
    """By axis of the image that was looked along: (slices,) 0 to 1, NaN where the object is not."""
    marked: frozenset[int]
    """Slices with prompts."""
    cancelled: bool
    """True: it was ended early."""
    memory: Any
    """For the next time."""

    def worst(self) -> list[int]:
        """Slices across the prompts' axis, least sure first; those with prompts are left out."""
        sure = self.confidences[self.preview.question.axis]
        known = [int(k) for k in np.argsort(sure, kind="stable") if np.isfinite(sure[k])]
        return [k for k in known if k not in self.marked]


class StackSource:
    """Three axes of a picture as an image (z, y, x) that samplat reads.

    Args:
        picture: the image.
        plane: an index for each axis that is none of the three.
        spacing: how far apart pixels lie along them.
    """

    digest = ""

    def __init__(self, picture: Picture, plane: Plane, spacing: Sequence[float]) -> None:
        self._picture, self._plane = picture, plane
        z, y, x = (n for n, at in zip(picture.shape, plane, strict=True) if at is None)
        bands = int(picture.data.shape[-1]) if picture.bands else 1
        self.info = ImageInfo(
            shape=(z, y, x),
            bands=bands,
            dtype=str(np.dtype(picture.data.dtype)),
            spacing=(spacing[0], spacing[1], spacing[2]),
        )

    @property
    def stretch(self) -> Stretch:
        """What its values look like."""
        low, high = self._picture.limits or (0.0, 255.0)
        return Stretch(low=(low,) * self.info.bands, high=(high,) * self.info.bands)

    def read(self, window: Part) -> NDArray[Any]:
        """Pixels (z, y, x, band)."""
        parts = iter(window.slices)
        cut = tuple(next(parts) if at is None else at for at in self._plane)
        pixels: NDArray[Any] = np.asarray(self._picture.data[cut])
        if pixels.dtype.kind == "b":
            pixels = pixels.astype(np.uint8)
        return pixels if self._picture.bands else pixels[..., None]

    def valid(self, window: Part) -> NDArray[np.bool_]:
        """All of them, NaN excepted, which the reader sees itself."""
        return np.ones(window.shape, bool)

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The whole at steps that fit."""
        steps = [-(-n // max_size) for n in self.info.shape]
        whole = Part(start=(0, 0, 0), stop=self.info.shape)
        z, y, x = steps
        return self.read(whole)[::z, ::y, ::x], self.valid(whole)[::z, ::y, ::x]

    def close(self) -> None:
        """Nothing is open."""

    def view(self, axis: int) -> StackView:
        """Its slices across an axis of (z, y, x)."""
        others = [a for a in range(3) if a != axis]
        whole = Part(start=(0, 0, 0), stop=self.info.shape)
        axes = (axis, others[0], others[1])
        return StackView(self, self.stretch, whole, axes, self.info.spacing)


def follow(
    picture: Picture,
    asked: StackQuestion,
    *,
    spacing: Sequence[float],
    taken: NDArray[np.bool_],
    model: Model,
    embed: Callable[[NDArray[np.uint8]], Embedding],
    heard: Heard,
    earlier: Any = None,
) -> Followed:
    """Follow an object through the stack that is asked.

    Args:
        picture: the image.
        asked: what.
        spacing: between pixels along the stack's three axes.
        taken: of the stack. True: the pixel belongs to another object.
        model: follows it.
        embed: pixels to their embedding.
        heard: is told of each slice as it is done.
        earlier: `memory` of an object in the same stack of the same picture.

    Raises:
        InputError: the volume plugin is not installed, or prompts find nothing.
    """
    source = StackSource(picture, asked.plane, spacing)
    axis = asked.stacked.index(asked.axis)
    marks = marks_of(asked, source.info.shape)

    def told(a: int, k: int, found: SliceFound) -> bool:
        return heard(asked.stacked[a], k, _candidate(asked, k, found) if a == axis else None)

    found = _follower(model, embed)(
        {a: source.view(a) for a in range(3) if asked.three or a == axis},
        axis,
        marks,
        taken=taken,
        earlier=earlier,
        told=told,
    )
    return _followed(asked, found)


def _follower(model: Model, embed: Any) -> Any:
    from samplat import registry

    if PROPAGATED not in registry().names("segmenters"):
        raise InputError("objects are followed by samplat[volume]: pip install 'samplat[volume]'")
    factory: Any = registry().segmenter(PROPAGATED)
    return factory.follower(model, embed)


def marks_of(asked: StackQuestion, shape: tuple[int, int, int]) -> dict[int, SliceMark]:
    """What is said of the object, by slice; beyond the extent that it is not there.

    Raises:
        InputError: a prompt lies on a slice beyond the extent, or outside of the image.
    """
    axis = asked.stacked.index(asked.axis)
    count, size = shape[axis], [n for a, n in enumerate(shape) if a != axis]
    first, last = asked.extent or (0, count - 1)
    marks: dict[int, SliceMark] = {}
    for k, prompts in sorted(_by_slice(asked).items()):
        if not first <= k <= last:
            raise InputError(
                f"a prompt lies on slice {k}, but the object is to be followed from {first} to "
                f"{last}; widen that range, or remove the prompt"
            )
        seen = Seen(axes=asked.axes, start=(0, 0), step=1, size=(size[0], size[1]))
        marks[k] = _mark(pointed(prompts, seen), drawn=all(isinstance(p, Region) for p in prompts))
    nowhere = SliceMark(
        prompt=ObjectPrompt(points=np.array([[0.5, 0.5]]), labels=np.array([0], np.int32))
    )
    ends = {k: nowhere for k in (first - 1, last + 1) if 0 <= k < count}
    return dict(sorted({**ends, **marks}.items()))


def _by_slice(asked: StackQuestion) -> dict[int, list[Prompt]]:
    found: dict[int, list[Prompt]] = {}
    for prompt in asked.prompts:
        at = plane_of(prompt.place, asked.axes)[asked.axis]
        assert at is not None  # noqa: S101 slices are across that axis
        found.setdefault(at, []).append(prompt)
    return found


def _mark(said: Pointed, *, drawn: bool) -> SliceMark:
    """As samplat takes it: the first pixel is the unit square. What is `drawn` is not asked for."""
    from samplat import mask_set

    box, draft = said.box, b""
    if said.mask is not None:
        y, x = (np.flatnonzero(said.mask.any(axis=a)) for a in (1, 0))
        box = np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], float) if box is None else box
        x0, y0, x1, y1 = np.round(box).astype(int)
        (draft,) = mask_set(said.mask[None, y0:y1, x0:x1]).rles
    prompt = ObjectPrompt(points=said.points + 0.5, labels=said.labels, box=box)
    return SliceMark(prompt=prompt, draft=draft, certain=drawn and bool(draft))


def _candidate(asked: StackQuestion, k: int, found: SliceFound) -> Candidate | None:
    start = [0 if at is None else at for at in asked.plane]
    start[asked.axis] = k
    shape = [1] * len(start)
    for axis, n in zip(asked.axes, found.mask.shape, strict=True):
        shape[axis] = n
    mask = mask_block(found.mask.reshape(shape), start)
    sure = float(found.predicted_iou * found.stability)
    return None if mask is None else Candidate(mask=mask, score=sure)


def _followed(asked: StackQuestion, found: StackFollowed) -> Followed:
    made = {k: _candidate(asked, k, each) for k, each in sorted(found.slices.items())}
    slices = tuple((k, each) for k, each in made.items() if each is not None)
    return Followed(
        preview=StackPreview(question=asked, slices=slices),
        confidences={asked.stacked[a]: each for a, each in found.confidences.items()},
        marked=found.marked,
        cancelled=found.cancelled,
        memory=found.memory,
    )


def window_of(asked: StackQuestion, shape: Sequence[int]) -> Window:
    """All of the stack in the image."""
    return tuple(
        slice(0, n) if at is None else slice(at, at + 1)
        for at, n in zip(asked.plane, shape, strict=True)
    )

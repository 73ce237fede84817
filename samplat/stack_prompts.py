"""What points at single objects of a volume: points, boxes and masks on some of its slices.

A slice is an image: x, y in its pixels, with pixel (0, 0) as the unit square, as in
`object_prompts`. Of a volume (z, y, x) its rows and columns are the axes that the slices are not
across, in that order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import decode_rle
from samplat.object_prompts import ObjectPrompt, names_of, table_bytes
from samplat.prompts import FOREGROUND
from samplat.tiles import Window

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class SliceMark:
    """What is said of one object on one slice.

    Nothing but points that are not on the object says that it is not in the slice at all.
    """

    prompt: ObjectPrompt
    """Its points and its box in the frame of the slice."""
    draft: bytes = b""
    """Run-length counts, over the pixels of the box, of about where the object is; empty: nobody
    knows."""
    certain: bool = False
    """True: the draft is the object, and nobody is asked."""

    @property
    def stops(self) -> bool:
        """Whether it says that the object is not there."""
        return self.prompt.box is None and not (self.prompt.labels == FOREGROUND).any()

    def within(self, window: Window) -> SliceMark | None:
        """The same in the frame of a window (y, x) of the slice; None where nothing is left."""
        (y, x), (height, width) = window.start, window.shape
        seen = replace(self, prompt=self.prompt.seen_from(x, y, 1).within(width, height))
        return seen if len(seen.prompt.points) or seen.prompt.box is not None else None

    def mask(self, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """The draft in a frame of rows and columns that the box lies in; None without one."""
        if not self.draft or self.prompt.box is None:
            return None
        x0, y0, x1, y1 = np.round(self.prompt.box).astype(int).tolist()
        mask = np.zeros(size, bool)
        mask[y0:y1, x0:x1] = decode_rle(self.draft, (y1 - y0, x1 - x0))
        return mask


@dataclass(frozen=True, kw_only=True)
class StackPrompts:
    """P objects of a volume that something points at.

    Raises:
        InputError: ids that are not ascending, or an object without a box or a point on it.
    """

    axis: int
    """Axis of (z, y, x) that the slices are across."""
    ids: NDArray[np.int64]
    """(P,) what each object is called in the labels, ascending from 1 on."""
    marks: tuple[Mapping[int, SliceMark], ...]
    """(P,) what is said of each, by slice, ascending."""
    attributes: pa.Table
    """P rows: `prompt_id`, and what else is known of each object."""
    features: pa.Table
    """One row per point, box or mask that was given, as in `ScenePrompts`."""

    def __post_init__(self) -> None:
        if (np.diff(self.ids, prepend=0) < 1).any():
            raise InputError(f"expected ids that ascend from 1 on, got {self.ids.tolist()[:9]}")
        for number, marks in zip(self.ids.tolist(), self.marks, strict=True):
            if all(mark.stops for mark in marks.values()):
                raise InputError(f"object {number} needs a box, a mask or a point on it")

    def __len__(self) -> int:
        return len(self.marks)

    def extents(self) -> NDArray[np.float64]:
        """(P, 4) box x0, y0, x1, y1 around all that is said of where each one is."""
        extents = np.zeros((len(self), 4))
        for extent, marks in zip(extents, self.marks, strict=True):
            each = np.array([m.prompt.extent for m in marks.values() if not m.stops])
            extent[:2], extent[2:] = each[:, :2].min(axis=0), each[:, 2:].max(axis=0)
        return extents

    def called(self, final: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[Any]:
        """(G,) ids instead of the final ones, 0 where these are.

        Args:
            final: (G,) ids without gaps.
            numbers: (G,) which object each of them is.
        """
        ids = self.ids[numbers] if len(numbers) else np.zeros(0, np.int64)
        return np.where(final > 0, ids, 0).astype(np.uint32)

    def names(self, objects: Sequence[int] | NDArray[np.int64]) -> str:
        """The first of some objects by their `prompt_id`, for messages."""
        return names_of(self.attributes, objects)

    def digest(self) -> str:
        """SHA-256 of all of it."""
        told = hashlib.sha256(self.ids.tobytes() + table_bytes(self.attributes))
        told.update(table_bytes(self.features) + bytes([self.axis]))
        for marks in self.marks:
            for k, mark in marks.items():
                box = np.full(4, np.nan) if mark.prompt.box is None else mark.prompt.box
                numbers = (k, len(mark.prompt.points), len(mark.draft), int(mark.certain))
                arrays = (np.array(numbers, np.int64), mark.prompt.points, mark.prompt.labels, box)
                told.update(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
                told.update(mark.draft)
            told.update(b"|")
        return told.hexdigest()

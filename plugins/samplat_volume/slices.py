"""A volume seen as a stack of slices, and whoever segments one of them.

Propagation knows nothing of models: it asks a `SliceSegmenter`. Coordinates in a slice are x, y in
its pixels as `samplat.Prompts` takes them; a slice of an (z, y, x) volume across axis 0 has rows y
and columns x, across axis 1 rows z and columns x, across axis 2 rows z and columns y.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class SlicePrompt:
    """What points at one object in one slice.

    Raises:
        InputError: nothing was given, or arrays of the wrong shape.
    """

    points: Any = None
    """(K, 2) x, y; or None."""
    labels: Any = None
    """(K,) 1: object, 0: background; None means all 1."""
    box: Any = None
    """(4,) x0, y0, x1, y1, half-open; or None."""
    logits: Any = None
    """(h, w) of an earlier answer of the same segmenter; or None."""
    draft: Any = None
    """(H, W) bool: about where the object is, besides a box or points; or None."""
    drawn: Any = None
    """(H, W) bool: the mask itself, taken as it is; or None."""

    def __post_init__(self) -> None:
        points = None if self.points is None else np.asarray(self.points, np.float64)
        labels = self.labels
        if points is not None:
            labels = np.ones(len(points), np.int32) if labels is None else np.asarray(labels)
        box = None if self.box is None else np.asarray(self.box, np.float64)
        _check_shapes(points, labels, box)
        for name, value in (("points", points), ("labels", labels), ("box", box)):
            object.__setattr__(self, name, value)
        for name in ("draft", "drawn"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), bool))
        if all(v is None for v in (points, box, self.logits, self.drawn)):
            raise InputError("a slice prompt needs points, a box, logits or a drawn mask")

    @property
    def stops(self) -> bool:
        """Whether it is negative points and nothing else: the object is not in this slice."""
        alone = self.box is None and self.logits is None and self.drawn is None
        return alone and not np.any(self.labels == 1)


def _check_shapes(points: Any, labels: Any, box: Any) -> None:
    if points is not None and (points.ndim != 2 or points.shape[1] != 2 or not len(points)):
        raise InputError(f"expected points (K, 2) of x, y, got shape {points.shape}")
    if points is None and labels is not None:
        raise InputError("labels were given without points")
    if points is not None and np.shape(labels) != (len(points),):
        raise InputError(f"expected {len(points)} labels, one a point, got {np.shape(labels)}")
    if points is not None and not np.isin(labels, (0, 1)).all():
        raise InputError("labels of slice prompts must be 1 (object) or 0 (background)")
    if box is not None and (box.shape != (4,) or box[2] <= box[0] or box[3] <= box[1]):
        raise InputError(f"expected a box x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {box}")


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceAnswer:
    """What a segmenter makes of a prompt."""

    mask: Mask
    """(H, W). True: the pixel belongs to the object."""
    predicted_iou: float
    """The segmenter's own estimate of the mask's IoU with the true object."""
    logits: Any = None
    """(h, w), a prompt for the next slice; None where the segmenter has none."""


class SliceSegmenter(Protocol):
    """Segments slices of one volume along one axis."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, their rows and their columns."""
        ...

    def __call__(self, index: int, prompts: Sequence[SlicePrompt]) -> Sequence[SliceAnswer]:
        """One answer for each of several prompts of one slice."""
        ...


@runtime_checkable
class DraftingSegmenter(SliceSegmenter, Protocol):
    """One that looks at its masks again, and can show them before."""

    def drafted(
        self,
        index: int,
        prompt: SlicePrompt,
        on_draft: Callable[[SliceAnswer], object],
    ) -> SliceAnswer:
        """The answer to one prompt; `on_draft` is told of it before a second look changes it."""
        ...


class SliceReader(Protocol):
    """Reads slices of one volume along one axis."""

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """(H, W) or (H, W, band), windowed alike for the whole volume."""
        ...


class SliceStack(SliceReader, Protocol):
    """A reader that knows how many slices there are, and how far apart."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, their rows and their columns."""
        ...

    @property
    def steps(self) -> tuple[float, float, float]:
        """Mm between slices, rows, columns."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The slices of an array across one axis, read one at a time.

    Args as attributes; the array may be anything that numpy's indexing reads lazily, such as a
    zarr array.
    """

    volume: Any
    """(z, y, x[, band]); uint8, or anything that `window` turns into it."""
    axis: int = 0
    """0, 1 or 2: slices follow each other along z, y or x."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """(z, y, x) mm between voxel centres."""
    window: Any = None
    """Stored values to uint8, alike for every slice; None: they are uint8 already."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows, columns."""
        return reordered(self.volume.shape[:3], self.axis)

    @property
    def steps(self) -> tuple[float, float, float]:
        """Mm between slices, rows, columns."""
        return reordered(self.spacing, self.axis)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """One slice (H, W[, band])."""
        place = tuple(index if a == self.axis else slice(None) for a in range(3))
        values = np.asarray(self.volume[place])
        pixels = self.window(values) if self.window else values
        if pixels.dtype != np.uint8:
            raise InputError(
                f"expected slices as uint8, got {pixels.dtype}; pass a window, alike for all slices"
            )
        out: NDArray[np.uint8] = pixels
        return out


def reordered(values: Sequence[Any], axis: int) -> tuple[Any, Any, Any]:
    """(z, y, x) as (slice, row, column) of the slices across an axis."""
    first, *others = (values[axis], *(v for i, v in enumerate(values[:3]) if i != axis))
    return (first, *others)

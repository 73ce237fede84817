"""Where a scene is drawn: a picture, two levels of labels, and stamps that change them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Points = NDArray[np.float64]
"""(N, 2) vertices, xy, pixels; or one such point."""
Vector = Sequence[float] | NDArray[np.floating]
"""Two numbers, along x and along y."""

MIN_VISIBLE = 30
"""Objects with fewer visible pixels are not labelled."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn picture and the objects in it."""

    image: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    labels: NDArray[np.uint16]
    """(L, H, W), 1 <= L <= 2, ids dense from 1 in each level, 0 = no object.

    Level 0 holds whole objects, level 1 parts of them and things on them.
    """
    kind: str
    """One of `KINDS`."""


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Coverage of a shape inside a window that lies within the canvas."""

    top: int
    left: int
    alpha: Floats
    """(h, w), share of each pixel that the shape covers, in [0, 1]. May be empty."""

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas under the stamp."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w), True where the shape covers at least half of the pixel."""
        return self.alpha >= 0.5


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Mutable arrays that painters draw on, far things first."""

    image: Floats
    """(S, S, 3), RGB, nominally in [0, 1]."""
    whole: Ids
    """(S, S), id of the object seen at each pixel, 0 = none."""
    part: Ids
    """(S, S), id of the part seen at each pixel, 0 = none."""
    ids: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return len(self.image)

    def paint(self, stamp: Stamp, colour: Floats) -> None:
        """Blend `colour`, (3,) or (h, w, 3), over the picture."""
        below = self.image[stamp.window]
        below += stamp.alpha[..., None] * (colour - below)

    def shade(self, stamp: Stamp, factor: float | Floats) -> None:
        """Multiply the picture by `factor`, a number or (h, w), where the stamp covers it."""
        self.image[stamp.window] *= (1 + stamp.alpha * (factor - 1))[..., None].astype(np.float32)

    def claim(self, stamp: Stamp) -> int:
        """Make the stamp's pixels a new object in front of what was there; returns its id."""
        new = next(self.ids)
        mask = stamp.mask
        self.whole[stamp.window][mask] = new
        self.part[stamp.window][mask] = 0
        return new

    def hide(self, stamp: Stamp) -> None:
        """Cover whatever was there with something that is no object."""
        mask = stamp.mask
        self.whole[stamp.window][mask] = 0
        self.part[stamp.window][mask] = 0

    def claim_part(self, stamp: Stamp, owner: int) -> int:
        """Make the stamp's pixels inside object `owner` a new part of it; returns the part's id."""
        new = next(self.ids)
        self.part[stamp.window][stamp.mask & (self.whole[stamp.window] == owner)] = new
        return new


def blank_canvas(image: Floats) -> Canvas:
    """A canvas showing `image`, (S, S, 3), with no objects."""
    shape = image.shape[:2]
    return Canvas(image=image, whole=np.zeros(shape, np.int32), part=np.zeros(shape, np.int32))


def dense_levels(canvas: Canvas) -> NDArray[np.uint16]:
    """(L, H, W) labels: ids dense from 1, nothing too small to see, an empty level 1 left out."""
    whole, part = _dense(canvas.whole), _dense(canvas.part)
    return np.stack([whole, part] if part.any() else [whole])


def _dense(ids: Ids) -> NDArray[np.uint16]:
    counts = np.bincount(ids.ravel())
    kept = counts >= MIN_VISIBLE
    kept[0] = False
    table = np.where(kept, np.cumsum(kept), 0).astype(np.uint16)
    return np.asarray(table[ids])

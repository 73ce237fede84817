"""The part of a huge plane that a layer shows: every n-th pixel of what is on the screen. No Qt.

napari shows an array that can be painted on whole, or not at all. So a layer over a huge plane gets
a sheet of it that follows the camera; paint on a coarse sheet covers all pixels that it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Window
from napari_sam.lazy import Indexed

SIDE = 2048
"""Pixels a side of a plane that is shown whole, and of a sheet of a larger one."""
PAINTED = 4
"""Pixels of the image for one of the sheet up to which it may be painted on: strokes are whole."""
SEEN = 0.6
"""Share of a sheet's side that the screen takes at most when it is laid, to leave room to move."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sheet lies."""

    window: Window
    """The pixels of the image that it stands for."""
    steps: tuple[int, ...]
    """Pixels of the image for one of the sheet, along each axis."""

    @property
    def paintable(self) -> bool:
        """Whether a stroke over all of it is of pixels that memory holds."""
        return max(self.steps) <= PAINTED

    def holds(self, window: Window) -> bool:
        """Whether all of a window lies on it."""
        return all(
            a.start <= b.start and b.stop <= a.stop
            for a, b in zip(self.window, window, strict=True)
        )


def place_for(
    shape: Sequence[int], axes: tuple[int, int], middle: Sequence[float], extent: Sequence[float]
) -> Place:
    """Where to lay the sheet for a view.

    Args:
        shape: of the image.
        axes: that are shown.
        middle: of the screen, a position along these axes.
        extent: of the screen in pixels of the image along them.
    """
    window, steps = [slice(0, n) for n in shape], [1] * len(shape)
    if max(shape[axis] for axis in axes) > SIDE:
        step = step_for(extent)
        for axis, at in zip(axes, middle, strict=True):
            steps[axis] = step
            window[axis] = _along(at, SIDE * step, shape[axis], step)
    return Place(window=tuple(window), steps=tuple(steps))


def step_for(extent: Sequence[float]) -> int:
    """The power of two of pixels for one of the sheet at which a view fits."""
    return 1 << max(0, int(np.ceil(np.log2(max(1.0, *extent) / (SEEN * SIDE)))))


def _along(middle: float, side: int, length: int, step: int) -> slice:
    start = min(max(0.0, middle - side / 2), max(0, length - side))
    start = -int(-start // step) * step  # upwards: the last pixel has to lie on it
    return slice(start, min(length, start + side))


class Sheet(Indexed):
    """A part of an array, which is read and written through it.

    Args:
        array: the whole.
        place: the part.
    """

    def __init__(self, array: Indexed, place: Place) -> None:
        extents = (w.stop - w.start for w in place.window)
        super().__init__(
            [-(-n // step) for n, step in zip(extents, place.steps, strict=True)], array.dtype
        )
        self.array, self.place = array, place

    def window(self, part: Window) -> Window:
        """The pixels of the image that a part of the sheet stands for."""
        return tuple(
            slice(w.start + p.start * step, min(w.start + p.stop * step, w.stop))
            for w, p, step in zip(self.place.window, part, self.place.steps, strict=True)
        )

    def _take(self, ranges: Sequence[range]) -> NDArray[Any]:
        cuts = []
        for w, r, step in zip(self.place.window, ranges, self.place.steps, strict=True):
            start = w.start + r.start * step
            stop = w.start + r[-1] * step + 1 if r else start
            cuts.append(slice(start, stop, r.step * step))
        pixels: NDArray[Any] = self.array[tuple(cuts)]
        return pixels

    def _put(self, window: Window, values: NDArray[Any]) -> None:
        steps, whole = self.place.steps, self.window(window)
        if all(step == 1 for step in steps):
            self.array[whole] = values
            return
        # a stroke brings back what lies around it, too: only what changed is spread out
        changed = values != self[window]
        for axis, step in enumerate(steps):
            values, changed = values.repeat(step, axis), changed.repeat(step, axis)
        inside = tuple(slice(0, w.stop - w.start) for w in whole)
        pixels = self.array[whole]
        self.array[whole] = np.where(changed[inside], values[inside], pixels)

"""From where each prompt is looked at: windows of one size, each encoded once for its prompts.

The image is laid out in square cells, half as wide as a window. A window is a cell with a quarter
of a window around it, so that whatever is in the cell is seen with its surroundings. An object too
large for that has a window of its own, centred on it; one too large for a window has a wider one,
seen smaller. None of this depends on tiles, nor on other prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat.object_prompts import ScenePrompts
from samplat.stack_prompts import StackPrompts
from samplat.tiles import Window

MARGIN = 8
"""A window shows this part of its side around an object, at least, unless the image ends there."""


@dataclass(frozen=True, kw_only=True)
class PromptUnit:
    """One unit of work: prompts that are answered from one window."""

    index: int
    """Ordinal of the unit."""
    window: Window
    """What is seen, (z, y, x)."""
    factor: int
    """Pixels of the image per pixel that is seen, along each side; a power of two."""
    prompts: tuple[int, ...]
    """Numbers of the objects, ascending."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Windows of one side over an image."""

    shape: tuple[int, ...]
    """(z, y, x) of the image; of stacked slices their number, rows and columns."""
    side: int
    """Side of a window, in pixels that are seen."""

    @property
    def cell(self) -> int:
        """Side of a cell."""
        return max(1, self.side // 2)

    def around_cell(self, row: int, column: int) -> Window:
        """A cell with its surroundings; shifted where the image ends, so that none are lost."""
        margin = (self.side - self.cell) // 2
        return self._at(row * self.cell - margin, column * self.cell - margin, 1)

    def around(self, extent: NDArray[np.float64], factor: int) -> Window:
        """A window with the middle of a box x0, y0, x1, y1 in its middle."""
        x, y = (extent[:2] + extent[2:]) / 2 - self.side * factor / 2
        return self._at(int(np.floor(y)), int(np.floor(x)), factor)

    def _at(self, y: int, x: int, factor: int) -> Window:
        side, (_, height, width) = self.side * factor, self.shape
        y, x = (max(0, min(v, n - side)) // factor * factor for v, n in ((y, height), (x, width)))
        return Window(start=(0, y, x), stop=(1, min(height, y + side), min(width, x + side)))

    def shows(self, window: Window, extent: NDArray[np.float64], factor: int) -> bool:
        """Whether a window shows a box and enough of what is around it."""
        _, height, width = self.shape
        margin, bounds = self.side * factor / MARGIN, (width, height, width, height)
        x0, y0, x1, y1 = np.clip(extent + margin * np.array([-1, -1, 1, 1]), 0, bounds)
        (_, top, left), (_, bottom, right) = window.start, window.stop
        return bool(left <= x0 and top <= y0 and right >= x1 and bottom >= y1)

    def through(self, window: Window, axes: tuple[int, int, int]) -> Window:
        """What a window (slice, row, column) shows of all slices, as (z, y, x)."""
        (_, top, left), (_, bottom, right) = window.start, window.stop
        across = Window(start=(0, top, left), stop=(self.shape[0], bottom, right))
        z, y, x = np.argsort(axes).tolist()
        return across.transposed((z, y, x))

    def first_fitting(self, extent: NDArray[np.float64]) -> tuple[Window, int]:
        """The smallest window around a box that shows it, and its factor."""
        factor = 1
        while not self.shows(window := self.around(extent, factor), extent, factor):
            factor *= 2
        return window, factor


def stack_units(
    prompts: StackPrompts, sight: Sight, axes: tuple[int, int, int]
) -> tuple[PromptUnit, ...]:
    """A window for each object, through all slices; those in one window follow each other.

    Args:
        prompts: the objects.
        sight: windows over a slice, of which there is one in its frame.
        axes: of (z, y, x) in the order slice, row, column.
    """
    extents = prompts.extents()
    centres = (extents[:, :2] + extents[:, 2:]) / 2
    cells = np.floor(centres / sight.cell).astype(np.int64)
    looks = []
    for number, (extent, (column, row)) in enumerate(zip(extents, cells.tolist(), strict=True)):
        window, factor = sight.around_cell(row, column), 1
        if not sight.shows(window, extent, 1):
            window, factor = sight.first_fitting(extent)
        looks.append((window, factor, min(prompts.marks[number]), number))
    looks.sort(key=lambda look: (look[0].start, *look[1:]))
    return tuple(
        PromptUnit(
            index=index, window=sight.through(window, axes), factor=factor, prompts=(number,)
        )
        for index, (window, factor, _, number) in enumerate(looks)
    )


def plan_units(prompts: ScenePrompts, sight: Sight) -> tuple[PromptUnit, ...]:
    """The windows from which all prompts are answered, row by row."""
    extents = prompts.extents()
    centres = (extents[:, :2] + extents[:, 2:]) / 2
    cells = np.floor(centres / sight.cell).astype(np.int64)
    shared: dict[tuple[int, int], list[int]] = {}
    own: list[tuple[Window, int, tuple[int, ...]]] = []
    for number, (extent, (column, row)) in enumerate(zip(extents, cells.tolist(), strict=True)):
        if sight.shows(sight.around_cell(row, column), extent, 1):
            shared.setdefault((row, column), []).append(number)
        else:
            own.append((*sight.first_fitting(extent), (number,)))
    looks = [*own, *((sight.around_cell(*cell), 1, tuple(n)) for cell, n in shared.items())]
    looks.sort(key=lambda look: (look[0].start, look[1], look[2]))
    return tuple(_numbered(looks))


def _numbered(looks: list[tuple[Window, int, tuple[int, ...]]]) -> Iterator[PromptUnit]:
    for index, (window, factor, numbers) in enumerate(looks):
        yield PromptUnit(index=index, window=window, factor=factor, prompts=numbers)

"""Which part of a slice is looked at: a whole small one, else a tile of those of `tile-segment`.

Tiles are those that a job reads with a model that sees `SIDE` pixels, so that what it embedded is
at hand; few of them lie under the screen, so that they can be embedded before anybody clicks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

WHOLE = 1536
"""Slices of at most so many pixels a side are seen whole."""
SIDE = 1024
"""Pixels a side of what is seen of larger ones; for large prompts every second, third, ... one."""
TILE, HALO = 768, 128
"""Pixels a side that a job writes of such a part, and that it reads around them."""
LEAST = 64
"""Pixels between a prompt and the edge of a tile, at least."""
FILL = 0.75
"""Share of a view's side that prompts may take; centred views lie on a grid of a quarter of it."""
AHEAD = 16
"""Tiles that are worth a look before anybody clicks; a screen with more shows too much to guess."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A part of a slice that is encoded at once."""

    rows: slice
    """Its pixels along the slice's first axis."""
    columns: slice
    """And along the second."""
    step: int
    """Every how many-th pixel is seen."""

    @property
    def cut(self) -> tuple[slice, slice]:
        """Its index in the slice."""
        rows, columns = self.rows, self.columns
        return (
            slice(rows.start, rows.stop, self.step),
            slice(columns.start, columns.stop, self.step),
        )

    def ends_in(self, mask: NDArray[np.bool_], size: tuple[int, int]) -> bool:
        """Whether a mask of the view reaches its edge where the slice goes on."""
        height, width = size
        return bool(
            (self.rows.start > 0 and mask[0].any())
            or (self.rows.stop < height and mask[-1].any())
            or (self.columns.start > 0 and mask[:, 0].any())
            or (self.columns.stop < width and mask[:, -1].any())
        )


def view_of(places: NDArray[np.float64], size: tuple[int, int]) -> View:
    """What to look at first: the slice, the first prompt's tile, or a view around all of them.

    Args:
        places: (N, 2) positions of points and corners.
        size: (H, W) of the slice.
    """
    if max(size) <= WHOLE:
        return View(rows=slice(0, size[0]), columns=slice(0, size[1]), step=1)
    low, high = places.min(axis=0), places.max(axis=0)
    tile = _tile([_number(at, n) for at, n in zip(places[0], size, strict=True)], size)
    ends = zip((tile.rows, tile.columns), low, high, size, strict=True)
    return tile if all(_holds(*each) for each in ends) else centred_view(places, size)


def centred_view(places: NDArray[np.float64], size: tuple[int, int]) -> View:
    """A part of a slice with all prompts well inside of it.

    Prompts near each other share a view, so that a correction needs no other one.
    """
    low, high = places.min(axis=0), places.max(axis=0)
    step = max(1, int(np.ceil((high - low).max() / (FILL * SIDE))))
    side = SIDE * step
    rows, columns = (
        _along(middle, side, n) for middle, n in zip((low + high) / 2, size, strict=True)
    )
    return View(rows=rows, columns=columns, step=step)


def views_over(screen: tuple[slice, slice], size: tuple[int, int]) -> Iterator[View]:
    """What is worth a look before anybody clicks: from the middle of the screen, then around it.

    Args:
        screen: rows and columns that are shown.
        size: (H, W) of the slice.
    """
    if max(size) <= WHOLE:
        yield View(rows=slice(0, size[0]), columns=slice(0, size[1]), step=1)
        return
    shown = [
        range(_number(s.start, n), _number(s.stop - 1, n) + 1)
        for s, n in zip(screen, size, strict=True)
    ]
    if len(shown[0]) * len(shown[1]) > AHEAD:
        return
    around = [
        range(max(0, r.start - 1), min(_number(n, n), r.stop) + 1)
        for r, n in zip(shown, size, strict=True)
    ]
    middle = [(s.start + s.stop) / 2 for s in screen]

    def order(number: tuple[int, ...]) -> tuple[bool, float]:
        off = [(i + 0.5) * TILE - m for i, m in zip(number, middle, strict=True)]
        return any(i not in r for i, r in zip(number, shown, strict=True)), float(np.hypot(*off))

    found: list[View] = []
    for number in sorted(product(*around), key=order):
        # a sliver may be shown by what its neighbour is, too
        if (view := _tile(number, size)) not in found:
            found.append(view)
            yield view


def _number(at: float, length: int) -> int:
    return int(min(max(at, 0), length - 1)) // TILE


def _tile(number: Sequence[int], size: tuple[int, int]) -> View:
    rows, columns = (_read(i, n) for i, n in zip(number, size, strict=True))
    return View(rows=rows, columns=columns, step=1)


def _read(number: int, length: int) -> slice:
    start, stop = max(0, number * TILE - HALO), min(length, (number + 1) * TILE + HALO)
    if stop == length and stop - start < TILE:  # a sliver shows little: what a model can see
        start = max(0, length - SIDE)
    return slice(start, stop)


def _holds(part: slice, low: float, high: float, length: int) -> bool:
    return bool(
        low >= (part.start + LEAST if part.start else -1)
        and high <= (part.stop - LEAST if part.stop < length else length)
    )


def _along(middle: float, side: int, length: int) -> slice:
    grid = side // 4
    start = min(max(0, round((middle - side / 2) / grid) * grid), max(0, length - side))
    return slice(start, min(length, start + side))

"""Which part of a picture is shown to the model for a prompt: test-time scale choice.

A model enlarges what it is shown to its input size, so a smaller window is a larger scale. The
rules see what a user has, the picture's size and the prompt, and never the truth.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from benchmarks.evaluation.objects import Box

Zoom = float | Literal["auto"]
"""1: the whole picture. z: a square of the picture's longest side / z. "auto": see below."""

BOX_CONTEXT = 3.0
"""Automatic window: its side as a multiple of the box's longer side,"""
BOX_LEAST = 96
"""but at least this many pixels."""
BOX_MARGIN = 1.5
"""With a fixed zoom the window never shrinks below this multiple of the box's longer side."""
POINT_MOST = 512
"""Automatic window of a point: a square of this side; the whole picture where it is no larger."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A rectangle of a picture in pixels, half-open."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that the view shows."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def point_view(size: tuple[int, int], point: tuple[int, int], zoom: Zoom) -> View:
    """The window for a point x, y of a picture of `size` (H, W)."""
    side = POINT_MOST if zoom == "auto" else max(size) / zoom
    return square_view(size, (point[0] + 0.5, point[1] + 0.5), side)


def box_view(size: tuple[int, int], box: Box, zoom: Zoom) -> View:
    """The window for a box in a picture of `size` (H, W); it holds the box."""
    x0, y0, x1, y1 = box
    longer = max(x1 - x0, y1 - y0)
    if zoom == "auto":
        side = max(BOX_CONTEXT * longer, BOX_LEAST)
    else:
        side = max(max(size) / zoom, BOX_MARGIN * longer)
    return square_view(size, ((x0 + x1) / 2, (y0 + y1) / 2), side)


def square_view(size: tuple[int, int], centre: tuple[float, float], side: float) -> View:
    """A square around a centre x, y, moved into the picture and cut to it where it is larger."""
    whole = min(max(round(side), 1), max(size))
    x0, x1 = _span(centre[0], whole, size[1])
    y0, y1 = _span(centre[1], whole, size[0])
    return View(x0=x0, y0=y0, x1=x1, y1=y1)


def parse_zoom(text: str) -> Zoom:
    """A zoom as typed: "auto", or a number of at least 1.

    Raises:
        ValueError: anything else.
    """
    if text == "auto":
        return "auto"
    with suppress(ValueError):
        if 1 <= (zoom := float(text)) < float("inf"):
            return zoom
    raise ValueError(f'expected "auto" or a zoom of at least 1, got {text!r}')


def _span(centre: float, side: int, length: int) -> tuple[int, int]:
    """Start and stop of `side` pixels around `centre`, within 0 .. length."""
    if side >= length:
        return 0, length
    start = min(max(round(centre - side / 2), 0), length - side)
    return start, start + side

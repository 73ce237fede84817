"""What prompts of one slice are to a model: points, a box and a mask in the pixels that it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.state import Box, Point, Polygon, Prompt, Region, Scribble

ALONG = 8
"""Points that a scribble becomes: evenly along it, half a distance from its ends. On labelled
pictures these are better than fewer, and than a mask (`benchmarks/scribbles.py`)."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Which pixels of a slice a model sees."""

    axes: tuple[int, int]
    """The image's axes that are rows and columns."""
    start: tuple[int, int]
    """The first row and column."""
    step: int
    """Every how many-th one."""
    size: tuple[int, int]
    """Rows and columns that are seen."""

    def places(self, ends: Any) -> NDArray[np.float64]:
        """(N, 2) x, y of (N, axes) positions; the centre of the first pixel is 0, 0."""
        slice_places = np.asarray(ends, float)[:, list(self.axes)]
        seen: NDArray[np.float64] = (slice_places - self.start + 0.5) / self.step - 0.5
        return seen[:, ::-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pointed:
    """What is said of an object on a slice."""

    points: NDArray[np.float64]
    """(K, 2) x, y; the centre of the first pixel is 0, 0."""
    labels: NDArray[np.int32]
    """(K,) 1: on the object, 0: beside it."""
    box: NDArray[np.float64] | None
    """(4,) x0, y0, x1, y1; the first pixel begins at 0, 0."""
    mask: NDArray[np.bool_] | None
    """(H, W) about where the object is; None: nobody said it."""

    @property
    def is_one_point(self) -> bool:
        """Whether it may mean several things."""
        return len(self.points) == 1 and self.box is None and self.mask is None


def pointed(
    prompts: Sequence[Prompt], seen: Seen, held: NDArray[np.bool_] | None = None
) -> Pointed:
    """What the prompts of a slice say together.

    Args:
        prompts: in the order in which they were placed; of several boxes the last is meant.
        seen: the pixels.
        held: (H, W) of these, the object as it is; None: it is a new one.
    """
    points: list[NDArray[np.float64]] = [np.zeros((0, 2))]
    labels: list[int] = []
    for each in prompts:
        if isinstance(each, Point | Scribble):
            along = seen.places(_along(each))
            points.append(along)
            labels += [int(each.positive)] * len(along)
    areas = [_area(p, seen) for p in prompts if isinstance(p, Polygon | Region)]
    masks = areas if held is None else [*areas, held]
    mask = np.logical_or.reduce(masks) if masks else np.zeros(0, bool)
    return Pointed(
        points=np.concatenate(points),
        labels=np.array(labels, np.int32),
        box=_box(prompts, areas, seen),
        mask=mask if mask.any() else None,
    )


def _along(prompt: Point | Scribble) -> NDArray[np.float64]:
    """The position of a point; those along a line, as far apart as its length allows."""
    if isinstance(prompt, Point):
        return np.array([prompt.position])
    places = np.array(prompt.places)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    ends = np.concatenate([[0.0], np.cumsum(steps)])
    count = int(np.clip(np.ceil(ends[-1]), 1, ALONG))  # no more than a point for each pixel
    at = (np.arange(count) + 0.5) / count * ends[-1]
    return np.stack([np.interp(at, ends, axis) for axis in places.T], axis=1)


def _area(prompt: Polygon | Region, seen: Seen) -> NDArray[np.bool_]:
    """(H, W) the pixels whose centres a polygon holds, or those of a region."""
    if isinstance(prompt, Polygon):
        from skimage import draw

        inside: Any = draw.polygon
        mask = np.zeros(seen.size, bool)
        x, y = seen.places(prompt.places).T
        mask[inside(y, x, seen.size)] = True
        return mask
    (rows, columns), mask = (prompt.pixels.window[a] for a in seen.axes), np.zeros(seen.size, bool)
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    held = prompt.pixels.array().reshape(shape) != 0
    y, y0 = _overlap(rows, seen.start[0], seen.step, seen.size[0])
    x, x0 = _overlap(columns, seen.start[1], seen.step, seen.size[1])
    mask[y0[:, None], x0[None]] = held[np.ix_(y, x)]
    return mask


def _overlap(part: slice, start: int, step: int, size: int) -> tuple[Any, Any]:
    """Which indices of a part of an axis are seen, and as the how many-th pixel."""
    pixels = start + step * np.arange(size)
    inside = (pixels >= part.start) & (pixels < part.stop)
    return pixels[inside] - part.start, np.flatnonzero(inside)


def _box(
    prompts: Sequence[Prompt], areas: Sequence[NDArray[np.bool_]], seen: Seen
) -> NDArray[np.float64] | None:
    """The last box; without one that around all polygons and regions."""
    boxes = [p for p in prompts if isinstance(p, Box)]
    if boxes:
        # pixels are centred on their index there, boxes begin at a pixel's edge here
        return seen.places([boxes[-1].start, boxes[-1].stop]).ravel() + 0.5
    if not areas or not (drawn := np.logical_or.reduce(areas)).any():
        return None
    y, x = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], float)

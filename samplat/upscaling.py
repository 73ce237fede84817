"""Masks at the image's resolution, only where they are: what filters and run lengths are made of.

Upscaling is linear along each axis, and between cells that are all far above or all far below a
threshold so are the pixels: only those along edges have to be worked out, and a mask needs never be
there as a whole.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from samplat.checkpoints import Model
from samplat.embedding import Embedding
from samplat.machine_code import as_machine_code
from samplat.masks import mask_box

ROOM = 4096
"""For the beginnings and ends of runs, beside those that cells show."""
SURE = 1e-3
"""How far, in logits, cells are from a threshold if rounding cannot bring a pixel across."""


@dataclass(frozen=True, kw_only=True)
class Outlined:
    """One mask at the image's resolution."""

    counts: NDArray[np.int64]
    """Lengths of its runs down the columns, off and on in turns, beginning with off, as in COCO."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1, half-open; zeros if it is empty."""
    area: int
    """In pixels."""
    stability: float
    """Stability score (paper, appendix B)."""

    @classmethod
    def of(cls, mask: NDArray[np.bool_], stability: float) -> Outlined:
        """Of a mask (H, W) that is there as a whole."""
        edges = np.flatnonzero(np.diff(mask.T.ravel().view(np.int8), prepend=0))
        runs = np.diff(edges, prepend=0, append=mask.size)
        return cls(counts=runs, box=mask_box(mask), area=int(mask.sum()), stability=stability)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Pixels along one axis of an image as weighted sums of the cells of low-resolution logits."""

    first: NDArray[np.uint32]
    """(pixels,) first cell of weight."""
    weights: NDArray[np.float32]
    """(K, pixels) of this cell and those after it."""
    cells: int
    """Cells along the axis."""
    begin: NDArray[np.int64]
    """(cells,) the first pixel in which a cell or one after it has weight."""
    stop: NDArray[np.int64]
    """(cells,) the pixel after the last one in which the cell or one before it has weight."""
    scale: float
    """Pixels to a cell."""

    @classmethod
    def of(cls, cells: int, pixels: int, inner: int, stride: int) -> Axis:
        """As `upscale_logits` does it: cells to the model's input, cut, and to the image.

        Args:
            cells: of the logits that lie on the image, and one more if there is one.
            pixels: of the image.
            inner: pixels of the model's input that hold the image.
            stride: of these to a cell.
        """
        values = F.interpolate(
            torch.eye(cells)[:, None], cells * stride, mode="linear", align_corners=False
        )
        if inner != pixels:
            values = F.interpolate(values[..., :inner], pixels, mode="linear", align_corners=False)
        weights = values[:, 0, :pixels].T.numpy()
        used = weights != 0
        first, last = used.argmax(axis=1), cells - 1 - used[:, ::-1].argmax(axis=1)
        width = int((last - first).max()) + 1
        first = np.minimum(first, cells - width)
        band = np.take_along_axis(weights.T, first + np.arange(width)[:, None], axis=0)
        return cls(
            first=first.astype(np.uint32),
            weights=np.ascontiguousarray(band),
            cells=cells,
            begin=np.searchsorted(first + width - 1, np.arange(cells)),
            stop=np.searchsorted(first, np.arange(cells), side="right"),
            scale=stride * pixels / inner,
        )


@dataclass(frozen=True, kw_only=True)
class Upscaling:
    """From low-resolution logits of an embedding's image to its pixels."""

    rows: Axis
    """Along the first axis."""
    columns: Axis
    """Along the second."""

    @classmethod
    def of(cls, model: Model, embedding: Embedding) -> Upscaling:
        """For masks of this image."""
        stride, limits = model.sam.mask_stride, model.sam.mask_input_size
        axes = (
            Axis.of(min(-(-inner // stride) + 1, limit), pixels, inner, stride)
            for limit, pixels, inner in zip(
                limits, embedding.original_size, embedding.input_size, strict=True
            )
        )
        return cls(rows=next(axes), columns=next(axes))

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of logits that lie on the image."""
        return self.rows.cells, self.columns.cells

    def pixels(self, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Boxes (N, 4) of cells, as of `boxes_above`, in pixels x0, y0, x1, y1: to the cell."""
        axes = (self.columns, self.rows)
        start, stop = (boxes[:, [1, 0]], boxes[:, [3, 2]])
        scaled = []
        for part in (start, stop):
            for k, axis in enumerate(axes):
                scaled.append(np.minimum(np.rint(part[:, k] * axis.scale), len(axis.first)))
        return np.stack(scaled, axis=1).astype(np.int64)

    def outlined(self, logits: NDArray[np.float32], offset: float) -> Outlined:
        """What filters and run-length codes need of one mask.

        Args:
            logits: (h, w), `cells` of them.
            offset: shift of the threshold for the stability score.
        """
        rows, columns = self.rows, self.columns
        trace, across = _compiled(), np.ascontiguousarray(logits.T, np.float32)
        axes = (rows.first, rows.weights, rows.begin, rows.stop, columns.first, columns.weights)
        flips = np.count_nonzero((across[:, 1:] > 0) != (across[:, :-1] > 0))
        room, facts = ROOM + math.ceil(1.1 * flips * columns.scale), None
        while facts is None or facts[0] < 0:
            edges = np.empty(room + len(rows.first), np.int64)
            facts, room = trace(across, *axes, np.float32(offset), edges), 4 * room
        used, area, strict, lenient, y0, y1 = facts.tolist()
        height, pixels = len(rows.first), len(rows.first) * len(columns.first)
        edges = edges[:used]
        end = edges[-1] if used and used % 2 == 0 else pixels
        x0, x1 = (int(edges[0]) // height, -(-int(end) // height)) if used else (0, 0)
        runs = np.diff(edges, prepend=0, append=pixels)
        return Outlined(
            counts=runs,
            box=(x0, y0, x1, y1),
            area=area,
            stability=strict / max(1, lenient),
        )


@functools.cache
def _compiled() -> Callable[..., NDArray[np.int64]]:
    return as_machine_code(_trace)


def _trace(
    columns: Any,
    first_y: Any,
    weights_y: Any,
    begin_y: Any,
    stop_y: Any,
    first_x: Any,
    weights_x: Any,
    offset: Any,
    edges: Any,
) -> NDArray[np.int64]:
    """Where, down the columns, a mask begins and ends in turns; there has to be room in `edges`.

    Returns:
        their number, negative if there was no room; area; pixels above offset and above -offset;
        first and last row.
    """
    height, (across, cells) = len(first_y), columns.shape
    kept = len(weights_x)
    begins, stops = np.full(across, height, np.int64), np.zeros(across, np.int64)
    off = min(-offset, offset, np.float32(0)) - SURE
    for c in range(across):
        cell, low, high = columns[c], 0, cells
        while low < high and cell[low] < off:
            low += 1
        while low < high and cell[high - 1] < off:
            high -= 1
        if low < high:
            begins[c], stops[c] = begin_y[low], stop_y[high - 1]
    top, bottom = begins.min(), stops.max()
    # The latest cells' columns at the image's rows; each serves several columns of the image.
    tall, which = np.empty((kept, height), np.float32), np.full(kept, -1)
    values = np.empty(height, np.float32)
    flips = np.zeros(height // 8 * 8 + 16, np.uint8)  # eight at a time, most are nothing
    eight = flips.view(np.uint64)
    used, area, above_high, above_low, y0, y1 = 0, 0, 0, 0, height, 0
    on = False
    for x in range(len(first_x)):
        first = np.int64(first_x[x])
        begin, stop = begins[first : first + kept].min(), stops[first : first + kept].max()
        if begin >= stop:
            begin = stop = 0
        for c in range(first, first + kept if begin < stop else first):
            line, cell = tall[c % kept, top:bottom], columns[c]
            if which[c % kept] != c:
                which[c % kept] = c
                line[:] = 0
                for k in range(len(weights_y)):
                    weights, source, places = (
                        weights_y[k, top:bottom],
                        cell[k:],
                        first_y[top:bottom],
                    )
                    for i in range(len(line)):
                        line[i] += weights[i] * source[places[i]]
        if used + height + 1 > len(edges):
            return np.full(6, -1)
        if on and begin > 0:
            edges[used], used, on = x * height, used + 1, False
        value = values[: stop - begin]
        value[:] = 0
        for k in range(kept):
            weight, line = weights_x[k, x], tall[(first + k) % kept, begin:stop]
            for i in range(len(value)):
                value[i] += weight * line[i]
        # In 32 bits, twice as many at once.
        high_here, low_here, here = np.int32(0), np.int32(0), np.int32(0)
        for i in range(len(value)):
            high_here += np.int32(value[i] > offset)
            low_here += np.int32(value[i] > -offset)
            here += np.int32(value[i] > 0)
        above_high += int(high_here)
        above_low += int(low_here)
        area += int(here)
        if len(value) > 0:
            flips[0] = (value[0] > 0) != on
            for i in range(1, len(value)):
                flips[i] = (value[i] > 0) != (value[i - 1] > 0)
            flips[len(value) : len(value) + 8] = 0
            on = value[-1] > 0
            for word in range((len(value) + 7) // 8):
                if eight[word] != 0:
                    for i in range(8 * word, 8 * word + 8):
                        edges[used] = x * height + begin + i
                        used += flips[i]
        if on and stop < height:
            edges[used], used, on = x * height + stop, used + 1, False
        if here > 0:
            i, j = 0, len(value) - 1
            while value[i] <= 0:
                i += 1
            while value[j] <= 0:
                j -= 1
            y0, y1 = min(y0, begin + i), max(y1, begin + j + 1)
    return np.array([used, area, above_high, above_low, min(y0, y1), y1])


def boxes_above(logits: Tensor, threshold: float) -> NDArray[np.int64]:
    """(N, 4) first row and column, and past the last, of what exceeds a threshold; 0 if nothing.

    Args:
        logits: (N, h, w).
        threshold: what to exceed.
    """
    above = logits > threshold
    bounds = []
    for dim in (2, 1):
        line = above.any(dim=dim)
        length = line.shape[1]
        first = line.int().argmax(dim=1)
        stop = length - line.flip(1).int().argmax(dim=1)
        some = line.any(dim=1)
        bounds.append((first * some, stop * some))
    (top, bottom), (left, right) = bounds
    return torch.stack([top, left, bottom, right], dim=1).cpu().numpy()

"""Masks at the image's resolution, only where they are: what filters and run lengths are made of.

Upscaling is linear along each axis, and between cells that are all far above or all far below a
threshold so are the pixels: only those along edges have to be worked out, and a mask needs never be
there as a whole.
"""

from __future__ import annotations

import functools
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
from samplat.machine_code import machine_code

RUNS = 4096
"""Room for runs at first."""
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


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Pixels along one axis of an image as weighted sums of the cells of low-resolution logits."""

    first: NDArray[np.int64]
    """(pixels,) first cell of weight."""
    weights: NDArray[np.float32]
    """(pixels, K) of this cell and those after it."""
    cells: int
    """Cells along the axis."""
    groups: NDArray[np.int64]
    """(G + 1,) where runs of pixels with the same first cell begin, and their end."""
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
        band = np.take_along_axis(weights, first[:, None] + np.arange(width), axis=1)
        starts = np.flatnonzero(np.diff(first, prepend=-1))
        return cls(
            first=first,
            weights=band,
            cells=cells,
            groups=np.append(starts, pixels),
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
        axes = (rows.first, rows.weights, columns.first, columns.weights, rows.groups)
        counts, used = np.empty(RUNS, np.int64), 0
        while not used:
            facts = trace(across, *axes, np.float32(offset), counts)
            used = int(facts[0])
            counts = counts[:used] if used else np.empty(4 * len(counts), np.int64)
        area, strict, lenient, x0, y0, x1, y1 = facts[1:].tolist()
        return Outlined(
            counts=counts, box=(x0, y0, x1, y1), area=area, stability=strict / max(1, lenient)
        )


@functools.cache
def _compiled() -> Callable[..., NDArray[np.int64]]:
    return machine_code(_trace)


def _trace(
    columns: Any,
    first_y: Any,
    weights_y: Any,
    first_x: Any,
    weights_x: Any,
    groups: Any,
    offset: Any,
    counts: Any,
) -> NDArray[np.int64]:
    """Number of runs, 0 if there is no room for them; area, pixels above +offset, -offset; box."""
    height, width, cells = len(first_y), len(first_x), columns.shape[1]
    reach_y, reach_x = weights_y.shape[1], weights_x.shape[1]
    column = np.empty(cells, np.float32)
    sure_off, sure_on = min(-offset, offset, 0) - SURE, max(-offset, offset, 0) + SURE
    area, above_low, above_high, used = 0, 0, 0, 0
    x0, y0, x1, y1 = width, height, 0, 0
    on, since = False, 0
    for x in range(width):
        column[:] = 0
        for k in range(reach_x):
            weight, source = weights_x[x, k], columns[first_x[x] + k]
            for i in range(cells):
                column[i] += weight * source[i]
        for g in range(len(groups) - 1):
            # Pixels between the same cells: mostly all on one side of every threshold.
            begin, stop = groups[g], groups[g + 1]
            first = first_y[begin]
            least = most = column[first]
            for k in range(1, reach_y):
                least, most = min(least, column[first + k]), max(most, column[first + k])
            if most < sure_off or least > sure_on:
                inside = least > sure_on
                if inside:
                    n = stop - begin
                    area, above_low, above_high = area + n, above_low + n, above_high + n
                    x0, x1 = min(x0, x), max(x1, x + 1)
                    y0, y1 = min(y0, begin), max(y1, stop)
                stop = begin + 1 if inside != on else begin
                edge = True
            else:
                inside, edge = on, False
            for here in range(begin, stop):
                if not edge:
                    value = np.float32(0)
                    for k in range(reach_y):
                        value += weights_y[here, k] * column[first + k]
                    above_low += value > -offset
                    above_high += value > offset
                    inside = value > 0
                    if inside:
                        area += 1
                        x0, x1 = min(x0, x), max(x1, x + 1)
                        y0, y1 = min(y0, here), max(y1, here + 1)
                if inside != on:
                    if used + 2 > len(counts):
                        return np.zeros(8, np.int64)
                    counts[used] = x * height + here - since
                    used, on, since = used + 1, inside, x * height + here
    if width * height > since or not used:
        counts[used] = width * height - since
        used += 1
    if not area:
        x0, y0 = 0, 0
    return np.array([used, area, above_high, above_low, x0, y0, x1, y1])


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

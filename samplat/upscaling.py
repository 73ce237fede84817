"""Masks at the image's resolution, only where they are: what filters and run lengths are made of.

Upscaling is linear along each axis. As a matrix for the rows and one for the columns it can be had
for any part of the image, and costs what that part costs: most masks are small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from samplat.checkpoints import Model
from samplat.embedding import Embedding


@dataclass(frozen=True, kw_only=True)
class Region:
    """Logits of one mask in the part of an image where it may be."""

    logits: Tensor
    """(y, x)."""
    corner: tuple[int, int]
    """Row and column of the first one in the image."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Pixels along one axis of an image as weighted sums of the cells of low-resolution logits."""

    weights: Tensor
    """(pixels, cells)."""
    first: NDArray[np.int64]
    """(pixels,) first cell of weight."""
    last: NDArray[np.int64]
    """(pixels,) and the last one."""
    scale: float
    """Pixels to a cell."""

    @classmethod
    def of(cls, cells: int, pixels: int, inner: int, stride: int, device: torch.device) -> Axis:
        """As `upscale_logits` does it: cells to the model's input, cut, and to the image.

        Args:
            cells: of the logits that lie on the image, and one more if there is one.
            pixels: of the image.
            inner: pixels of the model's input that hold the image.
            stride: of these to a cell.
            device: of the logits.
        """
        cell = torch.eye(cells, device=device)[:, None]
        values = F.interpolate(cell, cells * stride, mode="linear", align_corners=False)
        if inner != pixels:
            values = F.interpolate(values[..., :inner], pixels, mode="linear", align_corners=False)
        weights = values[:, 0, :pixels].T.contiguous()
        used = (weights != 0).cpu().numpy()
        first, last = used.argmax(axis=1), cells - 1 - used[:, ::-1].argmax(axis=1)
        return cls(weights=weights, first=first, last=last, scale=stride * pixels / inner)

    def touching(self, start: int, stop: int) -> slice:
        """Pixels to which a cell of a range has something to say."""
        begin = int(np.searchsorted(self.last, start))
        return slice(begin, max(begin, int(np.searchsorted(self.first, stop))))

    def part(self, pixels: slice) -> tuple[Tensor, slice]:
        """The weights of some pixels, and the cells that these are for."""
        if pixels.start == pixels.stop:  # a small image does not sample every cell
            return self.weights[:0, :0], slice(0, 0)
        cells = slice(int(self.first[pixels][0]), int(self.last[pixels][-1]) + 1)
        return self.weights[pixels, cells], cells


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
            Axis.of(min(-(-inner // stride) + 1, limit), pixels, inner, stride, model.device)
            for limit, pixels, inner in zip(
                limits, embedding.original_size, embedding.input_size, strict=True
            )
        )
        return cls(rows=next(axes), columns=next(axes))

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of logits that lie on the image."""
        return self.rows.weights.shape[1], self.columns.weights.shape[1]

    def pixels(self, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Boxes (N, 4) of cells, as of `boxes_above`, in pixels x0, y0, x1, y1: to the cell."""
        axes = (self.columns, self.rows)
        start, stop = (boxes[:, [1, 0]], boxes[:, [3, 2]])
        scaled = []
        for part in (start, stop):
            for k, axis in enumerate(axes):
                scaled.append(np.minimum(np.rint(part[:, k] * axis.scale), len(axis.first)))
        return np.stack(scaled, axis=1).astype(np.int64)

    def region(self, logits: Tensor, box: tuple[int, int, int, int]) -> Region:
        """One mask where cells of a box can make themselves felt.

        Args:
            logits: (h, w).
            box: first row, first column, and past the last ones, in cells; not empty.
        """
        y, x = self.rows.touching(box[0], box[2]), self.columns.touching(box[1], box[3])
        (down, rows), (across, columns) = self.rows.part(y), self.columns.part(x)
        values = down @ logits[rows, columns].float() @ across.T
        return Region(logits=values, corner=(y.start, x.start))


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

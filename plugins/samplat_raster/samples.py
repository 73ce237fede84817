"""A look at a whole raster that does not read it whole: from its overviews, or from patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AFFORDABLE_PIXELS = 2**26
"""As many pixels are read to look at a raster whole."""

PATCHES, PATCH = 24, 64
"""Patches along each axis, and their side in pixels, where there are more and no overviews."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a raster is looked at: places in it, and places in the picture that they become."""

    shape: tuple[int, int]
    """Of the picture."""
    parts: tuple[tuple[tuple[int, int, int, int] | None, tuple[slice, slice]], ...]
    """x, y, width, height in the raster, None for all of it; rows and columns of the picture."""

    def assemble(self, read: Callable[..., NDArray[Any]]) -> NDArray[Any]:
        """The picture (..., y, x).

        Args:
            read: nearest pixels (..., y, x) of a `window=` or of all, as `out_shape=`.
        """
        whole: NDArray[Any] | None = None
        for part, (place, to) in zip(self._read(read), self.parts, strict=True):
            if place is None:
                return part
            if whole is None:
                whole = np.zeros((*part.shape[:-2], *self.shape), part.dtype)
            whole[..., to[0], to[1]] = part
        assert whole is not None  # noqa: S101 there is at least one part
        return whole

    def _read(self, read: Callable[..., NDArray[Any]]) -> Iterator[NDArray[Any]]:
        from rasterio.windows import Window as Place

        for place, (rows, columns) in self.parts:
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            yield read(out_shape=shape, window=None if place is None else Place(*place))


def look_at(dataset: Any, max_size: int) -> Look:
    """The whole raster, no side longer than `max_size`, at the price of `AFFORDABLE_PIXELS`.

    Where reading it would cost more, the picture is made of patches instead, at their own
    resolution and spread evenly, each inside of a block of the file where it fits.
    """
    height, width = dataset.shape
    factor = max(1.0, max(height, width) / max_size)
    # an overview that is little coarser, as it is: less to read than from the next finer one
    factor = min((o for o in dataset.overviews(1) if factor <= o < 2 * factor), default=factor)
    shape = (max(1, math.floor(height / factor)), max(1, math.floor(width / factor)))
    # GDAL reads nearest pixels from the coarsest overview that is not too coarse
    finer = max((o for o in (1, *dataset.overviews(1)) if o <= factor), default=1)
    if height * width / finer**2 <= AFFORDABLE_PIXELS:
        return Look(shape=shape, parts=((None, (slice(0, shape[0]), slice(0, shape[1]))),))
    side = max(1, min(PATCH, max_size // PATCHES))
    (block_height, block_width), *_ = dataset.block_shapes
    rows = _starts(height, side, block_height, max_size)
    columns = _starts(width, side, block_width, max_size)
    tall, wide = min(side, height), min(side, width)
    parts = tuple(
        (
            (x, y, wide, tall),
            (slice(i * tall, (i + 1) * tall), slice(j * wide, (j + 1) * wide)),
        )
        for i, y in enumerate(rows)
        for j, x in enumerate(columns)
    )
    return Look(shape=(len(rows) * tall, len(columns) * wide), parts=parts)


def _starts(extent: int, side: int, block: int, max_size: int) -> list[int]:
    """Where patches begin along an axis: amid as many equal parts, moved into a block."""
    count = max(1, min(PATCHES, extent // side, max_size // side))
    starts = [max(0, (2 * i + 1) * extent // (2 * count) - side // 2) for i in range(count)]
    if block >= 2 * side:
        # a patch on the edge of two blocks would decompress both
        starts = [s - max(0, s % block + side - block) for s in starts]
    return [min(s, max(0, extent - side)) for s in starts]

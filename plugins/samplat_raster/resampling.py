"""A raster at another ground sampling distance: a grid over the same ground, read through GDAL.

Coarser grids are read from the overview that is next finer, so that a view from far away does not
need all of the file. Every block of the grid is always read by the same request: what a pixel
becomes does not depend on the window it is asked for with, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, TileGrid, Window

BLOCK = 256
"""Side of the blocks in which a grid is read, in its own pixels."""

HALF = 128
"""A resampled mask is 0 to 255; from here on a pixel is valid."""


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A grid of (height, width) pixels over the ground of a whole raster."""

    shape: tuple[int, int]
    """Rows and columns."""
    factors: tuple[float, float]
    """Pixels of the raster per pixel of the grid, along y and x. Above 1: the grid is coarser."""
    level: int | None
    """Overview to read from, 0 is the finest; None for the raster itself."""

    def blocks(self, window: Window) -> Iterator[Window]:
        """The blocks (1, y, x) that a window of the grid touches."""
        grid = TileGrid(shape=(1, *self.shape), tile_shape=(1, BLOCK, BLOCK), halo=(0, 0, 0))
        return (tile.write for tile in grid.overlapping(window))

    def read(
        self, dataset: Any, window: Window, request: Callable[..., NDArray[Any]]
    ) -> NDArray[Any]:
        """A window (1, y, x) of the grid, as (band, y, x) or (y, x).

        Args:
            dataset: the raster at `level`, and nothing but that.
            window: in the frame of the grid.
            request: reads `window=` a place in the dataset, as `out_shape=(rows, columns)`.
        """
        parts = {block: self._block(dataset, block, request) for block in self.blocks(window)}
        first = next(iter(parts.values()))
        out = np.empty((*first.shape[:-2], *window.shape[1:]), first.dtype)
        for block, pixels in parts.items():
            shared = block.intersection(window)
            (_, rows, columns), (_, y, x) = (
                shared.relative_to(window).slices,
                shared.relative_to(block).slices,
            )
            out[..., rows, columns] = pixels[..., y, x]
        return out

    def _block(
        self, dataset: Any, block: Window, request: Callable[..., NDArray[Any]]
    ) -> NDArray[Any]:
        from rasterio.windows import Window as Place

        down, across = (n / m for n, m in zip(dataset.shape, self.shape, strict=True))
        (_, y, x), (_, height, width) = block.start, block.shape
        place = Place(x * across, y * down, width * across, height * down)
        return request(window=place, out_shape=(height, width))


def resampled(
    shape: tuple[int, int], pixel: tuple[float, float], overviews: list[int], gsd: float, path: str
) -> Resampled | None:
    """The grid of square pixels of a ground sampling distance; None where the raster has it.

    The grid covers the raster exactly: its pixels are `gsd` wide up to rounding to a whole number
    of them.

    Args:
        shape: rows and columns of the raster.
        pixel: metres on the ground per pixel of the raster, along y and x.
        overviews: factors of its overviews, the finest first.
        gsd: metres.
        path: of the raster, for messages.

    Raises:
        InputError: the distance is no positive number.
    """
    if not (math.isfinite(gsd) and gsd > 0):
        raise InputError(f"expected a ground sampling distance in metres above 0, got {gsd:g}")
    rows, columns = (max(1, round(n * p / gsd)) for n, p in zip(shape, pixel, strict=True))
    if (rows, columns) == shape:
        return None
    factors = (shape[0] / rows, shape[1] / columns)
    # an overview of an odd number of rows is a little coarser than its factor says
    fine_enough = [i for i, factor in enumerate(overviews) if factor <= 1.01 * min(factors)]
    return Resampled(
        shape=(rows, columns), factors=factors, level=fine_enough[-1] if fine_enough else None
    )


def level_options(level: int | None) -> dict[str, str]:
    """Options with which GDAL opens one overview, or the raster itself, and chooses no other."""
    return {"OVERVIEW_LEVEL": "NONE" if level is None else f"{level}only"}


def knowing_nodata(dataset: Any, nodata: float | None) -> Any:
    """The dataset, which also knows a nodata value that its file does not say.

    Without that, GDAL would mix it into the pixels beside it.
    """
    from rasterio.vrt import WarpedVRT

    wanted = [v for v in dataset.nodatavals if v is None or v != nodata]
    if nodata is None or not wanted or not _fits(nodata, dataset.dtypes):
        return dataset
    return WarpedVRT(
        dataset,
        crs=dataset.crs,
        src_nodata=nodata,
        nodata=nodata,
        transform=dataset.transform,
        width=dataset.width,
        height=dataset.height,
    )


def _fits(value: float, dtypes: tuple[str, ...]) -> bool:
    kinds = [np.dtype(name) for name in dtypes]
    return all(
        kind.kind == "f"
        or (value.is_integer() and np.iinfo(kind).min <= value <= np.iinfo(kind).max)
        for kind in kinds
    )

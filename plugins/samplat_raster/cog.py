"""Labels as a cloud-optimised GeoTIFF."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from colorsys import hsv_to_rgb
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samplat import ImageInfo, JobResult, check_file
from samplat_raster.georeference import affine_of
from samplat_raster.outputs import check_flat, label_dtype, narrowed, replacing

COG_OPTIONS = {
    "COMPRESS": "ZSTD",
    "BLOCKSIZE": "512",
    "OVERVIEW_RESAMPLING": "NEAREST",
    "OVERVIEW_COMPRESS": "ZSTD",
    "LEVEL": "1",
    "BIGTIFF": "IF_SAFER",
    "SPARSE_OK": "TRUE",
    "NUM_THREADS": "ALL_CPUS",
}
GOLDEN_ANGLE = (5**0.5 - 1) / 2
"""Of a turn: steps of it fill the circle as evenly as steps of one size can."""
GDAL_CACHE_BYTES = 128 * 2**20
"""Blocks that GDAL keeps in memory while it writes."""


@dataclass(frozen=True, kw_only=True)
class CogExporter:
    """Ids in the smallest unsigned type that holds them; the input's CRS and transform.

    0 is background and is data; blocks without an object take no space. If tiles failed, the
    largest value of the type marks their pixels and is declared as nodata. Up to uint16 each id has
    a colour.
    """

    name: str = "cog"
    suffixes: tuple[str, ...] = (".tif", ".tiff")

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def check_image(self, info: ImageInfo) -> None:
        """Refuse volumes."""
        check_flat(info)

    def export(self, result: JobResult, output: Path) -> None:
        """Write shard by shard to a tiled draft, which GDAL then copies; memory is bounded."""
        from rasterio.shutil import copy

        check_flat(result.info)
        with _gdal(), replacing(output) as written:
            draft = written.with_name("draft.tif")
            _write_draft(result, draft)
            copy(str(draft), str(written), driver="COG", **COG_OPTIONS)
            draft.unlink()


@contextmanager
def _gdal() -> Iterator[None]:
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def _write_draft(result: JobResult, draft: Path) -> None:
    import rasterio

    with rasterio.open(draft, "w", **_profile(result)) as dataset:
        dtype = np.dtype(dataset.dtypes[0])
        if dtype.itemsize <= 2:
            dataset.write_colormap(1, palette(np.iinfo(dtype).max + 1))
        dataset.update_tags(model=result.job.model or result.job.segmenter, background=0)
        for window, labels in result.shards():
            if not (labels.any() or result.quarantined):
                continue
            (_, y0, x0), (_, height, width) = window.start, window.shape
            place = rasterio.windows.Window(x0, y0, width, height)
            dataset.write(narrowed(labels[0], dtype), 1, window=place)


def _profile(result: JobResult) -> dict[str, Any]:
    from rasterio.crs import CRS

    _, height, width = result.info.shape
    dtype = label_dtype(result)
    crs, transform = result.info.crs, affine_of(result.info)
    return {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": 1,
        "dtype": dtype.name,
        # blocks that are left out read as nodata, or as 0 where there is none
        "nodata": int(np.iinfo(dtype).max) if result.quarantined else None,
        "sparse_ok": True,
        "crs": CRS.from_wkt(crs) if crs else None,
        "transform": None if transform.is_identity else transform,
        "tiled": True,
        "blockxsize": _block_side(result.grid.tile_shape[2]),
        "blockysize": _block_side(result.grid.tile_shape[1]),
        "compress": "ZSTD",
        "zstd_level": 1,
        "bigtiff": "IF_SAFER",
    }


def palette(count: int) -> dict[int, tuple[int, int, int, int]]:
    """Colours of so many values: black for 0, then hues that are far from those just before.

    The same id has the same colour in every file.
    """
    found = {0: (0, 0, 0, 255)}
    for value in range(1, count):
        # two brightnesses and three strengths in turns: ids of nearly one hue differ too
        bright, strong = (1.0, 0.75)[value // 7 % 2], (0.75, 0.95, 0.55)[value // 13 % 3]
        red, green, blue = hsv_to_rgb(value * GOLDEN_ANGLE % 1, strong, bright)
        found[value] = (round(255 * red), round(255 * green), round(255 * blue), 255)
    return found


def _block_side(tile: int) -> int:
    """A side that divides the tile's where one does: then no block is written twice."""
    return next((side for side in (512, 256, 128, 64) if tile % side == 0), 256)

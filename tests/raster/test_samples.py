"""Looking at a raster as a whole, without reading it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window as Place

from raster.crafted import UTM, write
from samplat import registry
from samplat_raster import samples
from samplat_raster.samples import PATCHES, look_at
from samplat_raster.source import RasterSource


def scene(path: Path, side: int = 2000, **profile: Any) -> Path:
    """Brightness that changes from corner to corner, with noise: no part is like the whole."""
    y, x = np.indices((side, side), np.float32) / side
    noise = np.random.default_rng(0).normal(0, 300, (side, side))
    pixels = np.clip(10_000 * x * y + 2000 + noise, 1, 65535).astype(np.uint16)
    pixels[: side // 10] = 0
    return write(path, pixels, nodata=0, **UTM, **profile)


@pytest.mark.parametrize("tiled", [True, False])
def test_patches_tell_the_percentiles_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiled: bool
) -> None:
    source = RasterSource(str(scene(tmp_path / "a.tif", tiled=tiled)))
    fitted = registry().rescaler("percentile").fit(source)
    monkeypatch.setattr(samples, "AFFORDABLE_PIXELS", 10**6)
    again = [registry().rescaler("percentile").fit(source) for _ in range(2)]
    assert again[0] == again[1] != fitted
    span = fitted.high[0] - fitted.low[0]
    assert abs(again[0].low[0] - fitted.low[0]) < 0.03 * span
    assert abs(again[0].high[0] - fitted.high[0]) < 0.03 * span


def test_patches_are_pixels_of_the_raster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scene(tmp_path / "a.tif", tiled=True)
    monkeypatch.setattr(samples, "AFFORDABLE_PIXELS", 10**6)
    with rasterio.open(path) as dataset:
        look = look_at(dataset, 2048)
        pixels, valid = RasterSource(str(path)).thumbnail(2048)
        assert len(look.parts) == PATCHES**2
        assert max(look.shape) <= 2048
        blocks = set()
        for place, to in look.parts:
            assert place is not None
            expected = dataset.read(1, window=Place(*place))
            assert np.array_equal(pixels[0][to][..., 0], expected)
            assert np.array_equal(valid[0][to], expected > 0)
            x, y, width, height = place
            blocks |= {
                (v // 256, w // 256) for v in (x, x + width - 1) for w in (y, y + height - 1)
            }
    # none lies across two blocks
    assert len(blocks) <= PATCHES**2


def test_a_huge_raster_is_looked_at_by_a_few_blocks(tmp_path: Path) -> None:
    """10 gigapixels that are not there: to read them all would take minutes."""
    profile = {"width": 100_000, "height": 100_000, "count": 3, "dtype": "uint16"}
    storage = {"tiled": True, "sparse_ok": True, "bigtiff": "YES", "compress": "deflate"}
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", **profile, **storage, **UTM) as dataset:
        block = np.random.default_rng(0).integers(5, 900, (3, 256, 256)).astype(np.uint16)
        dataset.write(block, window=Place(0, 0, 256, 256))
    source = RasterSource(str(path))
    assert path.read_bytes()[:4] == b"II+\0"
    with rasterio.open(path) as dataset:
        read = sum(p[2] * p[3] for p, _ in look_at(dataset, 2048).parts if p)
    assert read <= 2048**2
    assert registry().rescaler("percentile").fit(source).high == (0.0,) * 3


@pytest.mark.parametrize("shape", [(1, 9_000_000), (9_000_000, 1), (70, 200_000), (3, 7)])
def test_rasters_of_any_shape_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(samples, "AFFORDABLE_PIXELS", 10**4)
    path = write(tmp_path / "a.tif", np.ones(shape, np.uint8), compress="deflate", **UTM)
    pixels, valid = RasterSource(str(path)).thumbnail(2048)
    assert pixels.all()
    assert valid.all()
    assert max(pixels.shape) <= 2048


def test_an_overview_that_is_little_coarser_is_taken_as_it_is(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif", side=1500)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
    with rasterio.open(path) as dataset:
        assert look_at(dataset, 1000).shape == (750, 750)
        assert look_at(dataset, 700).shape == (375, 375)
        assert look_at(dataset, 300).shape == (300, 300)
        assert look_at(dataset, 1500).shape == (1500, 1500)

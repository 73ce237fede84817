"""Reading at a ground sampling distance (`gsd`)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import Resampling

from raster.crafted import UTM, write
from samplat import InputError, Window
from samplat_raster.resampling import BLOCK, resampled
from samplat_raster.source import RasterSource


def whole(source: RasterSource) -> Window:
    return Window(start=(0, 0, 0), stop=source.info.shape)


def noise(dtype: str, shape: tuple[int, ...] = (2, 700, 900), seed: int = 3) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


def with_overviews(path: Path, factors: list[int]) -> Path:
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews(factors, Resampling.average)
    return path


def test_the_grid_lies_over_the_same_ground(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise("uint8"), **UTM)
    info = RasterSource(str(path), gsd=0.7).info
    assert info.shape == (1, 500, 643)
    assert info.spacing == (1.0, 0.7, pytest.approx(450 / 643))
    corner = np.array(info.index_to_world) @ [643, 500, 0, 1]
    assert corner[:2].tolist() == pytest.approx([500_450, 3_999_650], abs=1e-9)
    assert RasterSource(str(path), gsd=0.5).info == RasterSource(str(path)).info


@pytest.mark.parametrize("factor", [2, 3, 0.5])
def test_a_ramp_stays_a_ramp(tmp_path: Path, factor: float) -> None:
    """Values are those at the centres of the grid's pixels: nothing is shifted."""
    y, x = np.mgrid[:600, :900] + 0.5
    path = write(tmp_path / "a.tif", (2 * x + 3 * y).astype(np.float64)[None], **UTM)
    source = RasterSource(str(path), gsd=0.5 * factor)
    rows, columns = (np.mgrid[: source.info.shape[1], : source.info.shape[2]] + 0.5) * factor
    found = source.read(whole(source))[0, ..., 0]
    inner = (slice(4, -4), slice(4, -4))  # at the edge there are fewer pixels to weigh
    assert np.allclose(found[inner], (2 * columns + 3 * rows)[inner], atol=1e-9)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("gsd", [0.31, 0.5 * 4 / 3, 1.2, 3.7])
@pytest.mark.parametrize("marked", ["plain", "nodata", "mask", "unsaid"])
def test_a_pixel_does_not_depend_on_the_window(
    tmp_path: Path, dtype: str, gsd: float, marked: str
) -> None:
    rng, pixels = np.random.default_rng(8), noise(dtype, (2, 390, 500))
    pixels[:, rng.random(pixels.shape[1:]) < 0.1] = 0
    path = write(tmp_path / "a.tif", pixels, nodata=0 if marked == "nodata" else None, **UTM)
    if marked == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(pixels[0] > 0)
    source = RasterSource(
        str(with_overviews(path, [2, 4])), gsd=gsd, nodata=0.0 if marked == "unsaid" else None
    )
    everything, valid = source.read(whole(source)), source.valid(whole(source))
    for _ in range(5):
        (y0, y1), (x0, x1) = (
            sorted(rng.choice(n + 1, 2, replace=False)) for n in source.info.shape[1:]
        )
        window = Window(start=(0, int(y0), int(x0)), stop=(1, int(y1), int(x1)))
        again = pickle.loads(pickle.dumps(source))  # noqa: S301 our own
        assert np.array_equal(again.read(window), everything[window.slices])
        assert np.array_equal(again.valid(window), valid[window.slices])


def test_coarse_grids_are_read_from_overviews(tmp_path: Path) -> None:
    path = with_overviews(write(tmp_path / "a.tif", noise("uint8"), tiled=True, **UTM), [2, 4, 8])
    for level, factor in enumerate([2, 4, 8]):
        with rasterio.open(path, "r+", OVERVIEW_LEVEL=level) as dataset:
            for band in (1, 2):
                dataset.write(np.full(dataset.shape, 200 + factor, np.uint8), band)
    for gsd, expected in ((1.0, 202), (1.9, 202), (2.0, 204), (3.5, 204), (4.1, 208), (30, 208)):
        source = RasterSource(str(path), gsd=gsd)
        assert np.unique(source.read(whole(source))).tolist() == [expected]


@pytest.mark.parametrize("said", [True, False], ids=["in the file", "by option"])
@pytest.mark.parametrize("gsd", [0.2, 1.3, 4.0])
def test_nodata_minus_9999_is_not_mixed_in(tmp_path: Path, said: bool, gsd: float) -> None:
    pixels = np.full((2, 400, 300), 100, np.float32)
    pixels[:, 130:250, :171] = -9999
    path = write(tmp_path / "a.tif", pixels, nodata=-9999 if said else None, **UTM)
    source = RasterSource(str(path), gsd=gsd, nodata=None if said else -9999.0)
    values, valid = source.read(whole(source)), source.valid(whole(source))
    assert np.unique(values[valid]).tolist() == [100]
    missing = (~valid).mean() * 400 * 300
    # a coarser pixel is valid where anything in it is
    assert missing == pytest.approx(120 * 171, rel=0.2)


def test_a_nodata_value_that_the_type_cannot_hold_marks_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise("uint8"), **UTM)
    source = RasterSource(str(path), gsd=1.0, nodata=-9999.0)
    assert source.valid(whole(source)).all()


def test_numbers_of_a_palette_are_not_averaged(tmp_path: Path) -> None:
    numbers = np.where(np.indices((90, 120)).sum(axis=0) % 2, 10, 250).astype(np.uint8)
    path = write(tmp_path / "a.tif", numbers, **UTM)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {10: (255, 0, 0, 255), 250: (0, 0, 255, 255)})
    for gsd in (0.3, 1.7):
        source = RasterSource(str(path), gsd=gsd)
        colours = np.unique(source.read(whole(source)).reshape(-1, 3), axis=0)
        assert colours.tolist() == [[0, 0, 255], [255, 0, 0]]


def test_the_thumbnail_is_the_same_at_every_distance(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise("uint16"), **UTM)
    native = RasterSource(str(path)).thumbnail(300)
    for gsd in (0.2, 1.7):
        again = RasterSource(str(path), gsd=gsd).thumbnail(300)
        assert all(np.array_equal(a, b) for a, b in zip(native, again, strict=True))


CENTRES = {
    "degrees at the equator": ("EPSG:4326", Affine(1e-5, 0, 10, 0, -1e-5, 0.0005), 1.106, 1.113),
    "degrees at 60 north": ("EPSG:4326", Affine(1e-5, 0, 10, 0, -1e-5, 60.0005), 1.114, 0.558),
    "web mercator at 60 north": (
        "EPSG:3857",
        Affine(1, 0, 1_113_195, 0, -1, 8_399_738 + 50),
        0.5004,
        0.5013,
    ),
    "utm": ("EPSG:32614", Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), 0.5, 0.5),
    "us feet": ("EPSG:2225", Affine(3, 0, 6_500_000, 0, -3, 2_000_000), 0.9144, 0.9144),
    "polar": ("EPSG:3413", Affine(10, 0, 0, 0, -10, -2_000_000), 10, 10),
    "rotated": (
        "EPSG:32614",
        Affine(0.5 * 0.8, 2 * 0.6, 500_000, 0.5 * 0.6, -2 * 0.8, 4_000_000),
        2.0,
        0.5,
    ),
}


@pytest.mark.parametrize("case", CENTRES)
def test_metres_are_metres_on_the_ground(tmp_path: Path, case: str) -> None:
    crs, transform, down, across = CENTRES[case]
    path = write(tmp_path / "a.tif", noise("uint8", (1, 100, 100)), crs=crs, transform=transform)
    gsd = 0.17
    info = RasterSource(str(path), gsd=gsd).info
    assert info.shape[1] == pytest.approx(100 * down / gsd, rel=2e-3)
    assert info.shape[2] == pytest.approx(100 * across / gsd, rel=2e-3)


@pytest.mark.parametrize("gsd", [0, -1, float("nan"), float("inf")])
def test_impossible_distances_are_refused(tmp_path: Path, gsd: float) -> None:
    path = write(tmp_path / "a.tif", noise("uint8", (1, 10, 10)), **UTM)
    with pytest.raises(InputError, match="in metres above 0"):
        RasterSource(str(path), gsd=gsd)


def test_distances_need_a_crs_and_a_bearable_number_of_pixels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise("uint8", (1, 10, 10)))
    with pytest.raises(InputError, match="needs a CRS"):
        RasterSource(str(path), gsd=1)
    path = write(tmp_path / "b.tif", noise("uint8", (1, 10, 10)), **UTM)
    with pytest.raises(InputError, match="choose another ground sampling distance"):
        RasterSource(str(path), gsd=1e-8)


def test_blocks_partition_a_grid() -> None:
    grid = resampled((1000, 1000), (1.0, 1.0), [2, 4, 8], 3.0, "a.tif")
    assert grid is not None
    assert (grid.shape, grid.level) == ((333, 333), 0)
    blocks = list(grid.blocks(Window(start=(0, 200, 0), stop=(1, 300, 100))))
    assert [b.start for b in blocks] == [(0, 0, 0), (0, BLOCK, 0)]

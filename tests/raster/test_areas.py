"""`--min-area` and `--max-area`: square metres, after merging, for labels and polygons alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio

from raster.crafted import UTM, painted, write
from samplat import ImageInfo, InputError, SegmentJob, SourceSpec, TileGrid
from samplat.job import tile_pixel_areas
from samplat_raster.georeference import areas_over, pixel_areas

Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--segmenter", "colours", "--tile-size", "64", "--halo", "32")


def squares() -> Any:
    """Squares of 4, 8, 16 and 32 pixels; the seams of tiles of 64 cross some of them."""
    labels = np.zeros((100, 200), np.int64)
    for name, (x, side) in enumerate([(5, 4), (60, 8), (120, 16), (150, 32)], start=1):
        labels[50 : 50 + side, x : x + side] = name
    return labels


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        (["--min-area", "15"], [8, 16, 32]),
        (["--min-area", "17"], [16, 32]),
        (["--max-area", "65"], [4, 8, 16]),
        (["--min-area", "15", "--max-area", "100"], [8, 16]),
        (["--min-area", "1e6"], []),
    ],
)
def test_areas_are_square_metres(
    samplat: Cli, tmp_path: Path, options: list[str], sides: list[int]
) -> None:
    scene = write(tmp_path / "scene.tif", painted(squares()), **UTM)
    outputs = tmp_path / "out.parquet", tmp_path / "out.tif"
    code, _, err = samplat("tile-segment", scene, *outputs, *QUICK, *options)
    assert code == 0, err
    frame = geopandas.read_parquet(outputs[0]).sort_values("id")
    assert sorted(frame["area_px"]) == [side**2 for side in sides]
    assert frame["id"].tolist() == list(range(1, len(sides) + 1))
    with rasterio.open(outputs[1]) as cog:
        assert np.bincount(cog.read(1).ravel())[1:].tolist() == frame["area_px"].tolist()


def test_without_crs_areas_are_pixels(samplat: Cli, tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.png", painted(squares()), driver="PNG")
    output = tmp_path / "out.parquet"
    samplat("tile-segment", scene, output, *QUICK, "--min-area", "64", "--max-area", "256")
    assert sorted(geopandas.read_parquet(output)["area_px"]) == [64, 256]


def hollow() -> Any:
    """A square of 30 with a hole of 8 x 8 over a seam of tiles of 64, and a speck of 3 x 3."""
    labels = np.zeros((100, 200), np.int64)
    labels[40:70, 50:80] = 1
    labels[50:58, 60:68] = 0
    labels[90:93, 62:65] = 1
    return labels


@pytest.mark.parametrize(
    ("options", "area"),
    [
        (["--fill-holes", "16"], 900 - 64 + 9),  # pixels of a quarter of a square metre
        (["--fill-holes", "16.3"], 900 + 9),
        (["--drop-islands", "2.2"], 900 - 64 + 9),
        (["--drop-islands", "2.4"], 900 - 64),
        (["--fill-holes", "17", "--drop-islands", "3", "--min-area", "225"], 900),
    ],
)
def test_holes_and_islands_in_square_metres(
    samplat: Cli, tmp_path: Path, options: list[str], area: int
) -> None:
    scene = write(tmp_path / "scene.tif", painted(hollow()), **UTM)
    outputs = tmp_path / "out.parquet", tmp_path / "out.tif"
    sizes = ("--tile-size", "64", "--halo", "48")
    code, _, err = samplat(
        "tile-segment", scene, *outputs, "--segmenter", "colours", *sizes, *options
    )
    assert code == 0, err
    frame = geopandas.read_parquet(outputs[0])
    assert frame["area_px"].tolist() == [area]
    assert frame.area.tolist() == [area / 4]
    assert frame["area_m2"].tolist() == pytest.approx([area / 4], rel=0.01)
    rings = frame.geometry.explode().interiors
    assert sum(map(len, rings)) == int(area in (900 - 64, 900 - 64 + 9))
    with rasterio.open(outputs[1]) as cog:
        assert (cog.read(1) > 0).sum() == area


def test_an_impossible_range_is_refused(samplat: Cli, tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", painted(squares()), **UTM)
    options = ("--min-area", "9", "--max-area", "3")
    code, _, err = samplat("tile-segment", scene, tmp_path / "out.tif", *QUICK, *options)
    assert code == 1
    assert "max_area must be at least min_area, got 3 and 9" in err


def test_tiles_know_the_size_of_their_pixels() -> None:
    crs = rasterio.crs.CRS.from_epsg(4326).to_wkt()
    matrix = ((0.01, 0, 0, 10), (0, -0.01, 0, 65), (0, 0, 1, 0), (0, 0, 0, 1))
    info = ImageInfo(shape=(1, 3000, 1000), bands=1, dtype="uint8", crs=crs, index_to_world=matrix)
    grid = TileGrid(shape=info.shape, tile_shape=(1, 256, 256), halo=(0, 0, 0))
    middles = np.array(
        [
            [(t.write.start[k] + min(t.write.start[k] + 256, info.shape[k])) / 2 for k in (2, 1)]
            for t in grid
        ]
    )
    found = tile_pixel_areas(areas_over(info), grid)
    assert found.shape == (len(grid),)
    np.testing.assert_allclose(found, pixel_areas(middles, info), rtol=0.03)
    inner = [k for k, t in enumerate(grid) if t.write.shape == (1, 256, 256)]
    np.testing.assert_allclose(found[inner], pixel_areas(middles, info)[inner], rtol=2e-3)


def test_jobs_that_say_nothing_of_areas_are_called_as_before() -> None:
    from samplat.job import _given

    job = SegmentJob(source=SourceSpec(path="", factory=""), job_dir="")
    assert _given(job) == {}
    assert job.min_area == 1


def test_bad_areas_in_python(tmp_path: Path) -> None:
    from samplat.job import _check_parameters

    job = SegmentJob(source=SourceSpec(path="", factory=""), job_dir="", min_area=-1)
    with pytest.raises(InputError, match="min_area must be at least 0"):
        _check_parameters(job)

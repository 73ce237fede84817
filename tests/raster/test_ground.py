"""Rasters anywhere on the ground: poles, the antimeridian, rotated, and parts chosen by a box."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from rasterio import Affine

from raster.agreement import check_polygons, check_zarr
from raster.crafted import UTM, painted, write
from samplat import InputError, Window
from samplat_raster.extent import window_of_box, window_of_pixels
from samplat_raster.source import RasterSource

Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--segmenter", "colours", "--tile-size", "64", "--halo", "32")
WGS84 = Geod(ellps="WGS84")


def squares(shape: tuple[int, int] = (100, 120)) -> NDArray[np.int64]:
    """Objects of 1600, 600 and 35 pixels; the first two lie across tiles."""
    labels = np.zeros(shape, np.int64)
    labels[30:70, 40:80] = 1
    labels[10:20, 55:115] = 2
    labels[80:87, 3:8] = 3
    return labels


def geodesic_square_metres(labels: NDArray[np.int64], transform: Affine, crs: str) -> list[float]:
    """Areas by summing pixels, each a geodesic quadrilateral: another way than by outlines."""
    to_degrees = Transformer.from_crs(crs, CRS(crs).geodetic_crs, always_xy=True).transform
    areas = []
    for name in range(1, int(labels.max()) + 1):
        pixels, each = np.argwhere(labels == name), []
        for y, x in pixels[::7]:
            corners = [transform @ (x + dx, y + dy) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))]
            lon, lat = to_degrees(*np.array(corners).T)
            each.append(abs(WGS84.polygon_area_perimeter(lon, lat)[0]))
        areas.append(float(np.mean(each)) * len(pixels))
    return areas


PLACES = {
    "arctic": ("EPSG:3413", Affine(100, 0, -600_000, 0, -100, -1_400_000)),
    "antarctic": ("EPSG:3031", Affine(100, 0, 800_000, 0, -100, 900_000)),
    "across 180 in degrees": ("EPSG:4326", Affine(1e-3, 0, 179.94, 0, -1e-3, 52.0)),
    "across -180 in degrees": ("EPSG:4326", Affine(1e-3, 0, -180.06, 0, -1e-3, -17.0)),
    "across 180 in zone 60": ("EPSG:32660", Affine(10, 0, 833_000, 0, -10, 60_000)),
    "across 180 in zone 1": ("EPSG:32601", Affine(10, 0, 165_800, 0, -10, 60_000)),
    "rotated": ("EPSG:32614", Affine(0.4, 0.3, 500_000, 0.3, -0.4, 4_000_000)),
    "south up": ("EPSG:32733", Affine(0.5, 0, 500_000, 0, 0.5, 7_000_000)),
}


@pytest.mark.parametrize("place", PLACES)
def test_areas_and_polygons_come_out_right(samplat: Cli, tmp_path: Path, place: str) -> None:
    crs, transform = PLACES[place]
    truth = squares()
    scene = write(tmp_path / "scene.tif", painted(truth), crs=crs, transform=transform)
    output = tmp_path / "out.parquet"
    code, _, err = samplat("tile-segment", scene, output, tmp_path / "out.tif", *QUICK)
    assert code == 0, err
    assert "warning" not in err
    frame = geopandas.read_parquet(output).sort_values("area_px", ascending=False)
    assert frame["area_px"].tolist() == [1600, 600, 35]
    expected = geodesic_square_metres(truth, transform, crs)
    assert frame["area_m2"].tolist() == pytest.approx(expected, rel=2e-3)
    assert frame.is_valid.all()
    assert frame.crs == CRS(crs)
    # one polygon each, whose corners are those of its pixels: not wrapped around the globe
    assert frame.geometry.geom_type.tolist() == ["Polygon"] * 3
    for name, shape in zip((1, 2, 3), frame.geometry, strict=True):
        (y0, x0), (y1, x1) = (f(np.argwhere(truth == name), axis=0) for f in (np.min, np.max))
        corners = [transform @ (x, y) for x in (x0, x1 + 1) for y in (y0, y1 + 1)]
        assert shape.area == pytest.approx(abs(transform.determinant) * (truth == name).sum())
        assert all(shape.distance(_point(corner)) < 1e-6 for corner in corners)
    with rasterio.open(tmp_path / "out.tif") as labels:
        assert labels.transform.almost_equals(transform, 1e-9)


def _point(xy: tuple[float, float]) -> Any:
    import shapely

    return shapely.Point(xy)


def test_an_object_around_the_pole_has_its_area(samplat: Cli, tmp_path: Path) -> None:
    y, x = np.indices((120, 120)) - 59.5
    truth = (np.hypot(y, x) < 50).astype(np.int64)
    transform = Affine(1000, 0, -60_000, 0, -1000, 60_000)
    scene = write(tmp_path / "scene.tif", painted(truth), crs="EPSG:3413", transform=transform)
    samplat("tile-segment", scene, tmp_path / "out.parquet", *QUICK)
    frame = geopandas.read_parquet(tmp_path / "out.parquet")
    # a map that is true at 70 degrees north is 1.0310 times too small at the pole
    expected = truth.sum() * 1e6 * 1.0310**2
    assert frame["area_m2"].tolist() == pytest.approx([expected], rel=2e-3)


# -- parts -------------------------------------------------------------------------------------


def info_of(tmp_path: Path, crs: str | None, transform: Affine | None) -> Any:
    place = {} if crs is None else {"crs": crs, "transform": transform}
    return RasterSource(str(write(tmp_path / "a.tif", np.ones((100, 120), np.uint8), **place))).info


def spans(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Columns and rows."""
    return (window.start[2], window.stop[2]), (window.start[1], window.stop[1])


def test_a_box_is_the_pixels_that_it_touches(tmp_path: Path) -> None:
    info = info_of(tmp_path, **UTM)  # type: ignore[arg-type] # half a metre, from 500000, 4000000
    inside = (500_010.0, 3_999_980.0, 500_020.0, 3_999_990.0)
    assert spans(window_of_box(info, inside, None)) == ((20, 40), (20, 40))
    ragged = (500_010.1, 3_999_980.1, 500_020.1, 3_999_990.1)
    assert spans(window_of_box(info, ragged, None)) == ((20, 41), (19, 40))
    beyond = (499_000.0, 3_999_980.0, 500_020.0, 4_100_000.0)
    assert spans(window_of_box(info, beyond, None)) == ((0, 40), (0, 40))
    assert spans(window_of_pixels(info, (-5, 90, 10, 30))) == ((0, 5), (90, 100))


def test_a_box_in_another_crs(tmp_path: Path) -> None:
    info = info_of(tmp_path, **UTM)  # type: ignore[arg-type]
    corners = np.array([[500_010, 3_999_980], [500_020, 3_999_990]])
    lon, lat = Transformer.from_crs("EPSG:32614", "EPSG:4326", always_xy=True).transform(*corners.T)
    (x0, x1), (y0, y1) = spans(window_of_box(info, (lon[0], lat[0], lon[1], lat[1]), "EPSG:4326"))
    assert (abs(x0 - 20), abs(x1 - 40), abs(y0 - 20), abs(y1 - 40)) <= (1, 1, 1, 1)


@pytest.mark.parametrize("place", ["across 180 in degrees", "across -180 in degrees"])
@pytest.mark.parametrize("turn", [-360, 0, 360])
def test_a_box_across_the_antimeridian(tmp_path: Path, place: str, turn: float) -> None:
    crs, transform = PLACES[place]
    info = info_of(tmp_path, crs, transform)
    top = transform.f
    expected = ((40, 80), (10, 20))
    box = (179.98 + turn, top - 0.02, 180.02 + turn, top - 0.01)
    assert spans(window_of_box(info, box, None)) == expected
    assert spans(window_of_box(info, box, "EPSG:4326")) == expected
    # as GeoJSON writes it: west is larger than east
    box = (179.98, top - 0.02, -179.98, top - 0.01)
    assert spans(window_of_box(info, box, "EPSG:4326")) == expected


def test_a_box_around_the_pole(tmp_path: Path) -> None:
    info = info_of(tmp_path, "EPSG:3413", Affine(10_000, 0, -600_000, 0, -10_000, 500_000))
    (x0, x1), (y0, y1) = spans(window_of_box(info, (-180, 87, 180, 90), "EPSG:4326"))
    radius = 3 * 111_694 / 1.0310 / 10_000
    assert [60 - x0, x1 - 60, 50 - y0, y1 - 50] == pytest.approx([radius] * 4, abs=1.5)


def test_a_box_on_a_rotated_raster_covers_it(tmp_path: Path) -> None:
    crs, transform = PLACES["rotated"]
    info = info_of(tmp_path, crs, transform)
    (x0, y0), (x1, y1) = transform @ (50, 40), transform @ (50.5, 40.5)
    box = (min(x0, x1) - 2, min(y0, y1) - 2, max(x0, x1) + 2, max(y0, y1) + 2)
    (a, b), (c, d) = spans(window_of_box(info, box, None))
    reach = math.hypot(2.2, 2.2) / 0.5
    assert 0 < 50 - a <= reach + 1
    assert 0 < b - 50 <= reach + 2
    assert 0 < 40 - c <= reach + 1
    assert 0 < d - 40 <= reach + 2


@pytest.mark.parametrize(
    ("box", "crs", "told"),
    [
        ((0, 0, 1, 1), None, "lies at pixels"),
        ((0, 0, 1, 1), "EPSG:4326", "outside of the image of 120 x 100 pixels"),
        ((0, 91, 1, 95), "EPSG:4326", "outside of the image"),
        ((0, 0, 1, 1), "nonsense", "unknown CRS 'nonsense'"),
    ],
)
def test_a_box_elsewhere_is_refused(tmp_path: Path, box: Any, crs: str | None, told: str) -> None:
    with pytest.raises(InputError, match=told):
        window_of_box(info_of(tmp_path, **UTM), box, crs)  # type: ignore[arg-type]


def test_a_box_needs_a_crs_where_it_says_one(tmp_path: Path) -> None:
    info = info_of(tmp_path, None, None)
    assert spans(window_of_box(info, (10, 20, 30, 40), None)) == ((10, 30), (20, 40))
    with pytest.raises(InputError, match="which this image has not"):
        window_of_box(info, (10, 20, 30, 40), "EPSG:4326")


def test_files_of_a_part_agree(samplat: Cli, tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", painted(squares()), **UTM)
    outputs = {s: tmp_path / f"out{s}" for s in (".tif", ".zarr", ".parquet")}
    where = ("--window", "50,13,69,70")
    code, _, err = samplat("tile-segment", scene, *outputs.values(), *QUICK, *where)
    assert code == 0, err
    check_zarr(outputs[".zarr"], outputs[".tif"])
    check_polygons(outputs[".parquet"], outputs[".tif"])
    frame = geopandas.read_parquet(outputs[".parquet"])
    assert sorted(frame["area_px"]) == [7 * 60, 30 * 40]
    assert frame["truncated"].all()
    with rasterio.open(outputs[".tif"]) as labels:
        assert labels.transform @ (0, 0) == UTM["transform"] @ (50, 13)  # type: ignore[operator]
        expected = np.minimum(squares(), 2)[13:83, 50:119]
        assert np.array_equal(labels.read(1) > 0, expected > 0)


def test_a_part_and_a_distance_together(samplat: Cli, tmp_path: Path) -> None:
    """Labels of a part lie where those of the whole lie, and are the same, at any distance."""
    truth = np.kron(squares(), np.ones((3, 3), np.int64))
    scene = write(tmp_path / "scene.tif", np.where(truth > 0, 250, 0).astype(np.uint8), **UTM)
    options = ("--segmenter", "bright", "--tile-size", "40", "--halo", "20", "--gsd", "1.2")
    where = ("--bbox", "500020,3999900,500130,3999960")
    for name, more in (("whole", ()), ("part", where)):
        code, _, err = samplat("tile-segment", scene, tmp_path / f"{name}.tif", *options, *more)
        assert code == 0, err
    with (
        rasterio.open(tmp_path / "whole.tif") as whole,
        rasterio.open(tmp_path / "part.tif") as part,
    ):
        assert whole.shape == (125, 150)
        window = whole.window(*part.bounds)
        assert window.col_off == pytest.approx(round(window.col_off), abs=1e-6)
        cut = whole.read(1, window=window.round_offsets().round_lengths())
        assert np.array_equal(cut > 0, part.read(1) > 0)
        assert (cut > 0).any()
        assert part.bounds.left <= 500_020 < part.bounds.left + 1.2

"""COG, GeoZarr and STAC items: what their conventions want."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
import shapely
import xarray
from pystac.extensions.projection import ProjectionExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rio_cogeo import cog_validate

from raster.crafted import POISON, UTM, blobs, painted, write
from samplat_raster.cog import palette

Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--segmenter", "colours", "--tile-size", "256", "--halo", "32")


@pytest.fixture
def run(samplat: Cli, tmp_path: Path) -> Callable[..., Path]:
    """Segments labels into outputs by name; returns their folder."""

    def segment(labels: Any, *names: str, options: Any = (), code: int = 0, **place: Any) -> Path:
        scene = write(tmp_path / "scene.tif", painted(labels), **(place or UTM))
        outputs = [tmp_path / name for name in names]
        status, _, err = samplat("tile-segment", scene, *outputs, *QUICK, *options)
        assert status == code, err
        return tmp_path

    return segment


def test_colours_are_the_same_in_every_file_and_differ(run: Callable[..., Path]) -> None:
    folder = run(blobs((150, 210), 60), "out.tif")
    with rasterio.open(folder / "out.tif") as cog:
        colours = cog.colormap(1)
        assert cog.colorinterp[0].name == "palette"
    assert colours == palette(256)
    assert colours[0] == (0, 0, 0, 255)
    rgb = np.array([colours[i][:3] for i in range(256)], int)
    near = np.abs(rgb[1:, None] - rgb[None, 1:]).max(axis=-1)[~np.eye(255, dtype=bool)]
    assert near.min() > 0
    assert np.abs(np.diff(rgb[1:], axis=0)).max(axis=1).min() > 60
    assert rgb[1:].max(axis=1).min() > 120


def test_sixteen_bits_have_colours_too(run: Callable[..., Path]) -> None:
    names = np.arange(1, 401)
    names[names % 256 == POISON] = 1000
    labels = np.kron(names.reshape(20, 20), np.ones((12, 12), int))
    folder = run(labels, "out.tif")
    with rasterio.open(folder / "out.tif") as cog:
        assert cog.dtypes[0] == "uint16"
        assert cog.colormap(1)[400] == palette(401)[400]
    assert cog_validate(folder / "out.tif", strict=True) == (True, [], [])


def blocks_of(path: Path) -> list[int]:
    """Bytes of every block of the full resolution, from the TIFF itself."""
    data = path.read_bytes()
    assert data[:4] == b"II*\0", "a classic little-endian TIFF"
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for k in range(count):
        tag, kind, length, value = struct.unpack_from("<HHII", data, at + 2 + 12 * k)
        if tag == 325:  # TileByteCounts
            code = {3: "H", 4: "I"}[kind]
            if struct.calcsize(code) * length <= 4:
                return [value]
            return list(struct.unpack_from(f"<{length}{code}", data, value))
    raise AssertionError("no tiles")


def test_blocks_without_an_object_take_no_space(run: Callable[..., Path]) -> None:
    labels = np.zeros((1024, 1536), np.int64)
    labels[600:700, 100:200] = 5
    folder = run(labels, "out.tif")
    sizes = blocks_of(folder / "out.tif")
    assert len(sizes) == 6
    assert [size > 0 for size in sizes] == [False, False, False, True, False, False]
    assert cog_validate(folder / "out.tif", strict=True) == (True, [], [])
    with rasterio.open(folder / "out.tif") as cog:
        assert cog.nodata is None
        assert cog.dataset_mask().all()
        assert np.array_equal(cog.read(1) > 0, labels > 0)


def test_background_is_not_a_hole_where_a_tile_failed(run: Callable[..., Path]) -> None:
    labels = np.zeros((1024, 1024), np.int64)
    labels[700:710, 700:710] = POISON
    labels[10:20, 10:20] = 7
    folder = run(labels, "out.tif", code=3)
    with rasterio.open(folder / "out.tif") as cog:
        mask = cog.dataset_mask() > 0
        assert (cog.read(1)[mask] <= 1).all()
    assert not mask[512:768, 512:768].any()
    assert mask.sum() > 1024 * 1024 - 4 * 300 * 300


def test_zarr_has_the_spatial_and_proj_conventions(run: Callable[..., Path]) -> None:
    folder = run(blobs((150, 210), 20), "out.zarr")
    attributes = json.loads((folder / "out.zarr" / "zarr.json").read_text())["attributes"]
    names = {c["name"]: c for c in attributes["zarr_conventions"]}
    assert set(names) == {"proj:", "spatial:"}
    assert all({"uuid", "schema_url", "spec_url"} <= set(c) for c in names.values())
    assert attributes["proj:code"] == "EPSG:32614"
    assert pyproj.CRS.from_wkt(attributes["proj:wkt2"]).to_epsg() == 32614
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert attributes["spatial:shape"] == [150, 210]
    assert attributes["spatial:transform"] == list(UTM["transform"])[:6]
    assert attributes["spatial:bbox"] == [500_000, 3_999_925, 500_105, 4_000_000]
    with xarray.open_zarr(folder / "out.zarr") as opened:
        assert pyproj.CRS.from_cf(opened["spatial_ref"].attrs).to_epsg() == 32614


def test_zarr_without_crs_has_no_proj(run: Callable[..., Path]) -> None:
    place = {"transform": rasterio.Affine(2, 0, 10, 0, -2, 90)}
    folder = run(blobs((40, 50), 5), "out.zarr", **place)
    attributes = json.loads((folder / "out.zarr" / "zarr.json").read_text())["attributes"]
    assert [c["name"] for c in attributes["zarr_conventions"]] == ["spatial:"]
    assert not [name for name in attributes if name.startswith("proj:")]


@pytest.fixture
def check_item(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, Any]]:
    """Reads an item that is valid, with nothing from the network; returns its JSON."""
    reads = pystac.StacIO.default()
    monkeypatch.setattr(reads, "read_text_from_href", lambda href: pytest.fail(f"read {href}"))
    monkeypatch.setattr(pystac.StacIO, "default", lambda: reads)

    def check(path: Path) -> dict[str, Any]:
        item: dict[str, Any] = json.loads(path.read_text())
        JsonSchemaSTACValidator().validate_core(item, pystac.STACObjectType.ITEM, "1.1.0")
        check_projection(item)
        check_places(item)
        return item

    return check


def check_projection(item: dict[str, Any]) -> None:
    """The projection extension 2.0, as its own reader finds it, and what its schema requires."""
    opened = pystac.Item.from_dict(item)
    projection = ProjectionExtension.ext(opened)
    assert ProjectionExtension.get_schema_uri() in item["stac_extensions"]
    assert projection.code is None or re.fullmatch(r"[^:]+:[^:]+", projection.code)
    assert [type(n) for n in projection.shape or ()] == [int, int]
    assert len(projection.transform or ()) in (6, 9)
    assert len(projection.bbox or ()) == 4
    if projection.wkt2 is not None:
        crs = pyproj.CRS.from_wkt(projection.wkt2)
        assert projection.code is None or crs == pyproj.CRS.from_user_input(projection.code)
    known = ("code", "wkt2", "projjson", "geometry", "bbox", "centroid", "shape", "transform")
    places = [item["properties"], *item["assets"].values()]
    used = {name for place in places for name in place if name.startswith("proj:")}
    assert used <= {f"proj:{name}" for name in known}


def check_places(item: dict[str, Any]) -> None:
    """What schemas cannot say of geometry and assets."""
    if item["geometry"] is None:
        assert "bbox" not in item
    else:
        assert shapely.is_valid(shapely.geometry.shape(item["geometry"]))
        west, south, east, north = item["bbox"]
        assert -180 <= west <= 180 >= east >= -180
        assert -90 <= south <= north <= 90
    for asset in item["assets"].values():
        assert all(isinstance(role, str) for role in asset["roles"])
        assert "/" in asset["type"]


@pytest.mark.parametrize(
    "change",
    [
        {"stac_version": "1.0.9"},
        {"links": None},
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}},
        {"properties": {"datetime": "yesterday"}},
        {"assets": {"tif": {"title": "no href"}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_schemas_refuse_what_is_no_item(
    run: Callable[..., Path], check_item: Any, change: dict[str, Any]
) -> None:
    folder = run(blobs((50, 60), 5), "out.tif", options=["--stac"])
    path = folder / "out.tif.stac.json"
    path.write_text(json.dumps(check_item(path) | change))
    with pytest.raises(pystac.STACValidationError):
        check_item(path)


def test_a_stac_item_lies_beside_the_outputs(run: Callable[..., Path], check_item: Any) -> None:
    folder = run(blobs((150, 210), 20), "out.tif", "out.zarr", "out.fgb", options=["--stac"])
    item = check_item(folder / "out.tif.stac.json")
    hrefs = {key: asset["href"] for key, asset in item["assets"].items()}
    assert hrefs == {"tif": "./out.tif", "zarr": "./out.zarr", "fgb": "./out.fgb"}
    assert all((folder / href).exists() for href in hrefs.values())
    with rasterio.open(folder / "out.tif") as cog:
        bounds = rasterio.warp.transform_bounds(cog.crs, "EPSG:4326", *cog.bounds)
    assert item["bbox"] == pytest.approx(bounds, abs=2e-7)
    assert item["properties"]["proj:code"] == "EPSG:32614"
    assert item["properties"]["samplat:objects"] > 10
    assert shapely.geometry.shape(item["geometry"]).exterior.is_ccw


def test_a_stac_item_on_its_own_and_elsewhere(
    samplat: Cli, run: Callable[..., Path], check_item: Any
) -> None:
    folder = run(blobs((50, 60), 5), "out.tif")
    (folder / "items").mkdir()
    code, _, err = samplat(
        "export",
        folder / "out.tif.samplat-job",
        folder / "items" / "scene.stac.json",
        folder / "late.parquet",
    )
    assert code == 0, err
    item = check_item(folder / "items" / "scene.stac.json")
    assert item["assets"]["parquet"]["href"] == "../late.parquet"
    assert item["id"].startswith("scene-")


def test_a_stac_item_across_the_antimeridian(run: Callable[..., Path], check_item: Any) -> None:
    place = {"crs": "EPSG:32660", "transform": rasterio.Affine(200, 0, 820_000, 0, -200, 20_000)}
    folder = run(blobs((100, 150), 9), "out.tif", options=["--stac"], **place)
    item = check_item(folder / "out.tif.stac.json")
    west, _, east, _ = item["bbox"]
    assert 179 < west < 180
    assert -180 < east < -179
    assert item["geometry"]["type"] == "MultiPolygon"


def test_a_stac_item_around_a_pole(run: Callable[..., Path], check_item: Any) -> None:
    place = {"crs": "EPSG:3031", "transform": rasterio.Affine(2000, 0, -1e5, 0, -2000, 1e5)}
    folder = run(blobs((100, 100), 9), "out.tif", options=["--stac"], **place)
    item = check_item(folder / "out.tif.stac.json")
    west, south, east, _ = item["bbox"]
    assert (west, south, east) == (-180, -90, 180)


def test_a_stac_item_without_crs_has_no_geometry(run: Callable[..., Path], check_item: Any) -> None:
    place = {"transform": rasterio.Affine(2, 0, 10, 0, -2, 90)}
    folder = run(blobs((40, 50), 5), "out.tif", options=["--stac"], **place)
    item = check_item(folder / "out.tif.stac.json")
    assert item["geometry"] is None

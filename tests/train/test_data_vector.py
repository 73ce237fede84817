"""Polygons on rasters: GDAL's rasterisation and pyproj are the oracles; every fault is named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplat import InputError, PluginError, Registry
from samplat_train.data.rasters import windows_of
from samplat_train.data.vector import PolygonTiles

rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")
shapely = pytest.importorskip("shapely")

from rasterio.features import rasterize  # noqa: E402 only where it is installed

UTM = "EPSG:32614"
PLACE = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
HEIGHT, WIDTH = 90, 130


def write_raster(path, array, crs=UTM, transform=PLACE, **more):
    bands = array[None] if array.ndim == 2 else array
    count, height, width = bands.shape
    profile = {"count": count, "height": height, "width": width, "dtype": bands.dtype, **more}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **profile) as out:
        out.write(bands)
    return path


def ramp(dtype=np.uint8):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (y + x).astype(dtype)


def houses(count=12, seed=0, turned=0.3):
    """Polygons in pixels that do not touch."""
    rng = np.random.default_rng(seed)
    places = [(x, y) for y in range(10, HEIGHT, 22) for x in range(12, WIDTH, 26)]
    chosen = rng.permutation(len(places))[:count]
    shapes = []
    for i in sorted(chosen):
        w, h = rng.uniform(4, 8, 2)
        box = shapely.box(-w, -h, w, h)
        angle = rng.uniform(-turned, turned)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array(places[i]) + rng.random(2)
        shapes.append(shapely.transform(box, lambda p, t=turn, c=centre: p @ t.T + c))
    return shapes


def on_ground(shapes, transform=PLACE):
    a, b, c, d, e, f = transform[:6]
    return [shapely.transform(s, lambda p: p @ [[a, d], [b, e]] + [c, f]) for s in shapes]


def write_vector(path, shapes, crs=UTM, transform=PLACE):
    frame = geopandas.GeoDataFrame(geometry=on_ground(shapes, transform), crs=crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, engine="pyogrio")
    return path


def burnt(shapes):
    pairs = [(s, i) for i, s in enumerate(on_ground(shapes), 1)]
    return rasterize(pairs, out_shape=(HEIGHT, WIDTH), transform=PLACE, dtype=np.int32)


def whole(source):
    """Masks of all objects on the whole raster, by stitching the tiles of one raster."""
    total = np.zeros((HEIGHT, WIDTH), bool)
    for i, tile in enumerate(source.tiles):
        picture = source.read(i)
        total[tile.window.slices[1:]] |= picture.labels.any(axis=0)
    return total


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg", ".geojson"])
def test_one_tile_is_what_gdal_burns(tmp_path, suffix):
    raster = write_raster(tmp_path / "r.tif", ramp())
    crs = "EPSG:4326" if suffix == ".geojson" else UTM
    shapes = houses()
    frame = geopandas.GeoDataFrame(geometry=on_ground(shapes), crs=UTM).to_crs(crs)
    path = tmp_path / f"v{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, engine="pyogrio")
    source = PolygonTiles.open([raster], path)
    picture = source.read(0)
    assert (len(source), source.key(0)) == (1, "r.tif#0_0")
    expected = burnt(shapes)
    assert picture.objects == len(shapes)
    # a degree of 15 decimals moves a pixel's centre across an edge now and then
    assert np.count_nonzero(picture.labels[0] != expected) <= (0 if crs == UTM else 2)
    assert np.array_equal(picture.image[..., 2], ramp())


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 999), side=st.integers(20, 140), count=st.integers(1, 15))
def test_tiles_put_together_are_the_whole(tmp_path_factory, seed, side, count):
    folder = tmp_path_factory.mktemp("tiles")
    raster = write_raster(folder / "r.tif", ramp())
    shapes = houses(count, seed)
    source = PolygonTiles.open([raster], write_vector(folder / "v.parquet", shapes), side=side)
    assert np.array_equal(whole(source), burnt(shapes) > 0)
    assert all(max(t.window.shape) <= side for t in source.tiles)
    boxes = [t.window for t in source.tiles]
    for window in windows_of((1, HEIGHT, WIDTH), side):
        inside = (burnt(shapes)[window.slices[1:]] > 0).any()
        assert not inside or window in boxes


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 60), st.integers(1, 60), st.integers(2, 70))
def test_windows_are_a_partition_of_nearly_equal_parts(planes, rows, columns, side):
    seen = np.zeros((planes, rows, columns), int)
    windows = windows_of(seen.shape, side)
    for window in windows:
        seen[window.slices] += 1
        assert window.shape[0] == 1
    assert (seen == 1).all()
    for axis in (1, 2):
        sides = {w.shape[axis] for w in windows}
        assert max(sides) <= side
        assert max(sides) - min(sides) <= 1


def test_overlapping_and_nested_polygons_lie_on_levels(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    shapes = [shapely.box(10, 10, 60, 60), shapely.box(20, 20, 30, 30), shapely.box(50, 50, 80, 70)]
    labels = PolygonTiles.open([raster], write_vector(tmp_path / "v.gpkg", shapes)).read(0).labels
    assert len(labels) == 2
    assert [int((labels == i).sum()) for i in (1, 2, 3)] == [2500, 100, 600]


def test_a_hole_is_no_part(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    ring = shapely.box(10, 10, 40, 40) - shapely.box(20, 20, 30, 30)
    labels = PolygonTiles.open([raster], write_vector(tmp_path / "v.gpkg", [ring])).read(0).labels
    assert (labels > 0).sum() == 800
    assert not labels[0, 25, 25]


def test_a_rotated_raster(tmp_path):
    transform = rasterio.Affine.translation(500_000, 4_000_000) @ rasterio.Affine.rotation(30)
    raster = write_raster(tmp_path / "r.tif", ramp(), transform=transform)
    shapes = houses(5)
    vector = write_vector(tmp_path / "v.parquet", shapes, transform=transform)
    labels = PolygonTiles.open([raster], vector, side=64)
    assert np.count_nonzero(whole(labels) != (burnt(shapes) > 0)) <= 2


def test_the_stretch_is_of_the_whole_raster(tmp_path):
    numbers = ramp(np.uint16) * 40 + 1000
    raster = write_raster(tmp_path / "r.tif", numbers)
    source = PolygonTiles.open([raster], write_vector(tmp_path / "v.gpkg", houses(20)), side=40)
    low, high = np.percentile(numbers.astype(float), [2, 98])
    expected = np.clip((numbers - low) * 255 / (high - low), 0, 255)
    for i, tile in enumerate(source.tiles):
        shown = source.read(i).image[..., 0]
        assert np.abs(shown - expected[tile.window.slices[1:]]).max() <= 0.51


def test_no_object_reaches_where_there_are_no_data(tmp_path):
    pixels = np.stack([ramp() + 1] * 3)
    pixels[:, :, 25:] = 0
    raster = write_raster(tmp_path / "r.tif", pixels, nodata=0)
    vector = write_vector(tmp_path / "v.gpkg", [shapely.box(10, 10, 40, 40)])
    labels = PolygonTiles.open([raster], vector).read(0).labels[0]
    assert labels[10:40, 10:25].all()
    assert not labels[:, 25:].any()


def test_several_rasters_share_polygons(tmp_path):
    beside = PLACE @ rasterio.Affine.translation(WIDTH, 0)
    first = write_raster(tmp_path / "a.tif", ramp())
    second = write_raster(tmp_path / "b.tif", ramp(), transform=beside)
    shapes = [shapely.box(WIDTH - 10, 20, WIDTH + 20, 40)]
    source = PolygonTiles.open([first, second], write_vector(tmp_path / "v.gpkg", shapes))
    assert [source.key(i) for i in range(2)] == ["a.tif#0_0", "b.tif#0_0"]
    assert [int((source.read(i).labels > 0).sum()) for i in range(2)] == [200, 400]


def test_another_process_reads_the_same(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    source = PolygonTiles.open([raster], write_vector(tmp_path / "v.gpkg", houses()))
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 our own bytes
    assert np.array_equal(again.read(0).labels, source.read(0).labels)


def test_pixel_space_without_any_crs(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp(), crs=None)
    vector = write_vector(tmp_path / "v.parquet", houses(), crs=None)
    assert np.array_equal(whole(PolygonTiles.open([raster], vector)), burnt(houses()) > 0)


def test_a_crs_on_one_side_only(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    bare = write_raster(tmp_path / "bare.tif", ramp(), crs=None)
    vector = write_vector(tmp_path / "v.parquet", houses())
    lost = write_vector(tmp_path / "lost.parquet", houses(), crs=None)
    with pytest.raises(InputError, match=r"lost\.parquet has no CRS, .*r\.tif has one"):
        PolygonTiles.open([raster], lost)
    with pytest.raises(InputError, match=r"bare\.tif has no CRS, .*v\.parquet has one"):
        PolygonTiles.open([bare], vector)


def test_polygons_of_another_place(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    vector = write_vector(tmp_path / "v.gpkg", [shapely.box(500, 500, 520, 520)])
    with pytest.raises(InputError, match=r"v\.gpkg: none of its 1 polygons lies on .*r\.tif"):
        PolygonTiles.open([raster], vector)


def test_a_crs_that_is_none(tmp_path):
    import json

    import pyarrow.parquet as pq

    raster = write_raster(tmp_path / "r.tif", ramp())
    path = write_vector(tmp_path / "v.parquet", houses())
    table = pq.read_table(path)
    described = json.loads(table.schema.metadata[b"geo"])
    described["columns"]["geometry"]["crs"] = {"type": "nonsense"}
    metadata = {**table.schema.metadata, b"geo": json.dumps(described).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(
        InputError, match=r"v\.parquet: cannot be read as polygons: Invalid projection"
    ):
        PolygonTiles.open([raster], path)


def test_polygons_that_the_projection_cannot_hold_do_not_lie_there(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    near = geopandas.GeoSeries(on_ground(houses(3)), crs=UTM).to_crs("EPSG:4326")
    far = shapely.Polygon([(0, 9000), (1, 9000), (1, 9001)])
    frame = geopandas.GeoDataFrame(geometry=[far, *near], crs="EPSG:4326")
    frame.to_parquet(tmp_path / "v.parquet")
    assert PolygonTiles.open([raster], tmp_path / "v.parquet").read(0).objects == 3
    frame[:1].to_parquet(tmp_path / "v.parquet")
    with pytest.raises(InputError, match="none of its 1 polygons lies on"):
        PolygonTiles.open([raster], tmp_path / "v.parquet")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([shapely.Point(3, 4)], r"expected polygons, found also Point"),
        ([shapely.box(1, 1, 5, 5), shapely.LineString([(0, 0), (9, 9)])], "also LineString"),
        ([shapely.Polygon()], "expected polygons, found none"),
    ],
)
def test_geometries_that_are_no_polygons(tmp_path, shapes, message):
    raster = write_raster(tmp_path / "r.tif", ramp())
    with pytest.raises(InputError, match=rf"v\.parquet: .*{message}"):
        PolygonTiles.open([raster], write_vector(tmp_path / "v.parquet", shapes))


@pytest.mark.parametrize("name", ["v.parquet", "v.gpkg", "v.geojson"])
def test_vectors_that_cannot_be_read(tmp_path, name):
    raster = write_raster(tmp_path / "r.tif", ramp())
    (tmp_path / name).write_text("?")
    with pytest.raises(InputError, match=rf"{name}: cannot be read as polygons"):
        PolygonTiles.open([raster], tmp_path / name)


def test_a_table_without_geometry(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    import pandas

    pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(InputError, match=r"v\.parquet: cannot be read as polygons"):
        PolygonTiles.open([raster], tmp_path / "v.parquet")


def test_a_raster_that_was_cut_off(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    vector = write_vector(tmp_path / "v.gpkg", houses())
    raster.write_bytes(raster.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"r\.tif"):
        PolygonTiles.open([raster], vector)


def test_without_a_reader_of_rasters(tmp_path, monkeypatch):
    monkeypatch.setattr("samplat_train.data.rasters.registry", Registry)
    with pytest.raises(PluginError, match=r"pip install 'samplat\[raster\]'"):
        PolygonTiles.open([tmp_path / "r.tif"], tmp_path / "v.gpkg")


def test_sides_below_one(tmp_path):
    raster = write_raster(tmp_path / "r.tif", ramp())
    with pytest.raises(InputError, match="at least 1, got 0"):
        PolygonTiles.open([raster], write_vector(tmp_path / "v.gpkg", houses()), side=0)

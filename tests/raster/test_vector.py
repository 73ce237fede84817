"""What holds for one vector format only, and for their common stream."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from numpy.typing import NDArray

from raster.crafted import UTM, blobs, painted, write
from samplat import InputError, JobError, JobResult, SegmentJob, SourceSpec, Window, run_job
from samplat.executors import ThreadsFactory
from samplat.plugins import Registry
from samplat_raster import polygons
from samplat_raster.features import features
from samplat_raster.polygons import outlines
from samplat_raster.rings import concatenated

Run = Callable[..., JobResult]
VECTORS = (".parquet", ".gpkg", ".fgb", ".geojson")


@pytest.fixture
def run(tools: Registry, tmp_path: Path) -> Run:
    def segment(labels: NDArray[Any], name: str = "in.tif", **place: Any) -> JobResult:
        executor = place.pop("executor", None)
        folder = place.pop("folder", f"{name}.job")
        path = tmp_path / name
        if not path.exists():
            write(path, painted(labels), **place)
        job = SegmentJob(
            source=SourceSpec(path=str(path), factory="raster"),
            job_dir=str(tmp_path / folder),
            model=None,
            segmenter="colours",
            tile_size=64,
            halo=32,
        )
        return run_job(job, tools=tools, **({"executor": executor} if executor else {}))

    return segment


def read(path: Path) -> Any:
    """Any of the formats, by geopandas."""
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


@pytest.mark.parametrize("suffix", VECTORS)
def test_every_format_says_the_same(tools: Registry, run: Run, tmp_path: Path, suffix: str) -> None:
    result = run(blobs((150, 210), 40), **UTM)
    output = tmp_path / f"out{suffix}"
    tools.exporter_for(output).export(result, output)
    frame = read(output)
    if suffix == ".fgb":
        # the spatial index has an order of its own
        frame = frame.sort_values("id", ignore_index=True)
        order = np.argsort([i for b in features(result) for i in b.columns["id"].to_pylist()])
    else:
        order = np.arange(len(frame))
    batches = list(features(result))
    for name in batches[0].columns.schema.names:
        expected = pa.concat_arrays([b.columns[name] for b in batches]).to_pandas().iloc[order]
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(frame[name], expected, rtol=1e-6)
        else:
            assert frame[name].fillna("").tolist() == expected.fillna("").tolist(), name
    expected = concatenated([b.geometries for b in batches]).to_shapely()[order]
    if suffix == ".geojson":
        frame = frame.to_crs("EPSG:32614")
    moved = shapely.hausdorff_distance(np.asarray(frame.geometry.array), expected)
    assert moved.max() < (0.02 if suffix == ".geojson" else 1e-9)
    assert frame["tiles"].str.contains(",").any()
    assert set(frame["run"]) == {result.run.short}


def test_rows_come_by_the_last_tile_and_then_by_id(run: Run) -> None:
    result = run(blobs((150, 210), 40), **UTM)
    tiles = result.objects["tiles"].to_pylist()
    ids = [i for batch in outlines(result) for i in batch.rows]
    assert ids == sorted(range(len(tiles)), key=lambda row: (tiles[row][-1], row))


@pytest.mark.parametrize("suffix", [".parquet", ".fgb", ".geojson"])
def test_executors_make_no_difference(
    tools: Registry, run: Run, tmp_path: Path, suffix: str
) -> None:
    labels = blobs((150, 210), 40)
    written = []
    for folder, executor in (("one", None), ("other", ThreadsFactory().create())):
        result = run(labels, folder=folder, executor=executor, **UTM)
        output = tmp_path / f"out{suffix}"
        tools.exporter_for(output).export(result, output)
        written.append(output.read_bytes())
    assert written[0] == written[1]


def test_batches_are_bounded_and_decide_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(blobs((150, 210), 60), **UTM)
    whole = list(outlines(result))
    assert len(whole) == 1
    monkeypatch.setattr(polygons, "BATCH_OBJECTS", 5)
    several = list(outlines(result))
    assert len(several) > 4
    assert np.concatenate([b.rows for b in several]).tolist() == whole[0].rows.tolist()
    together = concatenated([b.geometries for b in several])
    assert together.wkb().equals(whole[0].geometries.wkb())


def test_labels_that_are_not_in_the_table_are_an_error(run: Run) -> None:
    result = run(blobs((150, 210), 40), **UTM)
    for table in (
        result.objects.slice(1),
        result.objects.slice(0, result.objects.num_rows - 1),
        result.objects.set_column(
            result.objects.schema.get_field_index("area_px"),
            "area_px",
            pa.array(result.objects["area_px"].to_numpy() + 1),
        ),
    ):
        with pytest.raises(JobError, match="disagree"):
            list(outlines(replace(result, objects=table)))
    more = pa.concat_tables([result.objects, result.objects.slice(0, 1)])
    more = more.set_column(0, "id", pa.array(np.arange(1, len(more) + 1), pa.uint32()))
    with pytest.raises(JobError, match="disagree"):
        list(outlines(replace(result, objects=more)))


@dataclass(frozen=True)
class Endless:
    """A result of as many tiles as wanted, in a column: each holds the same objects."""

    tiles_count: int
    ids: int = 36

    def __getattr__(self, name: str) -> Any:
        return getattr(self._template(), name)

    def _template(self) -> Any:
        from types import SimpleNamespace

        from samplat import ImageInfo, TileGrid

        count = self.tiles_count * self.ids
        shape = (1, self.tiles_count * 96, 96)
        rows = np.arange(count)
        zeros = np.zeros(count, np.float32)
        table = pa.table(
            {
                "id": pa.array(rows + 1, pa.uint32()),
                "area_px": pa.array(np.full(count, 100), pa.int64()),
                "predicted_iou": zeros,
                "stability": zeros,
                "point_x": zeros,
                "point_y": zeros,
                "truncated": pa.array(np.zeros(count, bool)),
                "tiles": pa.ListArray.from_arrays(
                    pa.array(np.arange(count + 1), pa.int32()),
                    pa.array(rows // self.ids, pa.int32()),
                ),
            }
        )
        return SimpleNamespace(
            objects=table,
            features=table,
            nested=None,
            grid=TileGrid(shape=shape, tile_shape=(1, 96, 96), halo=(0, 0, 0)),
            info=ImageInfo(shape=shape, bands=3, dtype="uint8"),
            run=SimpleNamespace(short="r", weights_short=None, found_by="test"),
            store=SimpleNamespace(path="nowhere"),
        )

    def labels(self, window: Window) -> NDArray[np.uint32]:
        y, x = np.indices((96, 96))
        local = (y // 16 * 6 + x // 16 + 1).astype(np.uint32)
        local[(y % 16 >= 10) | (x % 16 >= 10)] = 0
        tile = window.start[1] // 96
        found = np.where(local > 0, local + np.uint32(tile * self.ids), 0)
        return found[None].astype(np.uint32)


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_memory_does_not_grow_with_the_scene(
    tools: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(polygons, "BATCH_OBJECTS", 200)
    output = tmp_path / f"out{suffix}"
    peaks = []
    for tiles in (100, 100, 1000):
        result: Any = Endless(tiles)
        template = result._template()
        object.__setattr__(result, "_template", lambda template=template: template)
        tracemalloc.start()
        tools.exporter_for(output).export(result, output)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(read(output)) == tiles * 36
    per_object = 48 * (1000 - 100) * 36  # numbers of each; a geometry has more than thrice that
    assert peaks[2] < 1.15 * peaks[1] + per_object


def test_geoparquet_says_what_it_is(
    tools: Registry, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polygons, "BATCH_OBJECTS", 10)
    output = tmp_path / "out.parquet"
    tools.exporter_for(output).export(run(blobs((150, 210), 60), **UTM), output)
    file = pq.ParquetFile(output)
    assert file.metadata.num_row_groups > 3
    geo = json.loads(file.metadata.metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert column["encoding"] == "WKB"
    assert set(column["geometry_types"]) <= {"Polygon", "MultiPolygon"}
    assert pyproj.CRS.from_json_dict(column["crs"]).to_epsg() == 32614
    frame = geopandas.read_parquet(output)
    assert column["bbox"] == frame.total_bounds.tolist()
    boxes = np.array(
        [
            [box[s] for s in ("xmin", "ymin", "xmax", "ymax")]
            for box in file.read()["bbox"].to_pylist()
        ]
    )
    assert np.array_equal(boxes, frame.bounds.to_numpy())
    assert all(p.exterior.is_ccw for p in frame.explode().geometry)
    part = (500_000, 3_999_960, 500_040, 4_000_000)
    some = geopandas.read_parquet(output, bbox=part)
    assert 0 < len(some) < len(frame)
    expected = frame[frame.intersects(shapely.box(*part))]["id"]
    assert set(expected) <= set(some["id"])


def test_flatgeobuf_has_an_index(tools: Registry, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.fgb"
    tools.exporter_for(output).export(run(blobs((150, 210), 40), **UTM), output)
    info = pyogrio.read_info(output)
    assert info["driver"] == "FlatGeobuf"
    assert info["geometry_type"] == "MultiPolygon"
    assert info["capabilities"]["fast_spatial_filter"]
    whole, part = read(output), geopandas.read_file(output, bbox=(500_000, 3_999_960, 500_040, 4e6))
    assert 0 < len(part) < len(whole)


def geojson_of(tools: Registry, result: JobResult, folder: Path) -> dict[str, Any]:
    output = folder / "out.geojson"
    tools.exporter_for(output).export(result, output)
    content: dict[str, Any] = json.loads(output.read_text())
    return content


def positions(geometry: dict[str, Any]) -> NDArray[np.float64]:
    return shapely.get_coordinates(shapely.geometry.shape(geometry))


def test_geojson_is_as_the_rfc_wants_it(tools: Registry, run: Run, tmp_path: Path) -> None:
    content = geojson_of(tools, run(blobs((150, 210), 40), **UTM), tmp_path)
    assert "crs" not in content
    for feature in content["features"]:
        xy = positions(feature["geometry"])
        assert np.abs(xy[:, 0] + 99).max() < 0.01
        assert np.array_equal(np.round(xy, 7), xy)
        for part in shapely.get_parts(shapely.geometry.shape(feature["geometry"])):
            assert part.exterior.is_ccw
            assert not any(hole.is_ccw for hole in part.interiors)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32660", rasterio.Affine(200, 0, 820_000, 0, -200, 20_000)),
        ("EPSG:4326", rasterio.Affine(0.01, 0, 179.3, 0, -0.01, 1)),
        ("EPSG:3031", rasterio.Affine(2000, 0, -150_000, 0, -2000, -1_000_000)),
    ],
)
def test_geojson_is_cut_at_the_antimeridian(
    tools: Registry, run: Run, tmp_path: Path, crs: str, transform: Any
) -> None:
    labels = np.zeros((100, 150), np.int64)
    labels[10:90, 10:140] = 1
    result = run(labels, crs=crs, transform=transform)
    (feature,) = geojson_of(tools, result, tmp_path)["features"]
    parts = shapely.get_parts(shapely.geometry.shape(feature["geometry"]))
    boxes = shapely.bounds(parts)
    assert len(parts) == 2
    assert np.abs(boxes[:, [0, 2]]).max() == 180
    assert (boxes[:, 2] - boxes[:, 0]).max() < 15
    geod = pyproj.Geod(ellps="WGS84")
    area = sum(geod.geometry_area_perimeter(part)[0] for part in parts)
    assert area == pytest.approx(feature["properties"]["area_m2"], rel=1e-3)


def test_geojson_needs_a_crs_and_says_so_early(
    samplat: Any, tools: Registry, run: Run, tmp_path: Path
) -> None:
    result = run(blobs((70, 70), 5), name="in.png", driver="PNG")
    with pytest.raises(InputError, match="choose .gpkg"):
        tools.exporter_for(tmp_path / "a.geojson").export(result, tmp_path / "a.geojson")
    code, _, err = samplat(
        "tile-segment", tmp_path / "in.png", tmp_path / "a.geojson", "--segmenter", "colours"
    )
    assert code == 1
    assert "longitude and latitude" in err
    assert not (tmp_path / "a.geojson.samplat-job").exists()


PROJECTIONS = [
    ("EPSG:3857", rasterio.Affine(2, 0, 1_000_000, 0, -2, 9_000_000)),
    ("EPSG:4326", rasterio.Affine(1e-4, 0, 20, 0, -1e-4, 60)),
    ("EPSG:3031", rasterio.Affine(20, 5, 1_000_000, 5, -20, 900_000)),
    ("EPSG:3857", rasterio.Affine(2000, 0, 1e6, 0, -2000, 9e6)),
]


@pytest.mark.parametrize(("crs", "transform"), PROJECTIONS)
def test_areas_hold_on_every_projection(run: Run, crs: str, transform: Any) -> None:
    geod = pyproj.Geod(ellps="WGS84")
    to_degrees = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform
    (batch,) = features(run(blobs((120, 130), 20), crs=crs, transform=transform))
    moved = shapely.transform(
        batch.geometries.to_shapely(), lambda xy: np.stack(to_degrees(*xy.T), axis=1)
    )
    expected = [abs(geod.geometry_area_perimeter(g)[0]) for g in shapely.orient_polygons(moved)]
    np.testing.assert_allclose(batch.columns["area_m2"], expected, rtol=2e-5)

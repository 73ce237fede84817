from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import xarray
from numpy.typing import NDArray

from raster.agreement import check_files
from raster.crafted import POISON, UTM, blobs, painted, write
from samplat import (
    HOLE,
    ImageInfo,
    InputError,
    JobError,
    JobResult,
    SegmentJob,
    SourceSpec,
    Window,
    run_job,
)
from samplat.plugins import Registry, registry
from samplat_raster.geoparquet import GeoParquetExporter
from samplat_raster.geozarr import ZarrExporter
from samplat_raster.polygons import outlines
from samplat_raster.rings import concatenated

Run = Callable[..., JobResult]
SUFFIXES = (".tif", ".zarr", ".parquet", ".gpkg", ".fgb", ".stac.json")


@pytest.fixture
def segment(tools: Registry, tmp_path: Path) -> Run:
    def run(path: Path, *, segmenter: str = "colours", **parameters: Any) -> JobResult:
        job = SegmentJob(
            source=SourceSpec(path=str(path), factory="raster"),
            job_dir=str(tmp_path / f"{path.name}.job"),
            model=None,
            segmenter=segmenter,
            **{"tile_size": 64, "halo": 32, **parameters},
        )
        return run_job(job, tools=tools)

    return run


@pytest.fixture
def export(tools: Registry, tmp_path: Path) -> Callable[[JobResult], dict[str, Path]]:
    def run(result: JobResult) -> dict[str, Path]:
        outputs = {suffix: tmp_path / f"out{suffix}" for suffix in SUFFIXES}
        for output in outputs.values():
            exporter = tools.exporter_for(output)
            exporter.check(output)
            exporter.export(result, output)
        hidden = [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
        assert hidden == []
        return outputs

    return run


def labels_of(result: JobResult) -> NDArray[np.uint32]:
    return result.labels(Window(start=(0, 0, 0), stop=result.info.shape))[0]


def frame_of(result: JobResult, tmp_path: Path) -> Any:
    """What geopandas reads of a GeoParquet file, by id."""
    GeoParquetExporter().export(result, tmp_path / "frame.parquet")
    return geopandas.read_parquet(tmp_path / "frame.parquet").sort_values("id", ignore_index=True)


def check_outputs(result: JobResult, outputs: dict[str, Path], source: Path) -> None:
    """What holds for the outputs of any job on a north-up raster."""
    check_files(source, outputs)
    expected = labels_of(result)
    with rasterio.open(outputs[".tif"]) as cog:
        assert (cog.nodata is None) == (not result.quarantined)
        hole = HOLE if cog.nodata is None else int(cog.nodata)
        assert np.array_equal(np.where(expected == HOLE, hole, expected), cog.read(1))
        pixel_area = abs(cog.transform.determinant)
    frame = geopandas.read_parquet(outputs[".parquet"])
    package = geopandas.read_file(outputs[".gpkg"])
    assert package["id"].tolist() == frame["id"].tolist()
    assert package.is_valid.all()
    areas = shapely.area(np.asarray(frame.geometry.array))
    np.testing.assert_allclose(areas, frame["area_px"] * pixel_area, rtol=1e-9)
    assert shapely.union_all(frame.geometry.array).area == pytest.approx(areas.sum())


def test_crafted_objects_come_out_as_they_went_in(
    tmp_path: Path, segment: Run, export: Any
) -> None:
    truth = blobs((150, 210), 60)
    source = write(tmp_path / "in.tif", painted(truth), **UTM)
    result = segment(source)
    outputs = export(result)
    check_outputs(result, outputs, source)
    labels = labels_of(result)
    pairs = np.unique(np.stack([truth.ravel(), labels.ravel()]), axis=1)
    assert len(pairs[0]) == len(np.unique(truth)) == len(np.unique(labels))
    with rasterio.open(outputs[".tif"]) as cog:
        assert (cog.dtypes[0], cog.nodata) == ("uint8", None)


def test_polygons_are_the_pixels(tmp_path: Path, segment: Run) -> None:
    source = write(tmp_path / "in.tif", painted(blobs((150, 210), 60, seed=4)), **UTM)
    result = segment(source, tile_size=37, halo=30)
    labels, batches = labels_of(result), list(outlines(result))
    geometries = concatenated([b.geometries for b in batches]).to_shapely()
    rows = np.concatenate([b.rows for b in batches])
    shapes = zip(geometries, result.objects["id"].to_numpy()[rows].tolist(), strict=True)
    burnt = rasterio.features.rasterize(shapes, out_shape=labels.shape, dtype="int32")
    assert np.array_equal(burnt, labels)
    assert shapely.is_valid(geometries).all()
    crossing = [len(tiles) > 1 for tiles in result.objects["tiles"].to_pylist()]
    assert any(crossing)


@pytest.mark.parametrize(
    "name",
    [
        "geo_nogt_naip_landsat/naip_20140720.tif",
        "geo_nogt_naip_landsat/landsat_1990.tif",
        "geo_nogt_rasterio/RGB.byte.tif",
        "geo_deepforest_trees/OSBS_029.tif",
        "geo_atlanta_spacenet4/images/sample_geotiff.tif",
    ],
)
def test_real_rasters(
    eval_data: Path, tmp_path: Path, segment: Run, export: Any, name: str
) -> None:
    source = eval_data / name
    result = segment(source, segmenter="bright", tile_size=384)
    assert result.objects.num_rows >= 3
    check_outputs(result, export(result), source)


def test_true_buildings_have_their_true_areas(
    eval_data: Path, tmp_path: Path, segment: Run
) -> None:
    folder = eval_data / "geo_banepa"
    with rasterio.open(folder / "labels" / "OAM-386693-220244-19.tif") as dataset:
        truth, profile = dataset.read(1).astype(np.int64), dataset.profile
    place = {"crs": profile["crs"], "transform": profile["transform"]}
    source = write(tmp_path / "in.tif", painted(truth), **place)
    frame = frame_of(segment(source, tile_size=200, halo=120), tmp_path)
    assert len(frame) == len(np.unique(truth)) - 1
    on_the_plane = frame.to_crs(frame.estimate_utm_crs()).area
    np.testing.assert_allclose(frame["area_m2"], on_the_plane, rtol=2e-3)
    geod = pyproj.Geod(ellps="WGS84")
    one = max(frame.geometry, key=lambda polygon: polygon.area)
    expected = abs(geod.geometry_area_perimeter(shapely.orient_polygons(one))[0])
    assert frame["area_m2"].max() == pytest.approx(expected, rel=1e-8)


def test_points_scores_and_provenance(tmp_path: Path, segment: Run) -> None:
    truth = np.zeros((100, 120), np.int64)
    truth[20:30, 40:60] = 7
    frame = frame_of(segment(write(tmp_path / "in.tif", painted(truth), **UTM)), tmp_path)
    row = frame.iloc[0]
    assert row.geometry.equals(shapely.box(500_020, 3_999_985, 500_030, 3_999_990))
    assert (row.point_x, row.point_y) == (500_020.25, 3_999_989.75)
    assert (row.area_px, row.model, bool(row.truncated)) == (200, "colours", False)
    assert row.area_m2 == pytest.approx(50, rel=2e-3)


def test_a_raster_without_crs_is_in_its_own_units(
    tmp_path: Path, segment: Run, export: Any
) -> None:
    truth = blobs((80, 90), 12)
    result = segment(write(tmp_path / "in.png", painted(truth), driver="PNG"))
    outputs = export(result)
    frame = geopandas.read_parquet(outputs[".parquet"])
    assert frame.crs is None
    assert frame["area_m2"].isna().all()
    assert frame.area.tolist() == frame["area_px"].tolist()
    with xarray.open_zarr(outputs[".zarr"]) as opened:
        assert "spatial_ref" not in opened
        assert float(opened.x[0]) == 0.5


def test_a_rotated_raster_keeps_its_transform(tmp_path: Path, segment: Run, export: Any) -> None:
    transform = rasterio.Affine(0.4, 0.3, 500_000, 0.3, -0.4, 4_000_000)
    place = {"crs": "EPSG:32614", "transform": transform}
    result = segment(write(tmp_path / "in.tif", painted(blobs((80, 90), 12)), **place))
    outputs = export(result)
    with rasterio.open(outputs[".tif"]) as cog:
        assert cog.transform == transform
    frame = geopandas.read_parquet(outputs[".parquet"])
    np.testing.assert_allclose(frame.area, frame["area_px"] * 0.25, rtol=1e-9)
    with xarray.open_zarr(outputs[".zarr"]) as opened:
        assert "x" not in opened


def test_no_objects_make_valid_empty_files(tmp_path: Path, segment: Run, export: Any) -> None:
    source = write(tmp_path / "in.tif", np.zeros((3, 70, 90), np.uint8), nodata=0, **UTM)
    result = segment(source)
    outputs = export(result)
    check_outputs(result, outputs, source)
    assert len(geopandas.read_file(outputs[".gpkg"])) == 0


def test_a_failed_tile_is_nodata_and_not_background(
    tmp_path: Path, segment: Run, export: Any
) -> None:
    truth = blobs((128, 128), 30)
    truth[100:110, 100:110] = POISON
    source = write(tmp_path / "in.tif", painted(truth), **UTM)
    result = segment(source, halo=0)
    assert [tile.index for tile in result.quarantined] == [3]
    outputs = export(result)
    check_outputs(result, outputs, source)
    with rasterio.open(outputs[".tif"]) as cog:
        mask = cog.dataset_mask()
    assert not mask[64:, 64:].any()
    assert mask[:64].all()


@pytest.mark.parametrize(
    ("largest", "dtype"), [(254, "uint8"), (255, "uint16"), (65534, "uint16"), (65535, "uint32")]
)
def test_the_smallest_type_that_holds_ids_and_holes(largest: int, dtype: str) -> None:
    from types import SimpleNamespace

    import pyarrow as pa

    from samplat_raster.outputs import label_dtype, narrowed

    table = pa.table({"id": pa.array([1, largest], pa.uint32())})
    chosen = label_dtype(SimpleNamespace(objects=table))  # type: ignore[arg-type]
    assert chosen == dtype
    wide = np.array([0, largest, HOLE], np.uint32)
    assert narrowed(wide, chosen).tolist() == [0, largest, np.iinfo(chosen).max]


def test_outputs_replace_older_ones(tmp_path: Path, segment: Run, export: Any) -> None:
    first = segment(write(tmp_path / "a.tif", painted(blobs((70, 70), 5)), **UTM))
    second = segment(write(tmp_path / "b.tif", painted(blobs((80, 90), 9)), **UTM))
    export(first)
    check_outputs(second, export(second), tmp_path / "b.tif")


def test_the_data_of_others_are_not_replaced(tmp_path: Path) -> None:
    for name in ("empty.zarr", "theirs.zarr"):
        (tmp_path / name).mkdir()
    (tmp_path / "theirs.zarr" / "zarr.json").write_text('{"zarr_format": 3, "attributes": {}}')
    for name in ("empty.zarr", "theirs.zarr"):
        with pytest.raises(InputError, match="not written by samplat"):
            ZarrExporter().check(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_outputs_are_checked_early(tools: Registry, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / "missing" / f"out{suffix}"
    with pytest.raises(InputError, match="there is no directory"):
        tools.exporter_for(output).check(output)
    output = Path("/proc") / f"out{suffix}"
    with pytest.raises(InputError, match="cannot write"):
        tools.exporter_for(output).check(output)
    if suffix != ".zarr":
        (tmp_path / f"out{suffix}").mkdir()
        with pytest.raises(InputError, match="it is a directory"):
            tools.exporter_for(output).check(tmp_path / f"out{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
def test_a_failure_leaves_the_older_output_alone(
    tools: Registry, tmp_path: Path, segment: Run, suffix: str
) -> None:
    result = segment(write(tmp_path / "a.tif", painted(blobs((150, 70), 20)), **UTM))
    output = tmp_path / f"out{suffix}"
    exporter = tools.exporter_for(output)
    exporter.export(result, output)
    before = sorted(p.name for p in tmp_path.iterdir())
    digest = _content(output)
    shard = sorted((result.labels_path / "c").rglob("*"))[-1]
    shard.write_bytes(shard.read_bytes()[:-9] + b"damaged!!")
    with pytest.raises(JobError, match="damaged"):
        exporter.export(result, output)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert _content(output) == digest


def test_what_a_killed_export_left_is_removed(
    tools: Registry, tmp_path: Path, segment: Run, export: Any
) -> None:
    import socket
    import subprocess

    child = subprocess.Popen(["true"])  # noqa: S607
    child.wait()
    orphan = tmp_path / f".out.tif.{socket.gethostname()}-{child.pid}.samplat-tmp"
    orphan.mkdir()
    (orphan / "out.tif").touch()
    export(segment(write(tmp_path / "a.tif", painted(blobs((70, 70), 5)), **UTM)))
    assert not orphan.exists()


def test_a_full_disk_leaves_nothing(
    tools: Registry, tmp_path: Path, segment: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = segment(write(tmp_path / "a.tif", painted(blobs((70, 70), 5)), **UTM))

    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    for suffix in SUFFIXES:
        output = tmp_path / f"out{suffix}"
        with pytest.raises(JobError, match="No space left"):
            tools.exporter_for(output).export(result, output)
        assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []


def _content(path: Path) -> dict[str, bytes]:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_rasters_of_labels_take_no_volumes(suffix):
    exporter = registry().exporter_for(Path(f"out{suffix}"))
    exporter.check_image(ImageInfo(shape=(1, 4, 5), bands=1, dtype="uint8"))
    with pytest.raises(InputError, match=r"one slice and this image has 3; .* such as \.nii\.gz"):
        exporter.check_image(ImageInfo(shape=(3, 4, 5), bands=1, dtype="uint8"))

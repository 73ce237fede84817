"""Exporters of jobs: one result in every format, holes, faults, kills."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
import zarr
from numpy.typing import NDArray

from samplat import HOLE, InputError, JobError, JobResult, SourceSpec, Window
from samplat.plugins import Registry
from samplat_volume.geometry import Geometry
from samplat_volume.source import VolumeFactory
from samplat_volume.writing import WRITERS, write_labels
from volume.labelled import Painted, balls, grid, run_painted, tools_for, write_series

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".ome.zarr", ".csv", ".dcm")
GEOMETRY = grid((6, 40, 36))
PAINTED = Painted(labels=balls(GEOMETRY.shape, 6), geometry=GEOMETRY)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = tools_for(volume=PAINTED)
    for writer in WRITERS:
        found.add("exporters", "volume", writer)
    monkeypatch.setattr("samplat.plugins.registry", lambda: found)
    return found


def exported(tools: Registry, result: JobResult, output: Path) -> Path:
    exporter = tools.exporter_for(output)
    exporter.check(output)
    exporter.export(result, output)
    return output


def labels_of(result: JobResult) -> NDArray[np.uint32]:
    return result.labels(Window(start=(0, 0, 0), stop=result.info.shape))


def read(path: Path) -> NDArray[Any]:
    if path.name.endswith(".ome.zarr"):
        array: Any = zarr.open_group(path, mode="r")["0"]
        return np.asarray(array[...])
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize("poison", [None, int(PAINTED.labels[2].max())])
def test_a_job_comes_out_alike_in_every_format(
    tools: Registry, tmp_path: Path, poison: int | None
) -> None:
    result = run_painted(tools, tmp_path / "job", poison)
    labels = labels_of(result)
    assert bool((labels == HOLE).any()) == (poison is not None) == bool(result.quarantined)
    for suffix in (".nii.gz", ".nrrd", ".mha", ".ome.zarr"):
        found = read(exported(tools, result, tmp_path / f"out{suffix}"))
        assert found.dtype == np.uint8
        assert np.array_equal(found, np.where(labels == HOLE, 255, labels))
    place = Geometry.of_image(sitk.ReadImage(str(tmp_path / "out.nrrd")))
    np.testing.assert_allclose(place.index_to_world, GEOMETRY.index_to_world, atol=1e-9)
    check_table(exported(tools, result, tmp_path / "out.csv"), result)
    group = zarr.open_group(tmp_path / "out.ome.zarr", mode="r")
    ome: Any = group.attrs["ome"]
    known = {p["label-value"]: p for p in ome["image-label"]["properties"]}
    assert (255 in known) == (poison is not None)
    for row in result.objects.to_pylist():
        assert known[row["id"]]["voxels"] == row["area_px"]


def check_table(path: Path, result: JobResult) -> None:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [int(row["id"]) for row in rows] == result.objects["id"].to_pylist()
    assert [int(row["voxels"]) for row in rows] == result.objects["area_px"].to_pylist()
    labels, red = labels_of(result), PAINTED.labels & 255
    for row in rows:
        assert float(row["mean_1"]) == pytest.approx(red[labels == int(row["id"])].mean())
        assert float(row["volume_mm3"]) == pytest.approx(int(row["voxels"]) * 2.5 * 0.7 * 0.8)
        assert 0 <= float(row["predicted_iou"]) <= 1


def test_dicom_seg_of_a_job_references_the_jobs_series(tools: Registry, tmp_path: Path) -> None:
    result = run_painted(tools, tmp_path / "job")
    with pytest.raises(InputError, match="volume is no DICOM series"):
        exported(tools, result, tmp_path / "out.dcm")
    write_series(tmp_path / "scan", GEOMETRY)
    source = SourceSpec(path=str(tmp_path / "scan"), factory="painted")
    of_series = replace(result, job=replace(result.job, source=source))
    exported(tools, of_series, tmp_path / "out.dcm")
    assert (tmp_path / "out.dcm").is_file()


def test_an_image_on_the_ground_is_no_volume(tools: Registry, tmp_path: Path) -> None:
    result = run_painted(tools, tmp_path / "job")
    ground = replace(result, info=replace(result.info, crs="EPSG:32614"))
    for suffix in SUFFIXES:
        with pytest.raises(InputError, match="has a CRS, and volumes have none"):
            exported(tools, ground, tmp_path / f"out{suffix}")


def test_a_table_that_disagrees_with_the_labels_is_an_error(
    tools: Registry, tmp_path: Path
) -> None:
    result = run_painted(tools, tmp_path / "job")
    ids = result.objects["id"].to_numpy().copy()
    ids[-1] += 1
    objects = result.objects.set_column(result.objects.column_names.index("id"), "id", [ids])
    with pytest.raises(JobError, match=f"no voxel of object {ids[-1]}"):
        exported(tools, replace(result, objects=objects), tmp_path / "out.csv")


@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
def test_outputs_replace_older_ones_and_failures_do_not(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        shape, dtype, reads = (6, 8, 8), np.dtype(np.uint8), 0

        def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.uint8]:
            self.reads += 1
            if self.reads > 8:
                raise OSError(28, "No space left on device")
            return np.ones(tuple(s.stop - s.start for s in index), np.uint8)

    monkeypatch.setattr("samplat_volume.labels.SLAB_VOXELS", 64)
    monkeypatch.setattr("samplat_volume.labels.ARRAY_BLOCK", (1, 8, 8))
    monkeypatch.setattr("samplat_volume.ngff.CHUNK_DEPTH", 1)
    path = tmp_path / f"out{suffix}"
    geometry = grid((6, 8, 8))
    for value in (3, 4):
        write_labels(path, np.full((6, 8, 8), value), geometry)
        before = content(path)
    with pytest.raises((JobError, OSError), match="No space left"):
        write_labels(path, Failing(), geometry)
    assert content(path) == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def content(path: Path) -> Any:
    if path.name.endswith(".csv"):
        return path.read_text()
    return read(path).tolist()


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from samplat_volume import labels, ngff
from samplat_volume.geometry import Geometry
from samplat_volume.writing import write_labels

labels.SLAB_VOXELS, labels.ARRAY_BLOCK, ngff.CHUNK_DEPTH = 64, (1, 8, 8), 1

class Deadly:
    shape, dtype, reads = (6, 8, 8), np.dtype(np.uint8), 0
    def __getitem__(self, index):
        self.reads += 1
        if self.reads == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones(tuple(s.stop - s.start for s in index), np.uint8)

geometry = Geometry(shape=(6, 8, 8), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0),
                    direction=np.eye(3))
write_labels(sys.argv[1], Deadly(), geometry)
"""


@pytest.mark.parametrize("suffix", [".nii.gz", ".ome.zarr"])
@pytest.mark.parametrize("reads", [8, 12])
def test_a_killed_process_leaves_the_older_output(tmp_path: Path, suffix: str, reads: int) -> None:
    path = tmp_path / f"out{suffix}"
    geometry = Geometry(
        shape=(6, 8, 8), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=np.eye(3)
    )
    write_labels(path, np.full((6, 8, 8), 5), geometry)
    command = [sys.executable, "-c", KILLED, str(path), str(reads)]
    done = subprocess.run(command, env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert (read(path) == 5).all()
    assert any(p.name.startswith(".") for p in tmp_path.iterdir())
    write_labels(path, np.full((6, 8, 8), 7), geometry)
    assert (read(path) == 7).all()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_unknown_suffix_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"known: \.csv \.dcm \.mha \.nii \.nii\.gz \.nrrd"):
        write_labels(tmp_path / "a.tif", np.ones((2, 2, 2), bool), grid((2, 2, 2)))


@pytest.mark.parametrize("kind", [np.bool_, np.int8, np.uint16, np.int64, np.uint64])
def test_labels_may_be_of_any_integer_type(tmp_path: Path, kind: Callable[..., Any]) -> None:
    labels = (np.arange(24).reshape(2, 3, 4) % 3).astype(kind)
    write_labels(tmp_path / "a.nrrd", labels, grid((2, 3, 4)))
    assert np.array_equal(read(tmp_path / "a.nrrd"), labels.astype(np.uint8))


def test_lazy_arrays_are_read_piece_by_piece(tmp_path: Path) -> None:
    labels = balls((12, 20, 24), 5)
    stored = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=labels.shape, chunks=(4, 20, 24), dtype="uint32"
    )
    stored[...] = labels
    write_labels(tmp_path / "a.mha", stored, grid(labels.shape))
    assert np.array_equal(read(tmp_path / "a.mha"), labels)


def test_a_scan_is_opened_segmented_and_written_in_its_own_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "scan", GEOMETRY, values=np.where(PAINTED.labels > 0, 900, 100))
    tools = tools_for()
    tools.add("sources", "volume", VolumeFactory())
    for writer in WRITERS:
        tools.add("exporters", "volume", writer)
    monkeypatch.setattr("samplat.plugins.registry", lambda: tools)
    source = SourceSpec(path=str(tmp_path / "scan"), factory="volume")
    result = run_painted(tools, tmp_path / "job", source=source, rescaler="percentile")
    for suffix in (".nrrd", ".csv", ".dcm"):
        exported(tools, result, tmp_path / f"out{suffix}")
    image = sitk.ReadImage(str(tmp_path / "out.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image) > 0, PAINTED.labels > 0)
    place = Geometry.of_image(image)
    np.testing.assert_allclose(place.index_to_world, GEOMETRY.index_to_world, atol=1e-9)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert rows
    assert {(row["mean"], row["std"], row["max"]) for row in rows} == {("900", "0", "900")}
    seg = highdicom.seg.segread(tmp_path / "out.dcm")
    assert len(seg.segment_numbers) == len(rows)

"""A finished job of `samplat tile-segment` is training data; an unfinished one is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import samplat
from samplat import InputError
from samplat_train.data.jobs import JobLabels
from samplat_train.data.opening import open_source

rasterio = pytest.importorskip("rasterio")

HEIGHT, WIDTH = 48, 80


def disc(cy, cx, r):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (y - cy) ** 2 + (x - cx) ** 2 < r**2


def run(*arguments):
    from samplat import cli

    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A scene of 16 bits with two discs, and the job that segmented it in two tiles."""
    folder = tmp_path_factory.mktemp("scene")
    scene = np.where(disc(24, 18, 10) | disc(24, 58, 11), 3000, 400).astype(np.uint16)
    scene[:8] = 0  # no data, so that some windows hold no object whatever the model finds
    profile = {"count": 1, "height": HEIGHT, "width": WIDTH, "dtype": "uint16", "nodata": 0}
    place = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 4e6)
    path = folder / "scene.tif"
    with rasterio.open(path, "w", driver="GTiff", crs=32614, transform=place, **profile) as out:
        out.write(scene, 1)
    options = ["--tile-size", 48, "--halo", 8, "--points-per-side", 6, "--job-dir", folder / "job"]
    assert run("tile-segment", path, folder / "labels.tif", *options) == 0
    with rasterio.open(folder / "labels.tif") as cog:
        labels = cog.read(1)
    assert labels.any(), "the model found nothing: the test has nothing to compare"
    return folder, labels


@pytest.fixture
def job(finished, tmp_path):
    """A copy to damage."""
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy" / "job"


def test_the_labels_are_those_of_the_export(finished):
    folder, labels = finished
    source = open_source(str(folder / "job"))
    picture = source.read(0)
    assert (len(source), source.key(0)) == (1, "scene.tif#0_0_0")
    assert np.array_equal(picture.labels, labels[None])
    assert picture.objects == len(np.unique(labels[labels > 0]))
    assert sorted(np.unique(picture.image).tolist()) == [0, 255], "stretched as the model saw it"
    assert (picture.image[disc(24, 18, 9)] == 255).all()


def test_windows_without_objects_are_left_out(finished):
    folder, labels = finished
    source = JobLabels.open(folder / "job", side=8)
    seen = np.zeros_like(labels)
    for i, window in enumerate(source.windows):
        assert max(window.shape) <= 8
        seen[window.slices[1:]] = source.read(i).labels[0]
    assert np.array_equal(seen, labels)
    assert 0 < len(source) < HEIGHT // 8 * WIDTH // 8


def test_the_picture_is_found_beside_the_job(finished, job, monkeypatch):
    run_file = job / "run.json"
    content = json.loads(run_file.read_text())
    content["provenance"]["image"] = "scene.tif"
    run_file.write_text(json.dumps(content))
    monkeypatch.chdir("/")
    assert np.array_equal(JobLabels.open(job).read(0).labels[0], finished[1])


def test_what_failed_is_nothing(job, finished):
    import zarr

    array = zarr.open_array(job / "labels", mode="r+")
    array[:, :, 48:70] = samplat.HOLE
    expected = finished[1].copy()
    assert expected[:, 48:70].any()
    expected[:, 48:70] = 0
    assert np.array_equal(JobLabels.open(job).read(0).labels[0], expected)


def test_a_failed_tile_needs_no_labels(job):
    (job / "labels/c/0/0/1").unlink()
    marker = job / "tiles/000001.json"
    entry = json.loads(marker.read_text())
    marker.write_text(json.dumps({**entry, "outcome": "quarantined"}))
    assert not JobLabels.open(job).read(0).labels[0, :, 48:].any()


@pytest.mark.parametrize("lost", ["labels/c/0/0/1", "tiles/000001.json"])
def test_unfinished_jobs_are_refused(job, lost):
    (job / lost).unlink()
    with pytest.raises(InputError, match="the job is not finished: 1 of 2 tiles have no labels"):
        JobLabels.open(job)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("labels/zarr.json", r"labels/zarr\.json: cannot be read as JSON"),
        ("seams/table.arrow", "the table of objects cannot be read"),
        ("run.json", r"run\.json: cannot be read as JSON"),
    ],
)
def test_files_that_are_missing(job, lost, message):
    (job / lost).unlink()
    with pytest.raises(InputError, match=message):
        JobLabels.open(job)


def test_a_job_without_objects_is_refused(job):
    import pyarrow as pa

    path = job / "seams/table.arrow"
    schema = pa.ipc.open_file(path.read_bytes()).schema
    with pa.ipc.new_file(path, schema) as writer:
        writer.write_table(schema.empty_table())
    with pytest.raises(InputError, match="the job found not a single object"):
        JobLabels.open(job)


def test_flipped_bits_are_noticed(job):
    path = job / "labels/c/0/0/0"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"job: labels \(0, 0, 0\) to \(1, 48, 80\)"):
        JobLabels.open(job).read(0)


def change(job, content):
    (job / "run.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "run.json is not a job's"),
        ([], "run.json is not a job's"),
        ({"identity": {}, "provenance": {}}, "run.json is not a job's"),
    ],
)
def test_another_run_json(job, content, message):
    change(job, content)
    with pytest.raises(InputError, match=message):
        JobLabels.open(job)


def test_a_picture_that_changed_or_went(job):
    content = json.loads((job / "run.json").read_text())
    content["provenance"]["shape"] = [1, 50, 80]
    change(job, content)
    with pytest.raises(InputError, match=r"the job saw .*scene\.tif with \(1, 50, 80\) pixels"):
        JobLabels.open(job)
    content["provenance"]["image"] = str(Path(job) / "gone.tif")
    change(job, content)
    with pytest.raises(InputError, match=r"there is no file .*gone\.tif"):
        JobLabels.open(job)

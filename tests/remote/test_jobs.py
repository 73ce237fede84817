from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image
from skimage import data

from remote.conftest import environment
from samplat import leases, places
from samplat.files import sha256
from samplat.finished import open_result
from samplat.places import RemotePath

Run = Callable[..., tuple[int, str, str]]
OPTIONS = ("--segmenter", "threshold", "--tile-size", "144", "--halo", "16")
WHOLE = ("--segmenter", "threshold", "--tile-size", "288", "--halo", "16")
SLOW = """
import sys, time
from samplat import cli, leases, segmenting
leases.BEAT, real = 0.1, segmenting.read_tile
read = []
def slowly(*given):
    read.append(given)
    time.sleep(600 if len(read) > 2 else 0)
    return real(*given)
segmenting.read_tile = slowly
cli.main(sys.argv[1:])
"""
"""The command line, which comes to a halt when some tiles are finished."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(leases, "POLL", 0.1)
    monkeypatch.setattr(places, "PAUSES", (0.1,))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.fromarray(data.coffee()[:288, :288]).save(path)
    return path


def labels(job: Any) -> str:
    """SHA-256 of the decoded labels of a job."""
    with open_result(job) as result:
        return sha256(b"".join(shard.tobytes() for _, shard in result.shards()))


def contents(job: Path | RemotePath) -> dict[str, bytes]:
    """All files of a job, but for those that tell of the run."""
    found: dict[str, bytes] = {}
    if isinstance(job, RemotePath):
        todo = list(job.iterdir())
        while todo:
            path = todo.pop()
            below = list(path.iterdir())
            todo += below
            if not below:
                found[str(path).removeprefix(f"{job}/")] = path.read_bytes()
    else:
        each = [path for path in job.rglob("*") if path.is_file()]
        found = {path.relative_to(job).as_posix(): path.read_bytes() for path in each}
    ours = ("lease", "tiles", "owner.json", ".lock", "run.json")
    return {name: value for name, value in found.items() if not name.startswith(ours)}


@pytest.mark.parametrize("more", [(), pytest.param(("--nested",), marks=pytest.mark.slow)])
def test_a_job_in_a_store_is_that_of_a_folder(
    more: tuple[str, ...], samplat: Run, scene: Path, s3: RemotePath
) -> None:
    here, there = ("tile-segment", scene, "here.tif"), ("tile-segment", scene, s3 / "out" / "a.tif")
    assert samplat(*here, *OPTIONS, *more)[0] == 0
    job = s3 / "job"
    assert samplat(*there, *OPTIONS, *more, "--job-dir", job)[0] == 0
    local = Path("here.tif.samplat-job")
    assert labels(job) == labels(local)
    assert contents(job) == contents(local)
    assert (s3 / "out" / "a.tif").read_bytes() == Path("here.tif").read_bytes()
    # other readers find the labels as they are
    ours, theirs = (np.asarray(zarr.open_array(str(j / "labels"), mode="r")) for j in (local, job))
    assert (ours == theirs).all()
    assert ours.any()


def test_a_finished_job_is_exported_to_urls(samplat: Run, scene: Path, s3: RemotePath) -> None:
    job = s3 / "a.tif.samplat-job"
    assert samplat("tile-segment", scene, s3 / "a.tif", *OPTIONS)[0] == 0
    written = [s3 / "more" / name for name in ("a.zarr", "a.fgb", "b.tif")]
    status, out, err = samplat("export", job, *written, "--stac")
    assert status == 0, err
    assert out.splitlines() == [
        f"wrote {each}" for each in [*written, s3 / "more/a.zarr.stac.json"]
    ]
    assert (s3 / "more/b.tif").read_bytes() == (s3 / "a.tif").read_bytes()
    assert b'"./a.fgb"' in (s3 / "more/a.zarr.stac.json").read_bytes()
    group = zarr.open_group(str(s3 / "more/a.zarr"), mode="r")
    (array,) = (a for _, a in group.arrays() if a.ndim >= 2)
    whole = np.asarray(zarr.open_array(str(job / "labels"), mode="r"))
    assert (np.asarray(array).reshape(288, 288) == whole[0, :288, :288]).all()


def begin(scene: Path, job: RemotePath) -> subprocess.Popen[str]:
    """The command as a process of its own, of which some tiles are finished."""
    command = [sys.executable, "-c", SLOW, "tile-segment", str(scene), "there.tif", *OPTIONS]
    running = subprocess.Popen(
        [*command, "--job-dir", str(job)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not list((job / "tiles").iterdir()):
        assert running.poll() is None, running.stderr and running.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    return running


def test_a_killed_run_resumes_and_two_are_not_let_in(
    samplat: Run, scene: Path, s3: RemotePath
) -> None:
    job = s3 / "job"
    same = ("tile-segment", scene, "there.tif", *OPTIONS, "--job-dir", job)
    running = begin(scene, job)
    try:
        status, _, err = samplat(*same)
        assert status == 1
        assert f"in use by process {running.pid}" in err
    finally:
        running.kill()
        running.communicate()
    finished = {path.name: path.read_bytes() for path in (job / "tiles").iterdir()}
    assert 1 <= len(finished) < 4
    status, _, err = samplat(*same)
    assert status == 0, err
    after = {path.name: path.read_bytes() for path in (job / "tiles").iterdir()}
    assert finished.items() <= after.items()  # and was not done again
    assert samplat("tile-segment", scene, "here.tif", *OPTIONS)[0] == 0
    assert Path("there.tif").read_bytes() == Path("here.tif").read_bytes()


def test_another_job_is_refused_and_discarded_if_it_is_asked_for(
    samplat: Run, scene: Path, s3: RemotePath
) -> None:
    job = ("--job-dir", s3 / "job")
    assert samplat("tile-segment", scene, "a.tif", *WHOLE, *job)[0] == 0
    other = ("tile-segment", scene, "b.tif", *WHOLE, "--min-area", "50", *job)
    status, _, err = samplat(*other)
    assert status == 1
    assert "holds another job: min_area" in err
    assert samplat(*other, "--overwrite")[0] == 0
    (s3 / "full" / "somebody's").write_bytes(b"else")
    status, _, err = samplat("tile-segment", scene, "c.tif", "--job-dir", s3 / "full", *WHOLE)
    assert status == 1
    assert "holds no job (found somebody's)" in err


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("s3://nobody-made-this/job", 1, "make the bucket"),
        ("nix://a/job", 1, "the package of fsspec that knows nix://"),
        ("file://elsewhere/job", 1, "this machine"),
    ],
)
def test_urls_that_are_of_no_use(
    url: str, status: int, said: str, samplat: Run, scene: Path, s3: RemotePath
) -> None:
    found, _, err = samplat("tile-segment", scene, "a.tif", *OPTIONS, "--job-dir", url)
    assert (found, said in err) == (status, True), err
    assert err.splitlines()[-1].startswith("error: ")


def test_a_folder_may_be_a_url_too(samplat: Run, scene: Path, tmp_path: Path) -> None:
    job = ("--job-dir", f"file://{tmp_path}/job")
    assert samplat("tile-segment", scene, f"file://{tmp_path}/out.tif", *OPTIONS, *job)[0] == 0
    assert (tmp_path / "job" / "run.json").exists()
    assert (tmp_path / "out.tif").exists()


def test_a_batch_goes_to_a_store(samplat: Run, scene: Path, s3: RemotePath) -> None:
    Path("cut.png").write_bytes(scene.read_bytes()[:3000])
    told = ("batch", scene, "cut.png", "--output-dir", s3 / "out", "--set", "segmenter=threshold")
    told = (*told, "--set", "tile-size=288", "--set", "halo=16")
    status, out, _ = samplat(*told)
    assert status == 3
    assert "1 done, 1 failed" in out
    assert {path.name for path in (s3 / "out").iterdir()} == {
        "scene.tif",
        "samplat-batch",
        "samplat-batch.csv",
        "samplat-batch.json",
    }
    Path("cut.png").write_bytes(scene.read_bytes())
    status, out, _ = samplat(*told, "--retry-failed")
    assert status == 0, out
    assert (s3 / "out/cut.tif").read_bytes() == (s3 / "out/scene.tif").read_bytes()
    assert samplat(*told)[0] == 0  # with nothing to do


def test_volumes_go_to_a_store(samplat: Run, s3: RemotePath) -> None:
    import SimpleITK as sitk

    cells = np.stack([data.cell()[::8, ::8]] * 3)
    sitk.WriteImage(sitk.GetImageFromArray(cells), "scan.nii.gz")
    told = ("volume-segment", "scan.nii.gz", "--segmenter", "threshold", "--out")
    assert samplat(*told, "here.nii.gz")[0] == 0
    assert samplat(*told, s3 / "there.nii.gz", "--out", s3 / "objects.csv")[0] == 0
    assert (s3 / "there.nii.gz").read_bytes() == Path("here.nii.gz").read_bytes()
    assert (s3 / "objects.csv").exists()
    assert labels(s3 / "there.nii.gz.samplat-job") == labels("here.nii.gz.samplat-job")


@pytest.mark.slow
def test_workers_share_a_store(samplat: Run, scene: Path, s3: RemotePath) -> None:
    told = ("tile-segment", scene, *OPTIONS)
    assert samplat(*told, "here.tif")[0] == 0
    far = ("--executor", "dask", "--workers", "2", "--job-dir", s3 / "job")
    assert samplat(*told, s3 / "there.tif", *far)[0] == 0
    assert (s3 / "there.tif").read_bytes() == Path("here.tif").read_bytes()

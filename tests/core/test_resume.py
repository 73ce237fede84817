"""kill -9 at random moments, then the same command: the same results, and nothing done twice.

The killed process stops at every event of its progress until it is let go on (`job_process`), so
each kill hits a running job, in every stage, however fast or slow the machine is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.oracle import paint, random_labels
from samplat.files import TEMPORARY, sha256

TESTS = Path(__file__).parent.parent
STAGES = ("tiles", "seams", "labels")
TILES = 20
OUTPUTS = ("out.tif", "out.parquet", "out.zarr", "out.fgb", "out.geojson")
TRUTH = random_labels(np.random.default_rng(5), (60, 70), 14, 60)


def moments(count: int, every: int) -> list[Any]:
    """So many kill points; one in `every` is always tried, the others in the long run."""
    return [
        pytest.param(k, marks=() if k % every == every // 2 else pytest.mark.slow)
        for k in range(count)
    ]


def start(*arguments: Any) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "core.job_process", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Let it run to its end; what it said."""
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return told.splitlines()


def go_on(process: subprocess.Popen[str]) -> str:
    """Let it pass the event at which it waits; the stage of that."""
    assert process.stdout is not None
    assert process.stdin is not None
    stage = process.stdout.readline().strip()
    process.stdin.write("\n")
    process.stdin.flush()
    return stage


def enter(process: subprocess.Popen[str], stage: str) -> None:
    """Let it go on until a stage has begun."""
    while go_on(process) != stage:
        assert process.poll() is None


def kill(process: subprocess.Popen[str], seconds: float) -> None:
    """Kill it while it works towards its next event, or waits there."""
    time.sleep(seconds)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def digest(folder: Path) -> str:
    """Of the names and bytes of all files below a folder, or of one file."""
    found = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else [folder]
    told = [f"{p.relative_to(folder)} {sha256(p.read_bytes())}" for p in found]
    return sha256("\n".join(told).encode())


def ledger(job_dir: Path) -> dict[str, tuple[int, int]]:
    """When each finished tile's marker and objects were written."""
    return {
        p.stem: (
            p.stat().st_mtime_ns,
            (job_dir / "objects" / f"{p.stem}.parquet").stat().st_mtime_ns,
        )
        for p in (job_dir / "tiles").glob("[0-9]*.json")
        if json.loads(p.read_text())["outcome"] == "done"
    }


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted run of a command gave."""

    events: list[str]
    """The stage of each event."""
    digests: dict[str, str]
    """Of the labels in the job directory, and of each output."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "labels.npy"
    np.save(path, TRUTH)
    return path


@pytest.fixture(scope="module")
def uninterrupted(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    job_dir = tmp_path_factory.mktemp("whole") / "job"
    events = finish(start(image, job_dir, 0.01))
    return Whole(events, {"labels": digest(job_dir / "labels")})


@pytest.mark.parametrize("moment", moments(200, 20))
def test_a_killed_job_resumes_to_the_same_labels(
    moment: int, image: Path, uninterrupted: Whole, job_dir: Path
) -> None:
    passed = 1 + moment * (len(uninterrupted.events) - 1) // 200
    process = start(image, job_dir, 0.01)
    for stage in uninterrupted.events[:passed]:
        assert go_on(process) == stage
    kill(process, float(np.random.default_rng(moment).uniform(0, 0.02)))
    finished = ledger(job_dir)
    # the first two events say that the tiles begin, and that none was there
    done = min(max(passed - 2, 0), TILES)
    assert done <= len(finished) <= min(done + 1, TILES)
    finish(start(image, job_dir, 0.01))
    assert digest(job_dir / "labels") == uninterrupted.digests["labels"]
    after = ledger(job_dir)
    assert len(after) == TILES
    assert {name: after[name] for name in finished} == finished
    assert not list(job_dir.rglob(f"*{TEMPORARY}"))


def test_a_job_that_is_killed_again_and_again_gets_there(
    image: Path, uninterrupted: Whole, job_dir: Path
) -> None:
    for stage in STAGES:
        process = start(image, job_dir, 0.01)
        enter(process, stage)
        for _ in range(5):
            assert go_on(process) == stage
        kill(process, 0)
    finish(start(image, job_dir, 0.01))
    assert digest(job_dir / "labels") == uninterrupted.digests["labels"]


def test_a_second_process_is_refused_and_a_dead_ones_lease_is_taken(
    image: Path, uninterrupted: Whole, job_dir: Path
) -> None:
    first = start(image, job_dir, 0.01)
    enter(first, "tiles")
    second = start(image, job_dir, 0.01)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"in use by process {first.pid} on" in errors
    kill(first, 0)
    finish(start(image, job_dir, 0.01))
    assert digest(job_dir / "labels") == uninterrupted.digests["labels"]


def tile_segment(scene: Path, folder: Path) -> subprocess.Popen[str]:
    options = ["--segmenter", "oracle", "--stretch", "none", "--tile-size", 128, "--halo", 16]
    outputs = [folder / name for name in OUTPUTS]
    return start("tile-segment", scene, *outputs, *options, "--job-dir", folder / "job")


def outputs_of(folder: Path) -> dict[str, str]:
    """Digests of the outputs that are there, by name."""
    return {name: digest(folder / name) for name in OUTPUTS if (folder / name).exists()}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import rasterio

    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    bands = paint(random_labels(np.random.default_rng(6), (300, 400), 30, 400)).transpose(2, 0, 1)
    place = {"crs": "EPSG:32614", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 4e6)}
    size = {"count": 3, "height": 300, "width": 400, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **place) as file:
        file.write(bands)
    return path


@pytest.fixture(scope="module")
def uninterrupted_command(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An uninterrupted run of the command, whose outputs agree with each other."""
    import geopandas
    import rasterio
    import zarr

    folder = tmp_path_factory.mktemp("outputs")
    events = finish(tile_segment(scene, folder))
    with rasterio.open(folder / "out.tif") as cog, rasterio.open(scene) as given:
        assert (cog.crs, cog.transform, cog.shape) == (given.crs, given.transform, given.shape)
        labels = cog.read(1)
    assert np.array_equal(
        np.asarray(zarr.open_group(folder / "out.zarr", mode="r")["labels"]), labels
    )
    frame = geopandas.read_parquet(folder / "out.parquet")
    assert sorted(frame["id"]) == np.unique(labels[labels > 0]).tolist()
    assert frame.is_valid.all()
    return Whole(events, {"labels": digest(folder / "job" / "labels"), **outputs_of(folder)})


@pytest.mark.parametrize("moment", moments(100, 34))
def test_a_killed_export_leaves_whole_files_or_none_and_is_done_again(
    moment: int, scene: Path, uninterrupted_command: Whole, tmp_path: Path
) -> None:
    """Outputs equal to whole ones are as valid as those."""
    expected = uninterrupted_command.digests
    process = tile_segment(scene, tmp_path)
    enter(process, "export")
    for _ in range(moment % len(OUTPUTS)):
        assert go_on(process) == "export"
    kill(process, float(np.random.default_rng(moment).uniform(0, 0.1)))
    left = outputs_of(tmp_path)
    assert moment % len(OUTPUTS) <= len(left) <= moment % len(OUTPUTS) + 1
    assert left == {name: expected[name] for name in left}
    finish(tile_segment(scene, tmp_path))
    assert {"labels": digest(tmp_path / "job" / "labels"), **outputs_of(tmp_path)} == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*OUTPUTS, "job"])

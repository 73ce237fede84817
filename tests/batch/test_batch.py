"""`samplat batch`: many inputs give what their own commands give, and do not harm each other."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batch.inputs import OWN, QUICK, cut, write_plate, write_scene, write_volume
from samplat import workbench
from samplat.batch import running
from samplat.segmenters import ThresholdSegmenter
from volume import scans

Samplat = Callable[..., tuple[int, str, str]]


def outcomes(folder: Path = Path("segmented")) -> dict[str, str]:
    found = json.loads((folder / "samplat-batch.json").read_text())
    return {each["name"]: each["outcome"] for each in found["results"]}


@pytest.mark.parametrize("executor", ["serial", "overlapping", "threads"])
def test_items_are_what_their_own_commands_give(
    executor: str, folder: Path, samplat: Samplat
) -> None:
    batch = ("batch", "*.nii.gz", "scene.tif", *QUICK, "--executor", executor)
    code, told, err = samplat(*batch, "--to", ".nii.gz", "--to", ".tif", "--to", ".gpkg")
    assert code == 0, err
    assert "3 items, 3 done" in told
    for name in ("one", "two"):
        assert (
            samplat("volume-segment", f"{name}.nii.gz", "-o", "own.nii.gz", *OWN["volume"])[0] == 0
        )
        own = Path("own.nii.gz").read_bytes()
        assert own == Path(f"segmented/{name}.nii.gz").read_bytes()
        shutil.rmtree("own.nii.gz.samplat-job")
    assert samplat("tile-segment", "scene.tif", "own.tif", *OWN["raster"])[0] == 0
    assert Path("own.tif").read_bytes() == Path("segmented/scene.tif").read_bytes()
    assert Path("segmented/scene.gpkg").exists()
    assert not Path("segmented/one.tif").exists()


def test_one_that_is_cut_off_is_named_and_retried_when_it_is_mended(
    folder: Path, samplat: Samplat
) -> None:
    whole = cut(folder / "two.nii.gz")
    batch = ("batch", "*.nii.gz", "scene.tif", *QUICK)
    code, told, _ = samplat(*batch)
    assert code == 3
    assert "3 items, 2 done, 1 failed" in told
    assert outcomes() == {"one": "done", "two": "failed", "scene": "done"}
    with Path("segmented/samplat-batch.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["outcome"] == "failed"]
    assert "two.nii.gz is cut off" in row["error"]
    before = {
        path: path.stat().st_mtime_ns
        for path in Path("segmented").glob("*.*")
        if "batch" not in path.name
    }

    (folder / "two.nii.gz").write_bytes(whole)
    assert samplat(*batch)[0] == 3  # what failed is not tried again by itself
    code, told, err = samplat(*batch, "--retry-failed")
    assert code == 0, err
    assert "items: 1 to do" in err
    assert outcomes() == dict.fromkeys(("one", "two", "scene"), "done")
    assert Path("segmented/two.nii.gz").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_nothing_but_failures_ends_with_1(folder: Path, samplat: Samplat) -> None:
    cut(folder / "two.nii.gz")
    assert samplat("batch", "two.nii.gz", *QUICK)[0] == 1


def test_tiles_that_fail_are_holes_and_retried(
    folder: Path, samplat: Samplat, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment, seen = ThresholdSegmenter.__call__, []

    def lame(self, pixels, valid):
        seen.append(0)
        if 3 < len(seen) < 8:
            raise ValueError("not today")
        return segment(self, pixels, valid)

    monkeypatch.setattr(ThresholdSegmenter, "__call__", lame)
    code, _, err = samplat("batch", "scene.tif", *QUICK, "--executor", "serial")
    assert code == 3, err
    assert "scene: tile" in err
    assert outcomes() == {"scene": "holes"}
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    code, _, err = samplat("batch", "scene.tif", *QUICK, "--retry-failed")
    assert code == 0
    assert "tiles: 9/9" in err
    assert outcomes() == {"scene": "done"}


def test_what_is_done_is_not_done_again_unless_it_has_to_be(folder: Path, samplat: Samplat) -> None:
    batch = ("batch", "one.nii.gz", "scene.tif", *QUICK)
    assert samplat(*batch)[0] == 0
    code, told, err = samplat(*batch)
    assert (code, err) == (0, "")
    assert "2 done" in told
    Path("segmented/scene.tif").unlink()
    assert "items: 1 to do" in samplat(*batch)[2]
    assert Path("segmented/scene.tif").exists()
    # another output is written from what is there
    code, _, err = samplat(*batch, "--to", ".tif", "--to", ".gpkg")
    assert "items: 1 to do" in err
    assert Path("segmented/scene.gpkg").exists()
    assert samplat(*batch)[0] == 0
    # another image under the same name, and other options
    write_scene(folder / "scene.tif", seed=9)
    code, _, err = samplat(*batch)
    assert code == 2
    assert "scene was done already, and since then changed in the file itself; --overwrite" in err
    assert samplat(*batch, "--overwrite")[0] == 0
    code, _, err = samplat(*batch, "--set", "raster.min-area=5")
    assert code == 2
    assert "changed in min_area" in err
    _, _, err = samplat(*batch, "--set", "raster.min-area=5", "--overwrite")
    assert "items: 1 to do" in err


def test_a_killed_batch_loses_no_finished_tile(folder: Path, samplat: Samplat) -> None:
    write_scene(folder / "wide.tif", seed=4, shape=(100, 160))
    quick = (
        "--set",
        "segmenter=threshold",
        "--set",
        "raster.tile-size=8",
        "--set",
        "raster.halo=4",
    )
    batch = ("batch", "one.nii.gz", "wide.tif", *quick)
    tiles = folder / "segmented/samplat-batch/jobs/wide/tiles"
    with subprocess.Popen(
        [sys.executable, "-m", "samplat", *batch],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + 90
        while len(list(tiles.glob("*.json"))) < 20 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.02)
        process.kill()
    done = {path: path.stat().st_mtime_ns for path in tiles.glob("*.json")}
    assert len(done) >= 20
    code, _, err = samplat(*batch)
    assert code == 0, err
    # the last one may have been written while it was killed
    again = [path for path in done if path.stat().st_mtime_ns != done[path]]
    assert len(again) <= 1
    own = (*OWN["raster"][:2], "--tile-size", "8", "--halo", "4")
    assert samplat("tile-segment", "wide.tif", "own.tif", *own)[0] == 0
    assert Path("own.tif").read_bytes() == Path("segmented/wide.tif").read_bytes()


@pytest.mark.slow
def test_ctrl_c_ends_it_at_once_and_it_resumes(folder: Path, samplat: Samplat) -> None:
    write_scene(folder / "wide.tif", seed=4, shape=(400, 600))
    quick = (
        "--set",
        "segmenter=threshold",
        "--set",
        "raster.tile-size=8",
        "--set",
        "raster.halo=4",
    )
    batch = ("batch", "one.nii.gz", "wide.tif", *quick, "--executor", "threads")
    tiles = folder / "segmented/samplat-batch/jobs/wide/tiles"
    with subprocess.Popen(
        [sys.executable, "-m", "samplat", *batch], stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 90
        while len(list(tiles.glob("*.json"))) < 20:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130, told
    assert "error: stopped; a job resumes with the same command" in told
    assert not (folder / "segmented/samplat-batch/items/wide.json").exists()
    code, _, err = samplat(*batch)
    assert code == 0, err


def test_two_batches_do_not_share_a_folder_at_once(
    folder: Path, samplat: Samplat, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def meanwhile(self, tasks):
        told.append(samplat("batch", "one.nii.gz", *QUICK)[2])

    monkeypatch.setattr(running.Batch, "run", meanwhile)
    samplat("batch", "two.nii.gz", *QUICK)
    assert f"samplat-batch is in use by process {os.getpid()}" in told[0]


def test_fields_of_a_plate_and_series_of_a_tree(folder: Path, samplat: Samplat) -> None:
    write_plate(folder / "plate.zarr")
    values = scans.noise(shape=(4, 20, 17))
    scans.write_series(folder / "study/head", values, uid="1.2.3.5")
    scans.write_series(folder / "study/chest", values, uid="1.2.3.6")
    scans.write_series(folder / "study/chest", values[:3], uid="1.2.3.7")
    (folder / "study/notes.txt").write_text("nothing")
    code, told, _ = samplat("batch", "plate.zarr", "study", "--to", ".nrrd", *QUICK)
    assert code == 0, told
    fields = {f"plate-{well}-{field}" for well in ("A-1", "B-2") for field in (0, 1)}
    series = {"study-head", "study-chest-series-1", "study-chest-series-2"}
    assert outcomes() == dict.fromkeys(fields | series, "done")
    code, told, _ = samplat(
        "batch", "plate.zarr", "-o", "kept", "--keep-folders", "--to", ".nrrd", *QUICK
    )
    assert code == 0, told
    assert (
        Path("kept/plate/B/2/1.nrrd").read_bytes()
        == Path("segmented/plate-B-2-1.nrrd").read_bytes()
    )


@pytest.mark.parametrize("shape", [(24, 28), (1, 24, 28)])
def test_fields_of_a_plate_may_be_pictures(
    shape: tuple[int, ...], folder: Path, samplat: Samplat
) -> None:
    write_plate(folder / "plate.zarr", shape)
    code, told, _ = samplat("batch", "plate.zarr", "--to", ".ome.zarr", *QUICK)
    assert code == 0, told
    assert len(outcomes()) == 4
    own = ("volume-segment", "plate.zarr/A/1/0", "-o", "own.nrrd", *OWN["volume"])
    code, _, err = samplat(*own)
    assert code == 1
    assert "picture" in err or "expected z, y, x" in err
    assert samplat(*own, "--flat")[0] == 0
    code, _, err = samplat("volume-segment", "one.nii.gz", "-o", "a.nrrd", "--flat")
    assert "takes no option flat" in err


def test_a_slice_that_is_missing_is_its_series_failure(folder: Path, samplat: Samplat) -> None:
    values = scans.noise(shape=(5, 20, 17))
    scans.write_series(folder / "study/whole", values, uid="1.2.3.5")
    paths = scans.write_series(folder / "study/gap", values, uid="1.2.3.6")
    paths[2].unlink()
    code, _, _ = samplat("batch", "study", *QUICK)
    assert code == 3
    assert outcomes() == {"study-gap": "failed", "study-whole": "done"}


def test_one_model_serves_all_items(
    folder: Path, samplat: Samplat, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    load = workbench.load_segmenter

    def counted(job, tools):
        made.append(job)
        return load(job, tools)

    monkeypatch.setattr(workbench, "load_segmenter", counted)
    assert samplat("batch", "one.nii.gz", "two.nii.gz", *QUICK, "--executor", "threads")[0] == 0
    assert len(made) == 1
    assert not workbench.SEGMENTERS._made


def test_few_of_many_different_models_are_kept(
    folder: Path, samplat: Samplat, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = []
    load = workbench.load_segmenter

    def counted(job, tools):
        most.append(len(workbench.SEGMENTERS._made))
        return load(job, tools)

    monkeypatch.setattr(workbench, "load_segmenter", counted)
    monkeypatch.setattr(workbench, "segmenter_key", lambda planned, tools: planned.job.job_dir)
    for seed in (4, 5, 6):
        write_scene(folder / f"scene-{seed}.tif", seed=seed, shape=(20, 20))
    assert samplat("batch", "scene*.tif", *QUICK, "--executor", "serial")[0] == 0
    # a job asks twice: before its directory is claimed, and for its tiles
    assert most == [0, 1, 2, 2]


@pytest.mark.parametrize("tiles", [(4,), (1, 1, 1, 1), (1, 3)])
def test_tiles_of_one_item_or_of_many_load_all_workers(tiles: tuple[int, ...]) -> None:
    from samplat.executors import ThreadsExecutor

    together = threading.Barrier(4, timeout=20)  # passed only if four tasks run at once

    def job(lane, count: int) -> None:
        list(lane.map(lambda index: together.wait(), range(count)))

    with running.sharing(ThreadsExecutor(workers=4)) as (shared, several):
        assert several >= 4
        led = [threading.Thread(target=job, args=(shared, count)) for count in tiles]
        for thread in led:
            thread.start()
        for thread in led:
            thread.join(30)
    assert not together.broken


def test_log_json_and_dry_run(folder: Path, samplat: Samplat) -> None:
    code, told, _ = samplat("batch", "one.nii.gz", "scene.tif", *QUICK, "--dry-run")
    assert code == 0
    assert "scene: raster" in told
    assert "2 of 2 items to do" in told
    assert not Path("segmented").exists()
    code, told, err = samplat("batch", "one.nii.gz", *QUICK, "--log-json")
    summary = json.loads(told)
    assert (summary["event"], summary["done"], summary["failed"]) == ("summary", 1, 0)
    assert all("event" in json.loads(line) for line in err.splitlines())


@pytest.mark.slow
def test_the_hippocampus_stack_and_a_mosaic(
    tmp_path: Path, samplat: Samplat, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = os.environ.get("SAMPLAT_DATA", Path(__file__).parents[3] / "shared/data")
    found = sorted((Path(home) / "eval/med_hippocampus/images").glob("*.nii.gz"))
    if not found:
        pytest.skip(f"there are no volumes in {home}/eval/med_hippocampus")
    monkeypatch.chdir(tmp_path)
    for path in found:
        shutil.copy(path, tmp_path)
    write_scene(tmp_path / "mosaic.tif", seed=1, shape=(1500, 1700))
    whole = cut(tmp_path / found[3].name)
    quick = (*QUICK[:2], "--set", "raster.tile-size=256", "--set", "raster.halo=32")
    batch = ("batch", "*.nii.gz", "mosaic.tif", *quick, "--executor", "threads", "--workers", "2")
    code, told, err = samplat(*batch)
    assert code == 3, err
    assert f"{len(found) + 1} items, {len(found)} done, 1 failed" in told
    assert found[3].name in told
    (tmp_path / found[3].name).write_bytes(whole)
    code, told, err = samplat(*batch, "--retry-failed")
    assert code == 0, err
    assert len(list(Path("segmented").glob("*.nii.gz"))) == len(found)
    for path in found[:2]:
        assert samplat("volume-segment", path.name, "-o", "own.nii.gz", *OWN["volume"])[0] == 0
        assert Path("own.nii.gz").read_bytes() == Path("segmented", path.name).read_bytes()
        shutil.rmtree("own.nii.gz.samplat-job")


def test_volumes_of_one_name_need_folders_of_their_own(folder: Path, samplat: Samplat) -> None:
    for patient in ("a", "b"):
        (folder / patient).mkdir()
        write_volume(folder / patient / "scan.nii.gz", seed=1)
    code, _, err = samplat("batch", "*/scan.nii.gz", *QUICK)
    assert code == 2
    assert "a/scan.nii.gz is called 'scan' too; --keep-folders" in err
    code, _, err = samplat("batch", "*/scan.nii.gz", *QUICK, "--keep-folders")
    assert code == 0, err
    assert Path("segmented/a/scan.nii.gz").exists()
    assert Path("segmented/b/scan.nii.gz").exists()


def test_one_thread_runs_the_model_for_all_items() -> None:
    from samplat.executors import OverlappingExecutor

    threads: set[str] = set()
    done: list[tuple[str, int]] = []

    class Steps:
        def __init__(self, name: str) -> None:
            self.name = name

        @property
        def stages(self):
            def find(index, seen):
                threads.add(threading.current_thread().name)
                return seen

            return (lambda index: index), find, lambda index, found: (self.name, found)

    def job(lane, name: str) -> None:
        done.extend(lane.map(Steps(name), range(20)))

    with running.sharing(OverlappingExecutor()) as (shared, several):
        assert several == 2
        led = [threading.Thread(target=job, args=(shared, name)) for name in ("a", "b")]
        for thread in led:
            thread.start()
        for thread in led:
            thread.join(30)
    assert sorted(done) == [(name, index) for name in ("a", "b") for index in range(20)]
    assert len(threads) == 1

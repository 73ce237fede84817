"""`tile-segment` and `export` with kill -9, races and full disks: rows 1, 2, 4 to 6, 8 and 14.

"Identical" is every byte of every output, of the labels and of what the job directory keeps.
"""

from __future__ import annotations

import errno
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import zarr

from core import killing
from core.oracle import OracleFactory, random_labels
from core.test_nested import BitsFactory, discs
from core.test_prompted import ConnectedFactory, patches
from core.test_resume import digest, moments
from raster.crafted import UTM, painted, write
from samplat.files import TEMPORARY
from samplat.plugins import Registry, collect, load_plugins

Cli = Callable[..., tuple[int, str, str]]
Start = Callable[..., killing.Running]

VECTORS = ("out.parquet", "out.fgb")
EVERYTHING = ("out.tif", "out.parquet", "out.zarr", "out.fgb", "out.geojson")
EXECUTORS = ("serial", "overlapping", "threads")
OF_A_RUN = ("run.json", "tiles/*.json", "answers/*.json", ".lock", "owner.json")
"""What tells of the run, such as seconds, and not of its results."""
AT_WORK = 4
"""Tiles that an executor may be at work on: what it is writing may be written again."""


@dataclass(frozen=True)
class Command:
    """A way to use `tile-segment`."""

    scene: Path
    options: tuple[Any, ...]
    stages: tuple[str, ...]
    """In the order of the run."""
    outputs: tuple[str, ...] = VECTORS

    def into(self, folder: Path, executor: str = "serial") -> tuple[Any, ...]:
        """Its arguments."""
        outputs = [folder / name for name in self.outputs]
        shared = ("--stretch", "none", "--executor", executor, "--job-dir", folder / "job")
        return ("tile-segment", self.scene, *outputs, *self.options, *shared)


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted run gave."""

    folder: Path
    events: list[str]
    """The stage of each event."""
    results: dict[str, str]


def results(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Digests of outputs, and of all that a job directory keeps but for what tells of the run."""
    job = folder / "job"
    kept = [p for p in job.rglob("*") if p.is_file()]
    kept = [p for p in kept if not any(p.relative_to(job).match(each) for each in OF_A_RUN)]
    return outputs_of(folder, names) | {str(p.relative_to(folder)): digest(p) for p in kept}


def outputs_of(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Digests of the outputs that are there, by name."""
    return {name: digest(folder / name) for name in names if (folder / name).exists()}


def finished(job: Path) -> dict[str, int]:
    """When each marker of what is done was written."""
    markers = [*job.glob("tiles/[0-9]*.json"), *job.glob("answers/[0-9]*.json")]
    done = [p for p in markers if json.loads(p.read_text())["outcome"] == "done"]
    return {str(p.relative_to(job)): p.stat().st_mtime_ns for p in done}


def written(job: Path) -> dict[str, int]:
    """When each file of the job's results was written."""
    files = (p for p in job.glob("*/**/*") if p.is_file() and TEMPORARY not in p.name)
    return {str(p.relative_to(job)): p.stat().st_mtime_ns for p in files}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    folder = tmp_path_factory.mktemp("scenes")
    rng, tiles = np.random.default_rng(6), ("--tile-size", 64, "--halo", 16)
    coloured = write(folder / "colours.tif", painted(random_labels(rng, (150, 180), 30, 90)), **UTM)
    masks = discs(5)
    bits = (masks.astype(np.int64) << np.arange(len(masks))[:, None, None]).sum(axis=0)
    nested = write(folder / "nested.tif", painted(bits), **UTM)
    truth = patches(3, (120, 150), 25, 40)
    bright = write(folder / "bright.tif", painted(0xFFFFFF * (truth > 0)), **UTM)
    asked = folder / "asked.geojson"
    boxes_around(truth).to_crs("EPSG:4326").to_file(asked)
    oracle = ("--segmenter", "oracle", *tiles)
    mending = ("--fill-holes", 2, "--drop-islands", 2)
    deep = ("--segmenter", "bits", "--nested", "--tile-size", 32, "--halo", 16)
    prompted = ("--segmenter", "connected", "--prompts", asked, "--prompts-window", 48, *tiles)
    merged, nesting = ("tiles", "seams", "labels"), ("links", "layers")
    return {
        "plain": Command(coloured, oracle, (*merged, "export"), EVERYTHING),
        "mended": Command(
            coloured, (*oracle, *mending), ("tiles", "seams", "regions", "labels", "export")
        ),
        "nested": Command(nested, deep, (*merged, *nesting, "export")),
        "prompts": Command(bright, prompted, ("prompts", "tiles", "labels", "export")),
    }


def boxes_around(truth: Any) -> geopandas.GeoDataFrame:
    """A box around each patch, and a point on each third one."""
    shapes = []
    to_ground = UTM["transform"]
    for name in range(1, truth.max() + 1):
        y, x = np.nonzero(truth == name)
        low, high = to_ground @ (x.min(), y.max() + 1), to_ground @ (x.max() + 1, y.min())
        point = shapely.Point(to_ground @ (x[0] + 0.5, y[0] + 0.5))
        shapes.append(point if name % 3 == 0 else shapely.box(*low, *high))
    return geopandas.GeoDataFrame(geometry=shapes, crs=UTM["crs"])


@pytest.fixture(scope="module")
def tools() -> Registry:
    """The installed plugins, and the segmenters of these commands."""
    tools = collect(load_plugins().manager)
    for factory in (OracleFactory(), BitsFactory(name="bits"), ConnectedFactory()):
        tools.add("segmenters", "test", factory)
    return tools


KINDS = ("plain", "mended", "nested", "prompts")


@pytest.fixture(autouse=True)
def no_survivors() -> Iterator[None]:
    yield
    killing.kill_survivors()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    return functools.partial(killing.start, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def whole(
    start: Start, commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Whole]:
    """Uninterrupted runs, by the kind of command."""

    @functools.cache
    def run(kind: str) -> Whole:
        folder, command = tmp_path_factory.mktemp(kind), commands[kind]
        events = start(*command.into(folder)).finish()
        assert tuple(dict.fromkeys(events)) == command.stages
        return Whole(folder, events, results(folder, command.outputs))

    return run


def test_the_uninterrupted_runs_have_something_to_lose(
    whole: Callable[[str], Whole], commands: dict[str, Command]
) -> None:
    folder = whole("plain").folder
    with rasterio.open(folder / "out.tif") as cog, rasterio.open(commands["plain"].scene) as given:
        assert (cog.crs, cog.transform, cog.shape) == (given.crs, given.transform, given.shape)
        labels = cog.read(1)
    assert np.array_equal(zarr.open_group(folder / "out.zarr", mode="r")["labels"][:], labels)
    frames = {k: geopandas.read_parquet(whole(k).folder / "out.parquet") for k in KINDS}
    assert sorted(frames["plain"]["id"]) == np.unique(labels[labels > 0]).tolist()
    assert frames["mended"].area.sum() != frames["plain"].area.sum()
    assert frames["nested"]["parent_id"].notna().any()
    assert frames["prompts"]["prompt_id"].nunique() > 10
    assert all(frame.is_valid.all() for frame in frames.values())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_1_and_2_a_command_that_is_killed_in_every_stage_gets_there(
    kind: str,
    start: Start,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
) -> None:
    """One directory, killed once in each stage, each time by another executor's run."""
    command, expected, kept = commands[kind], whole(kind).results, {}
    rng = np.random.default_rng(KINDS.index(kind))
    for number, stage in enumerate(command.stages):
        process = start(*command.into(tmp_path, EXECUTORS[number % 3]))
        process.enter(stage)
        for _ in range(rng.integers(0, 3)):
            assert process.go_on() == stage
        process.kill(float(rng.uniform(0, 0.03)))
        assert kept.items() <= finished(tmp_path / "job").items()
        kept = finished(tmp_path / "job")
        left = outputs_of(tmp_path, command.outputs)
        assert left == {name: expected[name] for name in left}
        assert stage == "export" or not left
    start(*command.into(tmp_path)).finish()
    assert kept.items() <= finished(tmp_path / "job").items()
    assert_same(tmp_path, command, expected)


def assert_same(folder: Path, command: Command, expected: dict[str, str]) -> None:
    found = results(folder, command.outputs)
    assert found == expected, {n for n in found | expected if found.get(n) != expected.get(n)}
    assert sorted(p.name for p in folder.iterdir()) == sorted([*command.outputs, "job"])


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(100))
def test_rows_1_and_4_a_command_that_is_killed_anywhere_resumes_to_the_same_bytes(
    moment: int,
    start: Start,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
) -> None:
    kind, rng = KINDS[moment % 4], np.random.default_rng(moment)
    command, expected = commands[kind], whole(kind)
    process = start(*command.into(tmp_path, str(rng.choice(EXECUTORS))))
    for _ in range(rng.integers(1, len(expected.events))):
        process.go_on()
    process.kill(float(rng.uniform(0, 0.02)))
    kept, before = finished(tmp_path / "job"), written(tmp_path / "job")
    left = outputs_of(tmp_path, command.outputs)
    assert left == {name: expected.results[name] for name in left}
    start(*command.into(tmp_path, str(rng.choice(EXECUTORS)))).finish()
    assert kept.items() <= finished(tmp_path / "job").items()
    after = written(tmp_path / "job")
    again = Counter(Path(name).parts[0] for name in before if after.get(name) != before[name])
    assert all(count <= AT_WORK for count in again.values()), again
    assert_same(tmp_path, command, expected.results)


@pytest.mark.parametrize("moment", moments(100, 34))
def test_row_2_a_killed_export_leaves_whole_files_or_none_and_is_done_again(
    moment: int,
    start: Start,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
) -> None:
    """Of `tile-segment` and of `export` by turns."""
    command, expected = commands["plain"], whole("plain").results
    arguments = command.into(tmp_path)
    names = (*EVERYTHING, "job")
    if moment // 2 % 2:
        outputs = [tmp_path / name for name in EVERYTHING]
        arguments, names = ("export", whole("plain").folder / "job", *outputs), EVERYTHING
    process = start(*arguments)
    process.enter("export")
    for _ in range(moment % len(EVERYTHING)):
        assert process.go_on() == "export"
    process.kill(float(np.random.default_rng(moment).uniform(0, 0.1)))
    left = outputs_of(tmp_path, EVERYTHING)
    assert moment % len(EVERYTHING) <= len(left) <= moment % len(EVERYTHING) + 1
    assert left == {name: expected[name] for name in left}
    start(*arguments).finish()
    assert outputs_of(tmp_path, EVERYTHING).items() <= expected.items()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert results(whole("plain").folder, EVERYTHING) == expected


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", ["mended", "nested", "prompts"])
def test_row_5_executors_give_the_same_bytes(
    samplat: Cli,
    kind: str,
    executor: str,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
) -> None:
    assert samplat(*commands[kind].into(tmp_path, executor))[0] == 0
    assert_same(tmp_path, commands[kind], whole(kind).results)


@pytest.mark.parametrize("races", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_row_6_of_racing_commands_exactly_one_runs_and_a_dead_ones_lease_is_taken(
    races: int,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
) -> None:
    """Each race is for the directory that the winner of the last one was killed in."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "files").mkdir()
    command = commands["plain"]
    arguments = command.into(tmp_path / "files")
    for _ in range(races):
        racers = [killing.begin(tmp_path / "logs", *arguments) for _ in range(3)]
        for racer in racers:
            assert racer.go_on() == "ready"
        # losers end; the winner waits at the next event
        told = {racer: racer.go_on_or_end() for racer in racers}
        (winner,) = (racer for racer, stage in told.items() if stage == "tiles")
        for loser in told.keys() - {winner}:
            assert loser.run_out() == (1, [])
            assert f"is in use by process {winner.pid} on" in loser.log.read_text()
        winner.kill(0)
    start = functools.partial(killing.start, tmp_path / "logs")
    start(*arguments).finish()
    assert_same(tmp_path / "files", command, whole("plain").results)


class FullDisk:
    """Lets so many flushes pass, then none."""

    def __init__(self, patch: pytest.MonkeyPatch, passing: int) -> None:
        self.left, self.full = passing, False
        patch.setattr(os, "fsync", self.fsync)

    def fsync(self, handle: int) -> None:
        if not self.left:
            self.full = True
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1


def some(count: int = 200) -> list[Any]:
    """After how many flushes the disk is full: a few always, each of them in the long run."""
    always = (0, 17, 43, 71)
    return [pytest.param(n, marks=() if n in always else pytest.mark.slow) for n in range(count)]


@pytest.mark.parametrize("passing", some())
@pytest.mark.parametrize("kind", KINDS)
def test_row_8_a_full_disk_is_a_line_and_the_command_resumes(
    samplat: Cli,
    kind: str,
    passing: int,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = commands[kind]
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, passing)
        code, _, err = samplat(*command.into(tmp_path))
    assert code == int(disk.full)
    if disk.full:
        assert err.splitlines()[-1].startswith("error: ")
        assert "No space left on device" in err.splitlines()[-1]
        assert not list(tmp_path.rglob(f"*{TEMPORARY}"))
        assert samplat(*command.into(tmp_path))[0] == 0
    assert_same(tmp_path, command, whole(kind).results)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("plain", "labels/c/**/*"), ("plain", "seams/table.*"), ("nested", "nested/*.layers.arrow")],
)
def test_row_14_an_export_without_one_of_its_files_is_refused(
    samplat: Cli, kind: str, pattern: str, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    job = whole(kind).folder / "job"
    files = sorted(p for p in job.glob(pattern) if p.is_file())
    assert len(files) == (1 if "table" in pattern else 9)
    for path in files:
        away = path.rename(tmp_path / "away")
        code, out, err = samplat("export", job, tmp_path / "out.parquet")
        away.rename(path)
        assert (code, out) == (1, ""), path
        assert err.splitlines()[-1].startswith("error: "), path
        assert not (tmp_path / "out.parquet").exists()
    assert samplat("export", job, tmp_path / "out.parquet")[0] == 0

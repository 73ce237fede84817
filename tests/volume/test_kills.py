"""`volume-segment` with kill -9, full disks and damage: rows 1, 2, 5, 8, 13 and 14, of volumes.

As `raster/test_kills.py` has it for rasters: "identical" is every byte of every output, of the
labels and of what the job directory keeps.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from core import killing
from core.test_resume import moments
from core.volumes import ellipsoids
from raster.test_kills import (
    AT_WORK,
    EXECUTORS,
    Command,
    FullDisk,
    Start,
    Whole,
    assert_same,
    finished,
    outputs_of,
    results,
    written,
)
from samplat import plugins
from samplat.files import TEMPORARY
from samplat.plugins import Registry, collect, load_plugins
from volume.followers import PatchFactory
from volume.scans import image_of, oblique

Cli = Callable[..., tuple[int, str, str]]

SHAPE = (18, 40, 34)
OUTPUTS = ("out.nii.gz", "out.nrrd", "out.mha", "out.ome.zarr", "out.csv")
KINDS = ("everything", "prompts")


@dataclass(frozen=True)
class VolumeCommand(Command):
    """A way to use `volume-segment`."""

    def into(self, folder: Path, executor: str = "serial") -> tuple[Any, ...]:
        outputs = [part for name in self.outputs for part in ("--out", folder / name)]
        shared = ("--window", "400,80", "--executor", executor, "--job-dir", folder / "job")
        return ("volume-segment", self.scene, *outputs, *self.options, *shared)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    folder = tmp_path_factory.mktemp("scans")
    truth = ndimage.label(ellipsoids(np.random.default_rng(4), SHAPE, 30, apart=True))[0]
    rng = np.random.default_rng(0)
    values = (np.where(truth > 0, 180, -30) + rng.normal(0, 8, SHAPE)).astype(np.int16)
    sitk.WriteImage(image_of(values, oblique()), folder / "scan.nii")
    coarse = np.where(ndimage.binary_erosion(truth > 0, np.ones((1, 3, 3))), 3 * truth, 0)
    sitk.WriteImage(image_of(coarse.astype(np.uint16), oblique()), folder / "coarse.nrrd")
    tiles = ("--tile", 16, "--z-block", 5)
    everything = ("--segmenter", "threshold", "--halo", 8, "--gap", 2.5, *tiles)
    asked = ("--segmenter", "patches", "--prompts", folder / "coarse.nrrd", *tiles)
    last = ("tiles", "labels", "export")
    return {
        "everything": VolumeCommand(
            folder / "scan.nii", everything, ("tiles", "seams", *last[1:]), OUTPUTS
        ),
        "prompts": VolumeCommand(folder / "scan.nii", asked, ("prompts", *last), OUTPUTS),
    }


@pytest.fixture(scope="module")
def tools() -> Registry:
    tools = collect(load_plugins().manager)
    tools.add("segmenters", "test", PatchFactory())
    return tools


@pytest.fixture
def samplat(
    tools: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """Runs the command line here: exit status, stdout, stderr."""
    from samplat import cli

    monkeypatch.delenv("SAMPLAT_DEBUG", raising=False)
    monkeypatch.setattr(plugins, "registry", lambda: tools)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


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


@pytest.mark.parametrize("kind", KINDS)
def test_the_uninterrupted_runs_have_something_to_lose(
    kind: str, whole: Callable[[str], Whole]
) -> None:
    folder = whole(kind).folder
    labels, again = (
        sitk.GetArrayFromImage(sitk.ReadImage(folder / name)) for name in ("out.nii.gz", "out.mha")
    )
    assert np.array_equal(labels, again)
    assert len(np.unique(labels)) > 5
    tiles = [json.loads(p.read_text()) for p in (folder / "job" / "tiles").glob("0*.json")]
    assert sum(tile["outcome"] == "done" for tile in tiles) > 8


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


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(100))
def test_row_1_a_command_that_is_killed_anywhere_resumes_to_the_same_bytes(
    moment: int,
    start: Start,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
) -> None:
    kind, rng = KINDS[moment % 2], np.random.default_rng(moment)
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


@pytest.mark.parametrize("moment", moments(100, 20))
def test_row_2_a_killed_export_leaves_whole_files_or_none_and_is_done_again(
    moment: int,
    start: Start,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
) -> None:
    """Of a finished job by `export`."""
    expected, rng = whole("everything").results, np.random.default_rng(moment)
    job = whole("everything").folder / "job"
    arguments = ("export", job, *(tmp_path / name for name in OUTPUTS))
    process = start(*arguments)
    process.enter("export")
    for _ in range(moment % len(OUTPUTS)):
        assert process.go_on() == "export"
    process.kill(float(rng.uniform(0, 0.2)))
    left = outputs_of(tmp_path, OUTPUTS)
    assert moment % len(OUTPUTS) <= len(left) <= moment % len(OUTPUTS) + 1
    assert left == {name: expected[name] for name in left}
    start(*arguments).finish()
    assert outputs_of(tmp_path, OUTPUTS).items() <= expected.items()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(OUTPUTS)
    assert results(whole("everything").folder, OUTPUTS) == expected


@pytest.mark.parametrize(("kind", "executor"), [("everything", "threads"), ("prompts", "threads")])
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


def some(count: int = 120) -> list[Any]:
    """After how many flushes the disk is full: a few always, each of them in the long run."""
    always = (0, 11, 60)
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


@pytest.mark.parametrize("kind", KINDS)
def test_rows_13_and_14_what_is_damaged_or_gone_is_made_again(
    samplat: Cli,
    kind: str,
    whole: Callable[[str], Whole],
    commands: dict[str, Command],
    tmp_path: Path,
) -> None:
    """A file of each folder of the job, by turns with a flipped bit, cut off, and gone."""
    command = commands[kind]
    assert samplat(*command.into(tmp_path))[0] == 0
    job, rng = tmp_path / "job", np.random.default_rng(0)
    for number, folder in enumerate(sorted(p for p in job.iterdir() if p.is_dir())):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "report.csv")
        if files:
            _damage(files[int(rng.integers(len(files)))], number % 3)
    (tmp_path / "out.mha").unlink()
    assert samplat(*command.into(tmp_path))[0] == 0
    assert_same(tmp_path, command, whole(kind).results)


def _damage(path: Path, how: int) -> None:
    content = bytearray(path.read_bytes())
    if how == 0:
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif how == 1:
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()

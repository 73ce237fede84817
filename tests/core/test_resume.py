"""kill -9 at random moments, then the same command: the same results, and nothing done twice.

The killed process stops at every event of its progress until it is let go on (`killing`), so each
kill hits a running job, in every stage, however fast or slow the machine is.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import killing
from core.oracle import random_labels
from samplat.files import TEMPORARY, sha256

Start = Callable[..., killing.Running]
STAGES = ("tiles", "seams", "labels")
TILES = 20
TRUTH = random_labels(np.random.default_rng(5), (60, 70), 14, 60)


def moments(count: int, every: int) -> list[Any]:
    """So many kill points; one in `every` is always tried, the others in the long run."""
    return [
        pytest.param(k, marks=() if k % every == every // 2 else pytest.mark.slow)
        for k in range(count)
    ]


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
            (job_dir / "objects" / f"{p.stem}.arrow").stat().st_mtime_ns,
        )
        for p in (job_dir / "tiles").glob("[0-9]*.json")
        if json.loads(p.read_text())["outcome"] == "done"
    }


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted run gave."""

    events: list[str]
    """The stage of each event."""
    labels: str
    """Digest of the labels in the job directory."""


@pytest.fixture(autouse=True)
def no_survivors() -> Iterator[None]:
    yield
    killing.kill_survivors()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    return functools.partial(killing.start, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "labels.npy"
    np.save(path, TRUTH)
    return path


@pytest.fixture(scope="module")
def uninterrupted(start: Start, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    job_dir = tmp_path_factory.mktemp("whole") / "job"
    events = start(image, job_dir, 0.01).finish()
    return Whole(events, digest(job_dir / "labels"))


@pytest.mark.parametrize("moment", moments(200, 20))
def test_a_killed_job_resumes_to_the_same_labels(
    moment: int, start: Start, image: Path, uninterrupted: Whole, job_dir: Path
) -> None:
    passed = 1 + moment * (len(uninterrupted.events) - 1) // 200
    process = start(image, job_dir, 0.01)
    for stage in uninterrupted.events[:passed]:
        assert process.go_on() == stage
    process.kill(float(np.random.default_rng(moment).uniform(0, 0.02)))
    finished = ledger(job_dir)
    # the first two events say that the tiles begin, and that none was there
    done = min(max(passed - 2, 0), TILES)
    assert done <= len(finished) <= min(done + 1, TILES)
    start(image, job_dir, 0.01).finish()
    assert digest(job_dir / "labels") == uninterrupted.labels
    after = ledger(job_dir)
    assert len(after) == TILES
    assert {name: after[name] for name in finished} == finished
    assert not list(job_dir.rglob(f"*{TEMPORARY}"))


def test_a_job_that_is_killed_again_and_again_gets_there(
    start: Start, image: Path, uninterrupted: Whole, job_dir: Path
) -> None:
    for stage in STAGES:
        process = start(image, job_dir, 0.01)
        process.enter(stage)
        for _ in range(5):
            assert process.go_on() == stage
        process.kill(0)
    start(image, job_dir, 0.01).finish()
    assert digest(job_dir / "labels") == uninterrupted.labels


def test_a_second_process_is_refused_and_a_dead_ones_lease_is_taken(
    start: Start, image: Path, uninterrupted: Whole, job_dir: Path
) -> None:
    first = start(image, job_dir, 0.01)
    first.enter("tiles")
    second = start(image, job_dir, 0.01)
    assert second.run_out()[0] == 1
    assert f"in use by process {first.pid} on" in second.log.read_text()
    first.kill(0)
    start(image, job_dir, 0.01).finish()
    assert digest(job_dir / "labels") == uninterrupted.labels

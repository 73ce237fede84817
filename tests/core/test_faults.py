"""Disks that fill up, files that rot, and processes that race."""

from __future__ import annotations

import errno
import functools
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from filelock import FileLock

from core.oracle import ArraySource, oracle_job, oracle_tools, paint, random_labels
from core.racing import compete
from samplat import files
from samplat.errors import JobError
from samplat.executors import Executor, ThreadsExecutor
from samplat.job import JobResult
from samplat.pipeline import SERIAL, run_job
from samplat.store import JobStore

T = TypeVar("T")
FLUSHES = 52
"""Of a run over them, at least."""
LABELS = random_labels(np.random.default_rng(2), (40, 40), 10, 25)


@dataclass(frozen=True)
class Disordered:
    """Threads that are handed the tiles in a random order."""

    seed: int
    workers: int

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        order = np.random.default_rng(self.seed).permutation(np.asarray(indices, int)).tolist()
        return ThreadsExecutor(workers=self.workers).map(task, order)


def run(job_dir: Path, executor: Executor = SERIAL) -> JobResult:
    tools = oracle_tools(image=ArraySource(paint(LABELS)))
    return run_job(oracle_job(job_dir), tools=tools, executor=executor)


def shard_files(job_dir: Path) -> list[Path]:
    return sorted(p for p in (job_dir / "labels" / "c").rglob("*") if p.is_file())


def content(job_dir: Path) -> list[bytes]:
    return [p.read_bytes() for p in shard_files(job_dir)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    job_dir = tmp_path_factory.mktemp("undisturbed") / "job"
    run(job_dir)
    return content(job_dir)


class FullDisk:
    """Lets n writes pass, then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passing: int) -> None:
        self.left = passing
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, handle: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")


def writes() -> list[Any]:
    """After how many flushes the disk is full: a few always, each of them in the long run."""
    always = (0, 1, 2, 5, 9, 16, 25, 28, 30, 32, 40, 51)
    return [pytest.param(n, marks=() if n in always else pytest.mark.slow) for n in range(FLUSHES)]


@pytest.mark.parametrize("passing", writes())
def test_a_full_disk_stops_cleanly_and_resumes(
    passing: int, job_dir: Path, undisturbed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        FullDisk(patch, passing)
        with pytest.raises((JobError, OSError), match="No space left on device"):
            run(job_dir)
    assert not list(job_dir.rglob(f"*{files.TEMPORARY}"))
    run(job_dir)
    assert content(job_dir) == undisturbed


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        FullDisk(patch, 0)
        with pytest.raises(JobError, match=r"cannot write .*file: No space left"):
            files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_every_flipped_bit_of_the_labels_is_detected(job_dir: Path) -> None:
    result = run(job_dir)
    rng = np.random.default_rng(0)
    for _ in range(60):
        path = shard_files(job_dir)[int(rng.integers(len(result.grid)))]
        original = path.read_bytes()
        flipped = bytearray(original)
        flipped[int(rng.integers(len(original)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(JobError, match="do not match the ledger"):
            list(result.shards())
        path.write_bytes(original)


def test_every_missing_shard_is_detected_and_mended(
    job_dir: Path, undisturbed: list[bytes]
) -> None:
    result = run(job_dir)
    for path in shard_files(job_dir):
        original = path.read_bytes()
        path.unlink()
        with pytest.raises(JobError, match="cannot be read"):
            list(result.shards())
        path.write_bytes(original)
    shard_files(job_dir)[4].unlink()
    list(run(job_dir).shards())
    assert content(job_dir) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_a_hundred_orders_give_the_same_bytes(
    workers: int, tmp_path: Path, undisturbed: list[bytes]
) -> None:
    run(tmp_path / "straight")
    table = Path("seams", "table.arrow")
    for seed in range(100):
        job_dir = tmp_path / str(seed)
        run(job_dir, Disordered(seed, workers))
        assert content(job_dir) == undisturbed, seed
        assert (job_dir / table).read_bytes() == (tmp_path / "straight" / table).read_bytes()


@pytest.mark.parametrize("folder", ["tiles", "objects", "seams", "labels", "painted"])
def test_any_damaged_file_is_mended_by_the_next_run(
    folder: str, job_dir: Path, undisturbed: list[bytes]
) -> None:
    run(job_dir)
    found = sorted(p for p in (job_dir / folder).rglob("*") if p.is_file())
    for path in found[:: max(1, len(found) // 6)]:
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 16
        path.write_bytes(damaged)
        run(job_dir)
        assert content(job_dir) == undisturbed, path


@pytest.mark.parametrize("races", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_of_racing_processes_exactly_one_gets_the_lease(races: int, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    for attempt in range(races):
        gate, answers = spawn.Barrier(4), spawn.Queue()
        arguments = (str(tmp_path / str(attempt)), gate, answers)
        racers = [spawn.Process(target=compete, args=arguments) for _ in range(4)]
        for racer in racers:
            racer.start()
        told = [answers.get(timeout=60) for _ in racers]
        for racer in racers:
            racer.join(60)
        winners = [r.pid for r in racers]
        assert told.count("won") == 1
        refusals = [t for t in told if t != "won"]
        assert all("is in use by process" in t for t in refusals)
        assert all(any(f"process {pid} on" in t for pid in winners) for t in refusals)


def test_the_same_process_cannot_take_a_lease_twice(job_dir: Path) -> None:
    store = JobStore(path=job_dir)
    with store.lease(), pytest.raises(JobError, match=f"process {os.getpid()}"), store.lease():
        pass
    with store.lease():
        pass


def test_a_dead_owner_is_not_named_while_the_next_one_writes_its_name(job_dir: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    job_dir.mkdir()
    owner = {"host": socket.gethostname(), "since": 0.0}
    name = functools.partial(files.write_sealed, job_dir / "owner.json")
    name({**owner, "pid": dead.pid})
    with FileLock(job_dir / ".lock", is_singleton=False):
        later = threading.Timer(0.2, name, [{**owner, "pid": os.getppid()}])
        later.start()
        named = pytest.raises(JobError, match=f"by process {os.getppid()} on")
        with named, JobStore(path=job_dir).lease():
            pass
        later.join()


def test_a_store_pickles(job_dir: Path) -> None:
    store = JobStore(path=job_dir)
    assert pickle.loads(pickle.dumps(store)) == store  # noqa: S301 our own

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from remote.conftest import environment
from samplat import leases
from samplat.errors import JobError
from samplat.files import canonical, sealed_bytes, sha256
from samplat.job_directory import JobDirectory
from samplat.leases import RemoteLease, leased
from samplat.places import RemotePath

QUICK = {"BEAT": 0.02, "POLL": 0.02, "FENCE": 0.2, "PATIENCE": 0.3}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK.items():
        monkeypatch.setattr(leases, name, value)


@pytest.fixture
def held(memory: RemotePath) -> Iterator[RemoteLease]:
    with leased(memory) as lease:
        assert isinstance(lease, RemoteLease)
        yield lease


def silence(lease: RemoteLease) -> None:
    """As if its process had been stopped."""
    lease._over.set()
    lease._thread.join()


def test_a_second_owner_is_refused_and_told_who_is_there(
    memory: RemotePath, held: RemoteLease
) -> None:
    with (
        pytest.raises(JobError, match=f"process {os.getpid()} on {socket.gethostname()}"),
        JobDirectory(path=memory).lease(),
    ):
        pass
    held.check()


def test_what_was_left_is_free_at_once(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PATIENCE", 60.0)
    for _ in range(3):
        with leased(memory) as lease:
            lease.check()
    assert len(list((memory / "lease").iterdir())) == 1


def test_who_is_silent_is_replaced_and_notices(memory: RemotePath, held: RemoteLease) -> None:
    silence(held)
    began = time.monotonic()
    with leased(memory) as other:
        assert time.monotonic() - began >= leases.PATIENCE
        other.check()
        held._beat()
        with pytest.raises(JobError, match=f"lost to process {os.getpid()}"):
            held.check()
    with leased(memory) as third:  # what the first one said at last changed nothing
        third.check()


def test_who_slept_takes_the_next_number(held: RemoteLease, memory: RemotePath) -> None:
    silence(held)
    held._alive -= leases.FENCE
    held.check()
    assert {p.name for p in (memory / "lease").iterdir()} == {"000001.json", "000002.json"}
    held.check()


def test_who_slept_stops_where_another_one_takes_it(
    held: RemoteLease, memory: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence(held)
    held._alive -= leases.FENCE
    (memory / "lease" / "000002.json").write_bytes(b"theirs")
    before = leases._Owner(number=1, data=b"")
    monkeypatch.setattr(leases, "_latest", lambda folder: before)  # it looked too early
    with pytest.raises(JobError, match="was lost to another process"):
        held.check()


def test_who_slept_stops_where_the_store_does_not_answer(
    held: RemoteLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence(held)
    held._alive -= leases.FENCE

    def lost(*_: Any, **__: Any) -> None:
        raise PermissionError("the password is another one now")

    monkeypatch.setattr(MemoryFileSystem, "ls", lost)
    with pytest.raises(JobError, match="another one now"):
        held.check()


def test_a_process_of_this_machine_that_died_is_known_for_dead(
    memory: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "PATIENCE", 60.0)
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    told: dict[str, Any] = {
        "pid": died.pid,
        "host": socket.gethostname(),
        "machine": leases.machine(),
        "done": False,
    }
    entry = sealed_bytes(told, sha256(canonical(told)))
    (memory / "lease" / "000041.json").write_bytes(entry)
    with leased(memory):
        assert [p.name for p in (memory / "lease").iterdir()] == ["000042.json"]


def test_an_owner_that_cannot_be_read_is_watched_like_any_other(memory: RemotePath) -> None:
    (memory / "lease" / "000001.json").write_bytes(b"{")
    began = time.monotonic()
    with leased(memory) as lease:
        assert time.monotonic() - began >= leases.PATIENCE
        lease.check()


def test_a_number_that_was_removed_is_of_no_use(
    memory: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looked long ago, when the first owner was done, and creates the second number now."""
    for _ in range(3):
        with leased(memory):
            pass
    present = leases._latest(memory)
    done = leases._Owner(number=1, data=present.data if present else b"")
    seen = itertools.chain([done], itertools.repeat(present))
    monkeypatch.setattr(leases, "_latest", lambda folder: next(seen))
    with pytest.raises(JobError, match="in use"):
        RemoteLease(memory)
    assert [p.name for p in (memory / "lease").iterdir()] == ["000003.json"]


def test_of_many_one_wins(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lock = MemoryFileSystem.pipe_file, threading.Lock()

    def atomic(*given: Any, **options: Any) -> None:
        with lock:  # as stores are
            real(*given, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", atomic)
    start = threading.Barrier(8)

    def race(_: int) -> RemoteLease | None:
        start.wait()
        try:
            return RemoteLease(memory)
        except JobError:
            return None

    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            won = [lease for lease in pool.map(race, range(8)) if lease is not None]
            assert len(won) == 1
            won[0].release()


def test_a_store_that_overwrites_what_was_to_be_created_is_refused(
    memory: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MemoryFileSystem.pipe_file

    def careless(self: Any, path: str, value: bytes, mode: str = "", **_: Any) -> None:
        real(self, path, value)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", careless)
    with pytest.raises(JobError, match="If-None-Match"), leased(memory):
        pass


SKEWED = """
import sys, time
from samplat import leases
from samplat.places import RemotePath
leases.BEAT, leases.FENCE = 0.1, 2.0
days, boot, now = float(sys.argv[2]) * 86400, leases.seconds, time.time
leases.seconds, leases.machine = lambda: boot() + days, lambda: "another machine"
time.time = lambda: now() + days
with leases.leased(RemotePath(sys.argv[1])) as lease:
    print("mine", flush=True)
    sys.stdin.readline()
    lease.check()
    print("still mine", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("days", [4000, pytest.param(-4000, marks=pytest.mark.slow)])
def test_clocks_may_differ_by_years(
    days: float, s3: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner that lives is refused to us, however old it seems; and one that died is not."""
    monkeypatch.setattr(leases, "PATIENCE", 1.5)
    monkeypatch.setattr(leases, "POLL", 0.1)
    command = [sys.executable, "-c", SKEWED, str(s3 / "job"), str(days)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as owner:
        assert owner.stdout is not None
        assert owner.stdin is not None
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(JobError, match=f"process {owner.pid}"), leased(s3 / "job"):
            pass
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert owner.stdout.readline() == "still mine\n"
        owner.kill()
        owner.wait()
        began = time.monotonic()
        with leased(s3 / "job") as lease:
            assert leases.PATIENCE <= time.monotonic() - began < 20 * leases.PATIENCE
            lease.check()

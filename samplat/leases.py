"""Who may write to a folder of a store that has no locks: one process at a time.

::

    FOLDER/lease/000007.json    the seventh owner: who it is, and a number that it counts up

A store creates a file for one of several that want to, so whoever creates the next number is the
owner. It counts up every `BEAT` seconds, and says so when it is done. Who finds an owner that is
not done watches it: if nothing changes for `PATIENCE` seconds of the watcher's own clock, the owner
is dead, and the next number is there to be created. An owner that finds a higher number stops. One
that could not count up for as long as `FENCE`, since the store did not answer or its machine slept,
creates the next number, or stops if it cannot. No two clocks are ever compared, and none tells a
date: they may differ by years.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from samplat import files
from samplat.errors import JobError
from samplat.places import RemotePath

FOLDER = "lease"
BEAT = 5.0
"""Seconds from one sign of life to the next."""
FENCE = 20.0
"""Seconds without a sign of life after which an owner is none: fewer than `PATIENCE`."""
PATIENCE = 30.0
"""Seconds without one after which others take it for dead."""
POLL = 1.0
"""Seconds from one look at an owner to the next."""


def seconds() -> float:
    """A clock of this machine that also runs while it sleeps; only differences mean anything."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease(Protocol):
    """The use of a folder."""

    def check(self) -> None:
        """Refuse to go on when it was lost.

        Raises:
            JobError: that, and to whom.
        """
        ...


class LocalLease:
    """That of a locked folder, which cannot be lost."""

    def check(self) -> None:
        """It is there."""


@dataclass(frozen=True, kw_only=True)
class _Owner:
    number: int
    data: bytes

    @property
    def told(self) -> dict[str, Any]:
        """What it says of itself; nothing if it is damaged."""
        found = files.unsealed(self.data)
        return {} if found is None else found[0]

    @property
    def name(self) -> str:
        told = self.told
        return f"process {told['pid']} on {told['host']}" if told else "another process"

    @property
    def is_done(self) -> bool:
        return bool(self.told.get("done"))

    @property
    def has_died(self) -> bool:
        """Whether it was a process of this machine that is no more."""
        told = self.told
        return bool(told) and told["machine"] == machine() and not files.is_alive(told["pid"])


def machine() -> str:
    """A name of this machine, or container, as far as numbers of processes mean the same."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    return socket.gethostname()


class RemoteLease:
    """That of a folder in a store.

    Args:
        folder: which.

    Raises:
        JobError: another process has it; the store cannot be written, or does not keep apart two
            that create the same file.
    """

    def __init__(self, folder: RemotePath) -> None:
        self._folder, self._id, self._beats = folder, uuid.uuid4().hex, 0
        self._over, self._lock, self._lost = threading.Event(), threading.Lock(), ""
        before = _latest(folder)
        if before is not None and not before.is_done and not before.has_died:
            _wait_for_silence(folder, before)
        self._number = 1 if before is None else before.number + 1
        self._alive = seconds()
        if not self._file.create(self._told()):
            raise _in_use(folder, _latest(folder))
        if (latest := _latest(folder)) is not None and latest.number > self._number:
            # ours is a number that was removed, long after it had been seen
            self._file.unlink(missing_ok=True)
            raise _in_use(folder, latest)
        self._check_store()
        self._remove_older()
        self._thread = threading.Thread(target=self._live, name="samplat-lease", daemon=True)
        self._thread.start()

    @property
    def _file(self) -> RemotePath:
        return self._folder / FOLDER / f"{self._number:06d}.json"

    def _told(self, *, done: bool = False) -> bytes:
        told = {
            "id": self._id,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": machine(),
            "beats": self._beats,
            "done": done,
        }
        return files.sealed_bytes(told, files.sha256(files.canonical(told)))

    def _check_store(self) -> None:
        """See whether the store does not create what is there."""
        if self._file.create(b"another owner"):
            self._file.unlink(missing_ok=True)
            raise JobError(
                f"{self._folder} cannot hold a job: its store overwrites a file that was only to "
                "be created (If-None-Match), so that two runs could have it; use another store"
            )

    def _remove_older(self) -> None:
        for number in _numbers(self._folder):
            if number < self._number:
                (self._folder / FOLDER / f"{number:06d}.json").unlink(missing_ok=True)

    def _live(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(JobError):  # the store may answer again before `FENCE`
                self._beat()
            if self._lost:
                return

    def _beat(self) -> None:
        with self._lock:
            began = seconds()
            latest = _latest(self._folder)
            if latest is None or latest.number != self._number:
                self._lost = f"to {latest.name if latest else 'nobody: it was emptied'}"
                return
            self._beats += 1
            if began - self._alive < FENCE:
                self._file.write_bytes(self._told())
            else:
                # somebody may be about to create the next number: of both, one does
                self._number += 1
                if not self._file.create(self._told()):
                    self._lost = "to another process"
                    return
            self._alive = began

    def check(self) -> None:
        """Refuse to go on when it was lost; where it may have been, see to it first.

        Raises:
            JobError: that, and to whom; or the store does not answer.
        """
        if not self._lost and seconds() - self._alive > FENCE:
            self._beat()
        if self._lost:
            raise JobError(
                f"{self._folder} was lost {self._lost}; run the same command again when nobody "
                "else works on it, it resumes"
            )

    def release(self) -> None:
        """Leave it to others."""
        self._over.set()
        self._thread.join()
        with suppress(JobError):  # whoever wants it finds it silent
            self.check()
            self._file.write_bytes(self._told(done=True))


@contextmanager
def leased(folder: RemotePath) -> Iterator[Lease]:
    """Exclusive use of a folder in a store, while the block runs; see `RemoteLease`."""
    lease = RemoteLease(folder)
    try:
        yield lease
    finally:
        lease.release()


def _numbers(folder: RemotePath) -> list[int]:
    found = (each.name.removesuffix(".json") for each in (folder / FOLDER).iterdir())
    return sorted(int(name) for name in found if name.isdecimal())


def _latest(folder: RemotePath) -> _Owner | None:
    """The owner of the highest number, done or not."""
    while numbers := _numbers(folder):
        with suppress(FileNotFoundError):  # a higher one removed it meanwhile
            data = (folder / FOLDER / f"{numbers[-1]:06d}.json").read_bytes()
            return _Owner(number=numbers[-1], data=data)
    return None


def _wait_for_silence(folder: RemotePath, owner: _Owner) -> None:
    """Watch an owner until it is taken for dead.

    Raises:
        JobError: it lives, or another one came.
    """
    began = seconds()
    while seconds() - began < PATIENCE:
        time.sleep(POLL)
        now = _latest(folder)
        if (
            now is None
            or now.number != owner.number
            or (now.data != owner.data and not now.is_done)
        ):
            raise _in_use(folder, now)
        if now.is_done:
            return


def _in_use(folder: RemotePath, owner: _Owner | None) -> JobError:
    name = "another process" if owner is None else owner.name
    return JobError(f"{folder} is in use by {name}; wait or stop it")

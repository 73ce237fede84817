"""Whose a job directory is: the job that it holds, and the process that works on it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from samplat import files
from samplat.errors import JobError
from samplat.leases import FOLDER as LEASE
from samplat.leases import Lease, LocalLease, leased
from samplat.places import Place, RemotePath

FOLDERS = ("tiles", "objects", "seams", "regions", "labels", "painted", "answers", "nested")
"""What a job writes, and may discard."""
SHORT_DIGEST = 12
"""Digits of a SHA-256 that people are shown."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds."""

    identity: Mapping[str, Any]
    """What decides the labels."""
    provenance: Mapping[str, Any]
    """With what and when they were made."""

    @property
    def short(self) -> str:
        """A name for the run: equal for runs that give equal labels."""
        return files.sha256(files.canonical(self.identity))[:SHORT_DIGEST]

    @property
    def found_by(self) -> str:
        """The model, or the segmenter that needs none."""
        return str(self.provenance.get("model") or self.identity["segmenter"]["name"])

    @property
    def weights_short(self) -> str | None:
        """First digits of the weights' SHA-256; None without a model."""
        weights = self.identity["segmenter"].get("weights")
        return None if weights is None else str(weights)[:SHORT_DIGEST]


@dataclass(frozen=True, kw_only=True)
class JobDirectory:
    """A directory that holds one job. Holds only its path, so that workers can be handed one."""

    path: Place
    """The directory, or its URL in a store."""

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Exclusive use of the directory by this process; ends with it, however it dies.

        Raises:
            JobError: another process has it, or the directory cannot be made.
        """
        if isinstance(self.path, RemotePath):
            with leased(self.path) as lease:
                yield lease
            return
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", is_singleton=False)
            lock.acquire(timeout=0)
        except Timeout:
            raise JobError(f"{self.path} is in use by {self._owner()}; wait or stop it") from None
        except OSError as error:
            raise JobError(f"cannot use {self.path} as a job directory: {error}") from error
        try:
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            files.write_sealed(self.path / "owner.json", owner)
            yield LocalLease()
        finally:
            (self.path / "owner.json").unlink(missing_ok=True)
            lock.release()

    def _owner(self) -> str:
        # the owner takes the lock first and writes its name a moment later, over a dead one's
        for _ in range(20):
            owner = files.read_sealed(self.path / "owner.json")
            if owner and not _has_died(owner):
                return f"process {owner['pid']} on {owner['host']}"
            time.sleep(0.05)
        return "another process"

    def begin(
        self, identity: Mapping[str, Any], provenance: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        """Claim the directory for a job, or find that it already holds this one.

        Raises:
            JobError: it holds another job, or files that are not a job's.
        """
        run = self.path / "run.json"
        if not run.exists():
            self._refuse_foreign_files()
        elif overwrite and not self._holds(identity):
            self.discard()
        else:
            self._refuse_other(identity)
        if not self._holds(identity):
            files.write_sealed(run, {"identity": identity, "provenance": provenance})
        elif missing := set(provenance) - set(self.read_run().provenance):
            # an older version did not record as much
            added = {name: provenance[name] for name in missing}
            provenance = {**self.read_run().provenance, **added}
            files.write_sealed(run, {"identity": identity, "provenance": provenance})
        files.remove_orphans(self.path)
        for folder in FOLDERS:
            (self.path / folder).mkdir(exist_ok=True)
        files.sync_directory(self.path)

    def read_run(self) -> RunRecord:
        """What the directory says of its job.

        Raises:
            JobError: it holds none, or that is damaged.
        """
        path = self.path / "run.json"
        if not path.exists():
            raise JobError(f"{self.path} is no job directory: there is no run.json in it")
        run = files.read_sealed(path)
        if run is None:
            raise JobError(f"{path} is damaged; run the job again with --overwrite")
        return RunRecord(identity=run["identity"], provenance=run["provenance"])

    def _holds(self, identity: Mapping[str, Any]) -> bool:
        run = files.read_sealed(self.path / "run.json")
        return run is not None and files.canonical(run["identity"]) == files.canonical(identity)

    def _refuse_other(self, identity: Mapping[str, Any]) -> None:
        run = files.read_sealed(self.path / "run.json")
        if run is None:
            raise JobError(f"{self.path / 'run.json'} is damaged; use --overwrite to start anew")
        there, here = _flat(run["identity"]), _flat(identity)
        names = sorted(n for n in there | here if there.get(n) != here.get(n))
        if names:
            told = "; ".join(f"{n} is {there.get(n)!r} there, {here.get(n)!r} here" for n in names)
            raise JobError(
                f"{self.path} holds another job: {told}. "
                "Use --overwrite to discard it, or another --job-dir"
            )

    def _refuse_foreign_files(self) -> None:
        ours = {".lock", "owner.json", LEASE}
        names = sorted(p.name for p in self.path.iterdir() if p.name not in ours)
        foreign = [name for name in names if not name.endswith(files.TEMPORARY)]
        if foreign:
            raise JobError(
                f"{self.path} is not empty and holds no job (found {foreign[0]}); "
                "choose an empty or new directory"
            )

    def discard(self) -> None:
        """Remove the results that the directory holds, and nothing but what a job writes.

        Raises:
            JobError: something cannot be removed; it would be taken for the next job's.
        """
        for folder in FOLDERS:
            try:
                files.remove_tree(self.path / folder)
            except OSError as error:
                raise JobError(f"cannot empty {self.path / folder}: {error}") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    dotted = f"{prefix}." if prefix else ""
    return {n: v for key, inner in value.items() for n, v in _flat(inner, f"{dotted}{key}").items()}


def _has_died(owner: Mapping[str, Any]) -> bool:
    return owner["host"] == socket.gethostname() and not files.is_alive(owner["pid"])

"""Tools that travel to worker processes, segmenters that harm these, and a scheduler."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.oracle import ArraySource, Oracle, OracleFactory, oracle_tools, paint
from samplat.job import JobResult
from samplat.masks import MaskSet
from samplat.plugins import Registry

TESTS = Path(__file__).parent.parent


class Portable(Registry):
    """A registry whose objects are pickled: others are collected anew in another process."""

    def __reduce__(self) -> Any:
        return Portable, (), {"found": self.found, "owners": self.owners}


def portable(tools: Registry) -> Portable:
    return Portable(found=tools.found, owners=tools.owners)


def tools_of(labels: NDArray[Any]) -> Portable:
    """The oracle, segmenters that harm their process, and an image in memory."""
    found = oracle_tools(image=ArraySource(paint(labels)))
    found.add("segmenters", "test", LethalFactory())
    found.add("segmenters", "test", ByProcessFactory())
    return portable(found)


@dataclass(frozen=True)
class Lethal:
    """Kills its process where it sees an object, as often as a file in the folder says."""

    poison: int
    folder: str

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        labels = (pixels.astype(np.int64) << np.array([0, 8, 16])).sum(axis=-1)
        folder = Path(self.folder)
        times = int((folder / "times").read_text())
        if (labels == self.poison).any() and len(list(folder.glob("[0-9]*"))) < times:
            (folder / str(time.time_ns())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Oracle()(pixels, valid)


@dataclass(frozen=True)
class LethalFactory(OracleFactory):
    name: str = "lethal"

    def create(self, model: str | None, **options: Any) -> Any:
        return Lethal(**options)


@dataclass(frozen=True)
class ByProcessFactory(OracleFactory):
    """Leaves a file for each process that made a segmenter, and for each segmenter."""

    name: str = "by-process"

    def create(self, model: str | None, **options: Any) -> Any:
        (Path(options["folder"]) / f"{os.getpid()}-{time.time_ns()}").touch()
        return Oracle(delay=0.02)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


def fingerprint(result: JobResult) -> str:
    """Of the decoded labels and of the table."""
    found = hashlib.sha256()
    for _, labels in result.shards():
        found.update(labels.tobytes())
    found.update(str(result.features.to_pylist()).encode())
    return found.hexdigest()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def scheduler(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler as people start one, in a process of its own."""
    command = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    with started(*command) as process:
        until = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield process


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def started(*command: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process of `dask`, ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *command],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

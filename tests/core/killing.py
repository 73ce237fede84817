"""Processes that wait at every event of their progress, to be killed there or between two of them.

Each is forked by a server that has imported everything (`preloaded`), and begins in milliseconds.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from core import job_process

TESTS = Path(__file__).parent.parent
PATIENCE = 120
"""Seconds until a process that says nothing is given up."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["core.preloaded"])
numbers = itertools.count()
started: list[Running] = []
"""Processes of the present test."""


@dataclass(frozen=True)
class Running:
    """A process that runs a job or a command."""

    process: BaseProcess
    events: Connection
    log: Path
    """What it prints."""

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def go_on(self) -> str:
        """Let it pass the event at which it waits; the stage of that."""
        if not self.events.poll(PATIENCE):
            raise TimeoutError(self.log.read_text())
        stage: str = self.events.recv()
        self.events.send(None)
        return stage

    def peak(self) -> int:
        """Bytes of memory that it had at most so far, if it has not ended."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (told,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
        return 1024 * int(told)

    def go_on_or_end(self) -> str | None:
        """The same, or None where it has ended."""
        try:
            return self.go_on()
        except (EOFError, OSError):
            return None

    def enter(self, stage: str) -> None:
        """Let it go on until a stage has begun."""
        while self.go_on() != stage:
            pass

    def kill(self, seconds: float) -> None:
        """Kill it while it works towards its next event, or waits there."""
        time.sleep(seconds)
        self.process.kill()
        assert self._end() == -signal.SIGKILL

    def run_out(self) -> tuple[int, list[str]]:
        """Let it run to its end; its exit status, and the stage of each event."""
        told = []
        while (stage := self.go_on_or_end()) is not None:
            told.append(stage)
        return self._end(), told

    def finish(self) -> list[str]:
        """The same where it must not fail."""
        status, told = self.run_out()
        assert status == 0, self.log.read_text()
        return told

    def _end(self) -> int:
        self.process.join(PATIENCE)
        self.events.close()
        assert self.process.exitcode is not None, self.log.read_text()
        return self.process.exitcode


def begin(folder: Path, *arguments: Any) -> Running:
    """A process that waits until it may run a job or a command; its log lies in a folder."""
    ours, theirs = FORKS.Pipe()
    log = folder / f"{next(numbers)}.log"
    given = (theirs, str(log), *map(str, arguments))
    process = FORKS.Process(target=job_process.main, args=given, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        # for the server, when it starts: it finds the tests, and each process keeps to one core
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        process.start()
    theirs.close()
    started.append(Running(process, ours, log))
    return started[-1]


def kill_survivors() -> None:
    """End what a test that failed has left running, with its lease."""
    while started:
        started.pop().process.kill()


def start(folder: Path, *arguments: Any) -> Running:
    """A process that runs a job or a command."""
    running = begin(folder, *arguments)
    assert running.go_on() == "ready"
    return running

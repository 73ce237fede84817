"""The process of the model: started before it is needed, and anew when it ended. No Qt.

torch holds Python's lock while it is imported and between its kernels, and a window in the same
process waits for that. So it gets a process of its own. That ends with the window's, also when the
window is killed: its standard input ends then.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from typing import Protocol

from napari_sam.lines import Line
from napari_sam.worker import Superseded
from samplat import JobError

LINES = 3
"""Conversations at a time: clicks, an object that is followed, masks of everything."""
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline());"
    "from napari_sam.serving import main; main()"
)
"""Not multiprocessing: its processes import the script that opened the window, and do so again."""
DYING = 2.0
"""Seconds that a process has to end by itself once its lines are broken."""


class Running(Protocol):
    """A model that answers."""

    def connections(self) -> list[Connection]:
        """One for each line; waits until they are open.

        Raises:
            EOFError: it ended before.
            OSError: likewise.
        """

    def runs(self) -> bool:
        """Whether it has not ended yet."""

    def end(self) -> str:
        """See that it ends; says how it did."""

    def kill(self) -> None:
        """End it now."""


class Process:
    """A process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._key = secrets.token_bytes(32)
        self._opening = threading.Lock()
        self._connections: list[Connection] = []

    def connections(self) -> list[Connection]:
        """One for each line."""
        with self._opening:
            if not self._connections:
                self._connections = self._open()
            return self._connections

    def _open(self) -> list[Connection]:
        given, told = self._process.stdin, self._process.stdout
        assert given is not None  # noqa: S101 both are pipes
        assert told is not None  # noqa: S101
        given.write(f"{json.dumps(sys.path)}\n{self._key.hex()}\n")
        given.flush()
        if not (address := told.readline().rstrip("\n")):
            raise EOFError
        return [Client(address, authkey=self._key) for _ in range(LINES)]

    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def end(self) -> str:
        """See that it has ended."""
        try:
            status = self._process.wait(DYING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._close_pipes()
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 both are there
            with contextlib.suppress(OSError):  # what was not written goes nowhere
                pipe.close()


class Host:
    """Who has the model, for one viewer.

    Args:
        start: begins it, and returns at once.
    """

    def __init__(self, start: Callable[[], Running] = Process) -> None:
        self._start = start
        self._changing = threading.Lock()
        self._running: Running | None = None
        self._used: list[Connection] = []
        self._closed = False
        self.lines = tuple(Line(_Place(self, n)) for n in range(LINES))
        """Each for conversations of a kind."""
        atexit.register(self.close)

    def connection(self, number: int) -> Connection:
        """Of a line, to the process that runs; a new one if none does.

        Raises:
            Superseded: this was closed.
            JobError: the process ended while it started.
        """
        with self._changing:
            if self._closed:
                raise Superseded
            if self._running is not None and not self._running.runs():
                self._running.kill()  # it died at rest, and nobody waits for it
                self._running = None
            if self._running is None:
                self._running = self._start()
            running = self._running
        try:
            self._used = running.connections()
            return self._used[number]
        except (EOFError, OSError, ValueError):  # its pipes may be closed by now
            raise self._ended(running) from None

    def lost(self, connection: Connection) -> JobError:
        """A connection broke off."""
        with self._changing:
            running, used = self._running, self._used
        if running is None or connection not in used:
            return _told("ended")  # another line saw how
        return self._ended(running)

    def _ended(self, running: Running) -> JobError:
        how = running.end()
        with self._changing:
            if self._running is running:
                self._running = None
        return _told(how)

    def close(self) -> None:
        """End the process now, for good."""
        with self._changing:
            self._closed, running, self._running = True, self._running, None
        atexit.unregister(self.close)
        if running is not None:
            running.kill()


class _Place:
    """Where one of the lines leads."""

    def __init__(self, host: Host, number: int) -> None:
        self._host, self._number = host, number

    def connection(self) -> Connection:
        return self._host.connection(self._number)

    def lost(self, connection: Connection) -> JobError:
        return self._host.lost(connection)


def _told(how: str) -> JobError:
    return JobError(
        f"the process of the model {how}; what you did is kept, and the next click starts it again"
    )

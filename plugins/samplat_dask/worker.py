"""What happens in a process that works: a stage's task is kept there, and run index by index.

A task holds a whole job, so it is sent once to each process and not with every index. A plugin of
Dask does that: the scheduler hands it to workers that join later, or come back from the dead, too.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from distributed import WorkerPlugin

from samplat import JobError, SamplatError, keeping_segmenters, plugin_versions

PATIENCE = 60.0
"""Seconds that the end of a stage waits for what still runs of it."""

CARRIED = 8
"""Tasks that came with their indices, of which a process keeps what they made: open images."""

_kept: dict[str, Kept] = {}
_carried: list[str] = []
_lock = threading.Lock()


class Kept:
    """The task of a stage in this process."""

    def __init__(self, payload: bytes, expected: str) -> None:
        self._payload, self._expected = payload, expected
        self._task: Any = None
        self._made = threading.Lock()
        self._idle = threading.Condition()
        self._running = 0
        self.users = 0
        """Workers of this process that were told of it."""

    def task(self) -> Any:
        """The task; unpickled when it is first asked for, which may load a model's libraries."""
        with self._made:
            if self._task is None:
                here = plugin_versions()["samplat"]
                if here != self._expected:
                    raise JobError(f"a worker has {here}, expected {self._expected}: install that")
                self._task = pickle.loads(self._payload)  # noqa: S301 of our own client
            return self._task

    @contextmanager
    def working(self) -> Iterator[None]:
        """The task is not given up meanwhile; to be begun under the lock of `_kept`."""
        with self._idle:
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it runs."""
        return not self._running

    def warm(self) -> None:
        """Make what the task needs, before it is asked for an index."""
        try:
            task = self.task()
            if hasattr(task, "warm"):
                task.warm()
        except Exception:  # noqa: BLE001 the first index says it better
            return

    def close(self) -> None:
        """Wait for what still runs, then give up what the task made in this process."""
        with self._idle:
            self._idle.wait_for(lambda: not self._running, PATIENCE)
        if self._task is not None and hasattr(self._task, "close"):
            self._task.close()


class StagePlugin(WorkerPlugin):  # type: ignore[misc] # its library is typed by halves
    """Tells a worker of a stage."""

    def __init__(
        self, *, token: str, payload: bytes, expected: str, resources: dict[str, float]
    ) -> None:
        """A stage for workers.

        Args:
            token: its name.
            payload: its task, pickled.
            expected: the distribution of samplat that the client has.
            resources: what a worker must offer that is to run it.
        """
        self.token, self.payload = token, payload
        self.expected, self.resources = expected, resources

    def setup(self, worker: Any) -> None:
        """Keep the task, and begin to load its model while no index is there yet."""
        with _lock:
            kept = _kept.setdefault(self.token, Kept(self.payload, self.expected))
            kept.users += 1
        offered = worker.state.total_resources
        able = all(offered.get(name, 0) >= least for name, least in self.resources.items())
        if able and kept.users == 1:
            threading.Thread(target=kept.warm, name="samplat-warm", daemon=True).start()

    async def teardown(self, worker: Any) -> None:
        """Forget the task."""
        with _lock:
            kept = _kept.get(self.token)
            if kept is None:
                return
            kept.users -= 1
            if kept.users:
                return
            del _kept[self.token]
        await asyncio.to_thread(kept.close)


class SharingPlugin(WorkerPlugin):  # type: ignore[misc] # its library is typed by halves
    """Tells a worker that jobs will come which may share their models."""

    def setup(self, worker: Any) -> None:
        """Keep segmenters from now on."""
        self._stack = ExitStack()
        self._stack.enter_context(keeping_segmenters())

    async def teardown(self, worker: Any) -> None:
        """Let go of segmenters, and of tasks that came with their indices."""
        self._stack.close()
        with _lock:
            old = [_kept.pop(token) for token in _carried]
            _carried.clear()
        for each in old:
            await asyncio.to_thread(each.close)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An error that says what to do: to try again is of no use."""

    error: SamplatError
    """Which."""


def run_index(token: str, index: int) -> Any:
    """What the task of a stage makes of an index, or `Refused`."""
    try:
        return _run_index(token, index)
    except SamplatError as error:
        return Refused(error=error)


def run_carried(token: str, index: int, *, payload: bytes, expected: str) -> Any:
    """The same for a task that comes with the index, and is kept for the next one.

    Args:
        token: name of the stage.
        index: what it is run for.
        payload: the task, pickled.
        expected: the distribution of samplat that the client has.
    """
    with ExitStack() as stack:
        with _lock:
            if token not in _kept:
                _kept[token] = Kept(payload, expected)
                _carried.append(token)
            stack.enter_context(_kept[token].working())
            old = _pop_idle()
        for each in old:
            each.close()
        return run_index(token, index)


def _pop_idle() -> list[Kept]:
    """Forget the oldest tasks that came with indices, but those at work; under the lock."""
    idle = [token for token in _carried if _kept[token].is_idle]
    gone = idle[: max(0, len(_carried) - CARRIED)]
    for token in gone:
        _carried.remove(token)
    return [_kept.pop(token) for token in gone]


def _run_index(token: str, index: int) -> Any:
    with ExitStack() as stack:
        with _lock:
            kept = _kept.get(token)
            if kept is None:
                raise JobError("the stage is over: what waited for it is not computed any more")
            stack.enter_context(kept.working())
        return kept.task()(index)

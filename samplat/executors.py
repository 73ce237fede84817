"""Executors run independent tasks, one per tile. They own no state: the job's ledger does."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

from samplat.errors import InputError

T = TypeVar("T")


class Executor(Protocol):
    """Runs one task per index.

    A task is picklable, writes its own results, and may run twice with the same outcome. What it
    raises is a fault of the whole job, not of a tile, and ends the run.
    """

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        """Results as they come, in any order. The first exception of a task is raised."""
        ...

    # An executor may also be `Distant`, `Closable` and `Shareable`.
    #
    # Tasks may tell more: `stage`, a short name of what they do; `infers`, True for those
    # that run a model; `warm()`, which makes what they need in this process, once; `close()`, which
    # gives that up; and `give_up(index, error)`, the result for an index whose worker died again
    # and again.


@contextmanager
def closing(executor: Executor) -> Iterator[Executor]:
    """An executor that gives up afterwards what it holds, if it holds anything."""
    try:
        yield executor
    finally:
        if isinstance(executor, Closable):
            executor.close()


@runtime_checkable
class Closable(Protocol):
    """What holds something: an executor a cluster."""

    def close(self) -> None:
        """Give it up."""
        ...


@runtime_checkable
class Distant(Protocol):
    """An executor whose tasks may run where the image, the model or the directory are not seen."""

    def check(self, plan: Any, tools: Any) -> None:
        """Find out, before any work, whether all workers can do a job.

        Args:
            plan: the job, its paths absolute; its directory is there.
            tools: what its names stand for.

        Raises:
            InputError: one cannot, and why.
        """
        ...


@runtime_checkable
class Shareable(Protocol):
    """An executor that can work on several jobs at once."""

    @property
    def jobs_at_once(self) -> int:
        """How many jobs keep all its workers busy if each has one tile only."""
        ...

    def shared(self) -> AbstractContextManager[Executor]:
        """For a while an executor whose `map` may be called from several threads at once.

        All calls together load the workers, and take memory, as one would.
        """
        ...


class ExecutorFactory(Protocol):
    """Makes executors; registered by a plugin."""

    @property
    def name(self) -> str:
        """Unique name."""
        ...

    def create(self, *args: Any, **options: Any) -> Executor:
        """A ready executor.

        Raises:
            InputError: an option is unknown or unusable.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SerialExecutor:
    """One task after the other, in this thread."""

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        """Results in the order of `indices`."""
        return (task(index) for index in indices)


@dataclass(frozen=True, kw_only=True)
class OverlappingExecutor:
    """Reads the next and writes the last while one is worked on.

    For tasks with `stages`: three functions, of an index; of an index and what the first one
    returned; and of an index and what the second one returned. Other tasks run one by one.
    """

    ahead: int = 1
    """How many wait before and after the middle stage at most: bounds memory."""
    model: ThreadPoolExecutor | None = None
    """The thread that runs all middle stages, of whichever job; None: the caller's own."""

    @property
    def jobs_at_once(self) -> int:
        """One is worked on while another one is opened, merged or written."""
        return 2

    @contextmanager
    def shared(self) -> Iterator[OverlappingExecutor]:
        """One thread runs the middle stages of all jobs, one at a time."""
        with _thread("model") as model:
            yield replace(self, model=model)

    def _work(self, middle: Callable[..., Any], *given: Any) -> Any:
        return middle(*given) if self.model is None else self.model.submit(middle, *given).result()

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        """Results in the order of `indices`. The middle stage runs in this thread."""
        stages = getattr(task, "stages", None)
        if stages is None:
            yield from SerialExecutor().map(task, indices)
            return
        first, middle, last = stages
        rest, read, written = iter(indices), deque[tuple[int, Any]](), deque[Future[T]]()
        with _thread("read") as reader, _thread("write") as writer:

            def read_ahead() -> None:
                for index in islice(rest, self.ahead + 1 - len(read)):
                    read.append((index, reader.submit(first, index)))

            try:
                read_ahead()
                while read:
                    index, waiting = read.popleft()
                    given = waiting.result()
                    read_ahead()
                    written.append(writer.submit(last, index, self._work(middle, index, given)))
                    while len(written) > self.ahead:
                        yield written.popleft().result()
                while written:
                    yield written.popleft().result()
            finally:
                for future in [*(each for _, each in read), *written]:
                    future.cancel()


def _thread(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=f"samplat-{name}")


@dataclass(frozen=True, kw_only=True)
class ThreadsExecutor:
    """A few threads of this process, with a bounded queue, so that memory is bounded too."""

    workers: int
    """Number of threads."""
    pool: ThreadPoolExecutor | None = None
    """Those threads, if several jobs share them; None: each call of `map` has its own."""

    @property
    def jobs_at_once(self) -> int:
        """One for each thread, and one that is opened, merged or written meanwhile."""
        return self.workers + 1

    @contextmanager
    def shared(self) -> Iterator[ThreadsExecutor]:
        """The same threads work on the tasks of all jobs."""
        with ThreadPoolExecutor(self.workers, thread_name_prefix="samplat") as pool:
            yield replace(self, pool=pool)

    @contextmanager
    def _threads(self) -> Iterator[ThreadPoolExecutor]:
        if self.pool is not None:
            yield self.pool
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="samplat") as pool:
            yield pool

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        """Results as they come; at most two tasks per thread are queued or running."""
        rest = iter(indices)
        with self._threads() as pool:
            pending: set[Future[T]] = set()
            try:
                while True:
                    room = 2 * self.workers - len(pending)
                    pending |= {pool.submit(task, index) for index in islice(rest, room)}
                    if not pending:
                        return
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                # threads that are shared outlive this call, and what they run of it may not
                wait([future for future in pending if not future.cancel()])


@dataclass(frozen=True, kw_only=True)
class SerialFactory:
    """Makes the serial executor."""

    name: str = "serial"

    def create(self) -> SerialExecutor:
        """It has no options."""
        return SerialExecutor()


@dataclass(frozen=True, kw_only=True)
class OverlappingFactory:
    """Makes the overlapping executor."""

    name: str = "overlapping"

    def create(self) -> OverlappingExecutor:
        """It has no options."""
        return OverlappingExecutor()


@dataclass(frozen=True, kw_only=True)
class ThreadsFactory:
    """Makes executors of threads."""

    name: str = "threads"

    def create(self, *, workers: int | None = None) -> ThreadsExecutor:
        """An executor of `workers` threads; without a number, one per processor, at most four."""
        count = min(4, os.cpu_count() or 1) if workers is None else workers
        if count < 1:
            raise InputError(f"expected at least 1 worker, got {count}")
        return ThreadsExecutor(workers=count)

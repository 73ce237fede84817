"""Tasks in waves: as many are with the scheduler as keep the workers busy, and no more.

A scheduler that knows 10⁵ tasks at once is slow, and grows; the job's ledger knows what is done.

Of a task that was with several workers when they died, Dask says that it killed them, and of those
that waited beside it too. They are suspects: when all else is done, each is tried once more, alone.
"""

from __future__ import annotations

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from samplat import ExecutorError, InputError, JobError
from samplat_dask.cluster import threads_of
from samplat_dask.worker import Refused, run_index

if TYPE_CHECKING:
    from distributed import Client, Future

PER_THREAD = 4
"""Tasks with the scheduler for each thread of the workers: running, and next."""
LEAST, MOST = 16, 4096
"""Tasks with the scheduler, however few or many threads there are."""
RETRIES = 2
"""How often a task that raised is tried again, perhaps by another worker."""
TOGETHER = 0.05
"""Seconds that a result waits for others, to be fetched with them; a quarter of all is enough."""
LOOK = 5.0
"""Seconds after which one looks again how many workers there are."""
PATIENCE = 300.0
"""Seconds to wait for workers where there are none, unless Dask's configuration says how long."""
RESUMES = "run the same command again, it resumes"


def patience() -> float:
    """Seconds to wait for workers: Dask's `distributed.scheduler.no-workers-timeout`."""
    import dask
    from dask.utils import parse_timedelta

    given = dask.config.get("distributed.scheduler.no-workers-timeout", None)
    return PATIENCE if given is None else float(parse_timedelta(given))


def wait_for_workers(client: Client) -> None:
    """Wait until there is a worker.

    Raises:
        InputError: there is none for a while.
    """
    try:
        client.wait_for_workers(1, timeout=patience())
    except TimeoutError:
        raise InputError(
            f"the scheduler at {client.scheduler.address} has had no worker for {patience():g} s; "
            f"start some with `dask worker {client.scheduler.address}`"
        ) from None


class Waves:
    """The tasks of one stage on their way."""

    def __init__(
        self,
        *,
        client: Client,
        task: Callable[[int], Any],
        token: str,
        resources: dict[str, float],
        run: Callable[..., Any] = run_index,
        among: Callable[[], int] = lambda: 1,
    ) -> None:
        """What is on its way.

        Args:
            client: of the scheduler.
            task: what is done for an index; the workers know it.
            token: by this name.
            resources: what a worker must offer.
            run: what a worker calls with the token and an index.
            among: how many stages share the workers just now.
        """
        self._client, self._task, self._token = client, task, token
        self._resources, self._run, self._among = resources, run, among
        self._stage = getattr(task, "stage", "") or "samplat"
        self._pending: dict[str, tuple[Future, int]] = {}
        self._finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._again: Counter[int] = Counter()
        self._suspects: deque[int] = deque()
        self._alone: int | None = None
        self._came = False
        self._looked, self._room = 0.0, LEAST

    def results(self, indices: Sequence[int]) -> Iterator[Any]:
        """Results as they come.

        Raises:
            JobError: workers or the scheduler were lost.
        """
        rest = iter(indices)
        try:
            while True:
                self._top_up(rest)
                if not self._pending:
                    self._question()
                if not self._pending:
                    return
                for result in self._collect(self._next()):
                    self._came = True
                    yield result
        finally:
            self._cancel()

    def _top_up(self, rest: Iterator[int]) -> None:
        """Submit more, some at a time: a message for each task would take longer than it does."""
        if time.monotonic() - self._looked > LOOK:
            self._look()
        room = self._room - len(self._pending)
        if 4 * room >= self._room:
            self._submit(list(islice(rest, room)))

    def _look(self) -> None:
        self._looked = time.monotonic()
        threads = self._ask(lambda: threads_of(self._client))
        self._room = min(MOST, max(LEAST, PER_THREAD * threads // self._among()))

    def _submit(self, indices: Sequence[int]) -> None:
        if not indices:
            return
        names = [self._name(index) for index in indices]
        futures = self._client.map(
            self._run,
            [self._token] * len(indices),
            indices,
            key=names,
            retries=RETRIES,
            resources=self._resources or None,
            pure=False,
        )
        for future, index in zip(futures, indices, strict=True):
            self._pending[future.key] = (future, index)
            future.add_done_callback(self._finished.put)

    def _name(self, index: int) -> str:
        """What the dashboard shows: the stage, the tile, and which run's."""
        again = f"-again{self._again[index]}" if self._again[index] else ""
        return f"{self._stage}-{index:06d}-{self._token}{again}"

    def _next(self) -> list[Future]:
        """Tasks that ended, one at least."""
        began = time.monotonic()
        while True:
            with suppress(queue.Empty):
                return self._with_others(self._finished.get(timeout=LOOK))
            if self._ask(lambda: threads_of(self._client)):
                began = time.monotonic()
            elif time.monotonic() - began > patience():
                raise ExecutorError(
                    f"all workers of {self._where} have been gone for {patience():g} s; "
                    f"start some and {RESUMES}"
                )

    def _with_others(self, first: Future) -> list[Future]:
        """A task that ended, and those that end soon after it: results cost a message each time."""
        found, until = [first], time.monotonic() + TOGETHER
        with suppress(queue.Empty):
            while 4 * len(found) < self._room and len(found) < len(self._pending):
                found.append(self._finished.get(timeout=max(0, until - time.monotonic())))
        return found

    def _collect(self, ended: Sequence[Future]) -> Iterator[Any]:
        done = [future for future in ended if future.status == "finished"]
        others = [future for future in ended if future not in done]
        for result in self._gathered(done):
            if isinstance(result, Refused):
                raise result.error
            yield result
        for future in others:
            yield from self._failed(future)

    def _gathered(self, done: Sequence[Future]) -> list[Any]:
        """The results of tasks; none for now if one was lost with its worker, and then failed."""
        if not done:
            return []
        try:
            results: list[Any] = self._ask(lambda: self._client.gather(list(done)))
        except Exception:
            if all(future.status == "finished" for future in done):
                raise
            for future in done:
                self._finished.put(future)
            return []
        for future in done:
            self._forget(future)
        return results

    def _failed(self, future: Future) -> Iterator[Any]:
        from distributed import KilledWorker

        status = future.status
        error = future.exception() if status == "error" else None
        index = self._forget(future)
        if status == "cancelled":
            raise ExecutorError(
                f"the connection to {self._where} was lost; mend that and {RESUMES}"
            )
        if error is None:
            self._resubmit(index)  # its result was lost with its worker
        elif not isinstance(error, KilledWorker):
            raise error
        elif self._alone == index:
            yield self._give_up(index)
        else:
            self._suspects.append(index)

    def _resubmit(self, index: int) -> None:
        # under a name of its own: the scheduler may still know the other one
        self._again[index] += 1
        self._submit([index])

    def _question(self) -> None:
        """Try the next suspect, when nothing else runs that it could be mistaken for."""
        self._alone = None
        if self._suspects and not self._pending:
            self._alone = self._suspects.popleft()
            self._resubmit(self._alone)

    def _forget(self, future: Future) -> int:
        """Let go of a task, and of its result; its index."""
        # not left to a garbage collector: an error's traceback may hold it for long
        future.release()
        return self._pending.pop(future.key)[1]

    def _give_up(self, index: int) -> Any:
        told = (
            "its worker died whenever it was tried; most often the memory did not suffice: give "
            "workers more of it, or make tiles smaller"
        )
        # if nothing at all was finished, it is not this tile
        if not self._came or not hasattr(self._task, "give_up"):
            raise JobError(f"{self._stage} {index} could not be computed: {told}; then {RESUMES}")
        return self._task.give_up(index, told)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """What the scheduler says.

        Raises:
            JobError: it says nothing.
        """
        try:
            return question()
        except (OSError, TimeoutError) as error:
            raise ExecutorError(
                f"the connection to {self._where} was lost ({error}); mend that and {RESUMES}"
            ) from error

    @property
    def _where(self) -> str:
        return f"the scheduler at {self._client.scheduler.address}"

    def _cancel(self) -> None:
        """Nobody waits any more."""
        waiting = [future for future, _ in self._pending.values()]
        if waiting:
            with suppress(OSError, TimeoutError):
                self._client.cancel(waiting)
        for future in waiting:
            self._forget(future)

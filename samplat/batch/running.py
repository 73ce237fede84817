"""Items at work: each is a job like any other, and all of them share the workers.

A thread leads each of a few items through its job: it opens the image, plans, merges and writes.
The tiles go to an executor that all these threads share, so that one item of many tiles loads all
workers, and so do many items of one tile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from samplat.batch.items import Item
from samplat.batch.ledger import BatchLedger, ItemRecord, facts_of
from samplat.errors import ExecutorError, SamplatError
from samplat.executors import Distant, Executor, Shareable
from samplat.job import JobResult, located
from samplat.job_command import write_outputs
from samplat.pipeline import run_planned
from samplat.plugins import Registry
from samplat.progress import Progress
from samplat.workbench import keeping_segmenters

T = TypeVar("T")

WARNING = "warning: "


class Stopped(Exception):  # noqa: N818 no error: somebody wants it
    """The batch ends before this item does."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """The executor as the job of one item sees it."""

    executor: Executor
    """That all share."""
    stop: threading.Event
    """Set when the batch is to end."""

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        """Results as they come.

        Raises:
            Stopped: the batch is to end; what ran has ended.
        """
        with closing(_generator(self.executor.map(task, indices))) as results:
            for result in results:
                yield result
                if self.stop.is_set():
                    raise Stopped


def _generator(results: Iterator[T]) -> Any:
    """Something that can be closed."""
    return results if hasattr(results, "close") else (result for result in results)


@dataclass(frozen=True, kw_only=True)
class DistantLane(Lane):
    """One of an executor that wants to know jobs first."""

    def check(self, plan: Any, tools: Any) -> None:
        """As in `Distant`."""
        self.executor.check(plan, tools)  # type: ignore[attr-defined] # see `_lane`


def _lane(executor: Executor, stop: threading.Event) -> Lane:
    kind = DistantLane if isinstance(executor, Distant) else Lane
    return kind(executor=executor, stop=stop)


@contextmanager
def sharing(executor: Executor) -> Iterator[tuple[Executor, int]]:
    """An executor for several jobs at once, and for how many; one job where it cannot be shared."""
    if not isinstance(executor, Shareable):
        yield executor, 1
        return
    with executor.shared() as shared:
        yield shared, executor.jobs_at_once


class Steps:
    """Stages of all items as those of one run. Its methods are called from several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started: list[str] = []
        self._lock = threading.Lock()

    def start(self, stage: str, total: int) -> None:
        """There is more to do of a stage."""
        with self._lock:
            if stage not in self._started:
                self._started.append(stage)
                self._progress.start(stage, total)
            elif hasattr(self._progress, "grow"):
                self._progress.grow(stage, total)

    def advance(self, stage: str, steps: int = 1) -> None:
        """Some of it is done."""
        self._progress.advance(stage, steps)

    def message(self, text: str) -> None:
        """Pass it on."""
        self._progress.message(text)

    def finish(self) -> None:
        """All is over."""
        for stage in self._started:
            self._progress.finish(stage)


@dataclass(frozen=True, kw_only=True)
class ItemProgress:
    """Told about the stages of one item."""

    name: str
    """Of the item."""
    steps: Steps
    """Of all."""
    warnings: list[str] = field(default_factory=list)
    """Those of the item, which the summary repeats."""

    def start(self, stage: str, total: int) -> None:
        """There is more to do."""
        self.steps.start(stage, total)

    def advance(self, stage: str, steps: int = 1) -> None:
        """Some of it is done."""
        self.steps.advance(stage, steps)

    def finish(self, stage: str) -> None:
        """Ignored: other items may be at it."""

    def message(self, text: str) -> None:
        """Keep a warning, say anything else."""
        if text.startswith(WARNING):
            self.warnings.append(text.removeprefix(WARNING))
        else:
            self.steps.message(f"{self.name}: {text}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """An item that is to be worked on."""

    item: Item
    """Which."""
    anew: bool = False
    """True: what its job directory holds of another job is discarded."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Many items, the ledger, and who works on them."""

    tools: Registry
    """What names in jobs stand for."""
    ledger: BatchLedger
    """Is told what became of each."""
    executor: Executor
    """Runs the tiles of all."""
    progress: Progress
    """Is told how far all of them are."""
    at_once: int | None = None
    """Items that are open at once; None: as many as keep the workers busy."""

    def run(self, tasks: Sequence[Task]) -> None:
        """Work on all items; what becomes of each is in the ledger.

        Raises:
            ExecutorError: nobody can work on any; what was finished stays finished.
        """
        stop, steps = threading.Event(), Steps(self.progress)
        steps.start("items", len(tasks))
        try:
            with keeping_segmenters(), sharing(self.executor) as (shared, several):
                led = _Led(batch=self, lane=_lane(shared, stop), steps=steps)
                with ThreadPoolExecutor(self.at_once or several, "samplat-item") as pool:
                    futures = [pool.submit(led.lead, task) for task in tasks]
                    try:
                        for future in as_completed(futures):
                            future.result()
                            steps.advance("items")
                    except BaseException:
                        stop.set()
                        pool.shutdown(wait=True, cancel_futures=True)
                        raise
        finally:
            steps.finish()


@dataclass(frozen=True, kw_only=True)
class _Led:
    """What the threads that lead items share."""

    batch: Batch
    lane: Lane
    steps: Steps

    def lead(self, task: Task) -> None:
        """Take an item through its job, and enter what became of it."""
        if self.lane.stop.is_set():
            raise Stopped
        began, facts = time.monotonic(), facts_of(task.item)
        progress = ItemProgress(name=task.item.name, steps=self.steps)
        try:
            result = self._result(task, progress)
            found = _told(result)
        except (Stopped, ExecutorError):
            raise
        except Exception as error:  # noqa: BLE001 whatever an item does, the others go on
            found = {"outcome": "failed", "error": _error(error)}
            self.steps.message(f"{task.item.name} failed: {found['error']}")
        item = task.item
        record = ItemRecord(
            name=item.name,
            kind=item.kind,
            input=item.input,
            outputs=tuple(map(str, item.outputs)),
            options=item.options,
            facts=facts,
            seconds=round(time.monotonic() - began, 2),
            warnings=tuple(progress.warnings),
            **found,
        )
        self.batch.ledger.enter(record)

    def _result(self, task: Task, progress: ItemProgress) -> JobResult:
        command = task.item.order.make()
        command.progress = progress
        command.job = located(command.job)
        planned = command.check()
        result = run_planned(
            planned,
            tools=self.batch.tools,
            executor=self.lane,
            progress=progress,
            overwrite=task.anew,
        )
        write_outputs(result, command.exporters, progress)
        progress.warnings.extend(result.warnings)
        return result


def _told(result: JobResult) -> dict[str, Any]:
    failed = [record.error for record in result.quarantined]
    return {
        "outcome": "done" if result.complete else "holes",
        "error": failed[0] if failed else "" if result.complete else "prompts failed",
        "objects": result.objects.num_rows,
        "tiles": len(result.tiles),
        "skipped": len(result.skipped),
        "quarantined": len(failed),
    }


def _error(error: Exception) -> str:
    said = " ".join(str(error).split())
    return said if isinstance(error, SamplatError) else f"unexpected {type(error).__name__}: {said}"

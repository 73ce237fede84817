"""How a stage of a job runs: what is in the ledger is skipped, the rest goes to an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from samplat.attempts import ATTEMPTS
from samplat.errors import JobError
from samplat.executors import Executor
from samplat.job import Plan
from samplat.leases import Lease, LocalLease
from samplat.ledger import TileRecord
from samplat.places import Place, looked_up
from samplat.progress import Progress

T = TypeVar("T")

STRIPE = 6
"""Tiles side by side that are read and matched with their neighbours row by row."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Who works on the stages of a job, and who is told."""

    executor: Executor
    """Runs the tasks of a stage."""
    progress: Progress
    """Is told about each."""
    lease: Lease = field(default_factory=LocalLease)
    """Says whether the job directory is still ours."""

    def run(
        self, name: str, task: Callable[[int], T], missing: Sequence[int], count: int
    ) -> Iterator[T]:
        """Results of a task for each index that is missing, as they come.

        Args:
            name: of the stage.
            task: what is done for an index.
            missing: indices that are not in the ledger.
            count: how many there are, with those that are.
        """
        self.progress.start(name, count)
        self.progress.advance(name, count - len(missing))
        try:
            for result in self.executor.map(task, missing):
                self.progress.advance(name)
                self.lease.check()
                yield result
        finally:
            self.progress.finish(name)

    def attempt(
        self,
        name: str,
        task: Callable[[int], TileRecord],
        missing: Sequence[int],
        count: int,
        called: Callable[[int], str],
    ) -> None:
        """Run a task that is tried, and tell of each index that failed what it is called."""
        for record in self.run(name, task, missing, count):
            if record.outcome == "quarantined":
                what = called(record.index)
                self.progress.message(f"{what} failed {ATTEMPTS} times: {record.error}")

    def make(
        self,
        name: str,
        task: Callable[[int], str | None],
        indices: Sequence[int],
        digest: Callable[[int], str | None],
        path: Place,
    ) -> dict[int, str]:
        """What a task makes of each index, made where it is missing: its digests, in that order.

        Args:
            name: of the stage, and of what it makes.
            task: makes it, and returns its digest.
            indices: for which, in the order in which it is made.
            digest: of what was made of an index from the inputs of now; None where it is missing.
            path: the job directory.

        Raises:
            JobError: what was made is not there.
        """
        digests = dict(zip(indices, looked_up(path, digest, indices), strict=True))
        missing = [index for index, found in digests.items() if found is None]
        digests |= dict(self.run(name, WithIndex(task=task), missing, len(digests)))
        found = {index: each for index, each in digests.items() if each is not None}
        if len(found) < len(digests):
            raise JobError(f"some of the {name} of {path} were not made; run again")
        return found


@dataclass(frozen=True, kw_only=True)
class WithIndex(Generic[T]):
    """A task of which results come with their index: executors give them in any order."""

    task: Callable[[int], T]

    @property
    def stage(self) -> str:
        """What the task does, in a word."""
        return getattr(self.task, "stage", "")

    def close(self) -> None:
        """Give up what the task made in this process."""
        getattr(self.task, "close", lambda: None)()

    def __call__(self, index: int) -> tuple[int, T]:
        """The index, and what the task makes of it."""
        return index, self.task(index)


def called_tile(index: int) -> str:
    """What a person calls a tile."""
    return f"tile {index}"


def in_stripes(planned: Plan, indices: Sequence[int]) -> list[int]:
    """Tiles in an order in which neighbours come soon after each other, in images of any width."""

    def place(index: int) -> tuple[int, ...]:
        *before, row, column = planned.grid.position(index)
        return (*before, column // STRIPE, row, column)

    return sorted(indices, key=place)

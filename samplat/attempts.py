"""Work on one tile, or one window of prompts, which may fail and is then tried again.

Every stage that looks at pixels or answers works alike: it reads, finds something, and enters that
in the ledger. `Work` says what that is, and `TriedTask` does it, so that a failure concerns one
tile, and steps of different tiles may overlap.
"""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from samplat.ledger import Outcome, TileRecord
from samplat.objects import TileObjects
from samplat.store import JobStore

T = TypeVar("T")
B = TypeVar("B")
S = TypeVar("S")
F = TypeVar("F")

ATTEMPTS = 3
"""How often a tile is tried before it is quarantined."""


@dataclass(frozen=True, kw_only=True)
class Attempt(Generic[T]):
    """What came of a try at a tile."""

    number: int = 1
    """Of the try, from 1."""
    seconds: float = 0.0
    """It took."""
    result: T | None = None
    """Unless it failed; None also where there was nothing to do."""
    error: str = ""
    """What failed, or nothing."""

    @property
    def outcome(self) -> Outcome:
        """How it ended, for the ledger."""
        if self.error:
            return "quarantined"
        return "skipped" if self.result is None else "done"

    def record(self, index: int, *, objects: int = 0, **digests: str | None) -> TileRecord:
        """The ledger's entry for it, with the digests of what was written."""
        return TileRecord(
            index=index,
            outcome=self.outcome,
            objects=objects,
            attempts=0 if self.outcome == "skipped" else self.number,
            seconds=round(self.seconds, 3),
            peak_mb=peak_mb(),
            error=self.error or None,
            **{"objects_sha256": None, **digests},
        )


def peak_mb() -> float:
    """Peak resident memory of the process so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def attempt(work: Callable[[], T], number: int = 1, before: float = 0.0) -> Attempt[T]:
    """Try something.

    Args:
        work: what is tried.
        number: of the try, from 1.
        before: seconds that this try took already.
    """
    began = time.monotonic()
    try:
        result = work()
    except Exception as failure:  # noqa: BLE001 whatever a tile does, the others go on
        seconds = before + time.monotonic() - began
        error = f"{type(failure).__name__}: {failure}"
        return Attempt(number=number, seconds=seconds, error=error)
    return Attempt(number=number, seconds=before + time.monotonic() - began, result=result)


class Work(Protocol[B, S, F]):
    """What is done for one index, a tile's or a unit's; picklable."""

    stage: ClassVar[str]
    """What it does, in a word."""
    infers: ClassVar[bool]
    """Whether that takes a model."""

    def bench(self) -> B:
        """What it takes, made once per process. A failure here concerns the whole job."""
        ...

    def read(self, bench: B, index: int) -> S:
        """What it looks at; may fail."""
        ...

    def find(self, bench: B, index: int, seen: S) -> F:
        """What there is to find in that; may fail."""
        ...

    def write(self, index: int, found: Attempt[F]) -> TileRecord:
        """Its new record in the ledger, after what was found or the failure to do so."""
        ...

    def close(self) -> None:
        """Give up what `bench` made in this process."""
        ...


@dataclass(frozen=True, kw_only=True)
class TriedTask(Generic[B, S, F]):
    """Does some work, up to `ATTEMPTS` times; what a worker of any kind is sent."""

    work: Work[B, S, F]
    """Which."""

    def __call__(self, index: int) -> TileRecord:
        """The new record. Raises only what concerns the whole job."""
        return self.write(index, self.find(index, self.read(index)))

    @property
    def stage(self) -> str:
        """What the work does, in a word."""
        return self.work.stage

    @property
    def infers(self) -> bool:
        """Whether that takes a model."""
        return self.work.infers

    def warm(self) -> None:
        """Make what the work takes in this process."""
        self.work.bench()

    def close(self) -> None:
        """Give that up."""
        self.work.close()

    def give_up(self, index: int, error: str) -> TileRecord:
        """The record of an index of which no process came back."""
        return self.work.write(index, Attempt(number=ATTEMPTS, error=error))

    @property
    def stages(self) -> tuple[Callable[..., Any], ...]:
        """The same in three steps, for executors that let them overlap from tile to tile."""
        return self.read, self.find, self.write

    def read(self, index: int) -> Attempt[S]:
        """What the work looks at, at the first try."""
        return attempt(functools.partial(self.work.read, self.work.bench(), index))

    def find(self, index: int, seen: Attempt[S]) -> Attempt[F]:
        """What is found; after a failure, of reading too, it is tried again from the start."""
        bench = self.work.bench()
        if seen.error:
            found = Attempt[F](error=seen.error, seconds=seen.seconds)
        else:
            given = functools.partial(self.work.find, bench, index, cast("S", seen.result))
            found = attempt(given, 1, seen.seconds)
        while found.error and found.number < ATTEMPTS:
            again = functools.partial(self._from_the_start, bench, index)
            found = attempt(again, found.number + 1)
        return found

    def _from_the_start(self, bench: B, index: int) -> F:
        return self.work.find(bench, index, self.work.read(bench, index))

    def write(self, index: int, found: Attempt[F]) -> TileRecord:
        """The record, after what was found."""
        return self.work.write(index, found)


def enter_objects(
    store: JobStore, index: int, found: Attempt[TileObjects | None], inputs: str | None = None
) -> TileRecord:
    """Write the objects of a tile and then its record, which is returned.

    Args:
        store: the job directory.
        index: ordinal of the tile.
        found: its objects, or None where there is nothing to write.
        inputs: as in `TileRecord`.
    """
    objects = found.result
    whole = None if objects is None else objects.whole
    record = found.record(
        index,
        objects=0 if objects is None else len(objects),
        objects_sha256=None if objects is None else store.write_objects(objects),
        whole_sha256=None if whole is None else store.write_whole(whole),
        inputs=inputs,
    )
    store.tiles.enter(record)
    return record

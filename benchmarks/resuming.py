"""A job of many tiles that was stopped: how long until the next of them is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from benchmarks.merging import table
from samplat.job import Plan
from samplat.ledger import TileRecord
from samplat.progress import Silent

LEFT, OBJECTS = 64, 10
"""Tiles that are still to be done; objects of the others."""


def half_done(planned: Plan) -> int:
    """Leave all tiles but some as a run leaves them; returns how many there are."""
    store, count, objects = planned.store, len(planned.grid), table().slice(0, OBJECTS)
    with mock.patch("os.fsync"), store.lease():
        store.begin(planned.identity, {})
        for index in range(count - LEFT):
            record = TileRecord(
                index=index,
                outcome="done",
                objects=OBJECTS,
                objects_sha256=store._objects.write(index, objects),
                attempts=1,
                seconds=0.0,
                peak_mb=0.0,
            )
            store.tiles.enter(record)
    return count


class _Seen(Exception):  # noqa: N818 all that is asked
    """A tile is done."""


class First(Silent):
    """Stops a run when it has done a tile; those that were done before come all at once."""

    def __init__(self) -> None:
        self.told = 0

    def advance(self, stage: str, steps: int = 1) -> None:
        if stage == "tiles":
            self.told += 1
        if self.told > 1:
            raise _Seen


def resumed(run: Callable[[Any], object]) -> float:
    """Seconds until a run that is told a progress has done a tile."""
    began = time.monotonic()
    try:
        run(First())
    except _Seen:
        return time.monotonic() - began
    raise AssertionError("the run did nothing")

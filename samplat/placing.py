"""The stage that cuts the answers to prompts to tiles, as the objects of those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from samplat.answering import AnswerLedger, answer_index, unit_answers
from samplat.answers import Answers, join_answers, tile_of_answers
from samplat.attempts import Attempt, TriedTask, enter_objects
from samplat.files import canonical, sha256
from samplat.job import Plan
from samplat.ledger import TileRecord
from samplat.objects import TileObjects
from samplat.stages import Stages, called_tile
from samplat.store import JobStore


def place_answers(planned: Plan, answers: AnswerLedger, stages: Stages) -> tuple[TileRecord, ...]:
    """Cut the answers to all tiles; returns the records of these."""
    store, count = planned.store, len(planned.grid)
    work = PlaceWork(plan=planned, answers=answers)
    missing = [index for index in range(count) if not store.is_finished(index, work.inputs(index))]
    stages.attempt("tiles", TriedTask(work=work), missing, count, called_tile)
    return tuple(map(store.tiles.known, range(count)))


@dataclass(frozen=True, kw_only=True)
class PlaceWork:
    """Cuts the answers to one tile, and enters them in the ledger as its objects."""

    stage: ClassVar[str] = "place"
    infers: ClassVar[bool] = False

    plan: Plan
    answers: AnswerLedger

    def bench(self) -> JobStore:
        """The job directory."""
        return self.plan.store

    def read(self, bench: JobStore, index: int) -> Answers:
        """The answers that meet the tile."""
        window = self.plan.grid[index].read
        units = answer_index(bench, self.answers).units_meeting(window).tolist()
        found = [unit_answers(bench, self.answers.records[unit]) for unit in units]
        return join_answers([f.select(np.flatnonzero(f.meeting(window))) for f in found])

    def find(self, bench: JobStore, index: int, seen: Answers) -> TileObjects | None:
        """The parts of them that lie in it."""
        areas = answer_index(bench, self.answers).areas[seen.prompts]
        grid, job = self.plan.grid, self.plan.job
        axis = 0 if job.stacking is None else job.stacking.axis
        return tile_of_answers(seen, areas, grid[index], grid.bounds, job.overlaps, axis)

    def write(self, index: int, found: Attempt[TileObjects | None]) -> TileRecord:
        """The tile's record, after its objects."""
        return enter_objects(self.plan.store, index, found, self.inputs(index))

    def close(self) -> None:
        """There is nothing to give up."""

    def inputs(self, index: int) -> str:
        """Digest of the answers that meet a tile."""
        units = answer_index(self.plan.store, self.answers).units_meeting(
            self.plan.grid[index].read
        )
        digests = {str(u): self.answers.records[u].objects_sha256 for u in units.tolist()}
        return sha256(canonical(digests))

"""The stage that answers the prompts of a job, window by window, before there are tiles."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from samplat.answers import (
    Answers,
    Desk,
    PromptedSegmenter,
    View,
    answers_from,
    answers_table,
    join_answers,
    look,
)
from samplat.attempts import Attempt, TriedTask
from samplat.errors import JobError
from samplat.files import canonical, sha256
from samplat.job import Plan, Tools
from samplat.ledger import TileRecord
from samplat.prompt_report import AnswerIndex, prompt_report
from samplat.prompt_units import PromptUnit
from samplat.prompters import AnyPrompts
from samplat.stack_answers import StackDesk, StackSegmenter, StackView
from samplat.stack_prompts import StackPrompts
from samplat.stages import Stages
from samplat.store import JobStore
from samplat.workbench import Bench, BenchWork

if TYPE_CHECKING:
    import pyarrow as pa

    from samplat.object_prompts import ScenePrompts


def answer_prompts(
    planned: Plan, prompts: AnyPrompts, tools: Tools, stages: Stages
) -> AnswerLedger:
    """Answer all prompts of a job; returns the records of their units.

    Raises:
        JobError: every prompt failed.
    """
    store, count = planned.store, len(planned.units)

    def called(index: int) -> str:
        return f"prompt {prompts.names(planned.units[index].prompts)}"

    missing = [index for index in range(count) if not store.is_answered(index)]
    task = TriedTask(work=AnswerWork(plan=planned, tools=tools))
    stages.attempt("prompts", task, missing, count, called)
    records = tuple(map(store.units.known, range(count)))
    if all(r.outcome == "quarantined" for r in records):
        raise JobError(f"every prompt failed, the first with: {records[0].error}")
    return AnswerLedger(records=records)


@dataclass(frozen=True, kw_only=True)
class AnswerWork(BenchWork):
    """Answers the prompts of one window and enters them in the ledger."""

    stage: ClassVar[str] = "answer"

    def read(self, bench: Bench, index: int) -> View | StackView:
        """What is seen through the window."""
        return see_unit(bench, self.plan.units[index])

    def find(self, bench: Bench, index: int, seen: View | StackView) -> Answers:
        """The masks."""
        return answer_unit(bench, self.plan.units[index], seen)

    def write(self, index: int, found: Attempt[Answers]) -> TileRecord:
        """Its record, after its answers."""
        store, answers = self.plan.store, found.result
        if answers is None:
            record = found.record(index)
        else:
            written = store.write_answers(index, answers_table(answers))
            objects = len(np.unique(answers.prompts))
            record = found.record(index, objects=objects, objects_sha256=written)
        store.units.enter(record)
        return record


def see_unit(bench: Bench, unit: PromptUnit) -> View | StackView:
    """What is seen through the window of a unit of prompts."""
    if isinstance(bench.plan.prompts, StackPrompts):
        return _stack_desk(bench).look(unit.window)
    return _desk(bench).look(unit.window, unit.factor)


def answer_unit(bench: Bench, unit: PromptUnit, view: View | StackView) -> Answers:
    """The masks of a unit's prompts, its window as it was seen."""
    prompts = bench.plan.prompts
    if isinstance(view, StackView):
        return _stack_desk(bench).answer(unit, cast("StackPrompts", prompts), view)
    return _desk(bench).answer(unit, cast("ScenePrompts", prompts), view)


def _desk(bench: Bench) -> Desk:
    planned = bench.plan
    assert planned.sight is not None  # noqa: S101 there are units
    return Desk(
        look=functools.partial(look, bench.source, planned.stretch),
        segmenter=cast("PromptedSegmenter", bench.segmenter),
        sight=planned.sight,
        scale=planned.job.scales[0],
    )


def _stack_desk(bench: Bench) -> StackDesk:
    planned, stacking = bench.plan, bench.plan.job.stacking
    assert planned.sight is not None and stacking is not None  # noqa: S101,PT018 `plan` sees to it
    return StackDesk(
        source=bench.source,
        stretch=planned.stretch,
        segmenter=cast("StackSegmenter", bench.segmenter),
        sight=planned.sight,
        axes=stacking.axes,
        spacing=planned.info.spacing,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class AnswerLedger:
    """The records of all units; equal, and quickly told to be, when their answers are."""

    records: tuple[TileRecord, ...]
    """By index of the unit."""
    digest: str = ""
    """Of all answers; made of the records."""

    def __post_init__(self) -> None:
        told = {str(r.index): r.objects_sha256 for r in self.records}
        object.__setattr__(self, "digest", sha256(canonical(told)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnswerLedger) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@functools.lru_cache(maxsize=2)
def answer_index(store: JobStore, answers: AnswerLedger) -> AnswerIndex:
    """Where all answers are, without their masks."""
    done = [r for r in answers.records if r.outcome == "done"]
    parts = [unit_answers(store, record) for record in done]
    units = np.repeat([r.index for r in done], [len(part) for part in parts]).astype(np.int64)
    return AnswerIndex.of(join_answers(parts), units)


@functools.lru_cache(maxsize=64)
def unit_answers(store: JobStore, record: TileRecord) -> Answers:
    """The answers of one unit."""
    return answers_from(store.read_answers(record))


def report_answers(
    planned: Plan, answers: AnswerLedger | None, objects: pa.Table
) -> pa.Table | None:
    """What became of each feature, written for people too; None without prompts."""
    if planned.prompts is None or answers is None:
        return None
    lost = [r.index for r in answers.records if r.outcome != "done"]
    failed = [number for index in lost for number in planned.units[index].prompts]
    index = answer_index(planned.store, answers)
    report = prompt_report(planned.prompts, index, np.array(failed, np.int64), objects)
    planned.store.write_report(report)
    return report

"""What became of every prompt: none is dropped without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.answers import Answers, boxes_meeting
from samplat.object_prompts import NAMED
from samplat.prompters import AnyPrompts
from samplat.tiles import Window

if TYPE_CHECKING:
    import pyarrow as pa

NOTES = {
    "outside": "outside of the image",
    "clipped": "cut to the image",
    "failed": "the window failed at every attempt",
    "empty": "nothing was found there",
    "hidden": "all pixels went to other objects, or it is too small",
    "cut": "may go on outside of what was seen",
    "missed": "nothing was found on some of its slices",
}
"""What a person should know of a fate; `cut` and `missed` may befall any answer."""

PREFIX = "prompt."
"""Of the columns of a job's table of objects that come from the prompts."""


@dataclass(frozen=True, kw_only=True)
class AnswerIndex:
    """All N pieces of all answers, without their masks."""

    boxes: NDArray[np.int64]
    """(N, 6) z0, y0, x0, z1, y1, x1, global pixels."""
    units: NDArray[np.int64]
    """(N,) unit that each is in."""
    prompts: NDArray[np.int64]
    """(N,) number of its object."""
    factors: NDArray[np.int32]
    """(N,) as in `Answers`."""
    truncated: NDArray[np.bool_]
    """(N,) as in `Answers`."""
    missed: NDArray[np.int32]
    """(N,) as in `Answers`."""
    areas: NDArray[np.int64]
    """Pixels of each object, by number."""

    @staticmethod
    def of(answers: Answers, units: NDArray[np.int64]) -> AnswerIndex:
        """The index of pieces, each in one of the units (N,)."""
        areas = np.zeros(int(answers.prompts.max(initial=-1)) + 1, np.int64)
        np.add.at(areas, answers.prompts, answers.areas)
        return AnswerIndex(
            boxes=answers.boxes,
            units=units,
            prompts=answers.prompts,
            factors=answers.factors,
            truncated=answers.truncated,
            missed=answers.missed,
            areas=areas,
        )

    def units_meeting(self, window: Window) -> NDArray[np.int64]:
        """The units with a piece in a window, ascending."""
        return np.unique(self.units[boxes_meeting(self.boxes, window)])


def with_prompts(
    table: pa.Table, prompts: AnyPrompts, index: AnswerIndex, lost: Sequence[Window]
) -> pa.Table:
    """The table of objects with the attributes of what asked for each, under `PREFIX`.

    `truncated` tells of objects that may go on outside of what was seen of the image, or in one of
    the windows that were lost.
    """
    import pyarrow as pa

    numbers = table["prompt"].to_numpy()
    broken = index.truncated.copy()
    for window in lost:
        broken |= boxes_meeting(index.boxes, window)
    cut = np.isin(numbers, index.prompts[broken])
    place = table.column_names.index("truncated")
    table = table.set_column(place, "truncated", pa.array(cut))
    for name in prompts.attributes.column_names:
        column = prompts.attributes[name].take(pa.array(numbers, pa.int64()))
        table = table.append_column(PREFIX + name, column)
    return table


def prompt_report(
    prompts: AnyPrompts, index: AnswerIndex, failed: NDArray[np.int64], objects: pa.Table
) -> pa.Table:
    """One row per feature: `feature`, `prompt_id`, `fate`, `id`, `factor`, `note`.

    Fates: answered; clipped (answered, but part of it is outside of the image); merged (answered
    together with an earlier feature of the object); outside; failed; empty; hidden.
    """
    import pyarrow as pa

    ids = dict(zip(objects["prompt"].to_pylist(), objects["id"].to_pylist(), strict=True))
    factors = dict(zip(index.prompts.tolist(), index.factors.tolist(), strict=True))
    cut, missed = (
        set(index.prompts[told].tolist()) for told in (index.truncated, index.missed > 0)
    )
    lost = set(failed.tolist())
    rows = []
    for row in prompts.features.to_pylist():
        number = row.pop("object")
        fate = _fate(row["fate"], number, ids, factors, lost)
        notes = [NOTES[fate]] if fate in NOTES else []
        befell = {"cut": number in cut, "missed": number in missed}
        notes += [NOTES[name] for name, told in befell.items() if told and number in ids]
        row |= {"fate": fate, "id": ids.get(number), "factor": factors.get(number)}
        rows.append({**row, "note": "; ".join(notes)})
    schema = pa.schema(
        [
            ("feature", pa.int64()),
            prompts.features.schema.field("prompt_id"),
            ("fate", pa.string()),
            ("id", pa.uint32()),
            ("factor", pa.int32()),
            ("note", pa.string()),
        ]
    )
    return pa.Table.from_pylist(rows, schema)


def _fate(
    before: str,
    number: int | None,
    ids: dict[int, int],
    factors: dict[int, int],
    failed: set[int],
) -> str:
    if number is None or before == "outside":
        return "outside"
    if number in failed:
        return "failed"
    if number not in factors:
        return "empty"
    if number not in ids:
        return "hidden"
    return "answered" if before == "used" else before


def prompt_warnings(report: pa.Table | None) -> tuple[str, ...]:
    """One line per fate that a person should know of, with its count and the first names."""
    if report is None:
        return ()
    names, told = report["prompt_id"].to_pylist(), []
    fates, notes = report["fate"].to_pylist(), report["note"].to_pylist()
    for fate in Counter(fates):
        if fate in NOTES:
            told.append(_warning(NOTES[fate], names, [f == fate for f in fates]))
    missed = [NOTES["missed"] in note for note in notes]
    return (*told, *([_warning(NOTES["missed"], names, missed)] if any(missed) else []))


def _warning(note: str, names: Sequence[Any], befell: Sequence[bool]) -> str:
    own = [str(n) for n, is_so in zip(names, befell, strict=True) if is_so]
    first = ", ".join(own[:NAMED]) + (" ..." if len(own) > NAMED else "")
    return f"{len(own)} of {len(names)} prompts: {note}: {first}"

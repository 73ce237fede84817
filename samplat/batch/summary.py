"""What became of a batch, for people and for machines."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from samplat import files
from samplat.batch.ledger import ItemRecord
from samplat.places import Place

COLUMNS = (
    "name",
    "kind",
    "outcome",
    "objects",
    "tiles",
    "skipped",
    "quarantined",
    "seconds",
    "input",
    "outputs",
    "error",
    "warnings",
)
SHOWN = 40
"""Rows of a table on a terminal; those that are not done come first."""
PIPED = 160
"""Columns of a table that is written to a file."""
ORDER = ("failed", "holes", "done")
STEM = "samplat-batch"


def counts(records: Sequence[ItemRecord]) -> dict[str, int]:
    """How many items there are, and of each outcome."""
    found = Counter[str](record.outcome for record in records)
    return {"items": len(records), **{outcome: found[outcome] for outcome in reversed(ORDER)}}


def write_summaries(
    folder: Place, records: Sequence[ItemRecord], seconds: float
) -> tuple[Place, Place]:
    """Write all records as CSV, and as JSON with the counts; returns where."""
    rows = [_row(record) for record in records]
    table, document = folder / f"{STEM}.csv", folder / f"{STEM}.json"
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    files.write_atomic(table, text.getvalue().encode())
    whole = {**counts(records), "seconds": round(seconds, 2), "results": rows}
    files.write_atomic(document, (json.dumps(whole, indent=1) + "\n").encode())
    return table, document


def _row(record: ItemRecord) -> dict[str, Any]:
    known = asdict(record)
    return {name: known[name] for name in COLUMNS}


def _cell(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value


def show(records: Sequence[ItemRecord], seconds: float) -> None:
    """Print a table; of many items those that are not done, and some others."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("item", "kind", "outcome"):
        table.add_column(name, overflow="fold")
    for name in ("objects", "tiles", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    ordered = sorted(records, key=lambda record: ORDER.index(record.outcome))
    least = sum(record.outcome != "done" for record in records)
    shown = ordered[: max(SHOWN, least)]
    for record in shown:
        numbers = (str(record.objects), str(record.tiles), f"{record.seconds:.1f}")
        table.add_row(record.name, record.kind, record.outcome, *numbers, _note(record))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPED
    console.print(table)
    if len(shown) < len(records):
        console.print(f"... and {len(records) - len(shown)} more that are done")
    told = ", ".join(f"{count} {what}" for what, count in counts(records).items() if count)
    console.print(f"{told}, {seconds:.1f} s")


def _note(record: ItemRecord) -> str:
    if record.outcome == "holes" and record.quarantined:
        return f"{record.quarantined} tiles failed: {record.error}"
    return record.error or "; ".join(record.warnings)

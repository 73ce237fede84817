"""Manifests: tables of which each row is an item, as CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samplat.errors import InputError

INPUT, OUTPUT, KIND, NAME = "input", "output", "kind", "name"
COLUMNS = (INPUT, OUTPUT, KIND, NAME)
"""Columns that are no options."""
SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One item as it stands in a manifest."""

    number: int
    """From 1, without the header."""
    values: Mapping[str, Any]
    """By column, of those cells that are not empty."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A table of items."""

    path: Path
    """The file."""
    columns: tuple[str, ...]
    """Its columns, words joined by _."""
    rows: tuple[Row, ...]
    """Its rows; there is one at least, and each has an input."""

    def place(self, row: Row, column: str | None = None) -> str:
        """What a person calls a cell, or a row."""
        cell = f", column {column}" if column else ""
        return f"{self.path} row {row.number}{cell}"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        InputError: missing, unreadable, without rows or inputs; with its row and column.
    """
    readers = {
        ".csv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_lines,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is no manifest; expected one of {' '.join(SUFFIXES)}")
    try:
        columns, rows = reader(path)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"cannot read the manifest {path}: {' '.join(str(said).split())}; expected UTF-8 CSV "
            "with a header, JSON (a list of objects, or one a line), or Parquet"
        ) from error
    return _checked(path, [_called(name) for name in columns], rows)


def _called(column: str) -> str:
    return column.strip().removeprefix("--").replace("-", "_")


def _checked(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Manifest:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputError(f"{path} has the column {twice[0]!r} twice; remove or rename one")
    if INPUT not in columns:
        raise InputError(
            f"{path} has no column {INPUT!r}; expected one with the path of each image, found "
            f"{', '.join(map(repr, columns)) or 'none'}"
        )
    if not rows:
        raise InputError(f"{path} has no rows; expected one for each item")
    found = Manifest(
        path=path,
        columns=tuple(columns),
        rows=tuple(
            Row(number=number, values=_filled(dict(zip(columns, cells, strict=True))))
            for number, cells in enumerate(rows, 1)
        ),
    )
    for row in found.rows:
        if INPUT not in row.values:
            raise InputError(f"{found.place(row, INPUT)} is empty; expected the path of an image")
    return found


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing: None, NaN, blanks."""
    return {n: v for n, v in values.items() if not (v is None or v != v or str(v).strip() == "")}


def _read_csv(path: Path) -> tuple[list[str], list[list[Any]]]:
    text = path.read_text(encoding="utf-8-sig")
    lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    if not lines:
        return [], []
    columns, rows = lines[0], lines[1:]
    for number, cells in enumerate(rows, 1):
        if len(cells) != len(columns):
            raise ValueError(f"row {number} has {len(cells)} cells, the header {len(columns)}")
    return columns, [[cell.strip() for cell in cells] for cells in rows]


def _read_json(path: Path) -> tuple[list[str], list[list[Any]]]:
    return _from_objects(json.loads(path.read_text(encoding="utf-8-sig")))


def _read_lines(path: Path) -> tuple[list[str], list[list[Any]]]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return _from_objects([json.loads(line) for line in lines if line.strip()])


def _from_objects(found: Any) -> tuple[list[str], list[list[Any]]]:
    if not isinstance(found, list):
        raise ValueError(f"it holds {type(found).__name__}, no list")
    for number, each in enumerate(found, 1):
        if not isinstance(each, dict):
            raise ValueError(f"row {number} is {json.dumps(each)[:40]}, no object")
    columns = list(dict.fromkeys(name for each in found for name in each))
    return columns, [[each.get(name) for name in columns] for each in found]


def _read_parquet(path: Path) -> tuple[list[str], list[list[Any]]]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    cells = [column.to_pylist() for column in table.columns]
    return table.column_names, [list(row) for row in zip(*cells, strict=True)]

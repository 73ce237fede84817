"""Files of prompts: a CSV or JSON of points and boxes, or a label image to refine.

One line, or one object of the JSON list, is a point or a box of an object:

    object                  its number; 1 where there is none
    label                   of a point: 1 on the object, 0 not on it; 1 where there is none
    x, y, z                 a point
    x0, y0, z0, x1, y1, z1  a box; with z instead of z0 and z1 it is flat
    slice                   number of a slice, with x, y or x0, y0, x1, y1 in voxels of it
    point, box              the same numbers in one field, in that order
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from samplat import InputError
from samplat_volume.label_images import read_labels
from samplat_volume.marks import (
    MOST_OBJECTS,
    Mark,
    box_marks,
    label_marks,
    point_mark,
    slice_box_mark,
    slice_point_mark,
)
from samplat_volume.paths import accepts
from samplat_volume.planes import Plane
from samplat_volume.space import Frame

POINT, BOX = ("x", "y", "z"), ("x0", "y0", "z0", "x1", "y1", "z1")
FLAT_POINT, FLAT_BOX = ("x", "y"), ("x0", "y0", "x1", "y1")
LARGEST = 2**26
"""Bytes of a file of prompts; more is something else."""

Row = Mapping[str, Any]


def is_label_image(path: Path) -> bool:
    """Whether a file of prompts is a volume of labels rather than a list."""
    return not path.name.lower().endswith((".csv", ".json")) and accepts(str(path))


def file_marks(
    path: Path,
    plane: Plane,
    frame: Frame | None,
    *,
    drawn: bool = False,
    chosen: str = "middle",
) -> list[Mark]:
    """All that a file says.

    Args:
        path: .csv, .json, or a volume of labels on the grid of the image.
        plane: the slices.
        frame: of coordinates in lists.
        drawn: of label images: their masks are taken as they are.
        chosen: of label images: from which slices, see `label_marks`.

    Raises:
        InputError: missing, unreadable, empty, or it says something that cannot be.
    """
    if is_label_image(path):
        labels = read_labels(str(path), plane.geometry)
        return label_marks(plane, labels, str(path), drawn=drawn, chosen=chosen)
    return [mark for told, row in listed(path) for mark in row_marks(row, plane, frame, told)]


def listed(path: Path) -> list[tuple[str, Row]]:
    """Where each row of a list of prompts is, and its fields.

    Raises:
        InputError: missing, unreadable, or empty.
    """
    if not path.is_file():
        raise InputError(f"there is no file of prompts {path}")
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path} holds no prompts; expected a line for each point or box")
    return rows


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Where a row is, and its fields."""
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path} has {path.stat().st_size} bytes, too many for a list of prompts")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text; expected .csv, .json, or a label image") from None
    if path.name.lower().endswith(".json"):
        return _json_rows(text, path)
    if path.name.lower().endswith(".csv"):
        return _csv_rows(text, path)
    raise InputError(f"cannot tell what {path} holds; expected .csv, .json, or a label image")


def _csv_rows(text: str, path: Path) -> Iterator[tuple[str, Row]]:
    lines = text.splitlines()
    separator = max(",;\t", key=lines[0].count) if lines else ","
    table = csv.DictReader(lines, delimiter=separator, skipinitialspace=True)
    for row in table:
        fields = {
            (name or "").strip().lower(): value.strip()
            for name, value in row.items()
            if isinstance(value, str) and value.strip()
        }
        if fields:
            yield f"line {table.line_num} of {path}", fields


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, Row]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    items = found.get("prompts") if isinstance(found, dict) else found
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(
            f"{path}: expected a list of prompts, each an object such as "
            '{"object": 1, "point": [x, y, z], "label": 1}, or such a list under "prompts"'
        )
    for number, item in enumerate(items, start=1):
        yield f"prompt {number} of {path}", {k: v for k, v in item.items() if v is not None}


def row_marks(row: Row, plane: Plane, frame: Frame | None, told: str) -> list[Mark]:
    """What a row says.

    Raises:
        InputError: a number is none, coordinates are missing, or lie outside of the volume.
    """
    number, positive = object_number(row, told), _label(row, told)
    k = _number(row["slice"], "slice", told) if "slice" in row else None
    point = _coordinates(row, "point", FLAT_POINT if k is not None else POINT, told)
    box = _coordinates(_thick(row), "box", FLAT_BOX if k is not None else BOX, told)
    if point is None and box is None:
        names = (
            f"{','.join(FLAT_POINT)} or {','.join(FLAT_BOX)}"
            if k is not None
            else (f"{','.join(POINT)} or {','.join(BOX)}, or slice with two or four of them")
        )
        raise InputError(f"{told} has no coordinates; expected columns {names}")
    if frame is None:
        raise InputError(f"{told}: say what its coordinates are in: --space voxel, lps or ras")
    if k is not None and frame != "voxel":
        raise InputError(
            f"{told} counts slices, coordinates are in {frame}; give x, y, z in {frame}, or voxels "
            "and --space voxel"
        )
    marks = []
    if box is not None:
        if not positive and point is None:
            raise InputError(f"{told}: a box cannot have the label 0; only a point can")
        made = [slice_box_mark(plane, number, k, box, told)] if k is not None else None
        marks += made or box_marks(plane, number, box, frame, told)
    if point is not None and k is not None:
        marks.append(slice_point_mark(plane, number, k, point, told, positive=positive))
    elif point is not None:
        marks.append(point_mark(plane, number, point, frame, told, positive=positive))
    return marks


def _thick(row: Row) -> Row:
    """A box with one z has it twice."""
    if "z" in row and "x0" in row and not {"z0", "z1"} & row.keys():
        return {**row, "z0": row["z"], "z1": row["z"]}
    return row


def _coordinates(row: Row, name: str, columns: tuple[str, ...], told: str) -> list[float] | None:
    """Numbers of one field, or of a column each; None where there is neither."""
    if name in row:
        value = row[name]
        parts = re.split(r"[\s,;]+", value.strip()) if isinstance(value, str) else value
        if not isinstance(parts, list) or len(parts) != len(columns):
            raise InputError(f"{told}: expected a {name} {','.join(columns)}, got {value!r}")
        return [_number(part, name, told) for part in parts]
    if columns[0] not in row:
        return None
    if missing := [c for c in columns if c not in row]:
        raise InputError(f"{told} has no {missing[0]}; expected {','.join(columns)}")
    return [_number(row[c], c, told) for c in columns]


def _number(value: Any, column: str, told: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{told}: expected a number in {column}, got {value!r}")
    return number


def object_number(row: Row, told: str) -> int:
    """The object that a row is about."""
    number = _number(row.get("object", 1), "object", told)
    if number != int(number) or not 1 <= number <= MOST_OBJECTS:
        raise InputError(
            f"{told}: expected an object numbered 1 to {MOST_OBJECTS}, got {row['object']!r}"
        )
    return int(number)


def _label(row: Row, told: str) -> bool:
    label = _number(row.get("label", 1), "label", told)
    if label not in (0, 1):
        raise InputError(
            f"{told}: expected a label 1 (on the object) or 0 (not on it), got {row['label']!r}; "
            "the number of the object goes into the column object"
        )
    return label == 1

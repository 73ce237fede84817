"""How sure a propagation is of each slice, as a table: for interfaces that say where to look."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samplat import InputError, check_file, replacing
from samplat_volume.followed import Followed
from samplat_volume.planes import INDEX_PLANES, Plane, plane_of
from samplat_volume.shapes import mask_box

COLUMNS = (
    "object", "plane", "slice", "l_mm", "p_mm", "s_mm", "area_mm2",
    "origin", "predicted_iou", "agreement", "confidence",
)  # fmt: skip

Row = dict[str, Any]


def check_confidences(output: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        InputError: that, or another suffix than .csv and .json.
    """
    if not output.name.lower().endswith((".csv", ".json")):
        raise InputError(f"confidences are written as .csv or .json; got {output}")
    check_file(output)


def confidence_rows(found: Mapping[int, Followed], plane: Plane) -> list[Row]:
    """One row for each object and slice.

    object; plane and slice, its number across it; l_mm, p_mm and s_mm, where the middle of the
    object's box in the slice lies in LPS; area_mm2; origin: prompt, walk, or bridge, drawn from its
    neighbours; predicted_iou and agreement, and confidence, their product. Of the other two axes,
    if they were looked along, only the confidence is known.
    """
    return [row for number, one in found.items() for row in _rows(number, one, plane)]


def _rows(number: int, found: Followed, plane: Plane) -> Iterator[Row]:
    for k, result in found.first.slices.items():
        if not result.mask.any():
            continue
        x0, y0, x1, y1 = mask_box(result.mask)
        middle = plane.to_index(k, np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))
        at = plane.geometry.to_physical(middle)[0]
        yield {
            "object": number,
            "plane": INDEX_PLANES[plane.axis],
            "slice": k,
            **{f"{a}_mm": float(v) for a, v in zip("lps", at, strict=True)},
            "area_mm2": float(np.count_nonzero(result.mask) * np.prod(plane.spacing)),
            "origin": result.origin,
            "predicted_iou": result.predicted_iou,
            "agreement": result.agreement,
            "confidence": result.confidence,
        }
    for opinion in found.opinions:
        if opinion.axis == plane.axis:
            continue
        other = plane_of(plane.geometry, INDEX_PLANES[opinion.axis])
        for place in np.flatnonzero(np.isfinite(opinion.confidences)):
            yield {
                "object": number,
                "plane": INDEX_PLANES[other.axis],
                "slice": int(place),
                "confidence": float(opinion.confidences[place]),
            }


def write_confidences(output: Path, rows: Sequence[Row]) -> None:
    """Write them, whole or not at all. What is not known is empty, or missing in JSON.

    Raises:
        JobError: the disk is full or failing.
    """
    with replacing(output) as written, written.open("w", newline="") as file:
        if output.name.lower().endswith(".json"):
            json.dump({"slices": list(rows)}, file, indent=1)
            return
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows({name: _field(value) for name, value in row.items()} for row in rows)


def _field(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

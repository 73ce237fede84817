"""Objects as rows of a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import JobResult, check_file, replacing
from samplat_volume.labels import LabelVolume, of_result
from samplat_volume.measuring import Intensities, measure_intensities, measure_shapes

SCORES = ("predicted_iou", "stability")
"""Columns that a job's own table of objects gives."""


@dataclass(frozen=True, kw_only=True)
class TableWriter:
    """One row per object, by id; columns as in `measured`. Tiles that failed have no row."""

    name: str = "table"
    suffixes: tuple[str, ...] = (".csv",)

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def export(self, result: JobResult, output: Path) -> None:
        """Measure the objects of a job."""
        self.write(of_result(result), output)

    def write(self, volume: LabelVolume, output: Path) -> None:
        """Measure objects. A number that is not known is an empty field."""
        columns = measured(volume)
        with replacing(output) as written, written.open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(columns)
            values = (column.tolist() for column in columns.values())
            rows.writerows(map(_field, row) for row in zip(*values, strict=True))


def _field(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return str(value)


def measured(volume: LabelVolume) -> dict[str, NDArray[Any]]:
    """Columns (N,), one value per object, by id.

    id; voxels; volume_mm3; surface_mm2 (Crofton's formula along 13 directions); extent_x_mm,
    extent_y_mm and extent_z_mm of the bounding box along the volume's own axes; centroid_l_mm,
    centroid_p_mm and centroid_s_mm, the mean position of its voxels' centres in LPS; x0, y0, z0,
    x1, y1 and z1, the bounding box in voxels, half open; mean, std, min and max of the intensities,
    with the band's number from 1 on behind it where there are several bands; predicted_iou and
    stability, where the job knows them.

    Raises:
        InputError: the image cannot be read any more.
        JobError: labels and table of objects disagree.
    """
    shapes = measure_shapes(volume)
    sides = (shapes.stop - shapes.start) * np.asarray(volume.geometry.spacing)
    centres = volume.geometry.to_physical(shapes.centres)
    columns: dict[str, NDArray[Any]] = {
        "id": shapes.ids,
        "voxels": shapes.voxels,
        "volume_mm3": shapes.voxels * volume.geometry.voxel_volume,
        "surface_mm2": shapes.surface,
        **{f"extent_{a}_mm": sides[:, 2 - i] for i, a in enumerate("xyz")},
        **{f"centroid_{a}_mm": centres[:, i] for i, a in enumerate("lps")},
        **{f"{a}0": shapes.start[:, 2 - i] for i, a in enumerate("xyz")},
        **{f"{a}1": shapes.stop[:, 2 - i] for i, a in enumerate("xyz")},
    }
    with volume.values() as read:
        bands = [] if read is None else measure_intensities(volume, read)
    for name, column in _by_band(bands):
        columns[name] = column
    return columns | {name: volume.properties[name] for name in SCORES if name in volume.properties}


def _by_band(bands: list[Intensities]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for number, band in enumerate(bands, start=1):
        ending = f"_{number}" if len(bands) > 1 else ""
        yield f"mean{ending}", band.mean
        yield f"std{ending}", band.std
        yield f"min{ending}", band.low
        yield f"max{ending}", band.high


TABLE = TableWriter()

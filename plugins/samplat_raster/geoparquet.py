"""Objects as GeoParquet 1.1."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from samplat import JobResult, check_file
from samplat_raster.drawing import EXACT, Drawing
from samplat_raster.features import FeatureBatch, feature_schema, features
from samplat_raster.outputs import replacing

if TYPE_CHECKING:
    import pyarrow as pa

SIDES = ("xmin", "ymin", "xmax", "ymax")
NAMES = {False: "Polygon", True: "MultiPolygon"}
"""Types of geometries, by whether they have several parts."""


@dataclass(frozen=True, kw_only=True)
class GeoParquetExporter:
    """GeoParquet 1.1 with a bounding-box column, zstd; columns as in `feature_schema`.

    A row group holds the objects of some neighbouring tiles, so that a reader who wants a part of
    the scene reads a part of the file.
    """

    name: str = "geoparquet"
    suffixes: tuple[str, ...] = (".parquet", ".geoparquet")

    drawing: Drawing = EXACT
    """How polygons are drawn."""

    def with_options(self, *, drawing: Drawing = EXACT, **others: Any) -> Self:
        """The same exporter, drawing in another way."""
        return replace(self, drawing=drawing)

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def export(self, result: JobResult, output: Path) -> None:
        """Write all objects, one row group a batch."""
        import pyarrow.parquet as pq

        schema = _schema(result.features.schema)
        with (
            replacing(output) as written,
            pq.ParquetWriter(written, schema, compression="zstd") as writer,
        ):
            described = _write(features(result, self.drawing), writer)
            geo = _metadata(result.info.crs, **described)
            writer.add_key_value_metadata({"geo": json.dumps(geo)})


def _schema(objects: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    box = pa.struct([(side, pa.float64()) for side in SIDES])
    fields = (pa.field("geometry", pa.binary()), pa.field("bbox", box))
    return pa.schema([*feature_schema(objects), *fields])


def _write(batches: Iterable[FeatureBatch], writer: Any) -> dict[str, Any]:
    """Write the batches; returns what the metadata tell of all of them."""
    import pyarrow as pa

    types: set[str] = set()
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    for batch in batches:
        boxes = batch.geometries.measures().bounds
        bounds[:2] = np.minimum(bounds[:2], boxes[:, :2].min(axis=0))
        bounds[2:] = np.maximum(bounds[2:], boxes[:, 2:].max(axis=0))
        types |= {NAMES[several] for several in batch.geometries.multiple.tolist()}
        arrays = [
            *batch.columns.columns,
            batch.geometries.wkb(),
            pa.StructArray.from_arrays(list(boxes.T), names=list(SIDES)),
        ]
        writer.write_batch(pa.record_batch(arrays, schema=writer.schema))
    return {"types": types, "bounds": bounds if types else None}


def _metadata(crs: str | None, types: set[str], bounds: Any) -> dict[str, Any]:
    from pyproj import CRS

    column = {
        "encoding": "WKB",
        "geometry_types": sorted(types),
        "crs": CRS.from_wkt(crs).to_json_dict() if crs else None,
        "orientation": "counterclockwise",
        "covering": {"bbox": {side: ["bbox", side] for side in SIDES}},
    }
    if bounds is not None:
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}

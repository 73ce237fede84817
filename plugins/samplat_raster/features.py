"""Objects as rows: what every vector format writes, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import JobResult
from samplat_raster.ahead import ahead
from samplat_raster.drawing import EXACT, Drawing
from samplat_raster.georeference import ground_areas, matrix_to_world, to_world
from samplat_raster.prompt_columns import prompt_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from samplat_raster.polygons import Outlines
    from samplat_raster.rings import Polygons

COPIED_COLUMNS = ("area_px", "predicted_iou", "stability", "truncated")
"""Columns of the job's table of objects that go into the file as they are."""


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """N objects, in the order of `polygons.Outlines`."""

    columns: pa.RecordBatch
    """Their attributes, with `feature_schema`."""
    geometries: Polygons
    """(N,) valid ones in world units; shells run against the clock, holes with it."""


def feature_schema(objects: pa.Schema) -> pa.Schema:
    """The attributes of an object, by the schema of the job's table of objects.

    id; area_m2, on the ellipsoid, null without CRS; area_px; predicted_iou; stability; truncated
    (True: cut by a tile's edge, and no neighbour completed it); point_x and point_y of the prompt
    in world units, null without one; tiles, the ordinals of those that paint it, with commas;
    model; weights, the first digits of their SHA-256, null without a model; run, which job it was;
    where all masks were asked for, parent_id, the smallest one that contains it, null without one,
    and label_ids, the ids of its pixels in the labels, with commas;
    what `prompt_columns` adds.
    """
    import pyarrow as pa

    types = {
        "id": pa.uint32(),
        "area_m2": pa.float64(),
        "area_px": pa.int64(),
        "predicted_iou": pa.float32(),
        "stability": pa.float32(),
        "truncated": pa.bool_(),
        "point_x": pa.float64(),
        "point_y": pa.float64(),
        "tiles": pa.string(),
        "model": pa.string(),
        "weights": pa.string(),
        "run": pa.string(),
    }
    if "parent_id" in objects.names:
        types |= {"parent_id": pa.uint32(), "label_ids": pa.string()}
    types |= {name: objects.field(stored).type for stored, name in _asked(objects, types).items()}
    return pa.schema(list(types.items()))


def _asked(objects: pa.Schema, taken: Iterable[str]) -> dict[str, str]:
    return prompt_columns(objects.names, taken)


def features(result: JobResult, drawing: Drawing = EXACT) -> Iterator[FeatureBatch]:
    """All objects, in batches; the order is the same on every machine.

    Raises:
        JobError: labels and table of objects disagree, or a shard is damaged.
    """
    from samplat_raster.outputs import label_dtype
    from samplat_raster.polygons import outlines

    label_dtype(result)  # refuses more objects than polygons can number
    for some in ahead(outlines(result, drawing)):
        moved = some.geometries.moved(matrix_to_world(result.info))
        yield FeatureBatch(columns=_columns(result, some), geometries=moved)


def _columns(result: JobResult, some: Outlines) -> pa.RecordBatch:
    import pyarrow as pa

    table = result.features.take(pa.array(some.rows))
    schema = feature_schema(table.schema)
    points = to_world(result.info, _points(table))
    areas = ground_areas(some.geometries, table["area_px"].to_numpy(), result.info)
    run = result.run
    columns: dict[str, Any] = {
        "id": table["id"].combine_chunks(),
        "area_m2": pa.nulls(len(table), pa.float64()) if areas is None else areas,
        **{name: table[name].combine_chunks() for name in COPIED_COLUMNS},
        "point_x": pa.array(points[:, 0], from_pandas=True),
        "point_y": pa.array(points[:, 1], from_pandas=True),
        "tiles": _joined_numbers(table["tiles"].combine_chunks()),
        "model": pa.repeat(run.found_by, len(table)),
        "weights": pa.repeat(pa.scalar(run.weights_short, pa.string()), len(table)),
        "run": pa.repeat(run.short, len(table)),
    }
    if "parent_id" in schema.names:
        columns["parent_id"] = table["parent_id"].combine_chunks()
        columns["label_ids"] = _joined_numbers(table["label_ids"].combine_chunks())
    asked = _asked(table.schema, columns)
    columns |= {name: table[stored].combine_chunks() for stored, name in asked.items()}
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _joined_numbers(lists: pa.Array) -> pa.Array:
    import pyarrow as pa
    from pyarrow import compute

    return compute.binary_join(lists.cast(pa.list_(pa.string())), ",")


def _points(table: pa.Table) -> NDArray[np.float64]:
    columns = [table[name].to_numpy().astype(np.float64) for name in ("point_x", "point_y")]
    return np.stack(columns, axis=1)

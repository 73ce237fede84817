"""The objects of a tile as tables, with their masks or without, and all its masks, whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.merging import BOX_COLUMNS, Parts
from samplat.objects import TileObjects, WholeMasks
from samplat.tiles import Tile
from samplat.vouched import arrays_of, stacked

if TYPE_CHECKING:
    import pyarrow as pa

OWNED_COLUMNS, POINT_COLUMNS = tuple(f"owned_{n}" for n in BOX_COLUMNS), ("point_x", "point_y")
NUMBERS = ("owned_area", "predicted_iou", "stability", *POINT_COLUMNS, "cut", "prompt")
PART_COLUMNS = (*OWNED_COLUMNS, *NUMBERS)
"""Of the table of objects, those that `parts_from` needs."""


def objects_table(objects: TileObjects) -> pa.Table:
    """Objects as the job directory keeps them."""
    import pyarrow as pa

    return pa.table(
        {
            "local_id": pa.array(np.arange(len(objects)), pa.uint32()),
            **{n: objects.boxes[:, k] for k, n in enumerate(BOX_COLUMNS)},
            "area": objects.areas,
            **{n: objects.owned_boxes[:, k] for k, n in enumerate(OWNED_COLUMNS)},
            "owned_area": objects.owned_areas,
            "predicted_iou": objects.predicted_iou,
            "stability": objects.stability,
            **{n: objects.points[:, k] for k, n in enumerate(POINT_COLUMNS)},
            "cut": objects.cut,
            "prompt": objects.prompts,
            "truncated": objects.truncated,
            "rle": pa.array(objects.rles, pa.binary()),
        }
    )


def objects_from(table: pa.Table, tile: Tile) -> TileObjects:
    """The objects of `objects_table`."""
    columns = arrays_of(table)
    return TileObjects(
        tile=tile,
        rles=tuple(table["rle"].to_pylist()),
        boxes=stacked(columns, BOX_COLUMNS),
        areas=columns["area"],
        **_without_masks(columns),
    )


def parts_from(table: pa.Table, index: int) -> Parts:
    """The objects of `objects_table`, without their masks, of the `PART_COLUMNS` alone."""
    return Parts(index=index, **_without_masks(arrays_of(table)))


def _without_masks(columns: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {
        "owned_boxes": stacked(columns, OWNED_COLUMNS),
        "owned_areas": columns["owned_area"],
        "predicted_iou": columns["predicted_iou"],
        "stability": columns["stability"],
        "points": stacked(columns, POINT_COLUMNS),
        "cut": columns["cut"],
        "prompts": columns["prompt"],
    }


def whole_table(whole: WholeMasks) -> pa.Table:
    """Masks as the job directory keeps them."""
    return objects_table(whole.masks).append_column("flat", [whole.flat])


def whole_from(table: pa.Table, tile: Tile) -> WholeMasks:
    """The masks of `whole_table`."""
    return WholeMasks(masks=objects_from(table, tile), flat=table["flat"].to_numpy())

"""Labels that no job made, as the result of one: what exporters write, they write of these too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.job import JobResult, SegmentJob
from samplat.job_directory import RunRecord
from samplat.ledger import TileRecord
from samplat.merging import BOX_COLUMNS
from samplat.pixels import ImageInfo, SourceSpec
from samplat.shards import HOLE, Labels
from samplat.store import JobStore
from samplat.tiles import TileGrid, Window

if TYPE_CHECKING:
    import pyarrow as pa

TILE = (1, 1024, 1024)
"""Windows in which such labels are read."""


@dataclass(frozen=True, kw_only=True)
class GivenLabels(JobResult):
    """The result of no job."""

    given: Any
    """Ids (z, y, x), 0 is background; anything that is sliced like an array."""
    record: RunRecord
    """By whom they were made."""

    def labels(self, window: Window) -> Labels:
        """Ids (z, y, x) of a window."""
        return np.ascontiguousarray(self.given[window.slices], np.uint32)

    @property
    def run(self) -> RunRecord:
        """By whom they were made."""
        return self.record


def labels_result(
    labels: Any,
    info: ImageInfo,
    source: SourceSpec,
    *,
    made_by: str = "samplat",
    scores: Mapping[int, float] | None = None,
    columns: Mapping[str, Mapping[int, str]] | None = None,
) -> JobResult:
    """Labels as the result of a job, for exporters; they are read once, a tile at a time.

    Args:
        labels: ids (z, y, x), 0 is background; of any integer type, sliced like an array.
        info: the image that they are of.
        source: how that is opened.
        made_by: what vector files call the model.
        scores: predicted IoU of objects, by id.
        columns: further text columns of vector files, by name and then by id.

    Raises:
        InputError: of another shape than the image, or no ids.
    """
    if tuple(labels.shape) != info.shape or np.dtype(labels.dtype).kind not in "bui":
        raise InputError(
            f"expected integer labels of {info.shape} pixels (z, y, x) as the image {source.path}, "
            f"got {np.dtype(labels.dtype)} of {tuple(labels.shape)}"
        )
    shape: Any = tuple(min(a, b) for a, b in zip(TILE, info.shape, strict=True))
    grid = TileGrid(shape=info.shape, tile_shape=shape, halo=(0, 0, 0))
    counts: list[int] = []
    objects = _measured(labels, grid, counts)
    return GivenLabels(
        job=SegmentJob(source=source, job_dir=str(Path(source.path)), model=made_by),
        info=info,
        grid=grid,
        tiles=tuple(_tile(index, count) for index, count in enumerate(counts)),
        objects=_table(objects, scores or {}, columns or {}),
        store=JobStore(path=Path(source.path)),
        given=labels,
        record=RunRecord(
            identity={"labels": made_by, "segmenter": {"name": made_by}},
            provenance={"model": made_by, "image": source.path},
        ),
    )


@dataclass(kw_only=True)
class _Object:
    area: int
    box: NDArray[np.int64]
    tiles: list[int]


def _tile(index: int, objects: int) -> TileRecord:
    return TileRecord(
        index=index,
        outcome="done",
        objects=objects,
        objects_sha256=None,
        attempts=1,
        seconds=0.0,
        peak_mb=0.0,
    )


def _measured(labels: Any, grid: TileGrid, counts: list[int]) -> dict[int, _Object]:
    """All objects by id; how many each tile has is appended to `counts`."""
    found: dict[int, _Object] = {}
    for tile in grid:
        part = np.asarray(labels[tile.write.slices])
        _check_ids(part)
        known = _in_tile(part, tile.write.start) if part.any() else {}
        counts.append(len(known))
        for number, (area, box) in known.items():
            each = found.setdefault(number, _Object(area=0, box=box, tiles=[]))
            each.area += area
            each.tiles.append(tile.index)
            each.box = np.concatenate(
                [np.minimum(each.box[:3], box[:3]), np.maximum(each.box[3:], box[3:])]
            )
    return dict(sorted(found.items()))


def _check_ids(part: NDArray[Any]) -> None:
    low, high = int(part.min(initial=0)), int(part.max(initial=0))
    if low < 0 or high >= HOLE:
        raise InputError(
            f"expected ids from 0 to {HOLE - 1}, got {low if low < 0 else high}; number them anew"
        )


def _in_tile(part: NDArray[Any], start: tuple[int, ...]) -> dict[int, tuple[int, NDArray[Any]]]:
    """Area and box (z0, y0, x0, z1, y1, x1) of each object of a tile."""
    from scipy.ndimage import find_objects

    ids, ranks, areas = np.unique(part, return_inverse=True, return_counts=True)
    first = int(ids[0] != 0)  # without background, ranks begin with an object
    boxes = find_objects(ranks.reshape(part.shape).astype(np.int32) + first)
    ends = [[s.start for s in box] + [s.stop for s in box] for box in boxes]
    places = np.array(ends, np.int64) + np.array((*start, *start))
    known = zip(ids[ids != 0].tolist(), areas[ids != 0].tolist(), places, strict=True)
    return {number: (area, box) for number, area, box in known}


def _table(
    objects: Mapping[int, _Object],
    scores: Mapping[int, float],
    columns: Mapping[str, Mapping[int, str]],
) -> pa.Table:
    """With the columns of a job's table."""
    import pyarrow as pa

    unknown = np.full(len(objects), np.nan, np.float32)
    boxes = np.array([each.box for each in objects.values()], np.int64).reshape(-1, 6)
    return pa.table(
        {
            "id": np.array(list(objects), np.uint32),
            **{name: boxes[:, k] for k, name in enumerate(BOX_COLUMNS)},
            "area_px": np.array([each.area for each in objects.values()], np.int64),
            "predicted_iou": np.array([scores.get(n, np.nan) for n in objects], np.float32),
            "stability": unknown,
            "point_x": unknown,
            "point_y": unknown,
            "truncated": np.zeros(len(objects), bool),
            "tiles": pa.array([each.tiles for each in objects.values()], pa.list_(pa.int32())),
            "prompt": pa.nulls(len(objects), pa.int64()),
            **{
                f"prompt.{name}": pa.array([told.get(n, "") for n in objects], pa.string())
                for name, told in columns.items()
            },
        }
    )

"""Labels as polygons: along pixel edges, exact, one geometry per id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import HOLE, JobResult, Window


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """N objects, in order of id."""

    ids: NDArray[np.uint32]
    """(N,) ids."""
    geometries: NDArray[np.object_]
    """(N,) valid polygons or multipolygons, in pixels x, y: pixel (0, 0) is the unit square."""


def outline(result: JobResult) -> Outlines:
    """The polygons of all objects: found shard by shard, joined where an id crosses shards."""
    import shapely

    traced = [_trace(labels[0], window) for window, labels in result.shards()]
    ids = np.concatenate([np.zeros(0, np.uint32), *(t[0] for t in traced)])
    parts = np.concatenate([np.zeros(0, object), *(t[1] for t in traced)])
    shards = np.repeat(np.arange(len(traced)), [len(t[0]) for t in traced])
    order = np.argsort(ids, kind="stable")
    ids, parts, shards = ids[order], parts[order], shards[order]
    names, starts = np.unique(ids, return_index=True)
    groups = zip(np.split(parts, starts[1:]), np.split(shards, starts[1:]), strict=True)
    joined = np.array([_join(*group) for group in groups] if len(names) else [], object)
    broken = ~shapely.is_valid(joined)
    joined[broken] = shapely.make_valid(joined[broken])
    return Outlines(ids=names, geometries=joined)


def _join(parts: NDArray[np.object_], shards: NDArray[np.int64]) -> Any:
    import shapely

    if len(parts) == 1:
        return parts[0]
    if shards[0] == shards[-1]:
        # parts of one shard share no edge, only corners: a valid multipolygon as they are
        return shapely.multipolygons(parts)
    return shapely.union_all(parts)


def _trace(
    labels: NDArray[np.uint32], window: Window
) -> tuple[NDArray[np.uint32], NDArray[np.object_]]:
    """Id and polygon of every 4-connected region of a shard.

    Pixels that meet only at a corner make separate parts: one ring around both would touch itself.
    """
    from rasterio.features import shapes
    from rasterio.transform import Affine

    # GDAL traces no uint32: ranks fit into int32 where ids may not
    ids, ranks = np.unique(labels, return_inverse=True)
    inside = (labels != 0) & (labels != HOLE)
    place = Affine.translation(window.start[2], window.start[1])
    ranked = ranks.reshape(labels.shape).astype(np.int32)
    found = [
        (ids[int(rank)], _polygon(geometry["coordinates"]))
        for geometry, rank in shapes(ranked, mask=inside, connectivity=4, transform=place)
    ]
    return (
        np.array([i for i, _ in found], np.uint32),
        np.array([polygon for _, polygon in found], object),
    )


def _polygon(rings: list[list[tuple[float, float]]]) -> Any:
    import shapely

    return shapely.Polygon(rings[0], rings[1:])

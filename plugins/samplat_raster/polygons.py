"""Labels as polygons: one geometry per id, a few objects at a time.

Shards are visited by tile index. An object whose pixels lie in one shard is finished with it; the
parts of one that crosses shards wait until the last of its shards was seen, and are then joined. So
what is in memory is a shard, a batch, and the objects that cross the edge of what was seen: never
the scene.

Simplified polygons stay a coverage: whatever fills a shard, the background too, is simplified at
once, so that neighbours move their common edge alike, and the shard's border stays as it is, so
that parts on both sides of it still fit.

Where all masks were asked for, they take the place of the labels. They may overlap, so each of them
is traced, and simplified, by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from samplat import HOLE, JobError, JobResult, TileGrid
from samplat_raster.ahead import in_order
from samplat_raster.drawing import EXACT, Drawing
from samplat_raster.joining import Lines, Piece, joined
from samplat_raster.rings import Polygons, concatenated
from samplat_raster.tracing import Regions, trace

BATCH_OBJECTS = 1 << 14
"""Objects of a batch, about."""
BATCH_VERTICES = 1 << 18
"""Their vertices, about: a batch ends with the shard that reaches either number."""


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """N objects, in order of the last tile that paints them, and then of id."""

    rows: NDArray[np.int64]
    """(N,) their rows in the job's table of features: its objects, or all masks."""
    geometries: Polygons
    """(N,) valid ones, in pixels x, y: pixel (0, 0) is the unit square."""


def outlines(result: JobResult, drawing: Drawing = EXACT) -> Iterator[Outlines]:
    """The polygons of all objects, in batches. The order is the same on every machine.

    Raises:
        JobError: labels and table of objects disagree, or a shard is damaged.
    """
    from samplat_raster.right_angles import squared

    for some in _batches(_by_shard(result, drawing.tolerance(result.info))):
        yield squared(some, result.info) if drawing.right_angles else some


def _by_shard(result: JobResult, tolerance: float) -> Iterator[Outlines]:
    joiner = _Joiner(result, tolerance)
    regions = _label_regions if result.nested is None else _mask_regions
    draw = functools.partial(regions, result, tolerance)
    for tile, some in enumerate(in_order(draw, range(len(result.grid)))):
        yield joiner.finished_by(tile, some)
    joiner.check_nothing_left()


def _label_regions(result: JobResult, tolerance: float, tile: int) -> Regions:
    """The regions of the labels of a tile, by id."""
    write = result.grid[tile].write
    return _drawn(result.labels(write)[0], (write.start[2], write.start[1]), tolerance)


def _mask_regions(result: JobResult, tolerance: float, tile: int) -> Regions:
    """The regions of the masks of a tile, by id."""
    write, ids = result.grid[tile].write, result.features["id"].to_numpy()
    found = [trace(np.zeros((0, 0), np.uint32))]
    for row, box, mask in result.nested_masks(tile):
        # a margin, so that only what lies on the tile's border keeps its vertices
        part = box.grown((0, 1, 1)).intersection(write)
        image = np.zeros(part.shape[1:], np.uint32)
        image[box.relative_to(part).slices[1:]] = mask
        origin = (part.start[2], part.start[1])
        each = _drawn(image, origin, tolerance)
        found.append(replace(each, labels=np.full(len(each.labels), ids[row])))
    return Regions(
        labels=np.concatenate([each.labels for each in found]),
        areas=np.concatenate([each.areas for each in found]),
        polygons=concatenated([each.polygons for each in found]),
        pinched=np.concatenate([each.pinched for each in found]),
    )


def _batches(found: Iterable[Outlines]) -> Iterator[Outlines]:
    waiting: list[Outlines] = []
    objects = vertices = 0
    for some in found:
        if not len(some.rows):
            continue
        waiting.append(some)
        objects += len(some.rows)
        vertices += len(some.geometries.xy)
        if objects >= BATCH_OBJECTS or vertices >= BATCH_VERTICES:
            yield _together(waiting)
            waiting, objects, vertices = [], 0, 0
    if waiting:
        yield _together(waiting)


def _together(parts: list[Outlines]) -> Outlines:
    return Outlines(
        rows=np.concatenate([p.rows for p in parts]),
        geometries=concatenated([p.geometries for p in parts]),
    )


@dataclass(kw_only=False)
class _Joiner:
    """Holds the parts of objects that are not finished."""

    result: JobResult
    tolerance: float
    """Of the simplification, in pixels; 0 for none."""
    waiting: dict[int, list[Piece]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = self.result.features
        self.ids = table["id"].to_numpy()
        self.areas = table["area_px"].to_numpy()
        tiles = table["tiles"].combine_chunks()
        ends = tiles.offsets.to_numpy()
        self.first, self.last = (
            tiles.values.to_numpy()[at].astype(np.int32) for at in (ends[:-1], ends[1:] - 1)
        )
        self.seen = np.zeros(len(self.ids), np.int64)
        self.lines = _borders(self.result.grid)

    def finished_by(self, tile: int, regions: Regions) -> Outlines:
        """The objects of which a tile is the last, by id; parts of others are kept."""
        names, starts = np.unique(regions.labels, return_index=True)
        rows = self._rows(names)
        self.seen[rows] += np.add.reduceat(regions.areas, starts) if len(starts) else 0
        objects = replace(regions.polygons, owners=np.append(starts, len(regions.labels)))
        whole = (self.first[rows] == tile) & (self.last[rows] == tile)
        for k in np.flatnonzero(~whole).tolist():
            piece = Piece(
                polygons=objects.one(k), pinched=regions.pinched[objects.vertices_of(k)].copy()
            )
            self.waiting.setdefault(int(rows[k]), []).append(piece)
        done = np.flatnonzero(self.last[rows] == tile)
        crossing = done[~whole[done]]
        complete = [self.waiting.pop(row) for row in rows[crossing].tolist()]
        geometries = concatenated([objects.take(np.flatnonzero(whole)), self._joined(complete)])
        order = np.argsort(np.concatenate([np.flatnonzero(whole), crossing]))
        if not np.array_equal(self.seen[rows[done]], self.areas[rows[done]]):
            raise self._disagreement()
        return Outlines(rows=rows[done], geometries=geometries.take(order))

    def _rows(self, names: NDArray[np.uint32]) -> NDArray[np.int64]:
        rows = np.searchsorted(self.ids, names)
        if len(rows) and (rows[-1] >= len(self.ids) or (self.ids[rows] != names).any()):
            raise self._disagreement()
        return rows.astype(np.int64)

    def check_nothing_left(self) -> None:
        """Every object of the table must have come."""
        if not np.array_equal(self.seen, self.areas):
            raise self._disagreement()

    def _joined(self, objects: list[list[Piece]]) -> Polygons:
        """One geometry for each object that crosses shards."""
        import shapely

        if not self.tolerance:
            return joined(objects, self.lines)
        parts = (concatenated([piece.polygons for piece in pieces]) for pieces in objects)
        united = [shapely.union_all(each.to_shapely()) for each in parts]
        return _against_the_clock(np.array(united, object))

    def _disagreement(self) -> JobError:
        return JobError(
            f"labels and table of objects of {self.result.store.path} disagree; "
            "remove the job directory and run again"
        )


def _borders(grid: TileGrid) -> Lines:
    (_, y, x), (_, height, width) = grid.cell(0).start, grid.tile_shape
    return Lines(first=(x, y), step=(width, height))


def _drawn(labels: NDArray[np.uint32], origin: tuple[int, int], tolerance: float) -> Regions:
    return _simplified(labels, origin, tolerance) if tolerance else trace(labels, origin=origin)


def _simplified(labels: NDArray[np.uint32], origin: tuple[int, int], tolerance: float) -> Regions:
    """The regions of a shard with fewer vertices; its border is as it was."""
    import shapely

    regions = trace(labels, origin=origin, everything=True, junctions=True)
    polygons = shapely.coverage_simplify(
        regions.polygons.to_shapely(), tolerance, simplify_boundary=False
    )
    objects = (regions.labels != 0) & (regions.labels != HOLE)
    simple = _against_the_clock(polygons[objects])
    return Regions(
        labels=regions.labels[objects],
        areas=regions.areas[objects],
        polygons=simple,
        pinched=np.zeros(len(simple.xy), bool),  # not used where lines were moved
    )


def _against_the_clock(geometries: NDArray[np.object_]) -> Polygons:
    """Geometries in pixels, whose y points down, with shells that run so."""
    import shapely

    return Polygons.of_shapely(shapely.orient_polygons(geometries, exterior_cw=True))

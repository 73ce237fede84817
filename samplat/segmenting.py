"""The stage that finds the objects of each tile, in its pixels and its halo's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from samplat.attempts import Attempt, TriedTask, enter_objects
from samplat.errors import JobError
from samplat.job import Plan, Segmenter, Tools
from samplat.ledger import TileRecord
from samplat.masks import MaskSet, mask_set
from samplat.objects import TileObjects, tile_objects
from samplat.pixels import read_valid, to_rgb
from samplat.places import looked_up
from samplat.scale import masks_at_scales, views
from samplat.stacking import stacked_objects
from samplat.stages import Stages, called_tile, in_stripes
from samplat.tiles import Tile
from samplat.workbench import Bench, BenchWork


def segment_tiles(planned: Plan, tools: Tools, stages: Stages) -> tuple[TileRecord, ...]:
    """Find the objects of all tiles; returns their records.

    Raises:
        JobError: every tile failed.
    """
    store, count = planned.store, len(planned.grid)
    finished = looked_up(store.path, store.is_finished, range(count))
    missing = [index for index, done in enumerate(finished) if not done]
    task = TriedTask(work=TileWork(plan=planned, tools=tools))
    stages.attempt("tiles", task, in_stripes(planned, missing), count, called_tile)
    records = tuple(looked_up(store.path, store.tiles.known, range(count)))
    failed = [r for r in records if r.outcome == "quarantined"]
    if failed and not any(r.outcome == "done" for r in records):
        raise JobError(f"every tile failed, the first with: {failed[0].error}")
    return records


@dataclass(frozen=True, kw_only=True)
class TileWork(BenchWork):
    """Segments one tile and enters it in the ledger."""

    stage: ClassVar[str] = "segment"

    def read(self, bench: Bench, index: int) -> TilePixels | None:
        """The tile's pixels."""
        return read_tile(bench, self.plan.grid[index])

    def find(self, bench: Bench, index: int, seen: TilePixels | None) -> TileObjects | None:
        """Its objects."""
        return find_objects(bench, self.plan.grid[index], seen)

    def write(self, index: int, found: Attempt[TileObjects | None]) -> TileRecord:
        """Its record, after its objects."""
        return enter_objects(self.plan.store, index, found)


@dataclass(frozen=True, kw_only=True)
class TilePixels:
    """What the segmenter sees of a tile and its halo, slice by slice."""

    pixels: NDArray[np.uint8]
    """(z, y, x, band)."""
    valid: NDArray[np.bool_]
    """(z, y, x)."""


def read_tile(bench: Bench, tile: Tile) -> TilePixels | None:
    """A tile's pixels, stretched; None where none to write is valid."""
    planned = bench.plan
    raw, valid = read_valid(bench.source, tile.read.shifted(planned.window.start))
    cell = planned.grid.cell(tile.index).intersection(tile.read)
    if not valid[cell.relative_to(tile.read).slices].any():
        return None
    return TilePixels(pixels=planned.stretch(raw, valid), valid=valid)


def find_objects(bench: Bench, tile: Tile, seen: TilePixels | None) -> TileObjects | None:
    """The objects of a tile that was read; None where it has no valid pixel to write."""
    if seen is None:
        return None
    job, valid, bounds = bench.plan.job, seen.valid, bench.plan.grid.bounds
    found = slice_masks(bench, tile, seen)
    if job.stacking is None:
        (masks,) = found
        return tile_objects(
            masks,
            tile=tile,
            valid=valid,
            bounds=bounds,
            overlaps=job.overlaps,
            nested=job.nested,
        )
    return stacked_objects(
        found,
        tile=tile,
        valid=valid,
        bounds=bounds,
        overlaps=job.overlaps,
        rules=job.stacking,
        spacing=bench.plan.info.spacing,
    )


def slice_masks(bench: Bench, tile: Tile, seen: TilePixels) -> Iterator[MaskSet]:
    """What the segmenter finds on each slice of a tile that was read, in order."""
    job, grid = bench.plan.job, bench.plan.grid
    segmenter = cast("Segmenter", bench.segmenter)  # `plan` refuses another one
    axes = (0, 1, 2) if job.stacking is None else job.stacking.axes
    turned, place = grid.transposed(axes), grid.position(tile.index)
    flat = turned[turned.index(tuple(place[axis] for axis in axes))]
    looked_at = list(views(turned, flat, job.scales))
    pixels, valid = seen.pixels.transpose(*axes, 3), seen.valid.transpose(axes)
    for shown, data in zip(pixels, valid, strict=True):
        if data.any():
            yield masks_at_scales(segmenter, to_rgb(shown), data, looked_at)
        else:
            yield mask_set(np.zeros((0, *data.shape), bool))

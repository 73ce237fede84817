"""What a run will take, tried out on one tile or window of prompts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from samplat.answering import answer_unit, see_unit
from samplat.answers import View
from samplat.attempts import peak_mb
from samplat.job import Plan, Tools
from samplat.segmenting import TilePixels, find_objects, read_tile
from samplat.stack_answers import StackView
from samplat.workbench import Bench, load_segmenter, open_bench


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a run will take, by one tile of it, or one window of prompts, that was thrown away."""

    seconds: float
    """For a tile, or for a window of prompts."""
    peak_bytes: int
    """Most memory of the process, with the tiles that wait to be worked on and to be written."""
    objects: int
    """Of that tile."""


def rehearse(planned: Plan, tools: Tools, *, ahead: int = 1) -> Rehearsal | None:
    """Load the segmenter and work on one tile, the middle one or else the first with data.

    Args:
        planned: the job; nothing is written.
        tools: what its names stand for.
        ahead: tiles that the executor lets wait on each side of the model.

    Returns:
        None if no tile has data.
    """
    # Of a tile that is thrown away no embedding is kept either.
    segmenter = load_segmenter(replace(planned.job, embeddings=None), tools)
    bench = open_bench(planned, tools, segmenter)
    try:
        rehearse_one = _rehearse_tile if planned.prompts is None else _rehearse_unit
        return rehearse_one(bench, ahead)
    finally:
        bench.close()


def _rehearse_tile(bench: Bench, ahead: int) -> Rehearsal | None:
    grid = bench.plan.grid
    for index in (len(grid) // 2, *range(len(grid))):
        tile, began = grid[index], time.monotonic()
        if (seen := read_tile(bench, tile)) is not None:
            found = find_objects(bench, tile, seen)
            return _rehearsal(began, seen, len(found or ()), ahead)
    return None


def _rehearse_unit(bench: Bench, ahead: int) -> Rehearsal:
    unit, began = bench.plan.units[len(bench.plan.units) // 2], time.monotonic()
    view = see_unit(bench, unit)
    found = answer_unit(bench, unit, view)
    return _rehearsal(began, view, len(np.unique(found.prompts)), ahead)


def _rehearsal(
    began: float, seen: TilePixels | View | StackView, objects: int, ahead: int
) -> Rehearsal:
    # a view of a stack reads when it is asked
    held = 0 if isinstance(seen, StackView) else seen.pixels.nbytes + seen.valid.nbytes
    waiting = 2 * ahead * held
    return Rehearsal(
        seconds=time.monotonic() - began,
        peak_bytes=int(peak_mb() * 2**20) + waiting,
        objects=objects,
    )

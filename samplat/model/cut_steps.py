"""The steps of `colour_cuts.relaxed_cut` on a processor, compiled.

As array operations each step reads and writes every map several times over. Here a few rows are
done at a time, while they are in the cache, and windows are shared out among threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float32]

BAND = 8
"""Rows that are done at a time."""
TOP = 2
"""Rows of the margin above: the first cell's neighbour above left lies in the one before."""


def relaxed_cut(
    cost: Tensor,
    limits: Tensor,
    start: Tensor,
    duals: Tensor,
    steps: int,
    pace: tuple[float, float],
) -> Tensor:
    """As `colour_cuts.relaxed_cut`, for fp32 maps in memory.

    Args:
        cost: (N, 1, h, w).
        limits: (N, 4, h, w) for the neighbours to the right, below, below right and below left.
        start: (N, 1, h, w).
        duals: (N, 4, h, w); changed in place.
        steps: how many.
        pace: lengths of a dual and of a primal step.
    """
    # A margin of cells whose limits are 0 stands for the neighbours that a border cell lacks.
    costs, most, values, dual = (
        F.pad(each, (1, 1, TOP, 1)).flatten(2).numpy() for each in (cost, limits, start, duals)
    )
    wide = cost.shape[3] + 2
    steps_of, (dual_pace, primal_pace) = compiled(), map(np.float32, pace)

    def one(i: int) -> None:
        window = (costs[i, 0], most[i], values[i, 0], dual[i])
        steps_of(*window, wide, steps, dual_pace, primal_pace)

    threads = min(len(cost), torch.get_num_threads())
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(len(cost))))
    else:
        for i in range(len(cost)):
            one(i)
    duals.copy_(_inner(dual, wide))
    return _inner(values, wide).contiguous()


def _inner(maps: Array, wide: int) -> Tensor:
    """Flat maps (N, C, cells) without their margins."""
    return torch.from_numpy(maps).unflatten(2, (-1, wide))[..., TOP:-1, 1:-1]


@functools.cache
def compiled() -> Callable[..., None]:
    """The steps as machine code: made once on a machine, then taken from numba's cache."""
    import numba

    def machine_code(function: Callable[..., None]) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz", "contract"}}
        try:
            return numba.njit(**options, cache=True)(function)
        except RuntimeError:  # no folder to keep it in
            return numba.njit(**options)(function)

    move, gather, settle = (machine_code(each) for each in (_move_duals, _gather, _settle))

    def run(
        cost: Array,
        limits: Array,
        values: Array,
        duals: Array,
        wide: int,
        steps: int,
        dual_pace: np.float32,
        pace: np.float32,
    ) -> None:
        lead, slope = values.copy(), np.empty(BAND * wide, np.float32)
        stop = len(cost) // wide - 1
        for _ in range(steps):
            for y in range(TOP, stop, BAND):
                a, b = y * wide, min(y + BAND, stop) * wide
                for k in range(4):
                    ahead = (1, wide, wide + 1, wide - 1)[k]
                    leading = lead[a + ahead : b + ahead]
                    move(duals[k, a:b], limits[k, a:b], lead[a:b], leading, dual_pace)
                right, below, below_right, below_left = duals[0], duals[1], duals[2], duals[3]
                gather(
                    slope[: b - a],
                    cost[a:b],
                    right[a:b],
                    below[a:b],
                    below_right[a:b],
                    below_left[a:b],
                    right[a - 1 : b - 1],
                    below[a - wide : b - wide],
                    below_right[a - wide - 1 : b - wide - 1],
                    below_left[a - wide + 1 : b - wide + 1],
                )
                settle(values[a:b], lead[a:b], slope[: b - a], pace)

    steps_of: Callable[..., None] = machine_code(run)
    return steps_of


def _move_duals(dual: Array, most: Array, lead: Array, ahead: Array, pace: np.float32) -> None:
    for i in range(len(dual)):
        moved = dual[i] + pace * (ahead[i] - lead[i])
        dual[i] = min(max(moved, -most[i]), most[i])


def _gather(
    slope: Array,
    cost: Array,
    a: Array,
    b: Array,
    c: Array,
    d: Array,
    e: Array,
    f: Array,
    g: Array,
    h: Array,
) -> None:
    """Cost, less the duals a to d of a cell, and with those e to h in which it comes second."""
    for i in range(len(slope)):
        slope[i] = cost[i] - ((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i]))


def _settle(values: Array, lead: Array, slope: Array, pace: np.float32) -> None:
    for i in range(len(values)):
        before = values[i]
        now = min(max(before - pace * slope[i], np.float32(0)), np.float32(1))
        values[i] = now
        lead[i] = now + now - before

"""The steps of `colour_cuts.relaxed_cut` on a processor, compiled.

As array operations each step reads and writes every map several times over. Here a few rows are
done at a time, while they are in the cache, and windows are shared out among threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplat.machine_code import as_machine_code

Array = NDArray[np.float32]

BAND = 1024
"""Cells that are done at a time: what belongs to them stays in the nearest cache."""
WORTH_THREADS = 2e6
"""Cells times steps from which starting threads pays."""


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
        duals: (N, 4, h, w), contiguous; changed in place.
        steps: how many.
        pace: lengths of a dual and of a primal step.
    """
    values = start.clone(memory_format=torch.contiguous_format)
    costs, most = (part.contiguous().flatten(2).numpy() for part in (cost, limits))
    chosen, dual = values.view(len(cost), -1).numpy(), duals.view(*duals.shape[:2], -1).numpy()
    run, (dual_pace, primal_pace) = compiled(), map(np.float32, pace)

    def one(i: int) -> None:
        run(costs[i, 0], most[i], chosen[i], dual[i], cost.shape[3], steps, dual_pace, primal_pace)

    threads = min(len(cost), torch.get_num_threads())
    if threads > 1 and cost.numel() * steps > WORTH_THREADS:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(len(cost))))
    else:
        for i in range(len(cost)):
            one(i)
    return values


@functools.cache
def compiled() -> Callable[..., None]:
    """The steps of one window as machine code."""
    return as_machine_code(_steps)


def _steps(
    cost: Array,
    limits: Array,
    values: Array,
    duals: Array,
    width: int,
    steps: int,
    dual_pace: np.float32,
    pace: np.float32,
) -> None:
    """In one function, as it is kept on disk; each loop is over slices, so that it is vectorised.

    Cells are in one line, row after row: a neighbour is a fixed number of places ahead. Where it
    would be in another row, or nowhere, the limit is 0, and with it the dual.
    """
    lead, slopes, size = values.copy(), np.empty(BAND, np.float32), len(cost)
    for _ in range(steps):
        for a in range(0, size, BAND):
            b = min(a + BAND, size)
            slope = slopes[: b - a]
            slope[:] = cost[a:b]
            for k in range(4):
                ahead = (1, width, width + 1, width - 1)[k]
                last = max(a, min(b, size - ahead))
                dual, most = duals[k, a:last], limits[k, a:last]
                own, later = lead[a:last], lead[a + ahead : last + ahead]
                for i in range(len(dual)):
                    moved = dual[i] + dual_pace * (later[i] - own[i])
                    moved = min(max(moved, -most[i]), most[i])
                    dual[i] = moved
                    slope[i] -= moved
                first = min(b, max(a, ahead))
                other, into = duals[k, first - ahead : b - ahead], slope[first - a :]
                for i in range(len(other)):
                    into[i] += other[i]
            value, leading = values[a:b], lead[a:b]
            for i in range(len(value)):
                before = value[i]
                now = min(max(before - pace * slope[i], np.float32(0)), np.float32(1))
                value[i] = now
                leading[i] = now + now - before

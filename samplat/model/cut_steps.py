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
    """The steps as machine code: made once on a machine, then taken from numba's cache."""
    import numba

    def machine_code(function: Callable[..., None]) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz", "contract"}}
        try:
            return numba.njit(**options, cache=True)(function)
        except RuntimeError:  # no folder to keep it in
            return numba.njit(**options)(function)

    move, less, more, settle = (machine_code(f) for f in (_move_duals, _less, _more, _settle))

    def run(
        cost: Array,
        limits: Array,
        values: Array,
        duals: Array,
        width: int,
        steps: int,
        dual_pace: np.float32,
        pace: np.float32,
    ) -> None:
        # Cells in one line, row after row: a neighbour is a fixed number of places ahead. Where it
        # would be in another row, or nowhere, the limit is 0, and with it the dual.
        lead, slope, size = values.copy(), np.empty(BAND, np.float32), len(cost)
        for _ in range(steps):
            for a in range(0, size, BAND):
                b = min(a + BAND, size)
                for k in range(4):
                    ahead = (1, width, width + 1, width - 1)[k]
                    last = max(a, min(b, size - ahead))
                    leading = lead[a + ahead : last + ahead]
                    move(duals[k, a:last], limits[k, a:last], lead[a:last], leading, dual_pace)
                ones = duals[:, a:b]
                less(slope[: b - a], cost[a:b], ones[0], ones[1], ones[2], ones[3])
                for k in range(4):
                    ahead = (1, width, width + 1, width - 1)[k]
                    first = min(b, max(a, ahead))
                    more(slope[first - a : b - a], duals[k, first - ahead : b - ahead])
                # What the next bands still need of the leads lies ahead of this one.
                settle(values[a:b], lead[a:b], slope[: b - a], pace)

    steps_of: Callable[..., None] = machine_code(run)
    return steps_of


def _move_duals(dual: Array, most: Array, lead: Array, ahead: Array, pace: np.float32) -> None:
    for i in range(len(dual)):
        moved = dual[i] + pace * (ahead[i] - lead[i])
        dual[i] = min(max(moved, -most[i]), most[i])


def _less(slope: Array, cost: Array, a: Array, b: Array, c: Array, d: Array) -> None:
    for i in range(len(slope)):
        slope[i] = cost[i] - ((a[i] + b[i]) + (c[i] + d[i]))


def _more(slope: Array, dual: Array) -> None:
    for i in range(len(slope)):
        slope[i] += dual[i]


def _settle(values: Array, lead: Array, slope: Array, pace: np.float32) -> None:
    for i in range(len(values)):
        before = values[i]
        now = min(max(before - pace * slope[i], np.float32(0)), np.float32(1))
        values[i] = now
        lead[i] = now + now - before

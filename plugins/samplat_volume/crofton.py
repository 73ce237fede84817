"""Surface areas by counting where lines cross a surface (Crofton's formula), on any grid.

A surface of area S is met, on average over all directions, by S / 2 crossings per unit of area
across the lines. Lines along 13 lattice directions stand for all directions: about those of the
faces, edges and corners of a cube *in millimetres*, so that thick slices do not make lines crowd.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONGEST = 16
"""Most voxels that a direction steps over: beyond that slices are too thick to know better."""

NORMALS = 2000


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Directions of lines through a grid, and what one crossing of such a line tells."""

    steps: NDArray[np.int64]
    """(K, 3) steps (z, y, x) from voxel to voxel, without common divisor; one of two opposites."""
    areas: NDArray[np.float64]
    """(K,) square millimetres of surface per crossing."""

    @property
    def margin(self) -> int:
        """Slices that a step goes beyond its own."""
        return int(np.abs(self.steps[:, 0]).max())


def lines(spacing: tuple[float, float, float]) -> Lines:
    """The lines for a grid.

    Args:
        spacing: millimetres between voxels along (z, y, x).
    """
    steps = _steps(np.asarray(spacing))
    moves = steps * np.asarray(spacing)
    lengths = np.linalg.norm(moves, axis=1)
    # lines of one direction stand so that each takes up this area across them
    apart = np.prod(spacing) / lengths
    return Lines(steps=steps, areas=2 * _weights(moves / lengths[:, None]) * apart)


def _steps(spacing: NDArray[np.float64]) -> NDArray[np.int64]:
    found = set()
    most = np.minimum(np.rint(spacing.max() / spacing), LONGEST).astype(int)
    for signs in itertools.product((-1, 0, 1), repeat=3):
        step = np.array(signs) * most
        if signs > (0, 0, 0):
            found.add(tuple(map(int, step // np.gcd.reduce(step))))
    return np.array(sorted(found), np.int64)


def _weights(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the directions, so that planes of any normal come out as well as they can.

    The shares sum to 1: over all orientations of a surface, its area is right on average.
    """
    from scipy.optimize import nnls

    seen = 2 * np.abs(_normals() @ directions.T)
    heavy = 1e3 * np.sqrt(NORMALS)
    system = np.vstack([seen, np.full(len(directions), heavy)])
    weights: NDArray[np.float64] = nnls(system, np.append(np.ones(NORMALS), heavy))[0]
    weights /= weights.sum()
    return weights


def _normals() -> NDArray[np.float64]:
    """Unit vectors (N, 3) spread evenly over the sphere: a Fibonacci spiral."""
    i = np.arange(NORMALS) + 0.5
    height, turn = 1 - 2 * i / NORMALS, np.pi * (1 + np.sqrt(5)) * i
    radius = np.sqrt(1 - height**2)
    return np.stack([height, radius * np.sin(turn), radius * np.cos(turn)], axis=1)

"""Slices of a volume across any of its axes, read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from samplat import ImageSource, InputError, Stretch, Window
from samplat_volume.geometry import Geometry

INDEX_PLANES = ("z", "y", "x")
ANATOMICAL = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Names of planes, and the LPS axis that they are across."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A volume as a stack of slices across one of its index axes.

    Nothing is turned or mirrored: rows and columns of a slice are the two other axes in the order
    z, y, x. A point of a slice is (x, y) in the frame of boxes: a voxel's centre is at + 0.5.
    Points of `samplat.Prompts` and of a `SlicePrompt` have it at whole numbers, half a pixel less.
    """

    geometry: Geometry
    """Where the voxels lie."""
    axis: int
    """Index axis that the slices are across, of (z, y, x)."""
    name: str
    """"axial", "coronal" or "sagittal": the anatomical plane that is nearest."""

    @property
    def axes(self) -> tuple[int, int]:
        """Index axes of a slice's rows and columns."""
        first, second = (a for a in range(3) if a != self.axis)
        return first, second

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.geometry.shape[self.axis]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        rows, columns = (self.geometry.shape[a] for a in self.axes)
        return rows, columns

    @property
    def spacing(self) -> tuple[float, float]:
        """Millimetres between rows and between columns."""
        rows, columns = (self.geometry.spacing[a] for a in self.axes)
        return rows, columns

    @property
    def thickness(self) -> float:
        """Millimetres from slice to slice."""
        return self.geometry.spacing[self.axis]

    def window(self, k: int) -> Window:
        """The voxels of slice k.

        Raises:
            InputError: there is no slice k.
        """
        if not 0 <= k < self.count:
            raise InputError(f"there are slices 0 to {self.count - 1} across {self}; got {k}")
        start, stop = [0, 0, 0], list(self.geometry.shape)
        start[self.axis], stop[self.axis] = k, k + 1
        return Window(start=tuple(start), stop=tuple(stop))

    def read(self, source: ImageSource, k: int) -> NDArray[Any]:
        """Stored values (rows, columns, band) of slice k."""
        return source.read(self.window(k)).squeeze(self.axis)

    def valid(self, source: ImageSource, k: int) -> NDArray[np.bool_]:
        """Valid pixels (rows, columns) of slice k."""
        return source.valid(self.window(k)).squeeze(self.axis)

    def pixels(self, source: ImageSource, k: int, stretch: Stretch) -> NDArray[np.uint8]:
        """Slice k as models see it: uint8 (rows, columns, band).

        The same voxels always give the same bytes, so that an `EmbeddingCache` knows them again.
        """
        window = self.window(k)
        return stretch(source.read(window), source.valid(window)).squeeze(self.axis)

    def check_visible(self, source: ImageSource, k: int, stretch: Stretch) -> None:
        """Refuse to be prompted on a slice that shows nothing.

        Raises:
            InputError: slice k is of one grey value, or has no valid voxel.
        """
        values = self.pixels(source, k, stretch)
        if values.min() != values.max():
            return
        low, high = stretch.low[0], stretch.high[0]
        raise InputError(
            f"slice {k} across {self} is empty: everything in it is {values.min()} of 255 between "
            f"{low:g} and {high:g}; prompt another slice, or choose another window"
        )

    def to_slice(self, index: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Slice numbers (N,) and points (N, 2) xy within them, of indices (N, 3) zyx."""
        index = np.asarray(index, np.float64)
        rows, columns = self.axes
        numbers = np.floor(index[:, self.axis] + 0.5).astype(np.int64)
        return numbers, index[:, [columns, rows]] + 0.5

    def to_index(self, k: NDArray[Any] | int, points: NDArray[Any]) -> NDArray[np.float64]:
        """Indices (N, 3) zyx of points (N, 2) xy in slices k."""
        points = np.asarray(points, np.float64)
        index = np.empty((len(points), 3))
        rows, columns = self.axes
        index[:, self.axis] = k
        index[:, [columns, rows]] = points - 0.5
        return index

    def place(self, volume: NDArray[Any], k: int) -> NDArray[Any]:
        """Slice k (rows, columns) of an array (z, y, x): a view, to write masks to."""
        return volume[self.window(k).slices].squeeze(self.axis)

    def stacked(self, volume: NDArray[Any]) -> NDArray[Any]:
        """An array (z, y, x) as (slice, rows, columns): a view."""
        return np.moveaxis(volume, self.axis, 0)

    def unstacked(self, masks: NDArray[Any]) -> NDArray[Any]:
        """An array (slice, rows, columns) as (z, y, x): a view."""
        return np.moveaxis(masks, 0, self.axis)

    def __str__(self) -> str:
        return f"{INDEX_PLANES[self.axis]} ({self.name})"


def plane_of(geometry: Geometry, name: str) -> Plane:
    """The slices of a volume across an axis.

    Args:
        geometry: the volume's.
        name: "z", "y" or "x" for index axes; "axial", "coronal" or "sagittal" for the index axis
            that runs most nearly along the body, from front to back, or from side to side.

    Raises:
        InputError: another name.
    """
    across = world_axes(geometry)
    if name in INDEX_PLANES:
        axis = INDEX_PLANES.index(name)
    elif name in ANATOMICAL:
        axis = across.index(ANATOMICAL[name])
    else:
        known = ", ".join((*INDEX_PLANES, *ANATOMICAL))
        raise InputError(f"expected a plane of {known}; got {name!r}")
    anatomical = next(n for n, lps in ANATOMICAL.items() if lps == across[axis])
    return Plane(geometry=geometry, axis=axis, name=anatomical)


def world_axes(geometry: Geometry) -> tuple[int, int, int]:
    """The LPS axes (0: L, 1: P, 2: S) that the index axes (z, y, x) run along, each once."""
    along = np.abs(geometry.direction[:, ::-1])  # rows: L, P, S; columns: z, y, x
    lps, index = linear_sum_assignment(along, maximize=True)
    found = dict(zip(index.tolist(), lps.tolist(), strict=True))
    return found[0], found[1], found[2]

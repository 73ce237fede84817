"""Where an image lies in the world of napari.

A raster lies in the units of its CRS: east to the right, and down the screen south, which is minus
the north of the CRS, so that no picture is upside down. Screens compute in 32 bits, in which the
metres of a CRS are coarser than pixels: all rasters of one CRS are counted from a place near the
first one, which `metadata` tells as `origin`. A volume lies in millimetres. Axes of the world are
independent of each other in napari: an oblique volume lies along its own axes instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from samplat import ImageInfo

NEAR = 2**15
"""Pixels from the origin of a CRS to the first raster, a power of ten of units at most that far."""
_ORIGINS: dict[str, tuple[float, float]] = {}
"""By CRS, (south, east) of what is 0, 0 on the screen."""
UNITS = {"metre": "metre", "meter": "metre", "degree": "degree"}
"""Units of a CRS that napari knows; others count as pixels."""


def placed(info: ImageInfo, volume: bool, ndim: int) -> dict[str, Any]:
    """Scale, translation or affine, units and names of the axes, of `ndim` axes."""
    matrix = np.asarray(info.index_to_world, float)
    names: tuple[str, ...]
    if volume:
        linear, origin = _in_patient(matrix, info)
        names, units = ("z", "y", "x"), ["mm"] * 3
    elif info.crs is None and np.array_equal(matrix, np.eye(4)):
        return {}
    else:
        linear, origin = _on_ground(matrix, info)
        names, units = ("south", "east"), [_unit(info.crs)] * 2
    extra = ndim - len(origin)
    given: dict[str, Any] = {
        "axis_labels": ("band",) * extra + tuple(names),
        "units": ("pixel",) * extra + tuple(units),
    }
    if (np.diag(linear) > 0).all() and not (linear - np.diag(np.diag(linear))).any():
        given["scale"] = [1.0] * extra + np.diag(linear).tolist()
        given["translate"] = [0.0] * extra + origin.tolist()
        return given
    # the scale tells how large pixels are, the affine how they are turned
    size = np.linalg.norm(linear, axis=0)
    affine = np.eye(ndim + 1)
    affine[extra:-1, extra:-1], affine[extra:-1, -1] = linear / size, origin
    return given | {"scale": [1.0] * extra + size.tolist(), "affine": affine}


def _on_ground(matrix: NDArray[np.float64], info: ImageInfo) -> tuple[Any, Any]:
    """(row, column) of a pixel's centre to (south, east): corners are half a pixel away."""
    (a, b, _, c), (d, e, _, f) = matrix[:2]
    linear = np.array([[-e, -d], [b, a]]) + 0.0
    corner = np.array([-f, c])
    return linear, corner - ground_origin(info) + linear @ (0.5, 0.5)


def ground_origin(info: ImageInfo) -> tuple[float, float]:
    """(south, east) from which rasters of this one's CRS are counted, in its units."""
    if info.crs is None:
        return 0.0, 0.0
    if info.crs not in _ORIGINS:
        (_, _, _, east), (_, _, _, north) = info.index_to_world[:2]
        step = 10.0 ** math.floor(math.log10(NEAR * min(info.spacing[1:])))
        _ORIGINS[info.crs] = -round(north / step) * step, round(east / step) * step
    return _ORIGINS[info.crs]


def _in_patient(matrix: NDArray[np.float64], info: ImageInfo) -> tuple[Any, Any]:
    """(z, y, x) of a voxel's centre to millimetres, in LPS where napari can slice that."""
    linear, origin = matrix[2::-1, 2::-1], matrix[2::-1, 3]
    spacing = np.asarray(info.spacing)
    turned = linear / spacing
    if np.allclose(np.abs(turned), np.eye(3), atol=1e-6):
        return np.diag(np.diag(linear)), origin
    return np.diag(spacing), turned.T @ origin


def _unit(crs: str | None) -> str:
    if crs is None:
        return "pixel"
    from pyproj import CRS

    return UNITS.get(CRS.from_wkt(crs).axis_info[0].unit_name, "pixel")

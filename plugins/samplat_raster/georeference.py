"""Between pixels and the ground: the affine transform, the CRS, and areas on the ellipsoid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from samplat import ImageInfo

Matrix = tuple[tuple[float, float, float, float], ...]


def matrix_of(transform: Any) -> Matrix:
    """GDAL's affine (pixel corners) as the 4x4 matrix of `ImageInfo.index_to_world`."""
    return (
        (transform.a, transform.b, 0.0, transform.c),
        (transform.d, transform.e, 0.0, transform.f),
        (0.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 1.0),
    )


def affine_of(info: ImageInfo) -> Any:
    """The `affine.Affine` of an image: (x, y) of pixel corners to world units."""
    from rasterio.transform import Affine

    (a, b, _, c), (d, e, _, f) = info.index_to_world[:2]
    return Affine(a, b, c, d, e, f)


def pixel_spacing(transform: Any) -> tuple[float, float, float]:
    """World units per pixel along (z, y, x); z is 1."""
    return (1.0, math.hypot(transform.b, transform.e), math.hypot(transform.a, transform.d))


def to_world(info: ImageInfo, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel positions (N, 2) x, y in world units."""
    matrix = np.asarray(info.index_to_world)
    world: NDArray[np.float64] = xy @ matrix[:2, :2].T + matrix[:2, 3]
    return world


def geodesic_areas(geometries: NDArray[np.object_], crs: str) -> NDArray[np.float64]:
    """Areas in square metres on the ellipsoid of a CRS, edges taken as geodesics.

    Args:
        geometries: (N,) polygons or multipolygons in that CRS.
        crs: as WKT.
    """
    import shapely
    from pyproj import CRS, Transformer

    system = CRS.from_user_input(crs)
    geographic = system.geodetic_crs or CRS.from_epsg(4326)
    transform = Transformer.from_crs(system, geographic, always_xy=True).transform
    parts, owner = shapely.get_parts(geometries, return_index=True)
    rings, part_of = shapely.get_rings(parts, return_index=True)
    # the first ring of a part is its shell, the others are holes
    sign = np.where(np.diff(part_of, prepend=-1) != 0, 1.0, -1.0)
    areas = np.abs(_ring_areas(rings, transform, geographic.get_geod()))
    total = np.bincount(owner[part_of], weights=sign * areas, minlength=len(geometries))
    return total.astype(np.float64)


def _ring_areas(rings: NDArray[np.object_], transform: Any, geod: Any) -> NDArray[np.float64]:
    import shapely

    xy, ring_of = shapely.get_coordinates(rings, return_index=True)
    lon, lat = transform(xy[:, 0], xy[:, 1])
    ends = np.searchsorted(ring_of, np.arange(len(rings)), side="right")
    starts = np.concatenate([[0], ends])[:-1].astype(int)
    areas = [
        geod.polygon_area_perimeter(lon[a:b], lat[a:b])[0]
        for a, b in zip(starts, ends, strict=True)
    ]
    return np.asarray(areas, np.float64)

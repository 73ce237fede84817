"""Between pixels and the ground: the affine transform, the CRS, and areas on the ellipsoid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

if TYPE_CHECKING:
    from samplat import ImageInfo

TRUE_TO_SCALE = 0.01
"""A CRS whose metres differ from those on the ground by less is taken at its word."""

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


def pixel_metres(info: ImageInfo) -> tuple[float, float]:
    """Metres on the ground per pixel along (y, x), at the image's centre.

    In a projected CRS that is true to scale there within `TRUE_TO_SCALE`, its own units are taken:
    a pixel of 0.5 m of a UTM zone is 0.5 m. Where it is not (degrees, Web Mercator), distances are
    measured on the ellipsoid.

    Raises:
        InputError: there is no CRS, or the centre lies nowhere.
    """
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    if info.crs is None:
        raise InputError("a ground sampling distance needs a CRS, which this image has not")
    system = CRS.from_wkt(info.crs)
    unit = system.axis_info[0].unit_conversion_factor if system.axis_info else 1.0
    own = (info.spacing[1] * unit, info.spacing[2] * unit)
    geographic = system.geodetic_crs
    ellipsoid = geographic.get_geod() if geographic else None
    if geographic is None or ellipsoid is None:
        return own
    middle = np.array(info.shape[:0:-1]) / 2
    steps = np.array([[0, -0.5], [0, 0.5], [-0.5, 0], [0.5, 0]])
    world = to_world(info, middle + steps)
    try:
        transformer = Transformer.from_crs(system, geographic, always_xy=True)
        lon, lat = transformer.transform(world[:, 0], world[:, 1], errcheck=True)
    except ProjError as error:
        raise InputError(f"the centre of the image lies nowhere in its CRS: {error}") from None
    _, _, metres = ellipsoid.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    measured = (float(metres[0]), float(metres[1]))
    if system.is_projected and np.allclose(measured, own, rtol=TRUE_TO_SCALE):
        return own
    return measured


def to_world(info: ImageInfo, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel positions (N, 2) x, y in world units."""
    matrix = np.asarray(info.index_to_world)
    world: NDArray[np.float64] = xy @ matrix[:2, :2].T + matrix[:2, 3]
    return world


def to_pixels(info: ImageInfo, world: NDArray[np.float64]) -> NDArray[np.float64]:
    """World units (N, 2) x, y as pixel positions."""
    matrix = np.asarray(info.index_to_world)
    pixels: NDArray[np.float64] = np.linalg.solve(matrix[:2, :2], (world - matrix[:2, 3]).T).T
    return pixels


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

"""Between pixels and the ground: the affine transform, the CRS, and areas on the ellipsoid."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

if TYPE_CHECKING:
    from samplat import ImageInfo
    from samplat_raster.rings import Polygons

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


def corners_of(info: ImageInfo) -> NDArray[np.float64]:
    """(4, 2) the image's corners in world units, in order."""
    _, height, width = info.shape
    return to_world(info, np.array([(0, 0), (0, height), (width, height), (width, 0)], float))


def bounds_of(info: ImageInfo) -> tuple[float, float, float, float]:
    """xmin, ymin, xmax, ymax of an image in world units."""
    corners = corners_of(info)
    (west, south), (east, north) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return west, south, east, north


def code_of(crs: str) -> str | None:
    """An authority's name for a CRS, such as "EPSG:32614"; None where it has none."""
    from pyproj import CRS

    authority = CRS.from_wkt(crs).to_authority()
    return ":".join(authority) if authority else None


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


def matrix_to_world(info: ImageInfo) -> NDArray[np.float64]:
    """(2, 3) of columns x, y and 1: pixel positions to world units."""
    return np.asarray(info.index_to_world)[:2, [0, 1, 3]]


def to_world(info: ImageInfo, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixel positions (N, 2) x, y in world units."""
    (a, b, _, c), (d, e, _, f) = info.index_to_world[:2]
    x, y = xy.T
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


LARGE = 5_000.0
"""Extent in metres from which an object is not taken as flat: below, that costs less than 1e-6."""


def ground_areas(
    geometries: Polygons, pixels: NDArray[np.int64], info: ImageInfo
) -> NDArray[np.float64] | None:
    """Areas in square metres on the ellipsoid; None without a CRS.

    An object is so many pixels of the size that they have at its centroid; a large one's pixels
    have the mean size that geodesics make of its polygon.

    Args:
        geometries: (N,) in pixels.
        pixels: (N,) their numbers of pixels.
        info: the image.
    """
    if info.crs is None:
        return None
    measures = geometries.measures()
    extents = (measures.bounds[:, 2:] - measures.bounds[:, :2]).max(axis=1)
    size = pixel_areas(measures.centroids, info)
    large = np.flatnonzero(~(extents * np.sqrt(size) < LARGE))
    if len(large):
        moved = geometries.take(large).moved(matrix_to_world(info))
        size[large] = geodesic_areas(moved, info.crs) / measures.areas[large]
    areas: NDArray[np.float64] = pixels * size
    return areas


LATTICE = 17
"""Points along each side of an image at which pixels are measured."""


def areas_over(info: ImageInfo) -> tuple[tuple[float, ...], ...] | None:
    """Square metres of pixels at points spread evenly over an image; None without a CRS.

    Six digits are kept: they name a job, on every machine alike.
    """
    if info.crs is None:
        return None
    _, height, width = info.shape
    y, x = np.meshgrid(
        np.linspace(0, height, LATTICE), np.linspace(0, width, LATTICE), indexing="ij"
    )
    areas = pixel_areas(np.stack([x.ravel(), y.ravel()], axis=1), info)
    rows = areas.reshape(LATTICE, LATTICE).tolist()
    return tuple(tuple(float(f"{area:.6g}") for area in row) for row in rows)


def pixel_areas(xy: NDArray[np.float64], info: ImageInfo) -> NDArray[np.float64]:
    """Square metres of a pixel at positions (N, 2) x, y, on the ellipsoid of the image's CRS."""
    areas: NDArray[np.float64] = np.abs(np.linalg.det(ground_steps(xy, info)))
    near = np.flatnonzero(_near_a_pole(xy, info))
    if len(near):
        areas[near] = _areas_of_squares(xy[near], info)
    return areas


POLAR = 85.0
"""Degrees from which a degree of longitude says little: pixels are measured as polygons."""
SQUARE = 16.0
"""Pixels along a side of these."""


def _near_a_pole(xy: NDArray[np.float64], info: ImageInfo) -> NDArray[np.bool_]:
    from pyproj import CRS, Transformer

    system = CRS.from_user_input(info.crs)
    geographic = system.geodetic_crs or CRS.from_epsg(4326)
    to_degrees = Transformer.from_crs(system, geographic, always_xy=True)
    near: NDArray[np.bool_] = np.abs(to_degrees.transform(*to_world(info, xy).T)[1]) > POLAR
    return near


def _areas_of_squares(xy: NDArray[np.float64], info: ImageInfo) -> NDArray[np.float64]:
    """Square metres of a pixel, the mean of a square of SQUARE pixels a side."""
    import shapely

    from samplat_raster.rings import Polygons

    half = SQUARE / 2
    squares = Polygons.of_shapely(shapely.box(*(xy - half).T, *(xy + half).T))
    moved = squares.moved(matrix_to_world(info))
    return geodesic_areas(moved, str(info.crs)) / SQUARE**2


def ground_steps(xy: NDArray[np.float64], info: ImageInfo) -> NDArray[np.float64]:
    """Metres east and north (first axis) of a pixel's step along x and y (second), (N, 2, 2)."""
    from pyproj import CRS, Transformer

    system = CRS.from_user_input(info.crs)
    geographic = system.geodetic_crs or CRS.from_epsg(4326)
    to_degrees = Transformer.from_crs(system, geographic, always_xy=True)
    # degrees have some 16 digits: nearer points would leave few of them to a difference
    reach = 8.0
    ends = [xy + reach * np.array(step) for step in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    lon, lat = np.radians(to_degrees.transform(*to_world(info, np.concatenate(ends)).T))
    lon, lat = lon.reshape(4, -1), lat.reshape(4, -1)
    east, north = _metres_of_radians(lat.mean(axis=0), geographic.ellipsoid)
    steps = np.stack(
        [
            [_turn(lon[1] - lon[0]) * east, _turn(lon[3] - lon[2]) * east],
            [(lat[1] - lat[0]) * north, (lat[3] - lat[2]) * north],
        ]
    )
    return np.moveaxis(steps, -1, 0) / (2 * reach)


def _turn(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """An angle within half a turn: two sides of the antimeridian are close."""
    return np.remainder(angle + np.pi, 2 * np.pi) - np.pi


def _metres_of_radians(
    lat: NDArray[np.float64], ellipsoid: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metres of a radian of longitude and of one of latitude."""
    a, f = ellipsoid.semi_major_metre, 1 / (ellipsoid.inverse_flattening or np.inf)
    squared = f * (2 - f)
    bent = 1 - squared * np.sin(lat) ** 2
    return a * np.cos(lat) / np.sqrt(bent), a * (1 - squared) / bent**1.5


def to_pixels(info: ImageInfo, world: NDArray[np.float64]) -> NDArray[np.float64]:
    """World units (N, 2) x, y as pixel positions."""
    matrix = np.asarray(info.index_to_world)
    pixels: NDArray[np.float64] = np.linalg.solve(matrix[:2, :2], (world - matrix[:2, 3]).T).T
    return pixels


def geodesic_areas(geometries: Polygons, crs: str) -> NDArray[np.float64]:
    """Areas in square metres on the ellipsoid of a CRS, edges taken as geodesics.

    Args:
        geometries: (N,) in that CRS.
        crs: as WKT.
    """
    from pyproj import CRS, Transformer

    system = CRS.from_user_input(crs)
    geographic = system.geodetic_crs or CRS.from_epsg(4326)
    transform = Transformer.from_crs(system, geographic, always_xy=True).transform
    areas = np.abs(_ring_areas(geometries, transform, geographic.get_geod()))
    signed = np.where(geometries.shells, areas, -areas)
    firsts = geometries.parts[geometries.owners[:-1]]
    total: NDArray[np.float64] = np.add.reduceat(signed, firsts)
    return total


def _ring_areas(geometries: Polygons, transform: Any, geod: Any) -> NDArray[np.float64]:
    lon, lat = transform(*geometries.xy.T)
    areas = [
        geod.polygon_area_perimeter(lon[a:b], lat[a:b])[0]
        for a, b in itertools.pairwise(geometries.rings.tolist())
    ]
    return np.asarray(areas, np.float64)

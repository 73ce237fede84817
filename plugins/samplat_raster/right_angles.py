"""Outlines that nearly have right angles get them: buildings.

An outline is rid of its pixel steps, and turned so that most of its length runs along two axes.
Every edge then lies along one of them; edges of one direction that follow each other become one
line, at their mean; neighbouring lines meet at right angles. Lines shorter than the steps were are
left out. What comes out is taken only if it is valid and covers nearly the same ground.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from samplat import ImageInfo
    from samplat_raster.polygons import Outlines

STEP = 1.5
"""Pixels by which an outline may be off because it follows pixels."""
LEAST_IOU = 0.85
"""With the object's pixels: below, an outline stays as it was."""


def squared(some: Outlines, info: ImageInfo) -> Outlines:
    """The same objects, with right angles on the ground where that fits."""
    from dataclasses import replace

    import shapely

    from samplat_raster.rings import Polygons

    before = some.geometries.to_shapely()
    metres = ground_matrix(some.geometries.measures().centroids.mean(axis=0), info)
    there = shapely.transform(before, lambda xy: xy @ metres.T)
    step = STEP * math.sqrt(abs(np.linalg.det(metres)))
    drawn = np.array([with_right_angles(geometry, step) for geometry in there], object)
    inverse = np.linalg.inv(metres)
    back = shapely.transform(drawn, lambda xy: xy @ inverse.T)
    # y points down: against the clock is with it in numbers
    after = shapely.orient_polygons(np.where(drawn != there, back, before), exterior_cw=True)
    return replace(some, geometries=Polygons.of_shapely(after))


def ground_matrix(xy: NDArray[np.float64], info: ImageInfo) -> NDArray[np.float64]:
    """Metres east and north per pixel along x and y, (2, 2), near a position; or pixels."""
    from samplat_raster.georeference import ground_steps

    if info.crs is None:
        return np.eye(2)
    matrix: NDArray[np.float64] = ground_steps(xy[None], info)[0]
    return matrix


def with_right_angles(geometry: Any, step: float) -> Any:
    """A polygon or multipolygon drawn with right angles, or as it is where that does not fit.

    Args:
        geometry: in units that are alike along both axes.
        step: by how much it may be off.
    """
    import shapely

    parts = [_squared(part, step) for part in shapely.get_parts(geometry)]
    if any(part is None for part in parts):
        return geometry
    drawn = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    if not shapely.is_valid(drawn):
        return geometry
    shared = shapely.area(shapely.intersection(geometry, drawn))
    union = shapely.area(geometry) + shapely.area(drawn) - shared
    return drawn if shared >= LEAST_IOU * union else geometry


def _squared(polygon: Any, step: float) -> Any:
    import shapely

    smooth = shapely.get_rings(shapely.simplify(polygon, step))
    exact = shapely.get_rings(polygon)
    rings = [
        (shapely.get_coordinates(s)[:-1], shapely.get_coordinates(e)[:-1])
        for s, e in zip(smooth, exact, strict=True)
    ]
    turn = _turn([ring for ring, _ in rings])
    straight = [
        _rectilinear(ring @ turn, _middles(ring, whole) @ turn, step) for ring, whole in rings
    ]
    if straight[0] is None:
        return None
    # a hole that is no more than steps is none
    shell, *holes = [ring @ turn.T for ring in straight if ring is not None]
    return shapely.Polygon(shell, holes)


def _turn(rings: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """A rotation (2, 2) after which most of the rings' length runs along the axes."""
    edges = np.concatenate([np.roll(ring, -1, axis=0) - ring for ring in rings])
    # angles that differ by right ones are the same
    angles, lengths = 4 * np.arctan2(edges[:, 1], edges[:, 0]), np.hypot(*edges.T)
    angle = math.atan2((lengths * np.sin(angles)).sum(), (lengths * np.cos(angles)).sum()) / 4
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def _middles(ring: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """(V, 2) the mean place, for each edge of a simplified ring, of the steps that it stands for.

    Args:
        ring: (V, 2) vertices.
        whole: (W, 2) the ring that was simplified: those vertices, and others between them.
    """
    number = {tuple(xy): k for k, xy in enumerate(whole.tolist())}
    starts = np.array([number[tuple(xy)] for xy in ring.tolist()])
    whole = np.roll(whole, -starts[0], axis=0)
    starts = (starts - starts[0]) % len(whole)
    steps = np.roll(whole, -1, axis=0) - whole
    lengths = np.hypot(*steps.T)
    sums = np.add.reduceat(lengths[:, None] * (whole + steps / 2), starts)
    middles: NDArray[np.float64] = sums / np.add.reduceat(lengths, starts)[:, None]
    return middles


def _rectilinear(
    ring: NDArray[np.float64], middles: NDArray[np.float64], step: float
) -> NDArray[np.float64] | None:
    """A ring (V, 2) with edges along the axes only; None if nothing is left of it.

    Lines alternate between the two directions; `along[k]` is 0 for those along x, which have one y.

    Args:
        ring: (V, 2) its vertices.
        middles: (V, 2) where its edges are.
        step: lines that are shorter are left out.
    """
    edges = np.roll(ring, -1, axis=0) - ring
    along = (np.abs(edges[:, 1]) > np.abs(edges[:, 0])).astype(int)
    weights = np.abs(edges[np.arange(len(edges)), along])
    places = middles[np.arange(len(edges)), 1 - along]
    lines = _merged(along, places, weights)
    while len(lines[0]) >= 4:
        corners = _corners(*lines[:2])
        lengths = np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1)
        shortest = int(np.argmin(lengths))
        if lengths[shortest] >= step or len(lines[0]) == 4:
            return corners if lengths[shortest] > 0 else None
        along, places, weights = lines
        kept = np.arange(len(along)) != shortest
        lines = _merged(along[kept], places[kept], weights[kept])
    return None


def _merged(
    along: NDArray[np.int64], places: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Lines of one direction that follow each other become one, at their mean."""
    first = np.flatnonzero(along != np.roll(along, 1))
    if not len(first):
        return along[:0], places[:0], weights[:0]
    turned = -int(first[0])
    along, places, weights = (
        np.roll(along, turned),
        np.roll(places, turned),
        np.roll(weights, turned),
    )
    starts = first + turned
    total = np.add.reduceat(weights, starts)
    mean = np.add.reduceat(weights * places, starts) / np.maximum(total, 1e-12)
    return along[starts], mean, total


def _corners(along: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 2) where each line begins: at the one before it."""
    before = np.roll(places, 1)
    x = np.where(along == 0, before, places)
    y = np.where(along == 0, places, before)
    return np.stack([x, y], axis=1)

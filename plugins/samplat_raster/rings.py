"""Polygons as a few long arrays, laid out like GeoArrow's multipolygons.

A scene has millions of vertices. One object of a geometry library for each polygon costs more time
and memory than the vertices do; what the formats want in the end is well-known binary.

Importing this module imports numba: do it where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import as_machine_code

if TYPE_CHECKING:
    import pyarrow as pa

Offsets = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Polygons:
    """N geometries, each of one polygon or of several."""

    xy: NDArray[Any]
    """(V, 2) vertices x, y, int32 on pixel corners or float64; each ring ends where it began."""
    rings: Offsets
    """(R + 1,) where the vertices of each ring begin."""
    parts: Offsets
    """(P + 1,) where the rings of each polygon begin; the first one is its shell."""
    owners: Offsets
    """(N + 1,) where the polygons of each geometry begin."""

    def __len__(self) -> int:
        return len(self.owners) - 1

    @classmethod
    def none(cls) -> Polygons:
        """No geometries."""
        zero = np.zeros(1, np.int64)
        return cls(xy=np.zeros((0, 2), np.int32), rings=zero, parts=zero, owners=zero)

    @classmethod
    def of_shapely(cls, geometries: NDArray[np.object_]) -> Polygons:
        """The same polygons and multipolygons."""
        import shapely

        if not len(geometries):
            return cls.none()
        parts, part_of = shapely.get_parts(geometries, return_index=True)
        rings, ring_of = shapely.get_rings(parts, return_index=True)
        xy, vertex_of = shapely.get_coordinates(rings, return_index=True)
        return cls(
            xy=xy,
            rings=_starts(vertex_of, len(rings)),
            parts=_starts(ring_of, len(parts)),
            owners=_starts(part_of, len(geometries)),
        )

    def to_shapely(self) -> NDArray[np.object_]:
        """(N,) polygons, and multipolygons where there are several parts."""
        import shapely

        if not len(self):
            return np.zeros(0, object)
        xy = np.asarray(self.xy, np.float64)
        kind = shapely.GeometryType.MULTIPOLYGON
        found: NDArray[np.object_] = shapely.from_ragged_array(
            kind, xy, (self.rings, self.parts, self.owners)
        )
        alone = ~self.multiple
        found[alone] = shapely.get_geometry(found[alone], 0)
        return found

    @property
    def multiple(self) -> NDArray[np.bool_]:
        """(N,) True: there is not exactly one part."""
        found: NDArray[np.bool_] = np.diff(self.owners) != 1
        return found

    @property
    def shells(self) -> NDArray[np.bool_]:
        """(R,) True: the ring is a polygon's shell, not a hole."""
        found = np.zeros(len(self.rings) - 1, bool)
        found[self.parts[:-1]] = True
        return found

    def take(self, chosen: NDArray[np.int64]) -> Polygons:
        """Some geometries, in this order."""
        owners, parts = _lengths(self.owners, chosen)
        part_offsets, rings = _lengths(self.parts, parts)
        xy, ring_offsets = gathered(self.xy, self.rings, rings)
        return Polygons(xy=xy, rings=ring_offsets, parts=part_offsets, owners=owners)

    def vertices_of(self, index: int) -> slice:
        """Where the vertices of one geometry are."""
        first, last = self.parts[self.owners[index : index + 2]]
        return slice(int(self.rings[first]), int(self.rings[last]))

    def one(self, index: int) -> Polygons:
        """One geometry: a copy, which does not keep the others in memory."""
        owners = self.owners[index : index + 2]
        parts = self.parts[owners[0] : owners[-1] + 1]
        rings = self.rings[parts[0] : parts[-1] + 1]
        return Polygons(
            xy=self.xy[rings[0] : rings[-1]].copy(),
            rings=rings - rings[0],
            parts=parts - parts[0],
            owners=owners - owners[0],
        )

    def moved(self, matrix: NDArray[np.float64]) -> Polygons:
        """From pixels, whose y points down, to a frame whose y points up.

        What runs against the clock does so afterwards, too, also where the map mirrors.

        Args:
            matrix: (2, 3) of columns x, y and 1.
        """
        mirrors = bool(np.linalg.det(matrix[:, :2]) > 0)
        return replace(self, xy=_moved(self.xy, self.rings, matrix, mirrors))

    def measures(self) -> Measures:
        """Areas, centroids and bounds."""
        return Measures(*_measured(self.xy, self.rings, self.parts, self.owners))

    def wkb(self, *, multi: bool = False) -> pa.BinaryArray:
        """(N,) well-known binary, little-endian.

        Args:
            multi: multipolygons also where there is one part.
        """
        import pyarrow as pa

        raw = np.ascontiguousarray(self.xy, np.float64).view(np.uint8).ravel()
        data, offsets = _wkb(raw, self.rings, self.parts, self.owners, multi)
        if len(data) >= 2**31:
            raise OverflowError("a batch of polygons has more than 2 GiB of vertices")
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return pa.BinaryArray.from_buffers(pa.binary(), len(self), buffers)


@dataclass(frozen=True)
class Measures:
    """Of N geometries, in the units of their vertices."""

    areas: NDArray[np.float64]
    """(N,) without their holes."""
    centroids: NDArray[np.float64]
    """(N, 2) x, y."""
    bounds: NDArray[np.float64]
    """(N, 4) x and y of the low corner, then of the high one."""


def concatenated(several: Sequence[Polygons]) -> Polygons:
    """All of their geometries."""
    if not several:
        return Polygons.none()
    return Polygons(
        xy=np.concatenate([each.xy for each in several]),
        rings=_chained([each.rings for each in several]),
        parts=_chained([each.parts for each in several]),
        owners=_chained([each.owners for each in several]),
    )


def _chained(offsets: Sequence[Offsets]) -> Offsets:
    ends = np.cumsum([0, *(each[-1] for each in offsets)])
    moved = [each[:-1] + end for each, end in zip(offsets, ends, strict=False)]
    return np.concatenate([*moved, ends[-1:]]).astype(np.int64)


def _starts(owner: NDArray[np.int64], count: int) -> Offsets:
    """Where each of `count` groups begins in ascending numbers of groups."""
    return np.searchsorted(owner, np.arange(count + 1)).astype(np.int64)


def _lengths(offsets: Offsets, chosen: NDArray[np.int64]) -> tuple[Offsets, NDArray[np.int64]]:
    """Offsets of some of the groups, and the numbers of what is in them."""
    counts = np.diff(offsets)[chosen]
    found = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(counts, out=found[1:])
    inside = np.arange(found[-1]) + np.repeat(offsets[:-1][chosen] - found[:-1], counts)
    return found, inside


@as_machine_code
def gathered(
    xy: NDArray[Any], rings: Offsets, chosen: NDArray[np.int64]
) -> tuple[NDArray[Any], Offsets]:
    """The vertices of some rings, in this order, and where each begins."""
    offsets = np.zeros(len(chosen) + 1, np.int64)
    for k in range(len(chosen)):
        offsets[k + 1] = offsets[k] + rings[chosen[k] + 1] - rings[chosen[k]]
    found = np.empty((offsets[-1], xy.shape[1]), xy.dtype)
    for k in range(len(chosen)):
        found[offsets[k] : offsets[k + 1]] = xy[rings[chosen[k]] : rings[chosen[k] + 1]]
    return found, offsets


@as_machine_code
def _moved(
    xy: NDArray[Any], rings: Offsets, matrix: NDArray[np.float64], reverse: bool
) -> NDArray[np.float64]:
    moved = np.empty((len(xy), 2), np.float64)
    for ring in range(len(rings) - 1):
        a, b = rings[ring], rings[ring + 1]
        for i in range(a, b):
            x, y = np.float64(xy[i, 0]), np.float64(xy[i, 1])
            to = a + b - 1 - i if reverse else i
            moved[to, 0] = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
            moved[to, 1] = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    return moved


@as_machine_code
def _measured(
    xy: NDArray[Any], rings: Offsets, parts: Offsets, owners: Offsets
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """See `Measures`. Moments are about each geometry's first vertex, for their digits' sake."""
    count = len(owners) - 1
    areas, centroids = np.zeros(count), np.zeros((count, 2))
    bounds = np.empty((count, 4))
    for k in range(count):
        first = parts[owners[k]]
        x0, y0 = np.float64(xy[rings[first], 0]), np.float64(xy[rings[first], 1])
        west, south, east, north = x0, y0, x0, y0
        area, along_x, along_y = 0.0, 0.0, 0.0
        for part in range(owners[k], owners[k + 1]):
            for ring in range(parts[part], parts[part + 1]):
                twice, mx, my = 0.0, 0.0, 0.0
                for i in range(rings[ring], rings[ring + 1] - 1):
                    x, y = np.float64(xy[i, 0]) - x0, np.float64(xy[i, 1]) - y0
                    u, v = np.float64(xy[i + 1, 0]) - x0, np.float64(xy[i + 1, 1]) - y0
                    cross = x * v - u * y
                    twice += cross
                    mx += (x + u) * cross
                    my += (y + v) * cross
                    west, east = min(west, xy[i, 0]), max(east, xy[i, 0])
                    south, north = min(south, xy[i, 1]), max(north, xy[i, 1])
                # shells count for, holes against, however the rings run
                sign = 1.0 if (twice > 0) == (ring == parts[part]) else -1.0
                area += sign * twice / 2
                along_x += sign * mx / 6
                along_y += sign * my / 6
        areas[k] = area
        centroids[k, 0], centroids[k, 1] = x0, y0
        if area != 0.0:
            centroids[k, 0] += along_x / area
            centroids[k, 1] += along_y / area
        bounds[k, 0], bounds[k, 1], bounds[k, 2], bounds[k, 3] = west, south, east, north
    return areas, centroids, bounds


POLYGON, MULTIPOLYGON = 3, 6
"""Types of geometries in well-known binary."""
HEAD = 9
"""Bytes of a geometry's order of bytes, type, and number of parts or rings."""


@as_machine_code
def _number(data: NDArray[np.uint8], at: int, value: int) -> None:
    for byte in range(4):
        data[at + byte] = (value >> (8 * byte)) & 255


@as_machine_code
def _head(data: NDArray[np.uint8], at: int, kind: int, count: int) -> int:
    data[at] = 1
    _number(data, at + 1, kind)
    _number(data, at + 5, count)
    return at + HEAD


@as_machine_code
def _wkb(
    raw: NDArray[np.uint8], rings: Offsets, parts: Offsets, owners: Offsets, multi: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Well-known binary of each geometry, in one piece, and where each begins.

    Args:
        raw: 16 bytes a vertex.
        rings: see `Polygons`.
        parts: see `Polygons`.
        owners: see `Polygons`.
        multi: multipolygons also where there is one part.
    """
    count = len(owners) - 1
    whole = len(raw) + 4 * (len(rings) - 1) + HEAD * (len(parts) - 1 + count)
    data, offsets = np.empty(whole, np.uint8), np.zeros(count + 1, np.int64)
    at = 0
    for k in range(count):
        several = owners[k + 1] - owners[k]
        if multi or several != 1:
            at = _head(data, at, MULTIPOLYGON, several)
        for part in range(owners[k], owners[k + 1]):
            at = _head(data, at, POLYGON, parts[part + 1] - parts[part])
            for ring in range(parts[part], parts[part + 1]):
                a, b = rings[ring], rings[ring + 1]
                _number(data, at, b - a)
                at += 4
                data[at : at + 16 * (b - a)] = raw[16 * a : 16 * b]
                at += 16 * (b - a)
        offsets[k + 1] = at
    return data[:at], offsets

"""The regions of a label image as polygons along pixel edges, all of them in one compiled pass.

A region is a 4-connected set of pixels of one label. Pixels that meet only at a corner are separate
regions. Where two pixels of *one* region meet at a corner, the ring turns round the corner of the
other side, so that no ring touches itself: holes may touch each other, or the shell, at points. So
every polygon is valid as it is.

Importing this module imports numba: do it where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat import HOLE, as_machine_code

LARGEST_FILL = 1 << 24
"""Pixels of the box of an object that is filled to be traced again."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """R regions of a label image, by label and then in order of their first pixel."""

    labels: NDArray[np.uint32]
    """(R,) label of each, ascending."""
    areas: NDArray[np.int64]
    """(R,) pixels of each."""
    polygons: NDArray[np.object_]
    """(R,) valid polygons in pixels x, y: pixel (0, 0) is the unit square. No vertex lies on a
    straight line, but for `junctions`. Shells run against the clock where y points up."""


def trace(
    labels: NDArray[np.uint32],
    *,
    origin: tuple[int, int] = (0, 0),
    everything: bool = False,
    junctions: bool = False,
) -> Regions:
    """The regions of a label image.

    Args:
        labels: (y, x).
        origin: x, y of its first pixel's corner.
        everything: background and holes are regions too: together they fill the image.
        junctions: vertices also where other regions meet along a straight line, so that neighbours
            share whole edges.
    """
    import shapely

    components, names = _components(labels, np.uint32(HOLE), everything)
    vertices, starts, owners = _rings(components, len(names), junctions)
    order = np.lexsort((np.arange(len(owners)), owners, names[owners - 1]))
    xy, ring_offsets = _in_order(vertices, starts, order)
    first = np.flatnonzero(np.diff(owners[order], prepend=0))
    xy += origin
    polygon_offsets = np.append(first, len(order))
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, xy, (ring_offsets, polygon_offsets)
    )
    areas = shapely.area(polygons).astype(np.int64)
    return Regions(labels=names[owners[order][first] - 1], areas=areas, polygons=polygons)


def joined(parts: NDArray[np.object_], owners: NDArray[np.int64]) -> NDArray[np.object_]:
    """Polygons that share edges made one, by owner: a polygon, or a multipolygon of regions.

    They are filled and traced again, which is quicker than a union; but for those that lie so far
    apart that this would take more memory than they do.

    Args:
        parts: (P,) polygons along pixel edges.
        owners: (P,) whose they are, ascending from 0 without gaps.
    """
    import shapely

    x0, y0, x1, y1 = shapely.bounds(parts).T
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    width = np.maximum.reduceat(x1, starts) - np.minimum.reduceat(x0, starts)
    height = np.maximum.reduceat(y1, starts) - np.minimum.reduceat(y0, starts)
    large = width * height > LARGEST_FILL
    result = np.empty(len(starts), object)
    for k, (a, b) in enumerate(zip(starts, np.append(starts[1:], len(parts)), strict=True)):
        if large[k]:
            result[k] = shapely.union_all(parts[a:b])
    result[large] = _straightened(result[large])
    small = ~large[owners]
    result[~large] = _filled(parts[small], np.cumsum(~large)[owners[small]] - 1)
    return result


def _filled(parts: NDArray[np.object_], owners: NDArray[np.int64]) -> NDArray[np.object_]:
    import shapely

    if not len(parts):
        return parts
    rings, part_of = shapely.get_rings(parts, return_index=True)
    xy, ring_of = shapely.get_coordinates(rings, return_index=True)
    # a step from a ring to the next one looks like an edge; it must not count as one
    same_ring = np.append(ring_of[1:] == ring_of[:-1], False)
    vertex_of = owners[part_of[ring_of]]
    offsets = np.searchsorted(vertex_of, np.arange(vertex_of[-1] + 2))
    xy, starts, region_of, owner_of = _retraced(xy.astype(np.int32), same_ring, offsets)
    order = np.argsort(region_of, kind="stable")
    xy, ring_offsets = _in_order(xy, starts, order)
    regions = _offsets(region_of[order])
    return _unwrapped(xy, ring_offsets, regions, _offsets(owner_of))


def _offsets(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each number begins in an ascending array that begins with 0 and has no gaps."""
    return np.searchsorted(numbers, np.arange(numbers[-1] + 2))


def _unwrapped(xy: NDArray[np.float64], *offsets: NDArray[np.int64]) -> NDArray[np.object_]:
    """Multipolygons, or polygons where there is one part."""
    import shapely

    kind = shapely.GeometryType.MULTIPOLYGON
    whole: NDArray[np.object_] = shapely.from_ragged_array(kind, xy, offsets)
    alone = shapely.get_num_geometries(whole) == 1
    whole[alone] = shapely.get_geometry(whole[alone], 0)
    return whole


def _straightened(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons and multipolygons along pixel edges without vertices on straight lines."""
    import shapely

    if not len(geometries):
        return geometries
    parts, owner = shapely.get_parts(geometries, return_index=True)
    rings, part_of = shapely.get_rings(parts, return_index=True)
    xy, ring_of = shapely.get_coordinates(rings, return_index=True)
    xy, offsets = _corners(xy, _offsets(ring_of))
    return _unwrapped(xy, offsets, _offsets(part_of), _offsets(owner))


@as_machine_code
def _corners(
    xy: NDArray[np.float64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Closed rings along two axes, only with the vertices where they turn."""
    kept = np.empty_like(xy)
    found = np.zeros(len(offsets), np.int64)
    at = 0
    for ring in range(len(offsets) - 1):
        a, count = offsets[ring], offsets[ring + 1] - offsets[ring] - 1
        for i in range(count):
            before, here, after = xy[a + (i - 1) % count], xy[a + i], xy[a + (i + 1) % count]
            if (before[0] == here[0]) != (here[0] == after[0]):
                kept[at] = here
                at += 1
        kept[at] = kept[found[ring]]
        at += 1
        found[ring + 1] = at
    return kept[:at], found


@as_machine_code
def _root(parents: NDArray[np.int32], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@as_machine_code
def _components(
    labels: NDArray[np.uint32], hole: np.uint32, everything: bool
) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Numbers of the regions (y + 2, x + 2), from 1 in order of their first pixel, and labels."""
    height, width = labels.shape
    found = np.zeros((height + 2, width + 2), np.int32)
    parents = np.zeros(height * width // 2 + width + 2, np.int32)
    count = 0
    for y in range(height):
        above, row = found[y], found[y + 1]
        for x in range(width):
            label = labels[y, x]
            if not everything and (label == 0 or label == hole):
                continue
            up = above[x + 1] if y > 0 and labels[y - 1, x] == label else 0
            left = row[x] if x > 0 and labels[y, x - 1] == label else 0
            if up and left and up != left:
                a, b = _root(parents, up), _root(parents, left)
                parents[max(a, b)] = min(a, b)
                row[x + 1] = min(a, b)
            elif up or left:
                row[x + 1] = max(up, left)
            else:
                count += 1
                if count == len(parents):
                    longer = np.zeros(2 * count, np.int32)
                    longer[:count] = parents
                    parents = longer
                parents[count] = count
                row[x + 1] = count
    final = np.zeros(count + 1, np.int32)
    regions = 0
    for i in range(1, count + 1):
        # a root is the smallest of its group, so it comes first
        root = _root(parents, i)
        if root == i:
            regions += 1
            final[i] = regions
        else:
            final[i] = final[root]
    names = np.zeros(regions, labels.dtype)
    for y in range(height):
        row = found[y + 1]
        for x in range(width):
            if row[x + 1]:
                number = final[row[x + 1]]
                row[x + 1] = number
                names[number - 1] = labels[y, x]
    return found, names


@as_machine_code
def _longer(array: NDArray[np.int32], least: int) -> NDArray[np.int32]:
    longer = np.zeros((max(2 * len(array), least), array.shape[1]), array.dtype)
    longer[: len(array)] = array
    return longer


@as_machine_code
def _rings(
    components: NDArray[np.int32], count: int, junctions: bool
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Vertices x, y of all rings without the closing ones; where rings start; whose they are.

    The first ring of a region is its shell: it begins above the region's first pixel.
    """
    xy = np.zeros((65536, 2), np.int32)
    rings = np.zeros((count + 1024, 2), np.int32)
    xy, rings, vertices, found = _append_rings(components, junctions, xy, rings, 0, 0)
    starts = np.zeros(found + 1, np.int64)
    starts[:found] = rings[:found, 0]
    starts[found] = vertices
    return xy[:vertices], starts, rings[:found, 1].astype(np.int64)


@as_machine_code
def _append_rings(
    components: NDArray[np.int32],
    junctions: bool,
    xy: NDArray[np.int32],
    rings: NDArray[np.int32],
    vertices: int,
    found: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], int, int]:
    """The rings behind so many vertices of so many others; the arrays may have become longer."""
    stride = components.shape[1]
    flat = components.ravel()
    seen = np.zeros(len(flat), np.bool_)
    # west, south, east, north, in order of left turns; the region lies to the left
    step = (-1, stride, 1, -stride)
    left = (stride, stride + 1, 1, 0)
    right = (0, stride, stride + 1, 1)
    behind = (1, 0, stride, stride + 1)
    for start in range(stride + 1, len(flat) - stride - 1):
        region = flat[start]
        if region == 0 or seen[start] or flat[start - stride] == region:
            continue
        if found + 1 >= len(rings):
            rings = _longer(rings, found + 2)
        rings[found, 0], rings[found, 1] = vertices, region
        found += 1
        # the vertex with index i has its north-western pixel at i; this one ends the top edge
        first = start - stride
        at, way = first, 0
        while True:
            at += step[way]
            if way == 0:
                seen[at + stride + 1] = True
            if flat[at + right[way]] == region:
                corner, turn = True, -1
            elif flat[at + left[way]] == region:
                corner, turn = junctions and flat[at + right[way]] != flat[at + behind[way]], 0
            else:
                corner, turn = True, 1
            if corner:
                if vertices == len(xy):
                    xy = _longer(xy, vertices + 1)
                xy[vertices, 0], xy[vertices, 1] = at % stride, at // stride
                vertices += 1
                way = (way + turn) % 4
            if at == first and way == 0:
                break
    return xy, rings, vertices, found


@as_machine_code
def _retraced(
    edges: NDArray[np.int32], is_edge: NDArray[np.bool_], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The outlines of what edges enclose, object by object; edges that come twice cancel.

    Args:
        edges: (E, 2) vertices x, y, each with the next one an edge along an axis.
        is_edge: (E,) False: the next vertex belongs to another ring.
        offsets: (N + 1,) where each object's vertices begin.

    Returns:
        Vertices x, y; where rings start; each ring's region, from 0; each region's object.
    """
    xy = np.zeros((2 * len(edges) + 64, 2), np.int32)
    rings = np.zeros((len(offsets) + 64, 2), np.int32)
    owners = np.zeros((len(offsets) + 64, 1), np.int32)
    vertices = found = regions = 0
    for k in range(len(offsets) - 1):
        mine = edges[offsets[k] : offsets[k + 1]]
        x0, y0 = mine[:, 0].min(), mine[:, 1].min()
        filled = np.zeros((mine[:, 1].max() - y0, mine[:, 0].max() - x0 + 1), np.uint32)
        for i in range(len(mine) - 1):
            if is_edge[offsets[k] + i] and mine[i, 0] == mine[i + 1, 0]:
                a, b = mine[i, 1] - y0, mine[i + 1, 1] - y0
                for y in range(min(a, b), max(a, b)):
                    filled[y, mine[i, 0] - x0] ^= 1
        for y in range(len(filled)):
            for x in range(1, filled.shape[1]):
                filled[y, x] ^= filled[y, x - 1]
        components, names = _components(filled, np.uint32(HOLE), False)
        before, ring = vertices, found
        xy, rings, vertices, found = _append_rings(components, False, xy, rings, vertices, found)
        for i in range(before, vertices):
            xy[i, 0] += x0
            xy[i, 1] += y0
        for i in range(ring, found):
            rings[i, 1] += regions - 1
        if regions + len(names) >= len(owners):
            owners = _longer(owners, regions + len(names) + 1)
        owners[regions : regions + len(names), 0] = k
        regions += len(names)
    starts = np.zeros(found + 1, np.int64)
    starts[:found] = rings[:found, 0]
    starts[found] = vertices
    return (
        xy[:vertices],
        starts,
        rings[:found, 1].astype(np.int64),
        owners[:regions, 0].astype(np.int64),
    )


@as_machine_code
def _in_order(
    xy: NDArray[np.int32], starts: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The rings in another order, each closed: vertices and offsets."""
    offsets = np.zeros(len(order) + 1, np.int64)
    closed = np.zeros((len(xy) + len(order), 2), np.float64)
    at = 0
    for k in range(len(order)):
        a, b = starts[order[k]], starts[order[k] + 1]
        for i in range(a, b):
            closed[at, 0], closed[at, 1] = xy[i, 0], xy[i, 1]
            at += 1
        closed[at, 0], closed[at, 1] = xy[a, 0], xy[a, 1]
        at += 1
        offsets[k + 1] = at
    return closed, offsets

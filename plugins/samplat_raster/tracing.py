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


@dataclass(frozen=True, kw_only=True)
class Regions:
    """R regions of a label image, by label and then in order of their first pixel."""

    labels: NDArray[np.uint32]
    """(R,) label of each, ascending."""
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
    xy, starts, owners = _rings(components, len(names), junctions)
    order = np.lexsort((np.arange(len(owners)), owners, names[owners - 1]))
    xy, ring_offsets = _in_order(xy, starts, order)
    first = np.flatnonzero(np.diff(owners[order], prepend=0))
    xy += origin
    polygon_offsets = np.append(first, len(order))
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, xy, (ring_offsets, polygon_offsets)
    )
    return Regions(labels=names[owners[order][first] - 1], polygons=polygons)


def straightened(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons and multipolygons along pixel edges without vertices on straight lines."""
    import shapely

    if not len(geometries):
        return geometries
    parts, owner = shapely.get_parts(geometries, return_index=True)
    rings, part_of = shapely.get_rings(parts, return_index=True)
    xy, ring_of = shapely.get_coordinates(rings, return_index=True)
    xy, offsets = _corners(xy, np.searchsorted(ring_of, np.arange(len(rings) + 1)))
    bounds = (offsets, *(np.searchsorted(of, np.arange(of[-1] + 2)) for of in (part_of, owner)))
    whole: NDArray[np.object_] = shapely.from_ragged_array(
        shapely.GeometryType.MULTIPOLYGON, xy, bounds
    )
    alone = shapely.get_num_geometries(whole) == 1
    whole[alone] = shapely.get_geometry(whole[alone], 0)
    return whole


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
    stride = components.shape[1]
    flat = components.ravel()
    seen = np.zeros(len(flat), np.bool_)
    # west, south, east, north, in order of left turns; the region lies to the left
    step = (-1, stride, 1, -stride)
    left = (stride, stride + 1, 1, 0)
    right = (0, stride, stride + 1, 1)
    behind = (1, 0, stride, stride + 1)
    xy = np.zeros((65536, 2), np.int32)
    rings = np.zeros((count + 1024, 2), np.int32)
    vertices = found = 0
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
    starts = np.zeros(found + 1, np.int64)
    starts[:found] = rings[:found, 0]
    starts[found] = vertices
    return xy[:vertices], starts, rings[:found, 1].astype(np.int64)


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

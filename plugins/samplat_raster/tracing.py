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
from samplat_raster.loops import longer, root
from samplat_raster.rings import Polygons, gathered


@dataclass(frozen=True, kw_only=True)
class Regions:
    """R regions of a label image, by label and then in order of their first pixel."""

    labels: NDArray[np.uint32]
    """(R,) label of each, ascending."""
    areas: NDArray[np.int64]
    """(R,) pixels of each."""
    polygons: Polygons
    """(R,) valid polygons in pixels x, y: pixel (0, 0) is the unit square. No vertex lies on a
    straight line, but for `junctions`. Shells run against the clock where y points up."""
    pinched: NDArray[np.bool_]
    """(V,) of their vertices, True: another region of the same label meets this one there."""


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
    components, names, areas = _components(labels, np.uint32(HOLE), everything)
    vertices, pinched, starts, owners = _rings(components, names, junctions)
    order = np.lexsort((np.arange(len(owners)), owners, names[owners - 1]))
    xy, rings = gathered(vertices, starts, order)
    first = np.flatnonzero(np.diff(owners[order], prepend=0))
    polygons = Polygons(
        xy=xy + np.array(origin, np.int32),
        rings=rings,
        parts=np.append(first, len(order)),
        owners=np.arange(len(first) + 1),
    )
    regions = owners[order][first] - 1
    return Regions(
        labels=names[regions],
        areas=areas[regions],
        polygons=polygons,
        pinched=gathered(pinched, starts, order)[0].ravel(),
    )


@as_machine_code
def _components(
    labels: NDArray[np.uint32], hole: np.uint32, everything: bool
) -> tuple[NDArray[np.int32], NDArray[np.uint32], NDArray[np.int64]]:
    """Regions (y + 2, x + 2), numbered from 1 by their first pixel; labels; numbers of pixels."""
    runs, starts = _runs(labels, hole, everything)
    parents = np.arange(len(runs))
    for y in range(1, len(labels)):
        _unite_rows(runs, starts[y - 1], starts[y], starts[y + 1], parents)
    found = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2), np.int32)
    names, areas = np.zeros(len(runs), labels.dtype), np.zeros(len(runs), np.int64)
    regions = 0
    for y in range(len(labels)):
        for i in range(starts[y], starts[y + 1]):
            # a root is the first of its group, so it has its number already
            first = root(parents, i)
            if first == i:
                names[regions] = runs[i, 2]
                regions += 1
                runs[i, 2] = regions
            else:
                runs[i, 2] = runs[first, 2]
            found[y + 1, runs[i, 0] + 1 : runs[i, 1] + 1] = runs[i, 2]
            areas[runs[i, 2] - 1] += runs[i, 1] - runs[i, 0]
    return found, names[:regions], areas[:regions]


@as_machine_code
def _runs(
    labels: NDArray[np.uint32], hole: np.uint32, everything: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs of a label along rows: first x, one past the last, label; where each row begins."""
    height, width = labels.shape
    runs, starts = np.zeros((4096, 3), np.int64), np.zeros(height + 1, np.int64)
    count = 0
    for y in range(height):
        row, x = labels[y], 0
        if count + width > len(runs):
            runs = longer(runs, count + width)
        while x < width:
            label, begin = row[x], x
            while x < width and row[x] == label:
                x += 1
            if everything or (label != 0 and label != hole):
                runs[count, 0], runs[count, 1], runs[count, 2] = begin, x, label
                count += 1
        starts[y + 1] = count
    return runs[:count], starts


@as_machine_code
def _unite_rows(
    runs: NDArray[np.int64], i: int, j: int, end: int, parents: NDArray[np.int64]
) -> None:
    """Unite runs i to j of a row with those of the next one, j to end, that they lie on."""
    above = j
    while i < above and j < end:
        if runs[i, 2] == runs[j, 2] and runs[i, 0] < runs[j, 1] and runs[j, 0] < runs[i, 1]:
            a, b = root(parents, i), root(parents, j)
            parents[max(a, b)] = min(a, b)
        if runs[i, 1] < runs[j, 1]:
            i += 1
        else:
            j += 1


@as_machine_code
def _rings(
    components: NDArray[np.int32], names: NDArray[np.uint32], junctions: bool
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Vertices x, y of all rings; which are pinched; where rings start; whose they are.

    The first ring of a region is its shell: it begins above the region's first pixel.
    """
    xy, pinched = np.zeros((65536, 2), np.int32), np.zeros((65536, 1), np.bool_)
    rings = np.zeros((len(names) + 1024, 2), np.int64)
    vertices = found = 0
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
            rings = longer(rings, found + 2)
        rings[found, 0], rings[found, 1] = vertices, region
        first_vertex = vertices
        found += 1
        # the vertex with index i has its north-western pixel at i; this one ends the top edge
        first = start - stride
        at, way = first, 0
        while True:
            at += step[way]
            if way == 0:
                seen[at + stride + 1] = True
            ahead = flat[at + right[way]]
            pinch = False
            if ahead == region:
                corner, turn = True, -1
            elif flat[at + left[way]] == region:
                corner, turn = junctions and ahead != flat[at + behind[way]], 0
            else:
                corner, turn = True, 1
                pinch = ahead > 0 and names[ahead - 1] == names[region - 1]
            if corner:
                # room for one more, which closes the ring
                if vertices + 1 >= len(xy):
                    xy, pinched = longer(xy, vertices + 2), longer(pinched, vertices + 2)
                xy[vertices, 0], xy[vertices, 1] = at % stride, at // stride
                pinched[vertices, 0] = pinch
                vertices += 1
                way = (way + turn) % 4
            if at == first and way == 0:
                break
        xy[vertices] = xy[first_vertex]
        pinched[vertices] = pinched[first_vertex]
        vertices += 1
    starts = np.zeros(found + 1, np.int64)
    starts[:found] = rings[:found, 0]
    starts[found] = vertices
    return xy[:vertices], pinched[:vertices], starts, rings[:found, 1]

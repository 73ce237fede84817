"""Parts of objects, traced tile by tile, made one along the borders of the tiles.

Regions of two tiles share stretches of the border between them, which each ring runs along in its
own direction. Where both do, the stretch goes; what is left of the rings is linked up again. The
rest of a ring, inside of a tile, is not looked at, so that an object costs what its vertices do,
however far it reaches.

Importing this module imports numba: do it where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import as_machine_code
from samplat_raster.loops import longer, root
from samplat_raster.rings import Offsets, Polygons, concatenated, gathered

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Where the borders of tiles lie: at `first` and every `step` pixels from there."""

    first: tuple[int, int]
    """x, y of one of them."""
    step: tuple[int, int]
    """Along x, y."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one tile has of an object: one geometry, of a polygon for each region."""

    polygons: Polygons
    """Along pixel edges, as `tracing.trace` gives them."""
    pinched: NDArray[np.bool_]
    """(V,) of their vertices, as in `tracing.Regions`."""


def joined(objects: Sequence[Sequence[Piece]], lines: Lines) -> Polygons:
    """For each object the geometry that tracing all its tiles at once would give.

    Args:
        objects: the pieces of each, one a tile.
        lines: the borders of the tiles.
    """
    if not objects:
        return Polygons.none()
    pieces = [piece for some in objects for piece in some]
    whole = concatenated([piece.polygons for piece in pieces])
    starts = np.cumsum([0, *map(len, objects)])
    part_of_ring = np.repeat(np.arange(len(whole.parts) - 1), np.diff(whole.parts))
    xy, rings, owners, regions, shells = _join(
        whole.xy,
        np.concatenate([piece.pinched for piece in pieces]),
        whole.rings,
        part_of_ring,
        whole.parts[whole.owners[starts]],
        np.array([lines.first, lines.step], np.int64),
    )
    return _arranged(xy, rings, owners, regions, shells)


def _arranged(
    xy: NDArray[np.int32], rings: Offsets, owners: Ints, regions: Ints, shells: NDArray[np.bool_]
) -> Polygons:
    """Rings by object, region and shell before holes; regions and holes by their first vertex."""
    x, y = xy[rings[:-1]].T
    place = np.zeros((regions.max() + 1, 2), np.int32)
    place[regions[shells]] = np.stack([y, x], axis=1)[shells]
    order = np.lexsort((x, y, ~shells, place[regions, 1], place[regions, 0], owners))
    arranged, offsets = gathered(xy, rings, order)
    first = np.flatnonzero(shells[order])
    owner_of_part = owners[order][first]
    return Polygons(
        xy=arranged,
        rings=offsets,
        parts=np.append(first, len(order)),
        owners=np.append(np.flatnonzero(np.diff(owner_of_part, prepend=-1)), len(first)),
    )


@as_machine_code
def _way(dx: int, dy: int) -> int:
    """0 west, 1 south, 2 east, 3 north: one more is a turn to the left."""
    if dx != 0:
        return 0 if dx < 0 else 2
    return 3 if dy < 0 else 1


@as_machine_code
def _is_border(place: int, first: int, step: int) -> bool:
    return (place - first) % step == 0


@as_machine_code
def _join(
    xy: NDArray[np.int32],
    pinched: NDArray[np.bool_],
    rings: Offsets,
    part_of_ring: Ints,
    objects: Offsets,
    lines: Ints,
) -> tuple[NDArray[np.int32], Offsets, Ints, Ints, NDArray[np.bool_]]:
    """The rings of the objects.

    An edge is known by its first vertex; those of the stretches of border that are left are added
    behind the others.

    Args:
        xy: (V, 2) vertices of closed rings.
        pinched: (V,) as in `Piece`.
        rings: (R + 1,) where rings begin.
        part_of_ring: (R,) ascending.
        objects: (N + 1,) where the rings of each object begin.
        lines: x, y of `Lines.first`, and of `Lines.step`.

    Returns:
        Vertices; where rings begin; whose they are; a number of their region; whether they are its
        shell. Each ring begins with its uppermost vertex, the leftmost of these.
    """
    count = len(xy)
    parents = np.arange(part_of_ring[-1] + 1 if len(part_of_ring) else 0)
    part_of = np.zeros(count, np.int64)
    border = np.zeros(count, np.int8)
    follower = np.zeros(count, np.int64)
    for ring in range(len(rings) - 1):
        a, b = rings[ring], rings[ring + 1] - 1
        for i in range(a, b):
            part_of[i], follower[i] = part_of_ring[ring], i + 1
            if xy[i, 0] == xy[i + 1, 0]:
                border[i] = 1 if _is_border(xy[i, 0], lines[0, 0], lines[1, 0]) else 0
            else:
                border[i] = 2 if _is_border(xy[i, 1], lines[0, 1], lines[1, 1]) else 0
        follower[b - 1] = a
        border[b] = -1  # the closing vertex has no edge
    left = np.zeros((16, 6), np.int64)
    added = 0
    added_of = np.zeros(len(objects), np.int64)
    for k in range(len(objects) - 1):
        a, b = rings[objects[k]], rings[objects[k + 1]]
        for axis in range(2):
            left, added = _cancel(xy, border, part_of, parents, a, b, axis, left, added)
        added_of[k + 1] = added
    edges = np.empty((count + added, 4), np.int32)
    parts = np.empty(count + added, np.int64)
    after = np.empty(count + added, np.int64)
    alive = np.zeros(count + added, np.bool_)
    for i in range(count):
        if border[i] == 0:
            edges[i, 0], edges[i, 1] = xy[i, 0], xy[i, 1]
            edges[i, 2], edges[i, 3] = xy[i + 1, 0], xy[i + 1, 1]
            alive[i], after[i] = True, follower[i]
        parts[i] = part_of[i]
    for i in range(added):
        for j in range(4):
            edges[count + i, j] = left[i, j]
        parts[count + i], alive[count + i] = left[i, 4], True
    for i in range(count + added):
        parts[i] = root(parents, parts[i])
    for k in range(len(objects) - 1):
        a, b = rings[objects[k]], rings[objects[k + 1]]
        incoming, outgoing = _loose(
            border, pinched, follower, a, b, count + added_of[k], count + added_of[k + 1]
        )
        _link(edges, parts, incoming, outgoing, after)
    return _walked(edges, parts, after, alive, rings, objects, added_of)


@as_machine_code
def _cancel(
    xy: NDArray[np.int32],
    border: NDArray[np.int8],
    part_of: Ints,
    parents: Ints,
    a: int,
    b: int,
    axis: int,
    left: Ints,
    added: int,
) -> tuple[Ints, int]:
    """Take away the stretches of border that two rings of an object share; note what is left.

    The object's edges are a to b; axis is 0 for borders along y, and 1 for those along x; rows of
    `left` are x, y, x, y and part, of which so many were added before.
    """
    forth, back = _along(xy, border, a, b, axis, 1), _along(xy, border, a, b, axis, -1)
    other = 1 - axis
    i = j = 0
    low_forth = low_back = np.int64(-1)
    while i < len(forth) or j < len(back):
        if i < len(forth):
            f = forth[i]
            line_f, end_f = xy[f, axis], np.int64(xy[f + 1, other])
            begin_f = np.int64(xy[f, other]) if low_forth < 0 else low_forth
        if j < len(back):
            g = back[j]
            line_g, end_g = xy[g, axis], np.int64(xy[g, other])
            begin_g = np.int64(xy[g + 1, other]) if low_back < 0 else low_back
        if j >= len(back) or (
            i < len(forth) and (line_f < line_g or (line_f == line_g and end_f <= begin_g))
        ):
            left, added = _keep(left, added, axis, line_f, begin_f, end_f, part_of[f])
            i, low_forth = i + 1, np.int64(-1)
        elif i >= len(forth) or line_g < line_f or end_g <= begin_f:
            left, added = _keep(left, added, axis, line_g, end_g, begin_g, part_of[g])
            j, low_back = j + 1, np.int64(-1)
        elif begin_f < begin_g:
            left, added = _keep(left, added, axis, line_f, begin_f, begin_g, part_of[f])
            low_forth = begin_g
        elif begin_g < begin_f:
            left, added = _keep(left, added, axis, line_g, begin_f, begin_g, part_of[g])
            low_back = begin_f
        else:
            p, q = root(parents, part_of[f]), root(parents, part_of[g])
            parents[max(p, q)] = min(p, q)
            end = min(end_f, end_g)
            low_forth, low_back = end, end
            if end == end_f:
                i, low_forth = i + 1, np.int64(-1)
            if end == end_g:
                j, low_back = j + 1, np.int64(-1)
    return left, added


@as_machine_code
def _along(
    xy: NDArray[np.int32], border: NDArray[np.int8], a: int, b: int, axis: int, sign: int
) -> Ints:
    """Edges a to b that run along borders in one direction, by line and then by low end."""
    other, found = 1 - axis, 0
    chosen, keys = np.empty(b - a, np.int64), np.empty(b - a, np.int64)
    for i in range(a, b):
        if border[i] == axis + 1 and (xy[i + 1, other] > xy[i, other]) == (sign > 0):
            low = min(xy[i, other], xy[i + 1, other])
            chosen[found], keys[found] = i, (np.int64(xy[i, axis]) << 32) + low
            found += 1
    return chosen[:found][np.argsort(keys[:found])]


@as_machine_code
def _keep(
    left: Ints, added: int, axis: int, line: Any, begin: Any, end: Any, part: Any
) -> tuple[Ints, int]:
    """Note the stretch of a line from `begin` to `end`, in that direction."""
    if added == len(left):
        left = longer(left, added + 1)
    left[added, axis], left[added, 1 - axis] = line, begin
    left[added, 2 + axis], left[added, 3 - axis] = line, end
    left[added, 4] = part
    return left, added + 1


@as_machine_code
def _loose(
    border: NDArray[np.int8],
    pinched: NDArray[np.bool_],
    follower: Ints,
    a: int,
    b: int,
    more: int,
    end: int,
) -> tuple[Ints, Ints]:
    """Edges of an object whose ends, and those whose starts, are to be linked anew.

    The object's edges are a to b, and `more` to `end` those that were added.
    """
    incoming, outgoing = (
        np.empty(b - a + end - more, np.int64),
        np.empty(b - a + end - more, np.int64),
    )
    ins = outs = 0
    for i in range(a, b):
        if border[i] < 0:
            continue
        after = follower[i]
        loose = border[i] > 0 or border[after] > 0 or pinched[after]
        if loose and border[i] == 0:
            incoming[ins] = i
            ins += 1
        if loose and border[after] == 0:
            outgoing[outs] = after
            outs += 1
    for i in range(more, end):
        incoming[ins], outgoing[outs] = i, i
        ins, outs = ins + 1, outs + 1
    return incoming[:ins], outgoing[:outs]


@as_machine_code
def _link(
    edges: NDArray[np.int32], parts: Ints, incoming: Ints, outgoing: Ints, after: Ints
) -> None:
    """Which edge comes after each incoming one: of its region; of two, that to the right.

    So a ring turns round the corner of the other side, as in `tracing`.
    """
    ends, starts = _keys(edges, incoming, 2), _keys(edges, outgoing, 0)
    by_end, by_start = np.argsort(ends), np.argsort(starts)
    at = 0
    for n in range(len(incoming)):
        i = incoming[by_end[n]]
        while starts[by_start[at]] < ends[by_end[n]]:
            at += 1
        way = _way(edges[i, 2] - edges[i, 0], edges[i, 3] - edges[i, 1])
        found = -1
        for m in range(at, min(at + 2, len(outgoing))):
            j = outgoing[by_start[m]]
            if starts[by_start[m]] != ends[by_end[n]] or parts[j] != parts[i]:
                continue
            turned = _way(edges[j, 2] - edges[j, 0], edges[j, 3] - edges[j, 1])
            if found < 0 or turned == (way + 3) % 4:
                found = j
        after[i] = found


@as_machine_code
def _keys(edges: NDArray[np.int32], chosen: Ints, column: int) -> Ints:
    keys = np.empty(len(chosen), np.int64)
    for k in range(len(chosen)):
        x, y = np.int64(edges[chosen[k], column]), np.int64(edges[chosen[k], column + 1])
        keys[k] = (y << 32) + x
    return keys


@as_machine_code
def _walked(
    edges: NDArray[np.int32],
    parts: Ints,
    after: Ints,
    alive: NDArray[np.bool_],
    rings: Offsets,
    objects: Offsets,
    added_of: Offsets,
) -> tuple[NDArray[np.int32], Offsets, Ints, Ints, NDArray[np.bool_]]:
    """The rings of linked edges, as `_join` returns them. Edges are dead when they were walked."""
    count = len(edges) - added_of[-1]
    xy = np.empty((2 * len(edges), 2), np.int32)
    # regions that met at corners may be one now, and enclose any number of holes there
    found = np.zeros((len(edges) // 4, 4), np.int64)
    vertices = ring = 0
    for k in range(len(objects) - 1):
        a, b = rings[objects[k]], rings[objects[k + 1]]
        own = b - a
        for n in range(own + added_of[k + 1] - added_of[k]):
            start = a + n if n < own else count + added_of[k] + n - own
            if not alive[start]:
                continue
            begin = vertices
            vertices = _walk(edges, after, alive, start, xy, vertices)
            twice = _settle(xy, begin, vertices)
            found[ring, 0], found[ring, 1], found[ring, 2] = vertices, k, parts[start]
            found[ring, 3] = twice < 0
            ring += 1
    offsets = np.zeros(ring + 1, np.int64)
    offsets[1:] = found[:ring, 0]
    return xy[:vertices], offsets, found[:ring, 1], found[:ring, 2], found[:ring, 3] > 0


@as_machine_code
def _walk(
    edges: NDArray[np.int32],
    after: Ints,
    alive: NDArray[np.bool_],
    start: int,
    xy: NDArray[np.int32],
    vertices: int,
) -> int:
    """Append the corners of the ring that an edge is in; returns how many vertices there are."""
    begin, here = vertices, start
    way = _way(edges[here, 2] - edges[here, 0], edges[here, 3] - edges[here, 1])
    while True:
        alive[here] = False
        there = after[here]
        if there < 0:
            raise ValueError("the parts of an object do not fit each other")
        turned = _way(edges[there, 2] - edges[there, 0], edges[there, 3] - edges[there, 1])
        if turned != way:
            xy[vertices, 0], xy[vertices, 1] = edges[there, 0], edges[there, 1]
            vertices += 1
        here, way = there, turned
        if here == start:
            break
    xy[vertices] = xy[begin]
    return vertices + 1


@as_machine_code
def _settle(xy: NDArray[np.int32], begin: int, end: int) -> Any:
    """Turn a closed ring so that it begins with its first vertex; returns twice its area.

    The area is negative where the region is inside: y points down.
    """
    first, twice, length = begin, np.int64(0), end - begin - 1
    for i in range(begin, end - 1):
        if xy[i, 1] < xy[first, 1] or (xy[i, 1] == xy[first, 1] and xy[i, 0] < xy[first, 0]):
            first = i
        x, y = np.int64(xy[i, 0]), np.int64(xy[i, 1])
        twice += x * np.int64(xy[i + 1, 1]) - np.int64(xy[i + 1, 0]) * y
    ring = xy[begin : end - 1].copy()
    for i in range(length):
        xy[begin + i] = ring[(first - begin + i) % length]
    xy[end - 1] = xy[begin]
    return twice

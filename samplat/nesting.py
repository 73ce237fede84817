"""All masks of an image, whole, and which of them lies in which.

Masks of one tile may overlap, which changes what proves two of them to be one. That a mask lies in
another one proves nothing here: so does a window in its roof. What counts is the IoU in the strip
that both tiles see. Of disjoint objects only one can have an IoU above 0.5 with a given one; of
overlapping masks several can: both of two that cover a strip whole have the IoU 1 there. So pairs
are taken from the best one down, between two tiles each mask once, the larger ones of equals first,
as is right when they are nested; and no group gets two masks of one tile.

The flat partition is decided before, by what is left of the masks, and is not touched. Where it is
of another opinion, a mask shows in several of its objects, or an object shows several masks: ids
are then given one to one, from the most pixels down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.claims import facing
from samplat.merging import Groups, places
from samplat.objects import WholeMasks, encode_pixels
from samplat.tiles import Window

LEAST_INSIDE = 0.9
"""A mask lies in a larger one if at least this share of its pixels does."""


def shared_pixels(
    first: WholeMasks, second: WholeMasks, window: Window
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of ranks that share pixels of a window, how many, and their IoU there."""
    one, other = (
        _matrix([masks.pixels(k, window) for k in range(len(masks))], window)
        for masks in (first, second)
    )
    table = (one @ other.T).tocoo()
    i, j = table.row.astype(np.int64), table.col.astype(np.int64)
    shared = table.data.astype(np.int64)
    union = np.diff(one.indptr)[i] + np.diff(other.indptr)[j] - shared
    return i, j, shared, shared / union


def _matrix(pixels: Sequence[NDArray[np.int64]], window: Window) -> Any:
    """A sparse matrix (N, P) that is 1 where a mask covers a pixel."""
    from scipy import sparse

    ends = np.cumsum([0, *map(len, pixels)])
    places = np.concatenate([np.zeros(0, np.int64), *pixels]).astype(np.int32)
    ones = np.ones(len(places), np.int32)
    return sparse.csr_array((ones, places, ends), shape=(len(pixels), window.size))


@dataclass(frozen=True, kw_only=True)
class MaskLinks:
    """E pairs of masks of different tiles that may be one, and how much speaks for it."""

    ids: NDArray[np.uint64]
    """(E, 2) provisional ids."""
    ious: NDArray[np.float64]
    """(E,) IoU where both tiles see."""
    shared: NDArray[np.int64]
    """(E,) pixels that they share there."""

    @classmethod
    def joined(cls, parts: Iterable[MaskLinks]) -> MaskLinks:
        """All of them."""
        each = list(parts)
        return cls(
            ids=np.concatenate([np.zeros((0, 2), np.uint64), *(p.ids for p in each)]),
            ious=np.concatenate([np.zeros(0), *(p.ious for p in each)]),
            shared=np.concatenate([np.zeros(0, np.int64), *(p.shared for p in each)]),
        )


def match_masks(
    first: WholeMasks,
    second: WholeMasks,
    least_iou: float,
) -> MaskLinks:
    """Masks of two tiles that are one, each once.

    Args:
        first: masks of a tile.
        second: masks of another tile, whose read window overlaps.
        least_iou: they are one when their IoU where both tiles see is above this.
    """
    strip = first.masks.tile.read.intersection(second.masks.tile.read)
    i, j, shared, ious = shared_pixels(first, second, strip)
    fit = ious > least_iou
    order = np.lexsort((j, i, -second.masks.areas[j], -first.masks.areas[i], -ious))
    kept = _once_each(i, j, order[fit[order]])
    ids = np.stack([first.masks.ids[i[kept]], second.masks.ids[j[kept]]], axis=1)
    return MaskLinks(ids=ids, ious=ious[kept], shared=shared[kept])


def _once_each(
    i: NDArray[np.int64], j: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of pairs in this order, those of which neither side came before."""
    taken: tuple[set[int], set[int]] = set(), set()
    kept = []
    for k in order.tolist():
        if int(i[k]) not in taken[0] and int(j[k]) not in taken[1]:
            kept.append(k)
            taken[0].add(int(i[k]))
            taken[1].add(int(j[k]))
    return np.array(kept, np.int64)


def group_masks(counts: NDArray[np.int64], links: MaskLinks) -> Groups:
    """Put masks that are one into groups; the order in which links were found does not matter.

    Links hold from the best IoU down, and of equal ones from the most pixels down, but for those
    that would give a group two masks of one tile.

    Args:
        counts: (T,) masks of each tile.
        links: of masks of different tiles.

    Returns:
        groups in order of their smallest provisional ids.
    """
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    sets = _Sets(parent=np.arange(starts[-1]), tiles=np.repeat(np.arange(len(counts)), counts))
    order = np.lexsort((links.ids[:, 1], links.ids[:, 0], -links.shared, -links.ious))
    first, second = (places(links.ids[order, side], starts).tolist() for side in (0, 1))
    for a, b in zip(first, second, strict=True):
        sets.unite(a, b)
    roots, group = np.unique(sets.roots(), return_inverse=True)
    return Groups(starts=starts, group=group.astype(np.int64), count=len(roots))


@dataclass(frozen=True, kw_only=True)
class _Sets:
    """Union-find with the smallest as root, in which no set gets a tile twice."""

    parent: NDArray[np.int64]
    tiles: NDArray[np.int64]
    """Of each mask."""
    several: dict[int, set[int]] = field(default_factory=dict)
    """Tiles of sets of more than one mask, by root."""

    def root(self, mask: int) -> int:
        """Of the set of a mask."""
        while (above := int(self.parent[mask])) != mask:
            self.parent[mask] = mask = int(self.parent[above])
        return mask

    def unite(self, one: int, other: int) -> None:
        """Make the sets of two masks one, if that may be."""
        low, high = sorted((self.root(one), self.root(other)))
        fewer, more = sorted((self._tiles(low), self._tiles(high)), key=len)
        if low == high or not fewer.isdisjoint(more):
            return
        self.several.pop(high, None)
        self.several[low] = more
        more |= fewer
        self.parent[high] = low

    def _tiles(self, root: int) -> set[int]:
        return self.several.get(root) or {int(self.tiles[root])}

    def roots(self) -> NDArray[np.int64]:
        """Of all masks."""
        found = self.parent
        while (found[found] != found).any():
            found = found[found]
        return found


@dataclass(frozen=True, kw_only=True)
class Named:
    """Groups of masks, and where they show in the labels."""

    groups: Groups
    """Those with an id of the labels first, by id, and then the others as they were."""
    names: NDArray[Any]
    """(G,) that id; 0 for the others."""
    showing: NDArray[np.int64]
    """(S,) groups that show in the labels, ascending, once for each id."""
    ids: NDArray[Any]
    """(S,) ids that their pixels have there, ascending for each group."""


def name_groups(groups: Groups, names: NDArray[Any], areas: NDArray[np.int64]) -> Named:
    """Give groups ids of the labels: each at most one, and each id at most once.

    Of all pairs of a group and an id, those that share most pixels come first, then the smaller id,
    then the smaller group.

    Args:
        groups: of all masks.
        names: (N,) id of what is left of each mask in the labels; 0 for nothing.
        areas: (N,) pixels of that.
    """
    left = np.flatnonzero(names)
    pairs, which = np.unique(
        np.stack([groups.group[left], names[left].astype(np.int64)], axis=1),
        axis=0,
        return_inverse=True,
    )
    shared = np.bincount(which.ravel(), weights=areas[left], minlength=len(pairs))
    order = np.lexsort((pairs[:, 0], pairs[:, 1], -shared))
    chosen = pairs[_once_each(pairs[:, 0], pairs[:, 1], order)]
    given = np.zeros(groups.count, names.dtype)
    given[chosen[:, 0]] = chosen[:, 1]
    ranked = np.lexsort((np.arange(groups.count), given, given == 0))
    number = np.zeros(groups.count, np.int64)
    number[ranked] = np.arange(groups.count)
    showing = number[pairs[:, 0]]
    order = np.lexsort((pairs[:, 1], showing))
    return Named(
        groups=Groups(starts=groups.starts, group=number[groups.group], count=groups.count),
        names=given[ranked],
        showing=showing[order],
        ids=pairs[order, 1].astype(names.dtype),
    )


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What R groups cover of a tile's write window. The arrays share the first axis R."""

    groups: NDArray[np.int64]
    """(R,) groups, ascending."""
    rles: tuple[bytes, ...]
    """Run-length counts over the write window's (y, x); they may overlap."""
    areas: NDArray[np.int64]
    """(R,) pixels, at least 1."""
    boxes: NDArray[np.int64]
    """(R, 6) of these, z0, y0, x0, z1, y1, x1, half-open, global."""
    owned_areas: NDArray[np.int64]
    """(R,) of these, pixels of masks that the tile itself found."""
    predicted_iou: NDArray[np.float32]
    """(R,) mean of these masks, by pixels; 0 without one."""
    stability: NDArray[np.float32]
    """(R,) likewise."""
    points: NDArray[np.float32]
    """(R, 2) prompt point of the largest of them; NaN without one."""
    cut: NDArray[np.uint8]
    """(R,) sides of the read window that cut them, as in `TileObjects`."""
    interrupted: NDArray[np.bool_]
    """(R,) True: one of them reaches into a tile that failed, or out of the image."""
    pairs: NDArray[np.int64]
    """(P, 2) groups that overlap here, the smaller one first."""
    shared: NDArray[np.int64]
    """(P,) pixels that they share here."""


def tile_layers(
    mine: WholeMasks,
    others: Iterable[WholeMasks],
    groups: Callable[[int], NDArray[np.int64]],
    claimed: Collection[int],
    lost: Sequence[Window],
    image: Window,
) -> Layers:
    """What a tile shows of all masks: its own, and neighbours' that it has no mask of.

    A neighbour's mask is shown if the neighbour shows a part of it and saw where it ends in the
    tile, and always where the flat partition does so.

    Args:
        mine: masks of the tile.
        others: of its neighbours, in order of tile.
        groups: gives the groups of a tile's masks.
        claimed: provisional ids of the neighbours' objects of which the flat partition has pixels
            here.
        lost: write windows of tiles that failed.
        image: all of the image.
    """
    write, own = mine.masks.tile.write, groups(mine.masks.tile.index)
    owned = _union(own, [mine.pixels(k, write) for k in range(len(mine))])
    everything = dict(owned)
    for theirs in others:
        for rank in _shown(theirs, groups(theirs.masks.tile.index), own, claimed, write):
            group = int(groups(theirs.masks.tile.index)[rank])
            pixels = theirs.pixels(rank, write)
            if len(pixels):
                before = everything.get(group, pixels)
                everything[group] = np.union1d(before, pixels)
    there = np.array(sorted(everything), np.int64)
    each = [everything[group] for group in there.tolist()]
    pairs, shared = _overlaps(there, each, write)
    areas = np.array([len(owned.get(group, ())) for group in there.tolist()], np.int64)
    return Layers(
        groups=there,
        rles=tuple(encode_pixels(pixels, (write.shape[1], write.shape[2])) for pixels in each),
        areas=np.array(list(map(len, each)), np.int64),
        boxes=np.array([_pixel_box(pixels, write) for pixels in each], np.int64).reshape(-1, 6),
        owned_areas=areas,
        **_told(mine, own, there, lost, image),
        pairs=pairs,
        shared=shared,
    )


def _union(
    groups: NDArray[np.int64], pixels: Sequence[NDArray[np.int64]]
) -> dict[int, NDArray[np.int64]]:
    """Pixels of each group that has some."""
    found: dict[int, NDArray[np.int64]] = {}
    for group, each in zip(groups.tolist(), pixels, strict=True):
        if len(each):
            found[group] = np.union1d(found[group], each) if group in found else each
    return found


def _shown(
    theirs: WholeMasks,
    groups: NDArray[np.int64],
    own: NDArray[np.int64],
    claimed: Collection[int],
    write: Window,
) -> NDArray[np.int64]:
    """Ranks of a neighbour's masks that the tile shows."""
    masks = theirs.masks
    base = masks.tile.index << 32
    flat = np.array([base + k in claimed if k >= 0 else False for k in theirs.flat.tolist()], bool)
    unknown = ~np.isin(groups, own) & ((masks.cut & facing(masks, write)) == 0)
    fit = (flat | unknown) & (masks.owned_areas > 0)
    met = masks.meeting(write)
    ranks: NDArray[np.int64] = met[fit[met]]
    return ranks


def _pixel_box(pixels: NDArray[np.int64], window: Window) -> list[int]:
    (z, top, left), height = window.start, window.shape[1]
    y = pixels % height
    columns = int(pixels[0]) // height, int(pixels[-1]) // height
    low, high = int(y.min()), int(y.max())
    return [z, top + low, left + columns[0], z + 1, top + high + 1, left + columns[1] + 1]


def _overlaps(
    groups: NDArray[np.int64], pixels: Sequence[NDArray[np.int64]], window: Window
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from scipy import sparse

    layers = _matrix(pixels, window)
    table = sparse.triu(layers @ layers.T, k=1).tocoo()
    order = np.lexsort((table.col, table.row))
    pairs = np.stack([groups[table.row[order]], groups[table.col[order]]], axis=1)
    return pairs, table.data[order].astype(np.int64)


def _told(
    mine: WholeMasks,
    own: NDArray[np.int64],
    there: NDArray[np.int64],
    lost: Sequence[Window],
    image: Window,
) -> dict[str, Any]:
    """What a tile's own masks say of the groups that it shows."""
    masks, count = mine.masks, len(there)
    cut, interrupted = np.zeros(count, np.uint8), np.zeros(count, bool)
    scores, weights = np.zeros((count, 2)), np.zeros(count)
    points = np.full((count, 2), np.nan, np.float32)
    painting = np.flatnonzero((masks.owned_areas > 0) & np.isin(own, there))
    row = np.searchsorted(there, own[painting])
    np.bitwise_or.at(cut, row, masks.cut[painting])
    np.logical_or.at(interrupted, row, _reaching_out(mine, lost, image)[painting])
    each = np.stack([masks.predicted_iou, masks.stability], axis=1)[painting].astype(np.float64)
    np.add.at(weights, row, masks.owned_areas[painting])
    np.add.at(scores, row, each * masks.owned_areas[painting, None])
    # the last one stays: the largest, and of equal ones the first
    order = np.lexsort((-painting, masks.owned_areas[painting]))
    points[row[order]] = masks.points[painting[order]]
    means = (scores / np.maximum(weights, 1)[:, None]).astype(np.float32)
    return {
        "predicted_iou": means[:, 0],
        "stability": means[:, 1],
        "points": points,
        "cut": cut,
        "interrupted": interrupted,
    }


def _reaching_out(mine: WholeMasks, lost: Sequence[Window], image: Window) -> NDArray[np.bool_]:
    """Masks that reach into a lost window, or out of the image."""
    boxes, read = mine.masks.boxes, mine.masks.tile.read
    outside = (boxes[:, :3] < image.start) | (boxes[:, 3:] > image.stop)
    found: NDArray[np.bool_] = np.asarray(outside.any(axis=1))
    for window in lost:
        part = window.intersection(read)
        for rank in mine.masks.meeting(part).tolist() if part.size else ():
            if len(mine.pixels(rank, part)):
                found[rank] = True
    return found


def find_parents(
    pairs: NDArray[np.int64], shared: NDArray[np.int64], areas: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(G,) the smallest group in which each lies, -1 for none: a forest, since it is larger.

    Args:
        pairs: (P, 2) groups that overlap, any number of times.
        shared: (P,) pixels that they share, to be added up.
        areas: (G,) pixels of each group.
    """
    from scipy import sparse

    count = len(areas)
    table = sparse.coo_array((shared, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    table.sum_duplicates()
    inner = np.concatenate([table.row, table.col]).astype(np.int64)
    outer = np.concatenate([table.col, table.row]).astype(np.int64)
    inside = np.concatenate([table.data, table.data]) >= LEAST_INSIDE * areas[inner]
    inside &= areas[outer] > areas[inner]
    inner, outer = inner[inside], outer[inside]
    order = np.lexsort((outer, areas[outer], inner))
    found, first = np.unique(inner[order], return_index=True)
    parents = np.full(count, -1, np.int64)
    parents[found] = outer[order][first]
    return parents

"""The stage that meets neighbouring tiles: which objects are one, and which a tile claims."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.claims import NO_CLAIMS, Neighbour, find_claims
from samplat.files import canonical, sha256
from samplat.job import Plan
from samplat.ledger import TileRecord
from samplat.objects import TileObjects
from samplat.seams import match_strip
from samplat.stages import STRIPE, Stages, in_stripes
from samplat.store import JobStore
from samplat.tiles import Tile

OBJECTS_KEPT = 3 * (STRIPE + 2)
"""Tiles whose objects are kept, without pixels, since their neighbours ask for them too."""


def match_seams(planned: Plan, records: Sequence[TileRecord], stages: Stages) -> tuple[str, ...]:
    """Find what all tiles have to do with their neighbours; returns the digest of each one's."""

    def digest(index: int) -> str | None:
        inputs = seam_inputs(planned, index, records.__getitem__)
        return planned.store.seams_digest(index, inputs)

    tiles = range(len(planned.grid))
    task, order = SeamTask(plan=planned), in_stripes(planned, tiles)
    found = stages.make("seams", task, order, digest, planned.store.path)
    return tuple(found[index] for index in tiles)


def around(planned: Plan, index: int) -> Iterator[Tile]:
    """A tile and those whose read windows overlap its own, in order."""
    return planned.grid.overlapping(planned.grid[index].read)


def seam_inputs(planned: Plan, index: int, record: Callable[[int], TileRecord]) -> str:
    """Digest of what a tile's seams are found from."""
    digests = {str(t.index): record(t.index).objects_sha256 for t in around(planned, index)}
    return sha256(canonical(digests))


def seams_digest(planned: Plan, index: int) -> str | None:
    """Digest of the seams of a tile; None where there are none, as with prompts."""
    if planned.prompts is not None:
        return None
    inputs = seam_inputs(planned, index, planned.store.tiles.known)
    return planned.store.seams_digest(index, inputs) or "nothing"


@functools.lru_cache(maxsize=OBJECTS_KEPT)
def objects_of(store: JobStore, tile: Tile, record: TileRecord) -> TileObjects:
    """The objects of a finished tile; kept, because a tile meets up to eight others."""
    return store.read_objects(tile, record)


@dataclass(frozen=True, kw_only=True)
class SeamTask:
    """Finds what the objects of one tile have to do with those of its neighbours."""

    plan: Plan

    def __call__(self, index: int) -> str:
        """Digest of the links and claims."""
        store, tile = self.plan.store, self.plan.grid[index]
        beside = {t.index: store.tiles.known(t.index) for t in around(self.plan, index)}
        inputs = seam_inputs(self.plan, index, beside.__getitem__)
        found = []
        if beside[index].outcome == "done":
            mine = objects_of(store, tile, beside.pop(index))
            done = [r for r in beside.values() if r.outcome == "done"]
            whole = mine.labels() if done else None
            others = (objects_of(store, self.plan.grid[r.index], r) for r in done)
            found = [self._meet(mine, whole, theirs) for theirs in others]
        links = [n.links for n in found if n.neighbour.objects.tile.index > index]
        claims = find_claims(mine, [n.neighbour for n in found]) if found else NO_CLAIMS
        joined = np.concatenate([np.zeros((0, 2), np.uint64), *links])
        return store.write_seams(index, joined, claims, inputs)

    def _meet(self, mine: TileObjects, whole: Any, theirs: TileObjects) -> Meeting:
        strip = mine.tile.read.intersection(theirs.tile.read)
        own = np.ascontiguousarray(whole[strip.relative_to(mine.tile.read).slices])
        labels = theirs.labels(strip)
        pairs = match_strip(mine, theirs, own, labels, self.plan.job.seams)
        linked = pairs if self.plan.job.stacking is None else _painting(mine, theirs, pairs)
        links = np.stack([mine.ids[linked[:, 0]], theirs.ids[linked[:, 1]]], axis=1)
        beside = Neighbour(objects=theirs, labels=labels, own=own, matched=pairs[:, 1])
        return Meeting(neighbour=beside, links=links)


def _painting(
    mine: TileObjects, theirs: TileObjects, pairs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pairs of objects of which each tile paints a part.

    What a tile sees in its halo alone may be linked there by masks that its edge cuts. In a stack
    it would pass that on, from slice to slice and to objects that others saw better.
    """
    paints = (mine.owned_areas[pairs[:, 0]] > 0) & (theirs.owned_areas[pairs[:, 1]] > 0)
    return pairs[paints]


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """A tile's neighbour, and which of their objects are one."""

    neighbour: Neighbour
    links: NDArray[np.uint64]
    """(E, 2) provisional ids, the tile's and the neighbour's."""

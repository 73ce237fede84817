"""The stage that meets neighbouring tiles: which objects are one, and which a tile claims."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from samplat.claims import NO_CLAIMS, find_claims
from samplat.files import canonical, sha256
from samplat.job import Plan
from samplat.ledger import TileRecord
from samplat.objects import TileObjects
from samplat.seams import Beside, meet, same_objects
from samplat.stages import STRIPE, Stages, in_stripes
from samplat.store import JobStore
from samplat.tiles import Tile, TileGrid

OBJECTS_KEPT = 3 * (STRIPE + 2)
"""Tiles whose objects are kept, without pixels, since their neighbours ask for them too."""


def match_seams(planned: Plan, records: Sequence[TileRecord], stages: Stages) -> tuple[str, ...]:
    """Find what all tiles have to do with their neighbours; returns the digest of each one's."""

    def digest(index: int) -> str | None:
        if not planned.store.has_seams(index):
            return None
        inputs = seam_inputs(planned, index, records.__getitem__)
        return planned.store.seams_digest(index, inputs)

    tiles = range(len(planned.grid))
    known = {str(r.index): [r.outcome, r.objects_sha256] for r in records}
    ledger = sha256(canonical(known))
    task, order = SeamTask(plan=planned, ledger=ledger), in_stripes(planned, tiles)
    found = stages.make("seams", task, order, digest, planned.store.path)
    return tuple(found[index] for index in tiles)


def around(planned: Plan, index: int) -> tuple[Tile, ...]:
    """A tile and those whose read windows overlap its own, in order."""
    return _around(planned.grid, index)


@functools.lru_cache(maxsize=1024)
def _around(grid: TileGrid, index: int) -> tuple[Tile, ...]:
    return tuple(grid.overlapping(grid[index].read))


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


@functools.lru_cache(maxsize=1024)
def _record(store: JobStore, index: int, ledger: str) -> TileRecord:
    return store.tiles.known(index)


@dataclass(frozen=True, kw_only=True)
class SeamTask:
    """Finds what the objects of one tile have to do with those of its neighbours."""

    stage: ClassVar[str] = "seams"
    plan: Plan
    ledger: str
    """Digest of all records: those of neighbours are kept as long as it is the same."""

    def __call__(self, index: int) -> str:
        """Digest of the links and claims."""
        store, tile = self.plan.store, self.plan.grid[index]
        tiles = around(self.plan, index)
        records = {t.index: _record(store, t.index, self.ledger) for t in tiles}
        inputs = seam_inputs(self.plan, index, records.__getitem__)
        done = [t for t in tiles if records[t.index].outcome == "done"]
        if tile not in done or done == [tile]:
            return store.write_seams(index, np.zeros((0, 2), np.uint64), NO_CLAIMS, inputs)
        found = {t.index: objects_of(store, t, records[t.index]) for t in done}
        mine = found.pop(index)
        others = Beside.of(list(found.values()))
        meetings = meet(mine, others)
        pairs = same_objects(mine, others, meetings, self.plan.job.seams)
        claims = find_claims(mine, others, meetings, pairs[:, 1])
        return store.write_seams(index, self._links(mine, others, pairs), claims, inputs)

    def _links(
        self, mine: TileObjects, others: Beside, pairs: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """(E, 2) provisional ids of objects that are one, of this and of higher tiles."""
        if self.plan.job.stacking is not None:
            pairs = _painting(mine, others, pairs)
        links = np.empty(pairs.shape, np.uint64)
        links[:, 0], links[:, 1] = mine.ids[pairs[:, 0]], others.ids(pairs[:, 1])
        return links[links[:, 1] > links[:, 0]]


def _painting(mine: TileObjects, others: Beside, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of objects of which each tile paints a part.

    What a tile sees in its halo alone may be linked there by masks that its edge cuts. In a stack
    it would pass that on, from slice to slice and to objects that others saw better.
    """
    paints = (mine.owned_areas[pairs[:, 0]] > 0) & (others.owned_areas[pairs[:, 1]] > 0)
    return pairs[paints]

"""The stage that meets neighbouring tiles: which objects are one, and which a tile claims."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat.claims import NO_CLAIMS, Neighbour, find_claims
from samplat.files import canonical, sha256
from samplat.job import Plan
from samplat.ledger import TileRecord
from samplat.objects import TileObjects
from samplat.seams import SeamRules, match_strip
from samplat.stages import STRIPE, Stages, in_stripes
from samplat.store import JobStore
from samplat.tiles import Tile, TileGrid

OBJECTS_KEPT = 3 * (STRIPE + 2)
"""Tiles whose objects are kept, without pixels, since their neighbours ask for them too."""
KEPT = 1024
"""Small things that are kept for the same reason."""


def match_seams(planned: Plan, records: Sequence[TileRecord], stages: Stages) -> tuple[str, ...]:
    """Find what all tiles have to do with their neighbours; returns the digest of each one's."""

    def digest(index: int) -> str | None:
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


@functools.lru_cache(maxsize=KEPT)
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


@functools.lru_cache(maxsize=KEPT)
def _pairs(
    store: JobStore, grid: TileGrid, first: TileRecord, second: TileRecord, rules: SeamRules
) -> NDArray[np.int64]:
    """Which objects of two tiles are one; kept, because both ask."""
    one, other = (objects_of(store, grid[record.index], record) for record in (first, second))
    strip = one.tile.read.intersection(other.tile.read)
    return match_strip(one, other, one.labels(strip), other.labels(strip), rules)


@functools.lru_cache(maxsize=KEPT)
def _record(store: JobStore, index: int, ledger: str) -> TileRecord:
    return store.tiles.known(index)


@dataclass(frozen=True, kw_only=True)
class SeamTask:
    """Finds what the objects of one tile have to do with those of its neighbours."""

    plan: Plan
    ledger: str
    """Digest of all records: those of neighbours are kept as long as it is the same."""

    def __call__(self, index: int) -> str:
        """Digest of the links and claims."""
        store, tile = self.plan.store, self.plan.grid[index]
        numbers = [t.index for t in around(self.plan, index)]
        beside = {number: _record(store, number, self.ledger) for number in numbers}
        inputs = seam_inputs(self.plan, index, beside.__getitem__)
        mine, links, claims = beside.pop(index), [np.zeros((0, 2), np.uint64)], NO_CLAIMS
        others = [record for record in beside.values() if record.outcome == "done"]
        if mine.outcome == "done" and others:
            objects, met = objects_of(store, tile, mine), [self._meet(mine, r) for r in others]
            higher = (each for each in met if each.objects.tile.index > index)
            links += [self._links(objects, each) for each in higher]
            claims = find_claims(objects, met)
        return store.write_seams(index, np.concatenate(links), claims, inputs)

    def _meet(self, mine: TileRecord, other: TileRecord) -> Neighbour:
        store, grid = self.plan.store, self.plan.grid
        first, second = sorted((mine, other), key=lambda record: record.index)
        pairs = _pairs(store, grid, first, second, self.plan.job.seams)
        theirs = objects_of(store, grid[other.index], other)
        ours = pairs if mine is first else pairs[:, ::-1]
        return Neighbour(objects=theirs, matched=ours)

    def _links(self, mine: TileObjects, beside: Neighbour) -> NDArray[np.uint64]:
        """(E, 2) provisional ids of objects that are one, the tile's and the neighbour's."""
        pairs, theirs = beside.matched, beside.objects
        if self.plan.job.stacking is not None:
            pairs = _painting(mine, theirs, pairs)
        return np.stack([mine.ids[pairs[:, 0]], theirs.ids[pairs[:, 1]]], axis=1)


def _painting(
    mine: TileObjects, theirs: TileObjects, pairs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pairs of objects of which each tile paints a part.

    What a tile sees in its halo alone may be linked there by masks that its edge cuts. In a stack
    it would pass that on, from slice to slice and to objects that others saw better.
    """
    paints = (mine.owned_areas[pairs[:, 0]] > 0) & (theirs.owned_areas[pairs[:, 1]] > 0)
    return pairs[paints]

"""The last stage of a job, on request: all masks, whole, and which of them lies in which.

`masks of tiles -> links -> groups -> layers of tiles -> table`

It comes after the labels and changes nothing of them. Like the other stages it reads what those
before it left in the directory, and skips what is there already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from samplat.claims import NO_CLAIMS, Claims
from samplat.files import canonical, sha256
from samplat.final_names import FinalNames
from samplat.job import Plan, tile_pixel_areas
from samplat.ledger import TileRecord
from samplat.matching import around
from samplat.merging import Groups, Parts, Tally, lists_of, object_batches, tally
from samplat.naming import final_names
from samplat.nested_store import NestedStore
from samplat.nesting import (
    Layers,
    MaskLinks,
    find_parents,
    group_masks,
    match_masks,
    name_groups,
    tile_layers,
)
from samplat.objects import WholeMasks
from samplat.shards import HOLE, Labels
from samplat.stages import Stages
from samplat.store import JobStore
from samplat.tiles import Tile

if TYPE_CHECKING:
    import pyarrow as pa

MASKS_KEPT = 24
"""Tiles whose masks are kept, since their neighbours ask for them too."""


def nest(
    planned: Plan, records: Sequence[TileRecord], seams: Sequence[str], final: str, stages: Stages
) -> pa.Table:
    """Find all masks of an image and their parents, or find that it was done; returns the table.

    Args:
        planned: the job, with labels.
        records: the ledger's entries of all tiles.
        seams: digests of their seams.
        final: digest of the final ids of objects.
        stages: runs tasks.
    """
    job = Nesting(plan=planned, records=tuple(records), seams=tuple(seams), final=final)
    store = job.nested_store
    links = _done(job, LinkTask(nesting=job), job.links_digest, "links", stages)
    inputs = sha256(canonical({"final": final, "links": links}))
    groups = store.groups_digest(inputs) or _group(job, links, inputs)
    digest = functools.partial(job.layers_digest, groups=groups)
    layers = _done(job, LayerTask(nesting=job, groups=groups), digest, "layers", stages)
    inputs = sha256(canonical({"groups": groups, "layers": layers}))
    if not store.is_finished(final, inputs):
        store.write_table(_rows(job, groups, layers), inputs, final)
    return store.read_table()


@dataclass(frozen=True, kw_only=True)
class Nesting:
    """What the tasks of this stage are told."""

    plan: Plan
    """The job."""
    records: tuple[TileRecord, ...]
    """The ledger's entries, by tile."""
    seams: tuple[str, ...]
    """Digests of the tiles' seams."""
    final: str
    """Digest of the final ids of objects."""
    done: tuple[int, ...] = field(init=False)
    """Tiles that have objects, or could have."""

    def __post_init__(self) -> None:
        done = tuple(r.index for r in self.records if r.outcome == "done")
        object.__setattr__(self, "done", done)

    @property
    def store(self) -> JobStore:
        """The job directory."""
        return self.plan.store

    @property
    def nested_store(self) -> NestedStore:
        """Its part of this stage."""
        return NestedStore(path=self.store.path)

    def masks(self, index: int) -> WholeMasks:
        """Masks of a tile."""
        return _masks(self.store, self.plan.grid[index], self.records[index])

    def beside(self, index: int) -> list[int]:
        """Neighbours with masks, in order."""
        others = (t.index for t in around(self.plan, index) if t.index != index)
        return [i for i in others if self.records[i].outcome == "done"]

    def masks_inputs(self, index: int) -> dict[str, Any]:
        """What decides which masks a tile knows of."""
        known = (self.records[t.index] for t in around(self.plan, index))
        return {str(r.index): [r.outcome, r.whole_sha256] for r in known}

    def links_inputs(self, index: int) -> str:
        """Digest of what a tile's links are found from."""
        return sha256(canonical(self.masks_inputs(index)))

    def links_digest(self, index: int) -> str | None:
        """Digest of a tile's links, if they are there."""
        return self.nested_store.links_digest(index, self.links_inputs(index))

    def layers_inputs(self, index: int, groups: str) -> str:
        """Digest of what a tile's layers are made from."""
        made_from = {"groups": groups, "seams": self.seams[index]}
        return sha256(canonical({**made_from, **self.masks_inputs(index)}))

    def layers_digest(self, index: int, *, groups: str) -> str | None:
        """Digest of a tile's layers, if they are there."""
        return self.nested_store.layers_digest(index, self.layers_inputs(index, groups))


@functools.lru_cache(maxsize=MASKS_KEPT)
def _masks(store: JobStore, tile: Tile, record: TileRecord) -> WholeMasks:
    return store.read_whole(tile, record)


@functools.lru_cache(maxsize=2)
def _groups(store: NestedStore, digest: str) -> FinalNames:
    return store.read_groups(digest)


def _done(
    job: Nesting,
    task: Callable[[int], str],
    digest: Callable[[int], str | None],
    name: str,
    stages: Stages,
) -> list[str]:
    """Digests of what a task makes of every tile with masks, made where it is missing."""
    return list(stages.make(name, task, job.done, digest, job.store.path).values())


@dataclass(frozen=True, kw_only=True)
class LinkTask:
    """Finds which masks of a tile are masks of its neighbours of higher index."""

    stage: ClassVar[str] = "links"
    nesting: Nesting

    def __call__(self, index: int) -> str:
        """Digest of the links."""
        job = self.nesting
        links = MaskLinks.joined(self._meet(index, i) for i in job.beside(index) if i > index)
        return job.nested_store.write_links(index, links, job.links_inputs(index))

    def _meet(self, index: int, other: int) -> MaskLinks:
        job = self.nesting
        least = job.plan.job.seams.iou
        return match_masks(job.masks(index), job.masks(other), least)


def _group(job: Nesting, digests: Sequence[str], inputs: str) -> str:
    """Decide which masks are one, and enter it; returns the digest of that."""
    store, counts = job.nested_store, np.zeros(len(job.records), np.int64)
    names, areas = [np.zeros(0, final_names(job.store, job.final).dtype)], [np.zeros(0, np.int64)]
    for index in job.done:
        found, each = _left_of(job, index)
        counts[index] = len(found)
        names.append(found)
        areas.append(each)
    groups = group_masks(counts, MaskLinks.joined(map(store.read_links, job.done, digests)))
    named = name_groups(groups, np.concatenate(names), np.concatenate(areas))
    return store.write_groups(named, inputs)


def _left_of(job: Nesting, index: int) -> tuple[Labels, NDArray[np.int64]]:
    """What the labels show of a tile's masks: final ids, 0 for nothing, and pixels."""
    final, flat = final_names(job.store, job.final).of_tile(index), job.masks(index).flat
    parts = job.store.read_parts(job.records[index])
    shown = np.flatnonzero(flat >= 0)
    names, areas = np.zeros(len(flat), final.dtype), np.zeros(len(flat), np.int64)
    areas[shown] = parts.owned_areas[flat[shown]]
    names[shown] = np.where(areas[shown] > 0, final[flat[shown]], 0)
    return names, areas


@dataclass(frozen=True, kw_only=True)
class LayerTask:
    """Finds what all masks cover of one tile."""

    stage: ClassVar[str] = "layers"
    nesting: Nesting
    groups: str

    def __call__(self, index: int) -> str:
        """Digest of the layers."""
        job = self.nesting
        claims = job.store.read_seams(index, job.seams[index])[1]
        layers = tile_layers(
            job.masks(index),
            (job.masks(other) for other in job.beside(index)),
            self._groups_of,
            set(claims.ids.tolist()),
            [
                t.write
                for t in around(job.plan, index)
                if job.records[t.index].outcome == "quarantined"
            ],
            job.plan.grid.image,
        )
        inputs = job.layers_inputs(index, self.groups)
        return job.nested_store.write_layers(index, layers, inputs)

    def _groups_of(self, index: int) -> NDArray[np.int64]:
        return _groups(self.nesting.nested_store, self.groups).of_tile(index).astype(np.int64)


def _rows(job: Nesting, groups: str, digests: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The table of masks, some rows at a time."""
    import pyarrow as pa

    names, showing, shown = job.nested_store.read_names(groups)
    found, pairs, shared = _added_up(job, digests, len(names))
    ids = _mask_ids(job, found, names, int(shown.max(initial=0)))
    starts = np.searchsorted(showing, np.arange(len(names) + 1))
    kept = (ids[pairs] > 0).all(axis=1) if len(pairs) else np.zeros(0, bool)
    parents = find_parents(pairs[kept], shared[kept], found.areas)
    parent_ids, begin = np.where(parents >= 0, ids[parents], 0), 0
    present = np.flatnonzero(ids)
    for batch in object_batches(found, ids):
        rows = present[begin : begin + len(batch)]
        begin += len(batch)
        lies_in = pa.array(parent_ids[rows], mask=parent_ids[rows] == 0)
        batch = batch.append_column("parent_id", lies_in)
        batch = batch.append_column("label_ids", lists_of(starts, shown, rows))
        yield batch.append_column("group", pa.array(rows))


def _added_up(
    job: Nesting, digests: Sequence[str], count: int
) -> tuple[Tally, NDArray[np.int64], NDArray[np.int64]]:
    """What is known of the groups, and pairs of them with the pixels that they share."""
    store = job.nested_store
    read = functools.partial(zip, job.done, digests, strict=True)
    rows: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(job.records)
    pairs, shared = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    interrupted = [np.zeros(0, np.uint64)]
    for index, digest in read():
        layers = store.read_layers(index, digest)
        rows[index] = layers.groups
        pairs.append(layers.pairs)
        shared.append(layers.shared)
        interrupted.append(_row_ids(index, layers.interrupted))
    starts = np.concatenate([[0], np.cumsum(list(map(len, rows)))]).astype(np.int64)
    groups = Groups(starts=starts, group=np.concatenate(rows), count=count)
    parts = (_as_parts(index, store.read_layers(index, digest)) for index, digest in read())
    areas = tile_pixel_areas(job.plan.job.pixel_areas, job.plan.grid)
    found = tally(groups, parts, job.plan.grid, np.concatenate(interrupted), areas)
    return found, np.concatenate(pairs), np.concatenate(shared)


def _row_ids(index: int, chosen: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Provisional ids of rows of a tile's layers."""
    return np.uint64(index << 32) + np.flatnonzero(chosen).astype(np.uint64)


def _as_parts(index: int, layers: Layers) -> tuple[Parts, Claims]:
    """The layers of a tile as objects of its own and claims on others', to be added up."""
    parts = Parts(
        index=index,
        owned_areas=layers.owned_areas,
        owned_boxes=layers.boxes,
        predicted_iou=layers.predicted_iou,
        stability=layers.stability,
        points=layers.points,
        cut=layers.cut,
        prompts=np.full(len(layers.groups), -1, np.int64),
    )
    painted_on = layers.areas > layers.owned_areas
    claims = Claims(
        ids=_row_ids(index, painted_on),
        areas=(layers.areas - layers.owned_areas)[painted_on],
        boxes=layers.boxes[painted_on],
        rles=(),
        refused=NO_CLAIMS.refused,
    )
    return parts, claims


def _mask_ids(job: Nesting, found: Tally, names: NDArray[Any], largest: int) -> NDArray[Any]:
    """(G,) final ids: those of the labels, and beyond the largest one there those of the others."""
    least, most = job.plan.job.min_area, job.plan.job.max_area
    sizes, more = found.sizes, np.inf if most is None else most
    hidden = (names == 0) & (found.areas > 0) & (sizes >= least) & (sizes <= more)
    ids = names.astype(np.uint64)
    ids[hidden] = np.uint64(largest) + np.cumsum(hidden)[hidden].astype(np.uint64)
    ids[hidden & (ids >= HOLE)] += np.uint64(1)
    return ids.astype(names.dtype if ids.max(initial=0) < HOLE else np.uint64)

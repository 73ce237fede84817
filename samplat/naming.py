"""The stage that decides what every object is called in the end, and the table of objects."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.answering import AnswerLedger, answer_index
from samplat.claims import NO_CLAIMS, Claims
from samplat.files import canonical, sha256
from samplat.final_names import FinalNames
from samplat.job import Plan, tile_pixel_areas
from samplat.joining import joined_seams
from samplat.ledger import TileRecord
from samplat.matching import objects_of
from samplat.mending import Ground, Patches, mend
from samplat.merging import (
    ROWS,
    Groups,
    Parts,
    Tally,
    final_ids,
    group_by_prompt,
    group_objects,
    object_batches,
    slivers_of,
    tally,
)
from samplat.painting import is_mended
from samplat.prompt_report import with_prompts
from samplat.regions import Regions
from samplat.shards import Labels
from samplat.stack_prompts import StackPrompts
from samplat.stages import Stages
from samplat.store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What names are decided from."""

    plan: Plan
    """The job."""
    records: tuple[TileRecord, ...]
    """The ledger's entries of all tiles."""
    seams: tuple[str, ...]
    """Digests of their seams; none with prompts."""
    answers: AnswerLedger | None
    """Records of the units of prompts; None without prompts."""
    regions: dict[int, str]
    """Digests of the regions of tiles, where holes or islands matter."""

    @property
    def store(self) -> JobStore:
        """The job directory."""
        return self.plan.store

    @property
    def inputs(self) -> str:
        """Digest of all that the names depend on."""
        tiles = [[r.outcome, r.objects_sha256] for r in self.records]
        asked = self.answers.digest if self.answers else None
        surveyed = {"regions": list(self.regions.values())} if is_mended(self.plan.job) else {}
        decided = {"tiles": tiles, "seams": list(self.seams), "answers": asked, **surveyed}
        return sha256(canonical(decided))

    def of_outcome(self, outcome: str) -> list[TileRecord]:
        """Records of the tiles that ended so."""
        return [r for r in self.records if r.outcome == outcome]

    def parts(self) -> Iterator[Parts]:
        """The objects of every tile that has some, without their masks."""
        return map(self.store.read_parts, self.of_outcome("done"))

    def read_regions(self, index: int) -> Regions | None:
        """The regions of a tile, if it has some."""
        digest = self.regions.get(index)
        return None if digest is None else self.store.read_regions(index, digest)


@functools.lru_cache(maxsize=2)
def final_names(store: JobStore, digest: str) -> FinalNames:
    """What the objects of every tile are called in the end."""
    return store.read_final(digest)


def name_objects(naming: Naming, stages: Stages) -> str:
    """Decide the final ids of all objects, once; returns the digest of that decision."""
    inputs = naming.inputs
    return naming.store.final_digest(inputs) or _decide(naming, inputs, stages)


def _decide(naming: Naming, inputs: str, stages: Stages) -> str:
    job, count = naming.plan.job, len(naming.records)
    claims: dict[int, Claims] = {}
    groups = _groups(naming, claims, stages)
    found, patches = _added_up(naming, groups, claims), None
    if is_mended(job):
        found, patches = _mend(naming, groups, found)
    slivers = slivers_of(found, naming.plan.info.spacing, job.min_extent)
    final = final_ids(found.areas, found.sizes, job.min_area, job.max_area, slivers=slivers)
    if isinstance(naming.plan.prompts, StackPrompts):
        final = naming.plan.prompts.called(final, found.prompts)
    names = (final[groups.of_tile(index)] for index in range(count))
    rows = object_batches(found, final)
    if naming.answers is not None:
        rows = _with_prompts(naming, naming.answers, rows)
    changes = None if patches is None else _changes(patches, final, count)
    return naming.store.write_final(names, rows, inputs, changes)


def _groups(naming: Naming, claims: dict[int, Claims], stages: Stages) -> Groups:
    """Which objects of the tiles are one; claims are left in `claims`, without their masks."""
    done = (r.objects if r.outcome == "done" else 0 for r in naming.records)
    counts = np.fromiter(done, np.int64, len(naming.records))
    if naming.answers is None:
        return group_objects(counts, joined_seams(naming.plan, naming.seams, claims, stages))
    # what one prompt asked for is one object, in the order of the prompts
    return group_by_prompt(counts, [each.prompts for each in naming.parts()])


def _added_up(naming: Naming, groups: Groups, claims: dict[int, Claims]) -> Tally:
    grid = naming.plan.grid
    parts = ((each, claims.get(each.index, NO_CLAIMS)) for each in naming.parts())
    sizes = tile_pixel_areas(naming.plan.job.pixel_areas, grid)
    return tally(groups, parts, grid, _interrupted(naming), sizes)


def _interrupted(naming: Naming) -> NDArray[np.uint64]:
    """Provisional ids of objects that reach into a quarantined tile, or out of the image."""
    grid, found = naming.plan.grid, [_reaching_out(naming)]
    for failed in (grid[r.index] for r in naming.of_outcome("quarantined")):
        for tile in grid.overlapping(failed.write):
            if naming.records[tile.index].outcome == "done":
                objects = objects_of(naming.store, tile, naming.records[tile.index])
                ranks = np.unique(objects.labels(failed.write.intersection(tile.read)))
                found.append(objects.ids[ranks[ranks > 0].astype(np.int64) - 1])
    return np.unique(np.concatenate(found))


def _reaching_out(naming: Naming) -> NDArray[np.uint64]:
    grid, found = naming.plan.grid, [np.zeros(0, np.uint64)]
    for record in naming.of_outcome("done") if grid.bounds != grid.image else ():
        objects = naming.store.read_objects(grid[record.index], record)
        low, high = objects.boxes[:, :3] < 0, objects.boxes[:, 3:] > grid.shape
        found.append(objects.ids[(low | high).any(axis=1)])
    return np.concatenate(found)


def _mend(naming: Naming, groups: Groups, found: Tally) -> tuple[Tally, dict[int, Patches]]:
    job, grid = naming.plan.job, naming.plan.grid
    areas = tile_pixel_areas(job.pixel_areas, grid)
    ground = Ground(grid=grid, groups=groups, pixel_areas=areas, read=naming.read_regions)
    return mend(found, ground, fill_holes=job.fill_holes, drop_islands=job.drop_islands)


def _changes(
    patches: dict[int, Patches], final: Labels, count: int
) -> Iterator[tuple[NDArray[np.int64], Labels]]:
    """Of every tile, pixels of regions that change hands, and final ids of whose they become."""
    names: Any = np.append(final, final.dtype.type(0))  # the last one: nobody's
    nothing = np.zeros(0, np.int64)
    none = Patches(seeds=nothing, groups=nothing)
    for index in range(count):
        found = patches.get(index, none)
        yield found.seeds, names[found.groups]


def _with_prompts(
    naming: Naming, answers: AnswerLedger, rows: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    prompts, grid = naming.plan.prompts, naming.plan.grid
    assert prompts is not None  # noqa: S101 there are answers
    lost = [grid[r.index].write for r in naming.of_outcome("quarantined")]
    index = answer_index(naming.store, answers)
    table = with_prompts(pa.Table.from_batches(list(rows)), prompts, index, lost)
    return iter(table.combine_chunks().to_batches(ROWS))

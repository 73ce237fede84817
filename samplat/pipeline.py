"""One job, from an image to labels and a table of objects.

`pixels -> tiles -> embedding -> masks -> objects -> seams -> labels -> file`

Every stage reads what the one before it entered in the ledger, and skips what is there already: a
job that was killed anywhere resumes with the same command, and ends with the same labels.
"""

from __future__ import annotations

import functools
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from samplat.answers import (
    Answers,
    Desk,
    PromptedSegmenter,
    View,
    answers_from,
    answers_table,
    join_answers,
    look,
    tile_of_answers,
)
from samplat.claims import NO_CLAIMS, Claims, Neighbour, find_claims
from samplat.errors import JobError
from samplat.executors import Executor, SerialExecutor
from samplat.files import canonical, sha256
from samplat.job import (
    JobResult,
    Plan,
    Segmenter,
    SegmenterFactory,
    SegmentJob,
    Tools,
    plan,
    provenance,
    tile_pixel_areas,
    warnings_of,
)
from samplat.masks import MaskSet, mask_set
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
from samplat.nested import nest
from samplat.object_prompts import ScenePrompts
from samplat.objects import TileObjects, tile_objects
from samplat.painting import (
    SurveyTask,
    around,
    closing_source,
    entered,
    is_mended,
    known_record,
    painting_of,
    seam_inputs,
    survey_inputs,
)
from samplat.pixels import ImageSource, read_valid, to_rgb
from samplat.progress import Progress, Silent
from samplat.prompt_report import AnswerIndex, prompt_report, prompt_warnings, with_prompts
from samplat.prompt_units import PromptUnit
from samplat.regions import Regions, repaint
from samplat.scale import masks_at_scales, views
from samplat.seams import match_strip
from samplat.shards import Labels
from samplat.stacking import stacked_objects
from samplat.store import FinalNames, JobStore, TileRecord
from samplat.tiles import Tile

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "JobResult",
    "Plan",
    "SegmentJob",
    "Segmenter",
    "SegmenterFactory",
    "Tools",
    "plan",
    "run_job",
    "segment_tile",
]

T = TypeVar("T")
AnySegmenter = Segmenter | PromptedSegmenter

SERIAL, SILENT = SerialExecutor(), Silent()

ATTEMPTS = 3
"""How often a tile is tried before it is quarantined."""
STRIPE = 6
"""Tiles side by side that are matched with their neighbours row by row."""
OBJECTS_KEPT = 3 * (STRIPE + 2)
"""Tiles whose objects are kept for that, without pixels."""


def run_job(
    job: SegmentJob,
    *,
    tools: Tools,
    executor: Executor = SERIAL,
    progress: Progress = SILENT,
    overwrite: bool = False,
) -> JobResult:
    """Run a job, or resume it when its directory holds the same one.

    Args:
        job: what to do.
        tools: what its names stand for; `samplat.plugins.registry()` is the one of all plugins.
        executor: runs the tiles.
        progress: told about the stages "tiles", "seams" and "labels".
        overwrite: discard another job that the directory holds.

    Raises:
        InputError: the image or a parameter is unusable.
        CheckpointError: the model cannot be loaded; the directory is as it was.
        JobError: the directory holds another job, is in use, or damaged; or every tile failed.
    """
    planned = plan(job, tools)
    store = JobStore(path=Path(job.job_dir))
    segmenter = _load_before_claiming(planned, tools, overwrite)
    with store.lease(), _closing_benches(planned), closing_source(planned):
        store.begin(planned.identity, provenance(planned), overwrite=overwrite)
        if segmenter is not None:
            _shared_bench(planned, tools, segmenter)
        if planned.prompts is None:
            answers, records = None, _segment_tiles(planned, tools, executor, progress)
            seams = _match_seams(planned, records, executor, progress)
        else:
            answers = _answer_prompts(planned, planned.prompts, tools, executor, progress)
            records, seams = _place_answers(planned, answers, executor, progress), []
        regions = _survey_regions(planned, records, seams, tools, executor, progress)
        final = _name_objects(planned, records, seams, answers, regions)
        _paint_labels(planned, records, final, executor, progress)
        nested = None
        if job.nested:
            stage = functools.partial(_stage, executor=executor, progress=progress)
            nested = nest(planned, records, seams, final, stage)
        objects = store.read_table()
        report = _report(planned, answers, objects)
    return JobResult(
        job=job,
        info=planned.info,
        grid=planned.grid,
        tiles=records,
        objects=objects,
        store=store,
        warnings=(*warnings_of(records), *prompt_warnings(report)),
        prompts=report,
        nested=nested,
    )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a process needs to segment tiles of one job: an open image and a ready segmenter."""

    plan: Plan
    """The job."""
    source: ImageSource
    """Its image, open."""
    segmenter: AnySegmenter
    """Its segmenter, loaded: one that takes prompts where the job brings some."""


def see_unit(bench: Bench, unit: PromptUnit) -> View:
    """What is seen through the window of a unit of prompts."""
    return _desk(bench).look(unit.window, unit.factor)


def answer_unit(bench: Bench, unit: PromptUnit, view: View) -> Answers:
    """The masks of a unit's prompts, its window as it was seen."""
    assert bench.plan.prompts is not None  # noqa: S101 there are units
    return _desk(bench).answer(unit, bench.plan.prompts, view)


def _desk(bench: Bench) -> Desk:
    planned = bench.plan
    assert planned.sight is not None  # noqa: S101 there are units
    return Desk(
        look=functools.partial(look, bench.source, planned.stretch),
        segmenter=cast("PromptedSegmenter", bench.segmenter),
        sight=planned.sight,
        scale=planned.job.scales[0],
    )


def open_bench(planned: Plan, tools: Tools, segmenter: AnySegmenter | None = None) -> Bench:
    """Open the image of a job, and load its segmenter unless it is here already."""
    if segmenter is None:
        segmenter = load_segmenter(planned.job, tools)
    return Bench(plan=planned, source=tools.open_source(planned.job.source), segmenter=segmenter)


def load_segmenter(job: SegmentJob, tools: Tools) -> AnySegmenter:
    """The segmenter that a job names, ready for tiles."""
    factory = tools.segmenter(job.segmenter)
    if job.embeddings is not None and hasattr(factory, "with_embeddings"):  # `plan` refuses others
        factory = factory.with_embeddings(job.embeddings)
    return factory.create(job.model, **job.segmenter_options)


@dataclass(frozen=True, kw_only=True)
class TilePixels:
    """What the segmenter sees of a tile and its halo, slice by slice."""

    pixels: NDArray[np.uint8]
    """(z, y, x, band)."""
    valid: NDArray[np.bool_]
    """(z, y, x)."""


def segment_tile(bench: Bench, tile: Tile) -> TileObjects | None:
    """The objects of one tile; None where it has no valid pixel to write."""
    return find_objects(bench, tile, read_tile(bench, tile))


def read_tile(bench: Bench, tile: Tile) -> TilePixels | None:
    """A tile's pixels, stretched; None where none to write is valid."""
    planned = bench.plan
    raw, valid = read_valid(bench.source, tile.read.shifted(planned.window.start))
    cell = planned.grid.cell(tile.index).intersection(tile.read)
    if not valid[cell.relative_to(tile.read).slices].any():
        return None
    return TilePixels(pixels=planned.stretch(raw, valid), valid=valid)


def find_objects(bench: Bench, tile: Tile, seen: TilePixels | None) -> TileObjects | None:
    """The objects of a tile that was read."""
    if seen is None:
        return None
    job, valid, bounds = bench.plan.job, seen.valid, bench.plan.grid.bounds
    found = _slice_masks(bench, tile, seen)
    if job.stacking is None:
        (masks,) = found
        return tile_objects(
            masks,
            tile=tile,
            valid=valid,
            bounds=bounds,
            overlaps=job.overlaps,
            nested=job.nested,
        )
    return stacked_objects(
        found,
        tile=tile,
        valid=valid,
        bounds=bounds,
        overlaps=job.overlaps,
        rules=job.stacking,
        spacing=bench.plan.info.spacing,
    )


def _slice_masks(bench: Bench, tile: Tile, seen: TilePixels) -> Iterator[MaskSet]:
    """What the segmenter finds on each slice of a tile."""
    job, grid = bench.plan.job, bench.plan.grid
    segmenter = cast("Segmenter", bench.segmenter)  # `plan` refuses another one
    axes = (0, 1, 2) if job.stacking is None else job.stacking.axes
    turned, place = grid.transposed(axes), grid.position(tile.index)
    flat = turned[turned.index(tuple(place[axis] for axis in axes))]
    looked_at = list(views(turned, flat, job.scales))
    pixels, valid = seen.pixels.transpose(*axes, 3), seen.valid.transpose(axes)
    for shown, data in zip(pixels, valid, strict=True):
        if data.any():
            yield masks_at_scales(segmenter, to_rgb(shown), data, looked_at)
        else:
            yield mask_set(np.zeros((0, *data.shape), bool))


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a run will take, by one tile of it, or one window of prompts, that was thrown away."""

    seconds: float
    """For a tile, or for a window of prompts."""
    peak_bytes: int
    """Most memory of the process, with the tiles that wait to be worked on and to be written."""
    objects: int
    """Of that tile."""


def rehearse(planned: Plan, tools: Tools, *, ahead: int = 1) -> Rehearsal | None:
    """Load the segmenter and work on one tile, the middle one or else the first with data.

    Args:
        planned: the job; nothing is written.
        tools: what its names stand for.
        ahead: tiles that the executor lets wait on each side of the model.

    Returns:
        None if no tile has data.
    """
    # Of a tile that is thrown away no embedding is kept either.
    segmenter = load_segmenter(replace(planned.job, embeddings=None), tools)
    bench = open_bench(planned, tools, segmenter)
    try:
        if planned.prompts is not None:
            return _rehearse_unit(bench, ahead)
        for index in (len(planned.grid) // 2, *range(len(planned.grid))):
            tile, began = planned.grid[index], time.monotonic()
            if (seen := read_tile(bench, tile)) is not None:
                found = find_objects(bench, tile, seen)
                seconds = time.monotonic() - began
                waiting = 2 * ahead * (seen.pixels.nbytes + seen.valid.nbytes)
                peak = int(_peak_mb() * 2**20) + waiting
                return Rehearsal(seconds=seconds, peak_bytes=peak, objects=len(found or ()))
    finally:
        bench.source.close()
    return None


def _rehearse_unit(bench: Bench, ahead: int) -> Rehearsal:
    unit, began = bench.plan.units[len(bench.plan.units) // 2], time.monotonic()
    view = see_unit(bench, unit)
    found = answer_unit(bench, unit, view)
    seconds = time.monotonic() - began
    peak = int(_peak_mb() * 2**20) + 2 * ahead * (view.pixels.nbytes + view.valid.nbytes)
    count = len(np.unique(found.prompts))
    return Rehearsal(seconds=seconds, peak_bytes=peak, objects=count)


@dataclass(frozen=True, kw_only=True)
class TileTask:
    """Segments one tile and enters it in the ledger; what a worker of any kind is sent."""

    plan: Plan
    tools: Tools

    def __call__(self, index: int) -> TileRecord:
        """The tile's new record. Raises only what concerns the whole job."""
        return self.write(index, self.find(index, self.read(index)))

    @property
    def stages(self) -> tuple[Callable[..., Any], ...]:
        """The same in three steps, for executors that let them overlap from tile to tile."""
        return self.read, self.find, self.write

    def read(self, index: int) -> Attempt[TilePixels | None]:
        """The tile's pixels, at the first try."""
        bench = _shared_bench(self.plan, self.tools)
        return _attempt(functools.partial(read_tile, bench, self.plan.grid[index]), 1)

    def find(self, index: int, seen: Attempt[TilePixels | None]) -> Attempt[TileObjects | None]:
        """Its objects; after a failure, of reading too, it is tried again from the start."""
        bench, tile = _shared_bench(self.plan, self.tools), self.plan.grid[index]
        if seen.error:
            found = Attempt[TileObjects | None](error=seen.error, seconds=seen.seconds)
        else:
            found = _attempt(lambda: find_objects(bench, tile, seen.result), 1, seen.seconds)
        while found.error and found.number < ATTEMPTS:
            found = _attempt(functools.partial(segment_tile, bench, tile), found.number + 1)
        return found

    def write(self, index: int, found: Attempt[TileObjects | None]) -> TileRecord:
        """Its record, after its objects."""
        store = JobStore(path=Path(self.plan.job.job_dir))
        record = _record(store, self.plan.grid[index], found)
        store.write_record(record)
        return record


@dataclass(frozen=True, kw_only=True)
class Attempt(Generic[T]):
    """What came of a try at a tile."""

    number: int = 1
    """Of the try, from 1."""
    seconds: float = 0.0
    """It took."""
    result: T | None = None
    """Unless it failed."""
    error: str = ""
    """What failed, or nothing."""


def _attempt(work: Callable[[], T], number: int, before: float = 0.0) -> Attempt[T]:
    began = time.monotonic()
    try:
        result = work()
    except Exception as failure:  # noqa: BLE001 whatever a tile does, the others go on
        seconds = before + time.monotonic() - began
        error = f"{type(failure).__name__}: {failure}"
        return Attempt(number=number, seconds=seconds, error=error)
    return Attempt(number=number, seconds=before + time.monotonic() - began, result=result)


def _record(store: JobStore, tile: Tile, found: Attempt[TileObjects | None]) -> TileRecord:
    objects, outcome = found.result, "done"
    whole = None if objects is None else objects.whole
    if found.error:
        outcome = "quarantined"
    elif objects is None:
        outcome = "skipped"
    return TileRecord(
        index=tile.index,
        outcome=outcome,  # type: ignore[arg-type] # one of the three
        objects=0 if objects is None else len(objects),
        objects_sha256=None if objects is None else store.write_objects(objects),
        whole_sha256=None if whole is None else store.write_whole(whole),
        attempts=0 if outcome == "skipped" else found.number,
        seconds=round(found.seconds, 3),
        peak_mb=_peak_mb(),
        error=found.error or None,
    )


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


# Weights and open files are neither picklable nor cheap: each process makes them once per job.
_benches: dict[str, Bench] = {}
_benches_lock = threading.Lock()


def _bench_key(planned: Plan) -> str:
    return sha256(canonical({"dir": planned.job.job_dir, "identity": planned.identity}))


def _shared_bench(planned: Plan, tools: Tools, segmenter: AnySegmenter | None = None) -> Bench:
    key = _bench_key(planned)
    with _benches_lock:
        if key not in _benches:
            _benches[key] = open_bench(planned, tools, segmenter)
        return _benches[key]


def _load_before_claiming(planned: Plan, tools: Tools, overwrite: bool) -> AnySegmenter | None:
    """The segmenter of a new job, while its directory is untouched: what fails must not claim it.

    None where the directory is claimed: by this job, with a segmenter that did load and that a
    finished job no longer needs; or by another one, which `JobStore.begin` refuses.
    """
    claimed = (Path(planned.job.job_dir) / "run.json").exists()
    return load_segmenter(planned.job, tools) if overwrite or not claimed else None


@contextmanager
def _closing_benches(planned: Plan) -> Iterator[None]:
    try:
        yield
    finally:
        with _benches_lock:
            bench = _benches.pop(_bench_key(planned), None)
        if bench is not None:
            bench.source.close()


def _segment_tiles(
    planned: Plan, tools: Tools, executor: Executor, progress: Progress
) -> tuple[TileRecord, ...]:
    store, count = JobStore(path=Path(planned.job.job_dir)), len(planned.grid)
    missing = [index for index in range(count) if not store.is_finished(index)]
    missing = _in_stripes(planned, missing)
    task = TileTask(plan=planned, tools=tools)
    for record in _stage("tiles", task, missing, count, executor, progress):
        if record.outcome == "quarantined":
            progress.message(f"tile {record.index} failed {ATTEMPTS} times: {record.error}")
    records = tuple(known_record(store, index) for index in range(count))
    failed = [r for r in records if r.outcome == "quarantined"]
    if failed and not any(r.outcome == "done" for r in records):
        raise JobError(f"every tile failed, the first with: {failed[0].error}")
    return records


def _stage(
    name: str,
    task: Callable[[int], T],
    missing: Sequence[int],
    count: int,
    executor: Executor,
    progress: Progress,
) -> Iterator[T]:
    progress.start(name, count)
    progress.advance(name, count - len(missing))
    try:
        for result in executor.map(task, missing):
            progress.advance(name)
            yield result
    finally:
        progress.finish(name)


@dataclass(frozen=True, kw_only=True)
class SeamTask:
    """Finds what the objects of one tile have to do with those of its neighbours."""

    plan: Plan

    def __call__(self, index: int) -> str:
        """Digest of the links and claims."""
        store, tile = JobStore(path=Path(self.plan.job.job_dir)), self.plan.grid[index]
        beside = {t.index: known_record(store, t.index) for t in around(self.plan, index)}
        inputs = seam_inputs(self.plan, index, beside.__getitem__)
        found = []
        if beside[index].outcome == "done":
            mine = _objects(store, tile, beside.pop(index))
            done = [r for r in beside.values() if r.outcome == "done"]
            whole = mine.labels() if done else None
            others = (_objects(store, self.plan.grid[r.index], r) for r in done)
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
        links = np.stack([mine.ids[pairs[:, 0]], theirs.ids[pairs[:, 1]]], axis=1)
        beside = Neighbour(objects=theirs, labels=labels, own=own, matched=pairs[:, 1])
        return Meeting(neighbour=beside, links=links)


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """A tile's neighbour, and which of their objects are one."""

    neighbour: Neighbour
    links: NDArray[np.uint64]
    """(E, 2) provisional ids, the tile's and the neighbour's."""


@functools.lru_cache(maxsize=OBJECTS_KEPT)
def _objects(store: JobStore, tile: Tile, record: TileRecord) -> TileObjects:
    # kept, because a tile meets up to eight others
    return store.read_objects(tile, record)


def _match_seams(
    planned: Plan, records: Sequence[TileRecord], executor: Executor, progress: Progress
) -> list[str]:
    store, count = JobStore(path=Path(planned.job.job_dir)), len(planned.grid)

    def digest(index: int) -> str | None:
        return store.seams_digest(index, seam_inputs(planned, index, records.__getitem__))

    missing = _in_stripes(planned, [index for index in range(count) if digest(index) is None])
    for _ in _stage("seams", SeamTask(plan=planned), missing, count, executor, progress):
        pass
    digests = [digest(index) for index in range(count)]
    if None in digests:
        raise JobError(f"the seams of {store.path} changed while they were read; run again")
    return [d for d in digests if d is not None]


def _survey_regions(
    planned: Plan,
    records: Sequence[TileRecord],
    seams: Sequence[str],
    tools: Tools,
    executor: Executor,
    progress: Progress,
) -> dict[int, str]:
    """Digests of the regions of tiles with objects; none where holes and islands do not matter."""
    if not is_mended(planned.job):
        return {}
    store = JobStore(path=Path(planned.job.job_dir))
    done = [r.index for r in records if r.outcome == "done"]

    def digest(index: int) -> str | None:
        inputs = survey_inputs(records[index], seams[index] if seams else None)
        return store.regions_digest(index, inputs)

    missing = [index for index in done if digest(index) is None]
    areas = tuple(tile_pixel_areas(planned.job.pixel_areas, planned.grid).tolist())
    task = SurveyTask(plan=planned, tools=tools, pixel_areas=areas)
    for _ in _stage("regions", task, missing, len(done), executor, progress):
        pass
    digests = {index: digest(index) for index in done}
    if None in digests.values():
        raise JobError(f"the regions of {store.path} changed while they were read; run again")
    return {index: d for index, d in digests.items() if d is not None}


def _in_stripes(planned: Plan, indices: Sequence[int]) -> list[int]:
    """Tiles in an order in which neighbours come soon after each other, in images of any width."""

    def place(index: int) -> tuple[int, ...]:
        *before, row, column = planned.grid.position(index)
        return (*before, column // STRIPE, row, column)

    return sorted(indices, key=place)


def _name_objects(
    planned: Plan,
    records: Sequence[TileRecord],
    seams: Sequence[str],
    answers: AnswerLedger | None,
    regions: dict[int, str],
) -> str:
    """Decide the final ids of all objects, once; returns the digest of that decision."""
    store = JobStore(path=Path(planned.job.job_dir))
    tiles = [[r.outcome, r.objects_sha256] for r in records]
    asked = answers.digest if answers else None
    surveyed = {"regions": list(regions.values())} if is_mended(planned.job) else {}
    decided = {"tiles": tiles, "seams": list(seams), "answers": asked, **surveyed}
    inputs = sha256(canonical(decided))
    if (known := store.final_digest(inputs)) is not None:
        return known
    claims: dict[int, Claims] = {}
    groups = _groups(planned, store, records, seams, answers, claims)
    parts = ((each, claims.get(each.index, NO_CLAIMS)) for each in _parts(planned, store, records))
    interrupted = _interrupted(planned, store, records)
    sizes = tile_pixel_areas(planned.job.pixel_areas, planned.grid)
    found = tally(groups, parts, planned.grid, interrupted, sizes)
    patches = None
    if is_mended(planned.job):
        found, patches = _mend(planned, store, groups, regions, found)
    slivers = slivers_of(found, planned.info.spacing, planned.job.min_extent)
    job = planned.job
    final = final_ids(found.areas, found.sizes, job.min_area, job.max_area, slivers=slivers)
    names = (final[groups.of_tile(index)] for index in range(len(records)))
    rows = object_batches(found, final)
    if answers is not None:
        rows = _with_prompts(planned, records, store, answers, rows)
    changes = None if patches is None else _changes(patches, final, len(records))
    return store.write_final(names, rows, inputs, changes)


def _mend(
    planned: Plan, store: JobStore, groups: Groups, regions: dict[int, str], found: Tally
) -> tuple[Tally, dict[int, Patches]]:
    def read(index: int) -> Regions | None:
        return store.read_regions(index, regions[index]) if index in regions else None

    areas = tile_pixel_areas(planned.job.pixel_areas, planned.grid)
    ground = Ground(grid=planned.grid, groups=groups, pixel_areas=areas, read=read)
    job = planned.job
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


def _parts(planned: Plan, store: JobStore, records: Sequence[TileRecord]) -> Iterator[Parts]:
    done = (r for r in records if r.outcome == "done")
    return (store.read_parts(planned.grid[r.index], r) for r in done)


def _groups(
    planned: Plan,
    store: JobStore,
    records: Sequence[TileRecord],
    seams: Sequence[str],
    answers: AnswerLedger | None,
    claims: dict[int, Claims],
) -> Groups:
    """Which objects of the tiles are one; claims are left in `claims`, without their masks."""
    counts = np.array([r.objects if r.outcome == "done" else 0 for r in records], np.int64)
    if answers is None:
        return group_objects(counts, _links(store, seams, claims))
    # what one prompt asked for is one object, in the order of the prompts
    return group_by_prompt(counts, [each.prompts for each in _parts(planned, store, records)])


def _with_prompts(
    planned: Plan,
    records: Sequence[TileRecord],
    store: JobStore,
    answers: AnswerLedger,
    rows: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    assert planned.prompts is not None  # noqa: S101 there are answers
    lost = [planned.grid[r.index].write for r in records if r.outcome == "quarantined"]
    index = answer_index(store, answers)
    table = with_prompts(pa.Table.from_batches(list(rows)), planned.prompts, index, lost)
    return iter(table.combine_chunks().to_batches(ROWS))


def _links(
    store: JobStore, seams: Sequence[str], claims: dict[int, Claims]
) -> Iterator[NDArray[np.uint64]]:
    """The links of every tile; its claims are left in `claims`, without their masks."""
    for index, digest in enumerate(seams):
        links, claimed = store.read_seams(index, digest)
        if len(claimed.ids) or len(claimed.refused):
            claims[index] = replace(claimed, rles=())
        yield links


def _interrupted(
    planned: Plan, store: JobStore, records: Sequence[TileRecord]
) -> NDArray[np.uint64]:
    """Provisional ids of objects that reach into a quarantined tile, or out of the image."""
    found = [_reaching_out(planned, store, records)]
    for failed in (planned.grid[r.index] for r in records if r.outcome == "quarantined"):
        for tile in planned.grid.overlapping(failed.write):
            if records[tile.index].outcome == "done":
                objects = _objects(store, tile, records[tile.index])
                ranks = np.unique(objects.labels(failed.write.intersection(tile.read)))
                found.append(objects.ids[ranks[ranks > 0].astype(np.int64) - 1])
    return np.unique(np.concatenate(found))


def _reaching_out(
    planned: Plan, store: JobStore, records: Sequence[TileRecord]
) -> NDArray[np.uint64]:
    found = [np.zeros(0, np.uint64)]
    for record in records if planned.grid.bounds != planned.grid.image else ():
        if record.outcome == "done":
            objects = store.read_objects(planned.grid[record.index], record)
            low, high = objects.boxes[:, :3] < 0, objects.boxes[:, 3:] > planned.grid.shape
            found.append(objects.ids[(low | high).any(axis=1)])
    return np.concatenate(found)


@dataclass(frozen=True, kw_only=True)
class PaintTask:
    """Writes the final labels of one tile's write window."""

    plan: Plan
    final: str

    def __call__(self, index: int) -> str:
        """Digest of the shard."""
        store, grid = JobStore(path=Path(self.plan.job.job_dir)), self.plan.grid
        tile, record, final = (
            grid[index],
            known_record(store, index),
            _final_names(store, self.final),
        )
        labels: Labels = np.zeros(tile.write.shape, final.dtype)
        if record.outcome == "done":
            painting = painting_of(self.plan, store, record)
            seeds, owners = final.patches(index)
            repaint(painting.labels[0], seeds, len(painting.ids) + 1)
            nothing = np.zeros(1, final.dtype)
            names = np.concatenate([nothing, final.of(painting.ids), owners])
            labels = names[painting.labels]
        return store.write_shard(grid, tile, labels, self.final)


@functools.lru_cache(maxsize=2)
def _final_names(store: JobStore, digest: str) -> FinalNames:
    return store.read_final(digest)


def _paint_labels(
    planned: Plan,
    records: Sequence[TileRecord],
    final: str,
    executor: Executor,
    progress: Progress,
) -> None:
    store, grid = JobStore(path=Path(planned.job.job_dir)), planned.grid
    store.write_labels_header(grid, _final_names(store, final).dtype)
    painted = [r.index for r in records if r.outcome != "quarantined"]
    missing = [i for i in painted if not store.is_painted(grid, grid[i], final)]
    task = PaintTask(plan=planned, final=final)
    for _ in _stage("labels", task, missing, len(painted), executor, progress):
        pass


@dataclass(frozen=True, kw_only=True)
class AnswerTask:
    """Answers the prompts of one window and enters them in the ledger."""

    plan: Plan
    tools: Tools

    def __call__(self, index: int) -> TileRecord:
        """The unit's new record. Raises only what concerns the whole job."""
        return self.write(index, self.find(index, self.read(index)))

    @property
    def stages(self) -> tuple[Callable[..., Any], ...]:
        """The same in three steps, for executors that let them overlap from unit to unit."""
        return self.read, self.find, self.write

    def read(self, index: int) -> Attempt[View]:
        """What is seen through the window, at the first try."""
        bench = _shared_bench(self.plan, self.tools)
        return _attempt(functools.partial(see_unit, bench, self.plan.units[index]), 1)

    def find(self, index: int, seen: Attempt[View]) -> Attempt[Answers]:
        """The masks; after a failure, of reading too, it is tried again from the start."""
        bench, unit = _shared_bench(self.plan, self.tools), self.plan.units[index]
        found = Attempt[Answers](error=seen.error, seconds=seen.seconds)
        if (view := seen.result) is not None:
            found = _attempt(lambda: answer_unit(bench, unit, view), 1, seen.seconds)
        while found.error and found.number < ATTEMPTS:
            number = found.number + 1
            found = _attempt(lambda: answer_unit(bench, unit, see_unit(bench, unit)), number)
        return found

    def write(self, index: int, found: Attempt[Answers]) -> TileRecord:
        """Its record, after its answers."""
        store, answers = JobStore(path=Path(self.plan.job.job_dir)), found.result
        record = TileRecord(
            index=index,
            outcome="quarantined" if answers is None else "done",
            objects=0 if answers is None else len(np.unique(answers.prompts)),
            objects_sha256=None
            if answers is None
            else store.write_answers(index, answers_table(answers)),
            attempts=found.number,
            seconds=round(found.seconds, 3),
            peak_mb=_peak_mb(),
            error=found.error or None,
        )
        store.write_answer_record(record)
        return record


def _answer_prompts(
    planned: Plan, prompts: ScenePrompts, tools: Tools, executor: Executor, progress: Progress
) -> AnswerLedger:
    store, count = JobStore(path=Path(planned.job.job_dir)), len(planned.units)
    missing = [index for index in range(count) if not store.is_answered(index)]
    task = AnswerTask(plan=planned, tools=tools)
    for record in _stage("prompts", task, missing, count, executor, progress):
        if record.outcome == "quarantined":
            names = prompts.names(planned.units[record.index].prompts)
            progress.message(f"prompt {names} failed {ATTEMPTS} times: {record.error}")
    known = (store.read_answer_record(index) for index in range(count))
    records = tuple(entered(store, f"window {i}", record) for i, record in enumerate(known))
    if all(r.outcome == "quarantined" for r in records):
        raise JobError(f"every prompt failed, the first with: {records[0].error}")
    return AnswerLedger(records=records)


@dataclass(frozen=True, eq=False, kw_only=True)
class AnswerLedger:
    """The records of all units; equal, and quickly told to be, when their answers are."""

    records: tuple[TileRecord, ...]
    """By index of the unit."""
    digest: str = ""
    """Of all answers; made of the records."""

    def __post_init__(self) -> None:
        told = {str(r.index): r.objects_sha256 for r in self.records}
        object.__setattr__(self, "digest", sha256(canonical(told)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnswerLedger) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@functools.lru_cache(maxsize=2)
def answer_index(store: JobStore, answers: AnswerLedger) -> AnswerIndex:
    """Where all answers are, without their masks."""
    done = [r for r in answers.records if r.outcome == "done"]
    parts = [_unit_answers(store, record) for record in done]
    units = np.repeat([r.index for r in done], [len(part) for part in parts]).astype(np.int64)
    return AnswerIndex.of(join_answers(parts), units)


@functools.lru_cache(maxsize=64)
def _unit_answers(store: JobStore, record: TileRecord) -> Answers:
    return answers_from(store.read_answers(record))


@dataclass(frozen=True, kw_only=True)
class PlaceTask:
    """Cuts the answers to one tile, and enters them in the ledger as its objects."""

    plan: Plan
    answers: AnswerLedger

    def __call__(self, index: int) -> TileRecord:
        """The tile's new record."""
        store, tile = JobStore(path=Path(self.plan.job.job_dir)), self.plan.grid[index]
        found = _attempt(functools.partial(self._objects, store, tile), 1)
        while found.error and found.number < ATTEMPTS:
            found = _attempt(functools.partial(self._objects, store, tile), found.number + 1)
        record = replace(_record(store, tile, found), inputs=self.inputs(store, tile))
        store.write_record(record)
        return record

    def inputs(self, store: JobStore, tile: Tile) -> str:
        """Digest of the answers that meet a tile."""
        units = answer_index(store, self.answers).units_meeting(tile.read)
        return sha256(
            canonical({str(u): self.answers.records[u].objects_sha256 for u in units.tolist()})
        )

    def _objects(self, store: JobStore, tile: Tile) -> TileObjects | None:
        index = answer_index(store, self.answers)
        units = index.units_meeting(tile.read).tolist()
        found = [_unit_answers(store, self.answers.records[unit]) for unit in units]
        answers = join_answers([f.select(np.flatnonzero(f.meeting(tile.read))) for f in found])
        return tile_of_answers(
            answers,
            index.areas[answers.prompts],
            tile,
            self.plan.grid.bounds,
            self.plan.job.overlaps,
        )


def _place_answers(
    planned: Plan, answers: AnswerLedger, executor: Executor, progress: Progress
) -> tuple[TileRecord, ...]:
    store, count = JobStore(path=Path(planned.job.job_dir)), len(planned.grid)
    task = PlaceTask(plan=planned, answers=answers)
    missing = [
        index
        for index in range(count)
        if not store.is_finished(index, task.inputs(store, planned.grid[index]))
    ]
    for record in _stage("tiles", task, missing, count, executor, progress):
        if record.outcome == "quarantined":
            progress.message(f"tile {record.index} failed {ATTEMPTS} times: {record.error}")
    return tuple(known_record(store, index) for index in range(count))


def _report(planned: Plan, answers: AnswerLedger | None, objects: Any) -> Any:
    """What became of each feature, written for people too."""
    if planned.prompts is None or answers is None:
        return None
    store = JobStore(path=Path(planned.job.job_dir))
    failed = [
        n for r in answers.records if r.outcome != "done" for n in planned.units[r.index].prompts
    ]
    index = answer_index(store, answers)
    report = prompt_report(planned.prompts, index, np.array(failed, np.int64), objects)
    store.write_report(report)
    return report

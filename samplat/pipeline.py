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
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

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
)
from samplat.merging import final_ids, group_objects, object_batches, tally
from samplat.objects import TileObjects, tile_objects
from samplat.pixels import ImageSource, to_rgb
from samplat.progress import Progress, Silent
from samplat.scale import enlarge, shrink
from samplat.seams import match_strip
from samplat.shards import Labels
from samplat.store import FinalNames, JobStore, TileRecord
from samplat.tiles import Tile, Window

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
    with store.lease(), _closing_benches(planned):
        store.begin(planned.identity, provenance(planned), overwrite=overwrite)
        if segmenter is not None:
            _shared_bench(planned, tools, segmenter)
        records = _segment_tiles(planned, tools, executor, progress)
        seams = _match_seams(planned, records, executor, progress)
        final = _name_objects(planned, records, seams)
        _paint_labels(planned, records, final, executor, progress)
        objects = store.read_table()
    return JobResult(
        job=job,
        info=planned.info,
        grid=planned.grid,
        tiles=records,
        objects=objects,
        store=store,
        warnings=_warnings(records),
    )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a process needs to segment tiles of one job: an open image and a ready segmenter."""

    plan: Plan
    """The job."""
    source: ImageSource
    """Its image, open."""
    segmenter: Segmenter
    """Its segmenter, loaded."""


def open_bench(planned: Plan, tools: Tools, segmenter: Segmenter | None = None) -> Bench:
    """Open the image of a job, and load its segmenter unless it is here already."""
    if segmenter is None:
        segmenter = load_segmenter(planned.job, tools)
    return Bench(plan=planned, source=tools.open_source(planned.job.source), segmenter=segmenter)


def load_segmenter(job: SegmentJob, tools: Tools) -> Segmenter:
    """The segmenter that a job names, ready for tiles."""
    factory = tools.segmenter(job.segmenter)
    if job.embeddings is not None and hasattr(factory, "with_embeddings"):  # `plan` refuses others
        factory = factory.with_embeddings(job.embeddings)
    return factory.create(job.model, **job.segmenter_options)


@dataclass(frozen=True, kw_only=True)
class TilePixels:
    """What the segmenter sees of a tile and its halo."""

    pixels: NDArray[np.uint8]
    """(H, W, 3)."""
    valid: NDArray[np.bool_]
    """(1, H, W)."""


def segment_tile(bench: Bench, tile: Tile) -> TileObjects | None:
    """The objects of one tile; None where it has no valid pixel to write."""
    return find_objects(bench, tile, read_tile(bench, tile))


def read_tile(bench: Bench, tile: Tile) -> TilePixels | None:
    """A tile's pixels, stretched; None where none to write is valid."""
    raw, valid = _read(bench.source, tile.read)
    if not valid[tile.write.relative_to(tile.read).slices].any():
        return None
    return TilePixels(pixels=to_rgb(bench.plan.stretch(raw, valid))[0], valid=valid)


def find_objects(bench: Bench, tile: Tile, seen: TilePixels | None) -> TileObjects | None:
    """The objects of a tile that was read."""
    if seen is None:
        return None
    job, shape, valid = bench.plan.job, bench.plan.info.shape, seen.valid
    masks = bench.segmenter(enlarge(seen.pixels, job.scale), enlarge(valid[0], job.scale))
    masks = shrink(masks, job.scale)
    return tile_objects(masks, tile=tile, valid=valid, image_shape=shape, overlaps=job.overlaps)


def _read(source: ImageSource, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    raw, valid = source.read(window), source.valid(window)
    if raw.dtype.kind == "f":
        valid = valid & np.isfinite(raw).all(axis=-1)
    return raw, valid


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a run will take, by one tile of it that was worked on and thrown away."""

    seconds: float
    """For a tile."""
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
    if found.error:
        outcome = "quarantined"
    elif objects is None:
        outcome = "skipped"
    return TileRecord(
        index=tile.index,
        outcome=outcome,  # type: ignore[arg-type] # one of the three
        objects=0 if objects is None else len(objects),
        objects_sha256=None if objects is None else store.write_objects(objects),
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


def _shared_bench(planned: Plan, tools: Tools, segmenter: Segmenter | None = None) -> Bench:
    key = _bench_key(planned)
    with _benches_lock:
        if key not in _benches:
            _benches[key] = open_bench(planned, tools, segmenter)
        return _benches[key]


def _load_before_claiming(planned: Plan, tools: Tools, overwrite: bool) -> Segmenter | None:
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
    records = tuple(_known(store, index) for index in range(count))
    failed = [r for r in records if r.outcome == "quarantined"]
    if failed and not any(r.outcome == "done" for r in records):
        raise JobError(f"every tile failed, the first with: {failed[0].error}")
    return records


def _known(store: JobStore, index: int) -> TileRecord:
    record = store.read_record(index)
    if record is None:
        raise JobError(
            f"tile {index} is not in the ledger of {store.path}, although it was computed; "
            "is the directory shared with the workers?"
        )
    return record


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


def _warnings(records: Sequence[TileRecord]) -> tuple[str, ...]:
    failed = [r.index for r in records if r.outcome == "quarantined"]
    found = []
    if failed:
        names = ", ".join(map(str, failed[:10])) + (" ..." if len(failed) > 10 else "")
        found.append(f"{len(failed)} of {len(records)} tiles failed and are holes: {names}")
    if all(r.outcome == "skipped" for r in records):
        found.append("the image has no valid pixel: there are no objects")
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class SeamTask:
    """Finds what the objects of one tile have to do with those of its neighbours."""

    plan: Plan

    def __call__(self, index: int) -> str:
        """Digest of the links and claims."""
        store, tile = JobStore(path=Path(self.plan.job.job_dir)), self.plan.grid[index]
        beside = {t.index: _known(store, t.index) for t in _around(self.plan, index)}
        inputs = _seam_inputs(self.plan, index, beside.__getitem__)
        found = []
        if beside[index].outcome == "done":
            mine = _objects(store, tile, beside.pop(index))
            done = [r for r in beside.values() if r.outcome == "done"]
            whole = mine.labels()[0] if done else None
            others = (_objects(store, self.plan.grid[r.index], r) for r in done)
            found = [self._meet(mine, whole, theirs) for theirs in others]
        links = [n.links for n in found if n.neighbour.objects.tile.index > index]
        claims = find_claims(mine, [n.neighbour for n in found]) if found else NO_CLAIMS
        joined = np.concatenate([np.zeros((0, 2), np.uint64), *links])
        return store.write_seams(index, joined, claims, inputs)

    def _meet(self, mine: TileObjects, whole: Any, theirs: TileObjects) -> Meeting:
        strip = mine.tile.read.intersection(theirs.tile.read)
        _, rows, columns = strip.relative_to(mine.tile.read).slices
        own, labels = np.ascontiguousarray(whole[rows, columns]), theirs.labels(strip)[0]
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


def _around(planned: Plan, index: int) -> Iterator[Tile]:
    """A tile and those whose read windows overlap its own, in order."""
    return planned.grid.overlapping(planned.grid[index].read)


def _seam_inputs(planned: Plan, index: int, record: Callable[[int], TileRecord]) -> str:
    around = _around(planned, index)
    digests = {str(t.index): record(t.index).objects_sha256 for t in around}
    return sha256(canonical(digests))


def _match_seams(
    planned: Plan, records: Sequence[TileRecord], executor: Executor, progress: Progress
) -> list[str]:
    store, count = JobStore(path=Path(planned.job.job_dir)), len(planned.grid)

    def digest(index: int) -> str | None:
        return store.seams_digest(index, _seam_inputs(planned, index, records.__getitem__))

    missing = _in_stripes(planned, [index for index in range(count) if digest(index) is None])
    for _ in _stage("seams", SeamTask(plan=planned), missing, count, executor, progress):
        pass
    digests = [digest(index) for index in range(count)]
    if None in digests:
        raise JobError(f"the seams of {store.path} changed while they were read; run again")
    return [d for d in digests if d is not None]


def _in_stripes(planned: Plan, indices: Sequence[int]) -> list[int]:
    """Tiles in an order in which neighbours come soon after each other, in images of any width."""

    def place(index: int) -> tuple[int, ...]:
        *before, row, column = planned.grid.position(index)
        return (*before, column // STRIPE, row, column)

    return sorted(indices, key=place)


def _name_objects(planned: Plan, records: Sequence[TileRecord], seams: Sequence[str]) -> str:
    """Decide the final ids of all objects, once; returns the digest of that decision."""
    store = JobStore(path=Path(planned.job.job_dir))
    tiles = [[r.outcome, r.objects_sha256] for r in records]
    inputs = sha256(canonical({"tiles": tiles, "seams": list(seams)}))
    if (known := store.final_digest(inputs)) is not None:
        return known
    counts = np.array([r.objects if r.outcome == "done" else 0 for r in records], np.int64)
    claims: dict[int, Claims] = {}
    groups = group_objects(counts, _links(store, seams, claims))
    parts = (
        (store.read_parts(planned.grid[r.index], r), claims.get(r.index, NO_CLAIMS))
        for r in records
        if r.outcome == "done"
    )
    found = tally(groups, parts, planned.grid, _interrupted(planned, store, records))
    final = final_ids(found.areas, planned.job.min_area)
    names = (final[groups.of_tile(index)] for index in range(len(records)))
    return store.write_final(names, object_batches(found, final), inputs)


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
    """Provisional ids of objects that reach into the write window of a quarantined tile."""
    found = [np.zeros(0, np.uint64)]
    for failed in (planned.grid[r.index] for r in records if r.outcome == "quarantined"):
        for tile in planned.grid.overlapping(failed.write):
            if records[tile.index].outcome == "done":
                objects = _objects(store, tile, records[tile.index])
                ranks = np.unique(objects.labels(failed.write.intersection(tile.read)))
                found.append(objects.ids[ranks[ranks > 0].astype(np.int64) - 1])
    return np.unique(np.concatenate(found))


@dataclass(frozen=True, kw_only=True)
class PaintTask:
    """Writes the final labels of one tile's write window."""

    plan: Plan
    final: str

    def __call__(self, index: int) -> str:
        """Digest of the shard."""
        store, grid = JobStore(path=Path(self.plan.job.job_dir)), self.plan.grid
        tile, record, final = grid[index], _known(store, index), _final_names(store, self.final)
        labels: Labels = np.zeros(tile.write.shape, final.dtype)
        if record.outcome == "done":
            objects = store.read_objects(tile, record)
            labels = _renamed(final.of_tile(index), objects.labels(tile.write))
            claims = self._claims(store, index)
            if claims.rles:
                claimed = claims.labels(tile.write)
                np.copyto(labels, _renamed(final.of(claims.ids), claimed), where=claimed > 0)
        return store.write_shard(grid, tile, labels, self.final)

    def _claims(self, store: JobStore, index: int) -> Claims:
        inputs = _seam_inputs(self.plan, index, functools.partial(_known, store))
        digest = store.seams_digest(index, inputs) or "nothing"
        return store.read_seams(index, digest)[1]


def _renamed(names: Labels, ranks: NDArray[np.uint32]) -> Labels:
    """Labels i + 1 called `names[i]`."""
    table: Labels = np.concatenate([np.zeros(1, names.dtype), names])
    return table[ranks]


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

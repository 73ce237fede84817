"""One job: from an image to labels and a table of objects.

`pixels -> tiles -> embedding -> masks -> objects -> seams -> labels -> file`
"""

from __future__ import annotations

import functools
import platform
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError, JobError
from samplat.executors import Executor, SerialExecutor
from samplat.files import canonical, sha256
from samplat.masks import MaskSet, Overlaps
from samplat.objects import TileObjects, tile_objects
from samplat.pixels import ImageInfo, ImageSource, Rescaler, SourceSpec, Stretch, to_rgb
from samplat.progress import Progress, Silent
from samplat.scale import enlarge, shrink
from samplat.seams import (
    SeamRules,
    as_parts,
    final_ids,
    find_roots,
    join_parts,
    match_strip,
    object_table,
)
from samplat.store import HOLE, JobStore, TileRecord
from samplat.tiles import Tile, TileGrid, Window

T = TypeVar("T")

ATTEMPTS = 3
"""How often a tile is tried before it is quarantined."""

if TYPE_CHECKING:
    import pyarrow as pa


class Segmenter(Protocol):
    """Turns the pixels of a tile into masks; called from several threads at once."""

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        """Masks of one tile.

        Args:
            pixels: (H, W, 3).
            valid: (H, W). True: data. What it returns outside of them is discarded.
        """
        ...


class SegmenterFactory(Protocol):
    """Makes segmenters; registered by a plugin."""

    name: str

    def create(self, model: str | None, **options: Any) -> Segmenter:
        """Load what is needed, once per process.

        Raises:
            InputError: an option is unknown or unusable.
        """
        ...

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        """JSON values that change when the masks would: weights' digest, parameters. Cheap."""
        ...


class Tools(Protocol):
    """What the names in a job stand for. The plugin registry is one; it is picklable."""

    def open_source(self, spec: SourceSpec) -> ImageSource:
        """Open the job's image."""
        ...

    def rescaler(self, name: str) -> Rescaler:
        """The rescaler of this name."""
        ...

    def segmenter(self, name: str) -> SegmenterFactory:
        """The segmenter factory of this name."""
        ...


@dataclass(frozen=True, kw_only=True)
class SegmentJob:
    """Everything that decides the labels of one image: specs only, so that it pickles."""

    source: SourceSpec
    """The image."""
    job_dir: str
    """Directory of the ledger, the objects and the labels; a run resumes when it holds this job."""
    model: str | None = "samplat-tiny"
    """Name in the registry or path of a checkpoint; None for a segmenter without a model."""
    segmenter: str = "automatic"
    """Name of the registered segmenter."""
    segmenter_options: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword options, JSON values only."""
    rescaler: str = "percentile"
    """Name of the registered rescaler, fitted once to the whole image."""
    rescaler_options: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword options, JSON values only."""
    tile_size: int = 1024
    """Side of a tile's write window, in pixels; clipped to the image."""
    halo: int = 128
    """Pixels read around a write window; at least half of the largest object, for whole ones."""
    scale: int = 1
    """Factor by which a tile's pixels are enlarged before the segmenter sees them."""
    overlaps: Overlaps = "best"
    """Which mask gets a pixel that several masks of a tile claim."""
    min_area: int = 1
    """Objects of fewer pixels, after merging, become background."""
    seams: SeamRules = SeamRules()
    """When objects of neighbouring tiles are one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do, found out before any tile is computed."""

    job: SegmentJob
    """The job as it was given."""
    info: ImageInfo
    """The image."""
    grid: TileGrid
    """The tiles, (z, y, x); one slice thick."""
    stretch: Stretch
    """The fixed map of the image's values to uint8."""
    identity: Mapping[str, Any]
    """JSON values; equal identities mean equal labels. Recorded in `run.json`."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """A finished job: what exporters read. Every read is checked against the ledger."""

    job: SegmentJob
    """The job that ran."""
    info: ImageInfo
    """The image."""
    grid: TileGrid
    """The tiles: a window of an exporter's loop is best a tile's write window."""
    tiles: tuple[TileRecord, ...]
    """One record per tile, by index."""
    objects: pa.Table
    """One row per object, by id; see `seams.OBJECT_COLUMNS`."""
    store: JobStore
    """The job directory."""
    warnings: tuple[str, ...] = ()
    """What a person should know about this result, such as tiles that failed."""

    @property
    def quarantined(self) -> tuple[TileRecord, ...]:
        """Tiles that failed; their pixels are `HOLE` in the labels."""
        return tuple(t for t in self.tiles if t.outcome == "quarantined")

    @property
    def skipped(self) -> tuple[TileRecord, ...]:
        """Tiles without a valid pixel; their labels are 0."""
        return tuple(t for t in self.tiles if t.outcome == "skipped")

    @property
    def labels_path(self) -> Path:
        """The zarr v3 array of labels, uint32 (z, y, x), one shard per tile."""
        return self.store.labels_path

    def labels(self, window: Window) -> NDArray[np.uint32]:
        """Final ids (z, y, x) of a window: 0 is background, `HOLE` a quarantined tile's pixel.

        Raises:
            JobError: a shard is missing or damaged.
        """
        labels = np.full(window.shape, HOLE, np.uint32)
        for tile in self.grid.overlapping(window):
            part = tile.write.intersection(window)
            if part.size and self.tiles[tile.index].outcome != "quarantined":
                shard = self.store.read_shard(self.grid, tile)
                inner = shard[part.relative_to(tile.write).slices]
                labels[part.relative_to(window).slices] = inner
        return labels

    def shards(self) -> Iterator[tuple[Window, NDArray[np.uint32]]]:
        """Every tile's write window and its labels, by tile index."""
        return ((tile.write, self.labels(tile.write)) for tile in self.grid)


def run_job(
    job: SegmentJob,
    *,
    tools: Tools,
    executor: Executor = SerialExecutor(),
    progress: Progress = Silent(),
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
        JobError: the directory holds another job, is in use, or damaged; or every tile failed.
    """
    planned = plan(job, tools)
    store = JobStore(path=Path(job.job_dir))
    with store.lease(), _closing_benches(planned):
        store.begin(planned.identity, _provenance(planned), overwrite=overwrite)
        records = _segment_tiles(planned, tools, executor, progress)
        links = _match_seams(planned, executor, progress)
        final = _name_objects(planned, records, links)
        _paint_labels(planned, final, executor, progress)
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


def plan(job: SegmentJob, tools: Tools) -> Plan:
    """Look at the image, fit the stretch, lay the grid; computes and writes nothing.

    Raises:
        InputError: the image or a parameter is unusable.
    """
    _check_parameters(job)
    factory = tools.segmenter(job.segmenter)
    segmenter = factory.identity(job.model, **job.segmenter_options)
    source = tools.open_source(job.source)
    try:
        info, digest = source.info, source.digest
        _check_image(info, job.source.path)
        stretch = tools.rescaler(job.rescaler).fit(source, **job.rescaler_options)
    finally:
        source.close()
    _, height, width = info.shape
    grid = TileGrid(
        shape=info.shape,
        tile_shape=(1, min(job.tile_size, height), min(job.tile_size, width)),
        halo=(0, job.halo, job.halo),
    )
    identity = _identity(job, digest, segmenter, stretch)
    return Plan(job=job, info=info, grid=grid, stretch=stretch, identity=identity)


def _identity(
    job: SegmentJob, image: str, segmenter: Mapping[str, Any], stretch: Stretch
) -> dict[str, Any]:
    return {
        "format": 1,
        "image": image,
        "image_options": dict(job.source.options),
        "segmenter": {"name": job.segmenter, **segmenter, **job.segmenter_options},
        "stretch": asdict(stretch),
        "tile_size": job.tile_size,
        "halo": job.halo,
        "scale": job.scale,
        "overlaps": job.overlaps,
        "min_area": job.min_area,
        "seams": asdict(job.seams),
    }


def _check_parameters(job: SegmentJob) -> None:
    for name, value, least in (
        ("tile_size", job.tile_size, 1),
        ("halo", job.halo, 0),
        ("scale", job.scale, 1),
        ("min_area", job.min_area, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if job.overlaps not in ("best", "small", "large"):
        raise InputError(f"overlaps must be best, small or large, got {job.overlaps!r}")


def _check_image(info: ImageInfo, path: str) -> None:
    if min(info.shape) < 1 or info.bands < 1:
        raise InputError(f"{path} has no pixels: shape {info.shape}, {info.bands} bands")
    if np.dtype(info.dtype).kind not in "buif":
        raise InputError(f"{path} holds {info.dtype}; expected real numbers: convert it first")


def _provenance(planned: Plan) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    names = ("samplat", "numpy", "scipy", "torch", "zarr", "pyarrow", "rasterio")
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "image": planned.job.source.path,
        "model": planned.job.model,
        "shape": planned.info.shape,
        "tiles": len(planned.grid),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: installed(name) for name in names},
    }


# -- one tile: pixels -> masks -> objects ---------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a process needs to segment tiles of one job: an open image and a ready segmenter."""

    plan: Plan
    """The job."""
    source: ImageSource
    """Its image, open."""
    segmenter: Segmenter
    """Its segmenter, loaded."""


def open_bench(planned: Plan, tools: Tools) -> Bench:
    """Open the image and load the segmenter of a job."""
    job = planned.job
    segmenter = tools.segmenter(job.segmenter).create(job.model, **job.segmenter_options)
    return Bench(plan=planned, source=tools.open_source(job.source), segmenter=segmenter)


def segment_tile(bench: Bench, tile: Tile) -> TileObjects | None:
    """The objects of one tile; None where it has no valid pixel to write."""
    job, shape = bench.plan.job, bench.plan.info.shape
    raw, valid = _read(bench.source, tile.read)
    if not valid[tile.write.relative_to(tile.read).slices].any():
        return None
    pixels = to_rgb(bench.plan.stretch(raw, valid))[0]
    masks = bench.segmenter(enlarge(pixels, job.scale), enlarge(valid[0], job.scale))
    masks = shrink(masks, job.scale)
    return tile_objects(masks, tile=tile, valid=valid, image_shape=shape, overlaps=job.overlaps)


def _read(source: ImageSource, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    raw, valid = source.read(window), source.valid(window)
    if raw.dtype.kind == "f":
        valid = valid & np.isfinite(raw).all(axis=-1)
    return raw, valid


@dataclass(frozen=True, kw_only=True)
class TileTask:
    """Segments one tile and enters it in the ledger; what a worker of any kind is sent."""

    plan: Plan
    tools: Tools

    def __call__(self, index: int) -> TileRecord:
        """The tile's new record. Raises only what concerns the whole job."""
        bench = _shared_bench(self.plan, self.tools)
        store = JobStore(path=Path(self.plan.job.job_dir))
        record = _attempt_tile(bench, store, self.plan.grid[index])
        store.write_record(record)
        return record


def _attempt_tile(bench: Bench, store: JobStore, tile: Tile) -> TileRecord:
    error = ""
    for attempt in range(1, ATTEMPTS + 1):
        began = time.monotonic()
        try:
            objects = segment_tile(bench, tile)
        except Exception as failure:  # whatever a tile does, the other tiles go on
            error = f"{type(failure).__name__}: {failure}"
            continue
        return _record(store, tile, objects, attempt, began)
    return TileRecord(
        index=tile.index,
        outcome="quarantined",
        objects=0,
        objects_sha256=None,
        attempts=ATTEMPTS,
        seconds=round(time.monotonic() - began, 3),
        peak_mb=_peak_mb(),
        error=error,
    )


def _record(
    store: JobStore, tile: Tile, objects: TileObjects | None, attempt: int, began: float
) -> TileRecord:
    return TileRecord(
        index=tile.index,
        outcome="skipped" if objects is None else "done",
        objects=0 if objects is None else len(objects),
        objects_sha256=None if objects is None else store.write_objects(objects),
        attempts=0 if objects is None else attempt,
        seconds=round(time.monotonic() - began, 3),
        peak_mb=_peak_mb(),
    )


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


# Weights and open files are neither picklable nor cheap: each process makes them once per job.
_benches: dict[str, Bench] = {}
_benches_lock = threading.Lock()


def _bench_key(planned: Plan) -> str:
    return sha256(canonical({"dir": planned.job.job_dir, "identity": planned.identity}))


def _shared_bench(planned: Plan, tools: Tools) -> Bench:
    key = _bench_key(planned)
    with _benches_lock:
        if key not in _benches:
            _benches[key] = open_bench(planned, tools)
        return _benches[key]


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


# -- objects -> seams -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SeamTask:
    """Links the objects of one tile to those of its neighbours of higher index."""

    plan: Plan

    def __call__(self, index: int) -> str:
        """Digest of the links."""
        store, grid = JobStore(path=Path(self.plan.job.job_dir)), self.plan.grid
        tile, inputs = grid[index], _seam_inputs(self.plan, store, index)
        links = [np.zeros((0, 2), np.uint64)]
        mine = _known(store, index)
        for other in grid.neighbours(tile) if mine.outcome == "done" else ():
            theirs = _known(store, other.index)
            if theirs.outcome == "done":
                first, first_labels = _decoded(store, tile, mine)
                second, second_labels = _decoded(store, other, theirs)
                rules = self.plan.job.seams
                links.append(match_strip(first, second, first_labels, second_labels, rules))
        return store.write_links(index, np.concatenate(links), inputs)


@functools.lru_cache(maxsize=16)
def _decoded(
    store: JobStore, tile: Tile, record: TileRecord
) -> tuple[TileObjects, NDArray[np.uint32]]:
    # kept, because a tile meets up to eight others
    objects = store.read_objects(tile, record)
    return objects, objects.labels()


def _seam_inputs(planned: Plan, store: JobStore, index: int) -> str:
    grid = planned.grid
    indices = [index, *(t.index for t in grid.neighbours(grid[index]))]
    digests = {str(i): _known(store, i).objects_sha256 for i in indices}
    return sha256(canonical(digests))


def _match_seams(planned: Plan, executor: Executor, progress: Progress) -> list[str]:
    store, count = JobStore(path=Path(planned.job.job_dir)), len(planned.grid)

    def digest(index: int) -> str | None:
        return store.links_digest(index, _seam_inputs(planned, store, index))

    missing = [index for index in range(count) if digest(index) is None]
    for _ in _stage("seams", SeamTask(plan=planned), missing, count, executor, progress):
        pass
    digests = [digest(index) for index in range(count)]
    if None in digests:
        raise JobError(f"the seams of {store.path} changed while they were read; run again")
    return [d for d in digests if d is not None]


def _name_objects(planned: Plan, records: Sequence[TileRecord], links: Sequence[str]) -> str:
    """Decide the final ids of all objects, once; returns the digest of that decision."""
    store = JobStore(path=Path(planned.job.job_dir))
    tiles = [[r.outcome, r.objects_sha256] for r in records]
    inputs = sha256(canonical({"tiles": tiles, "links": list(links)}))
    if (known := store.final_digest(inputs)) is not None:
        return known
    done = [r for r in records if r.outcome == "done"]
    parts = join_parts([as_parts(store.read_objects(planned.grid[r.index], r)) for r in done])
    edges = [store.read_links(i, d) for i, d in enumerate(links)]
    roots = find_roots(parts.ids, np.concatenate(edges))
    final = final_ids(parts, roots, planned.job.min_area)
    interrupted = np.isin(parts.ids, _interrupted(planned, store, records))
    table = object_table(parts, final, planned.grid, interrupted)
    return store.write_final(parts.ids, final, table, inputs)


def _interrupted(
    planned: Plan, store: JobStore, records: Sequence[TileRecord]
) -> NDArray[np.uint64]:
    """Provisional ids of objects that reach into the write window of a quarantined tile."""
    found = [np.zeros(0, np.uint64)]
    for failed in (planned.grid[r.index] for r in records if r.outcome == "quarantined"):
        for tile in planned.grid.overlapping(failed.write):
            if records[tile.index].outcome == "done":
                objects, labels = _decoded(store, tile, records[tile.index])
                lost = failed.write.intersection(tile.read).relative_to(tile.read)
                ranks = np.unique(labels[lost.slices])
                found.append(objects.ids[ranks[ranks > 0].astype(np.int64) - 1])
    return np.unique(np.concatenate(found))


# -- seams -> labels ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PaintTask:
    """Writes the final labels of one tile's write window."""

    plan: Plan
    final: str

    def __call__(self, index: int) -> str:
        """Digest of the shard."""
        store, grid = JobStore(path=Path(self.plan.job.job_dir)), self.plan.grid
        tile, record = grid[index], _known(store, index)
        labels = np.zeros(tile.write.shape, np.uint32)
        if record.outcome == "done":
            objects = store.read_objects(tile, record)
            ranks = objects.labels()[tile.write.relative_to(tile.read).slices]
            ids, final = _final_names(store, self.final)
            names = final[np.searchsorted(ids, objects.ids)]
            labels = np.concatenate([np.zeros(1, np.uint32), names])[ranks]
        return store.write_shard(grid, tile, labels, self.final)


@functools.lru_cache(maxsize=2)
def _final_names(store: JobStore, digest: str) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    return store.read_final(digest)


def _paint_labels(planned: Plan, final: str, executor: Executor, progress: Progress) -> None:
    store, grid = JobStore(path=Path(planned.job.job_dir)), planned.grid
    store.write_labels_header(grid)
    painted = [t.index for t in grid if _known(store, t.index).outcome != "quarantined"]
    missing = [i for i in painted if not store.is_painted(grid, grid[i], final)]
    task = PaintTask(plan=planned, final=final)
    for _ in _stage("labels", task, missing, len(painted), executor, progress):
        pass

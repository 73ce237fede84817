"""Rasters at scale: memory, speed and seams of whole jobs, one row a claim.

    python benchmarks/rasters.py [--samgeo DIR] [--data DIR] [--only ROW ...] [--json OUT]
                                 [--share S]

No model runs, except in `ledger` and `buildings`. The segmenter of the large runs is a threshold:
pixels whose mean over 5 x 5 is above 128, 4-connected, regions of 25 pixels and more. The rasters
are pictures that come with scikit-image, in random order (`mosaics`). Jobs run on two threads,
tiles of 1024 pixels and a halo of 128, and each in a process of its own where memory is measured.

    memory          peak resident GiB at 4 000 x 4 000 and at 20 000 x 20 000, GeoParquet included
    ten_gigapixels  the same of 100 000 x 100 000, of which a share (0.1) is not sparse
    throughput      megapixels a second of all stages, without the segmenter; with GeoParquet, too
    merge           seconds from objects on disk to links, ids and the table; 10^6 over 10^4 tiles
    seams           of an oracle's objects: parts each, lost ones, ids that bear several, calls;
                    beside tiles whose ids are only made different, and beside samgeo's own run
                    (`samgeo_tiles`), with the borders that its examples erode and by its defaults
    buildings       IoU of box prompts with the buildings of Atlanta and Banepa, and how many differ
                    by more than 0.01 from those of one tile: tiled, and in the other CRS
                    (`prompted_buildings`)
    ledger          share of a run with samplat-tiny that objects, ledger and labels take
    long_object     polygons of a winding road, 5 pixels wide, over at least 12 tiles
    hedge           polygons of two fields with a hedge of 2 pixels along a seam
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import samplat
from benchmarks.accuracy import default_root
from benchmarks.mosaics import write_mosaic
from benchmarks.prompted_buildings import SETS, buildings
from benchmarks.samgeo_tiles import BORDERS, samgeo_ids
from samplat.errors import SamplatError
from samplat.executors import ThreadsExecutor
from samplat.files import check_file
from samplat.masks import encode_labels
from samplat.plugins import collect, load_plugins
from samplat.progress import Silent
from samplat.store import JobStore

Row = dict[str, float | int | None]
Rows = Iterator[tuple[str, Row]]

THREADS = 2
RUNS = 3
"""Of which `throughput` takes the best."""
TILE, HALO = 1024, 128
GIB = 2**30


def masks_of(labels: NDArray[Any], count: int) -> samplat.MaskSet:
    """The regions 1..count of a label image (H, W), each with a pixel."""
    from scipy import ndimage

    height, width = labels.shape
    found = ndimage.find_objects(labels, count)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in found]
    ones = np.ones(count, np.float32)
    return samplat.MaskSet(
        size=(height, width),
        rles=encode_labels(labels, count),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        areas=np.bincount(labels.ravel(), minlength=count + 1)[1:],
        predicted_iou=ones,
        stability=ones,
        points=np.full((count, 2), np.nan, np.float32),
        crop_boxes=np.tile(np.array([0, 0, width, height], np.int32), (count, 1)),
    )


def dense(labels: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Labels renamed to 1..N, 0 stays."""
    names, ranks = np.unique(labels, return_inverse=True)
    first = int(names[0] != 0)
    return ranks.reshape(labels.shape) + first, len(names) - 1 + first


@dataclass
class Counted:
    """A segmenter that says how often it was called, and the processor time that it took."""

    find: Callable[[NDArray[np.uint8], NDArray[np.bool_]], samplat.MaskSet]
    calls: int = 0
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> samplat.MaskSet:
        began = time.thread_time()
        found = self.find(pixels, valid)
        with self.lock:
            self.calls, self.seconds = self.calls + 1, self.seconds + time.thread_time() - began
        return found


@dataclass(frozen=True)
class Given:
    """Hands out one segmenter, whatever the job asks for."""

    segmenter: Any
    name: str = "given"

    def create(self, model: str | None, **options: Any) -> Any:
        return self.segmenter

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


def threshold(pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> samplat.MaskSet:
    """Regions of the brighter half."""
    from scipy import ndimage

    labels, count = ndimage.label((ndimage.uniform_filter(pixels[..., 1], 5) > 128) & valid)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept = np.flatnonzero(sizes[1:] >= 25) + 1
    ranks = np.zeros(count + 1, np.int64)
    ranks[kept] = np.arange(1, len(kept) + 1)
    return masks_of(ranks[labels], len(kept))


def regions(pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> samplat.MaskSet:
    """Regions of what is not black."""
    from scipy import ndimage

    return masks_of(*ndimage.label(pixels[..., 1] > 0))


def oracle(pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> samplat.MaskSet:
    """What the colours say: objects of an image that was painted with their numbers."""
    return masks_of(*dense((pixels.astype(np.int64) << np.array([0, 8, 16])).sum(axis=-1)))


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job that is done."""

    result: samplat.JobResult
    segmenter: Counted
    seconds: float
    """Without outputs."""
    export_seconds: float
    cpu_seconds: float
    """Of all threads, without outputs."""
    peak: int
    """Bytes, before outputs."""


class Clock(Silent):
    """Notes when stages begin; may end the run there."""

    def __init__(self, stop: str = "") -> None:
        self.began: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.stop = stop

    def start(self, stage: str, total: int) -> None:
        self.began[stage], self.cpu[stage] = time.perf_counter(), time.process_time()
        if stage == self.stop:
            raise _Stopped


class _Stopped(Exception):  # noqa: N818 nothing went wrong
    pass


def run(
    image: Path,
    folder: Path,
    find: Callable[[NDArray[np.uint8], NDArray[np.bool_]], samplat.MaskSet],
    *,
    output: str | None = None,
    progress: Any = None,
    **parameters: Any,
) -> Run:
    """Run a job over a raster, with a segmenter of this file."""
    segmenter = Counted(find)
    tools = collect(load_plugins().manager)
    tools.add("segmenters", "benchmarks", Given(segmenter))
    job = samplat.SegmentJob(
        source=samplat.SourceSpec(path=str(image), factory="raster"),
        job_dir=str(folder / "job"),
        model=None,
        segmenter="given",
        rescaler="none",
        **{"tile_size": TILE, "halo": HALO, **parameters},
    )
    began, began_cpu = time.perf_counter(), time.process_time()
    executor = ThreadsExecutor(workers=THREADS)
    result = samplat.run_job(job, tools=tools, executor=executor, progress=progress or Silent())
    done, peak, cpu = time.perf_counter(), peak_bytes(), time.process_time() - began_cpu
    if output is not None:
        path = folder / output
        tools.exporter_for(path).export(result, path)
    exported = time.perf_counter() - done
    return Run(
        result=result,
        segmenter=segmenter,
        seconds=done - began,
        export_seconds=exported,
        cpu_seconds=cpu,
        peak=peak,
    )


def alone(task: Callable[..., Any], *arguments: Any) -> Any:
    """What a task returns from a process of its own, and that one's peak memory in bytes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_with_peak, (task, arguments))


def _with_peak(task: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, int]:
    answer = task(*arguments)
    return answer, peak_bytes()


def peak_bytes() -> int:
    """Most memory of this process alone so far: what `getrusage` tells starts at its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return 1024 * int(peak)


def _large(folder: str, side: int, share: float) -> dict[str, float]:
    """Of a run over a mosaic, with GeoParquet: numbers that fit through a pipe."""
    place = Path(folder)
    image = write_mosaic(place / "mosaic.tif", side, share=share)
    done = run(image, place, threshold, output="objects.parquet")
    return {
        "objects": done.result.objects.num_rows,
        "tiles": len(done.result.tiles),
        "skipped": len(done.result.skipped),
        "seconds": done.seconds,
        "export_seconds": done.export_seconds,
        "segmenter_seconds": done.segmenter.seconds,
        "cpu_seconds": done.cpu_seconds,
        "core_gib": done.peak / GIB,
    }


def large(side: int, share: float) -> tuple[dict[str, float], int]:
    with tempfile.TemporaryDirectory() as folder:
        found: tuple[dict[str, float], int] = alone(_large, folder, side, share)
        return found


def memory_row(options: argparse.Namespace) -> Row:
    small, peak = large(4_000, 1.0)
    wide, wide_peak = large(20_000, 0.5)
    return {
        "gib_4000": peak / GIB,
        "gib_20000": wide_peak / GIB,
        "ratio": wide_peak / peak,
        "ratio_core": wide["core_gib"] / small["core_gib"],
        "objects_4000": int(small["objects"]),
        "objects_20000": int(wide["objects"]),
    }


def ten_gigapixels_row(options: argparse.Namespace) -> Row:
    facts, peak = large(100_000, options.share)
    return {
        "gib": peak / GIB,
        "gib_core": facts["core_gib"],
        "tiles": int(facts["tiles"]),
        "skipped": int(facts["skipped"]),
        "objects": int(facts["objects"]),
        "seconds": facts["seconds"],
        "export_seconds": facts["export_seconds"],
    }


def _throughput(folder: str, side: int) -> dict[str, float]:
    (Path(folder) / "warm").mkdir()
    _large(str(Path(folder) / "warm"), 2048, 1.0)  # compiles and imports
    runs = []
    for k in range(RUNS):
        (place := Path(folder) / str(k)).mkdir()
        runs.append(_large(str(place), side, 1.0))
        shutil.rmtree(place)
    return min(runs, key=lambda run: run["seconds"] + run["export_seconds"])


def throughput_row(options: argparse.Namespace) -> Row:
    """The best of three runs, so that what else a machine does counts less.

    The segmenter's processor time is taken off in equal parts from both threads: by the clock, and
    by processor time as if two processors had nothing else to do.
    """
    side = 10_240
    with tempfile.TemporaryDirectory() as folder:
        facts, _ = alone(_throughput, folder, side)
    pixels, model = side**2 / 1e6, facts["segmenter_seconds"] / THREADS
    return {
        "mpx_s_core": pixels / (facts["seconds"] - model),
        "mpx_s_core_cpu": pixels / (facts["cpu_seconds"] / THREADS - model),
        "mpx_s_with_export": pixels / (facts["seconds"] - model + facts["export_seconds"]),
        "objects": int(facts["objects"]),
        "segmenter_s_a_tile": facts["segmenter_seconds"] / facts["tiles"],
    }


PERIOD, MANY = 13, 1000
"""Side of a cell with one object, pixels; cells a side."""


def lattice(folder: Path) -> Path:
    """10^6 squares of 12 x 12 pixels, 1 apart, across all borders of tiles of 130."""
    line = (np.arange(16 * PERIOD) + PERIOD // 2) % PERIOD != 0
    block = np.repeat((255 * (line[:, None] & line))[..., None], 3, axis=-1).astype(np.uint8)
    return write_mosaic(folder / "lattice.tif", PERIOD * MANY, blocks=[block])


MERGE = {"tile_size": 10 * PERIOD, "halo": 16}


def _segment_only(folder: str) -> None:
    try:
        run(lattice(Path(folder)), Path(folder), regions, progress=Clock("seams"), **MERGE)
    except _Stopped:
        return


def _merge_only(folder: str) -> dict[str, float]:
    clock, image = Clock("labels"), Path(folder) / "lattice.tif"
    try:
        run(image, Path(folder), regions, progress=clock, **MERGE)
    except _Stopped:
        table = JobStore(path=Path(folder) / "job").read_table()
        return {
            "seconds": clock.began["labels"] - clock.began["seams"],
            "cpu_seconds": clock.cpu["labels"] - clock.cpu["seams"],
            "objects": table.num_rows,
            "truncated": int(np.sum(table["truncated"].to_numpy())),
        }
    raise AssertionError("the labels were never painted")


def merge_row(options: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        alone(_segment_only, folder)
        facts, peak = alone(_merge_only, folder)
    return {**facts, "gib": peak / GIB}


def painted_scene(folder: Path, labels: NDArray[np.int64]) -> Path:
    """A GeoTIFF whose colours are the numbers of its objects."""
    import rasterio

    height, width = labels.shape
    bands = np.stack([(labels >> shift) & 255 for shift in (0, 8, 16)]).astype(np.uint8)
    place = {"crs": "EPSG:32614", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 4e6)}
    size = {"count": 3, "height": height, "width": width, "dtype": "uint8"}
    path = folder / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", tiled=True, compress="zstd", **size, **place
    ) as f:
        f.write(bands)
    return path


def discs(side: int, count: int, largest: int) -> NDArray[np.int64]:
    """Touching and overlapping ellipses, later ones over earlier ones, in connected parts each."""
    from scipy import ndimage

    rng, labels = np.random.default_rng(4), np.zeros((side, side), np.int64)
    for name in range(1, count + 1):
        h, w = (int(v) for v in rng.integers(largest // 8, largest // 2, 2))
        y, x = (int(v) for v in rng.integers(0, side, 2))
        rows, columns = np.ogrid[-h : h + 1, -w : w + 1]
        part = labels[max(0, y - h) : y + h + 1, max(0, x - w) : x + w + 1]
        top, left = max(0, h - y), max(0, w - x)
        inside = ((rows / h) ** 2 + (columns / w) ** 2 <= 1)[top:, left:]
        part[inside[: part.shape[0], : part.shape[1]]] = name
    split, total = np.zeros_like(labels), 0
    for name, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is not None:
            parts, found = ndimage.label(labels[place] == name)
            split[place] += np.where(parts > 0, parts + total, 0)
            total += found
    return split


def quality(ids: NDArray[Any], truth: NDArray[np.int64], calls: int) -> Row:
    """How ids fit true objects, both (H, W) with 0 for background."""
    pairs = np.unique(np.stack([truth.ravel(), ids.ravel().astype(np.int64)]), axis=1)
    pairs = pairs[:, (pairs > 0).all(axis=0)]
    parts = np.unique(pairs[0], return_counts=True)[1]
    return {
        "objects": len(np.unique(truth)) - 1,
        "parts_each": float(parts.mean()) if len(parts) else 0.0,
        "lost": len(np.unique(truth)) - 1 - len(parts),
        "ids": len(np.unique(ids[ids > 0])),
        "ids_of_several": int((np.unique(pairs[1], return_counts=True)[1] > 1).sum()),
        "calls": calls,
    }


def naive_ids(image: Path, tile: int) -> tuple[NDArray[np.int64], int]:
    """Tile, segment, add the number of objects so far: ids differ, and nothing is merged."""
    import rasterio

    with rasterio.open(image) as scene:
        bands = scene.read().transpose(1, 2, 0)
    ids, total, calls = np.zeros(bands.shape[:2], np.int64), 0, 0
    for y in range(0, bands.shape[0], tile):
        for x in range(0, bands.shape[1], tile):
            part = np.ascontiguousarray(bands[y : y + tile, x : x + tile])
            labels = oracle(part, np.ones(part.shape[:2], bool)).to_labels().astype(np.int64)
            ids[y : y + tile, x : x + tile] = np.where(labels > 0, labels + total, 0)
            total, calls = total + int(labels.max()), calls + 1
    return ids, calls


def _our_ids(folder: str, tile: int) -> tuple[NDArray[Any], int]:
    done = run(Path(folder) / "scene.tif", Path(folder), oracle, tile_size=tile)
    whole = samplat.Window(start=(0, 0, 0), stop=done.result.info.shape)
    return done.result.labels(whole)[0], done.segmenter.calls


def seams_row(options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Four rows: ours, and what others do, on one scene with one oracle."""
    tile, truth = 512, discs(4000, 2500, 2 * HALO)
    with tempfile.TemporaryDirectory() as folder:
        image = painted_scene(Path(folder), truth)
        (ids, calls), peak = alone(_our_ids, folder, tile)
        yield "seams", {**quality(ids, truth, calls), "gib": peak / GIB}
        (ids, calls), peak = alone(naive_ids, image, tile)
        yield "seams_naive", {**quality(ids, truth, calls), "gib": peak / GIB}
        if options.samgeo is None:
            print("seams_samgeo     skipped: no --samgeo DIR")
            return
        for name, borders in (("seams_samgeo", BORDERS), ("seams_samgeo_default", None)):
            task = (samgeo_ids, options.samgeo, image, tile, oracle, borders)
            (ids, calls), peak = alone(*task)
            yield name, {**quality(ids, truth, calls), "gib": peak / GIB}


def buildings_row(options: argparse.Namespace) -> Rows:
    """A row a set: mean IoU of each run, and of tiled ones the share that is not as untiled."""
    data = options.data or default_root()
    if not all((data / name).is_dir() for name in SETS):
        print(f"buildings        skipped: {data} has no {' or no '.join(SETS)}; give --data DIR")
        return
    for name in SETS:
        row: Row = {}
        for found in buildings(data, sets=(name,)):
            run = found["run"].replace(", other CRS", "_other_crs")
            row |= {"buildings": found["buildings"], f"iou_{run}": found["mean_iou"]}
            if run.startswith("tiled"):
                row[f"{run}_apart"] = found["apart_share"]
                row[f"{run}_apart_most"] = found["apart_most"]
        yield f"buildings_{name.split('_')[1]}", row


@dataclass
class StageClock:
    """One tile after the other; notes the seconds of each of its three stages."""

    spent: dict[str, float] = field(default_factory=dict)

    def map(self, task: Any, indices: Sequence[int]) -> Iterator[Any]:
        stages = getattr(task, "stages", None)
        if stages is None:
            inner = getattr(task, "task", task)
            yield from self._timed(type(inner).__name__, indices, task)
            return
        read, find, write = stages
        for index in indices:
            (seen,) = self._timed("read", [index], read)
            (found,) = self._timed("find", [index], lambda i, given=seen: find(i, given))
            yield from self._timed("write", [index], lambda i, given=found: write(i, given))

    def _timed(
        self, name: str, indices: Sequence[int], work: Callable[[int], Any]
    ) -> Iterator[Any]:
        for index in indices:
            began = time.perf_counter()
            result = work(index)
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began
            yield result


def ledger_row(options: argparse.Namespace) -> Row:
    """Four tiles with the bundled model, as `tile-segment` does it by default."""
    with tempfile.TemporaryDirectory() as folder:
        image = write_mosaic(Path(folder) / "mosaic.tif", 2 * TILE)
        job = samplat.SegmentJob(
            source=samplat.SourceSpec(path=str(image), factory="raster"),
            job_dir=str(Path(folder) / "job"),
            tile_size=TILE,
            halo=HALO,
        )
        clock, began = StageClock(), time.perf_counter()
        samplat.run_job(job, tools=samplat.registry(), executor=clock)
        total = time.perf_counter() - began
    kept = clock.spent["write"] + clock.spent["SeamTask"] + clock.spent["PaintTask"]
    return {"seconds_a_tile": total / 4, "kept_s": kept, "share": kept / total}


def _polygons(labels: NDArray[np.int64], tile: int) -> tuple[Any, Run]:
    import geopandas

    with tempfile.TemporaryDirectory() as folder:
        image = painted_scene(Path(folder), 0xFFFFFF * (labels > 0))
        done = run(image, Path(folder), regions, output="objects.parquet", tile_size=tile, halo=32)
        return geopandas.read_parquet(Path(folder) / "objects.parquet"), done


def road() -> NDArray[np.int64]:
    """A winding line, 5 pixels wide, from one corner to the other."""
    side = 2048
    t = np.linspace(0, 1, 40 * side)
    x = 30 + (side - 60) * t + 25 * np.sin(37 * t)
    y = 30 + (side - 60) * t + 60 * np.sin(23 * t)
    labels = np.zeros((side, side), np.int64)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            labels[np.rint(y).astype(int) + dy, np.rint(x).astype(int) + dx] = 1
    return labels


def long_object_row(options: argparse.Namespace) -> Row:
    labels = road()
    frame, done = _polygons(labels, 256)
    (tiles,) = done.result.objects["tiles"].to_pylist() or [[]]
    return {
        "polygons": len(frame),
        "tiles": len(tiles),
        "missing_px": int(labels.sum()) - int(frame["area_px"].sum()),
        "rings": int(frame.geometry.count_geometries().sum()),
    }


def hedge_row(options: argparse.Namespace) -> Row:
    """Fields larger than a tile on both sides of x = 512, where two tiles meet; y too."""
    labels = np.zeros((1024, 1024), np.int64)
    labels[100:900, 100:511], labels[100:900, 513:930] = 1, 1
    across, _ = _polygons(labels, 256)
    along, _ = _polygons(labels.T.copy(), 256)
    return {
        "polygons": len(across),
        "polygons_turned": len(along),
        "missing_px": 2 * int(labels.sum()) - int(across.area_px.sum() + along.area_px.sum()),
    }


ROWS: dict[str, Callable[[argparse.Namespace], Row | Rows]] = {
    "memory": memory_row,
    "ten_gigapixels": ten_gigapixels_row,
    "throughput": throughput_row,
    "merge": merge_row,
    "seams": seams_row,
    "ledger": ledger_row,
    "long_object": long_object_row,
    "hedge": hedge_row,
    "buildings": buildings_row,
}
"""A row takes the options and gives its figures, or several rows with their names."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samgeo", type=Path, metavar="DIR", help="checkout of samgeo")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="evaluation data: ../shared/data/eval"
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help="some of the rows")
    parser.add_argument(
        "--share", type=float, default=0.1, help="of ten_gigapixels that is not sparse"
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args(arguments)


def figures(options: argparse.Namespace) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for name in options.only or ROWS:
        given = ROWS[name](options)
        for label, row in [(name, given)] if isinstance(given, dict) else given:
            found[label] = row
            print(formatted(label, row), flush=True)
    return found


def formatted(name: str, row: Row) -> str:
    cells = (
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
    )
    return f"{name:<16} {'   '.join(cells)}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        if options.json:
            check_file(options.json)
        found = figures(options)
    except SamplatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

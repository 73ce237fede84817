"""A job on many processes: the same labels, what that costs, who may die, who can listen.

    python benchmarks/scaling.py [--tiles N] [--workers N] [--runs N] [--only ROW ...] [--json OUT]

Tiles are 32 x 32 pixels of a picture of random objects, with a halo of 8; the segmenter knows the
truth and sleeps for 50 ms before it tells, so that a few cores can host many workers.

    identity    SHA-256 of decoded labels and table on threads, on 1, 2, 4 and 8 processes of Dask,
                tasks handed over in random orders: how many runs differ from the serial one
    efficiency  the stage of tiles on `--workers` processes: tiles x 50 ms / workers over the
                seconds that it took; what a tile takes a worker beyond its sleep, in ms; how many
                tasks the scheduler knew at most; growth of its process, which is ours, in MiB
    kills       runs on 4 processes of which a random one is killed every 4 s on average, by SIGKILL
                (`signal`), by the nanny that starts it again (`nanny`), or by its nanny because it
                took too much memory (`memory`): how many finished, how many differ, how many
                were killed
    merge       names of 10^7 objects (1000 of each of `--merge-tiles`) that 10^8 links unite, on 2
                processes: objects in the end, and as it must be; seconds; GiB of all processes
    resume      seconds from the start of a run, of which 64 of `--resume-tiles` tiles are missing,
                until one of them is done: on two threads, and on 2 processes that start first
    batch       33 scans of hippocampi of `--data`, one of them cut off, and a raster of 2048 x 2048
                pixels in one `samplat batch` with samplat-tiny: status, results, names of failures;
                and those of the same command with --retry-failed when the scan is mended
    schedulers  a run whose scheduler is killed 5 times, each time when some more tiles are done:
                how often it ended with an error; whether labels in the end are those of no kill
    inference   samplat-tiny on a raster of `--inference-side` pixels a side: seconds of the tiles
                on two threads of one process, and on 2 processes of one thread; their ratio
    listen      addresses at which the processes of a local cluster listen
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import samplat
from benchmarks.accuracy import default_root
from benchmarks.merging import BLOCK, blank, merged
from benchmarks.mixed_batch import mixed
from benchmarks.mosaics import write_mosaic
from benchmarks.resuming import half_done, resumed
from benchmarks.schedulers import cluster
from samplat.errors import SamplatError
from samplat.executors import SerialExecutor, ThreadsExecutor, closing
from samplat.files import check_file
from samplat.masks import MaskSet, mask_set
from samplat.pixels import IdentityRescaler
from samplat.progress import Silent

ROOT = Path(__file__).parents[1]
SIDE, HALO, SLEEP = 32, 8, 0.05
INTERVAL = 4.0
MEMORY_SHARE = 0.1
"""Of what a worker may use, at which its nanny ends it: so that little has to be taken."""
KILLS = 5
Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """Labels (y, x) in a file, as the bytes of an RGB picture."""

    labels: NDArray[np.int64]

    @property
    def info(self) -> samplat.ImageInfo:
        return samplat.ImageInfo(shape=(1, *self.labels.shape), bands=3, dtype="uint8")

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.labels.shape).encode()).hexdigest()

    def read(self, window: samplat.Window) -> NDArray[np.uint8]:
        part = np.asarray(self.labels[None][window.slices])
        return np.stack([(part >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)

    def valid(self, window: samplat.Window) -> NDArray[np.bool_]:
        return np.ones(window.shape, bool)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Sleeper:
    """Sleeps, and tells the truth."""

    seconds: float

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        time.sleep(self.seconds)
        labels = (pixels.astype(np.int64) << np.array([0, 8, 16])).sum(axis=-1)
        ids = np.unique(labels[labels > 0])
        return mask_set(labels[None] == ids[:, None, None])


@dataclass(frozen=True)
class Bed:
    """Makes sleepers."""

    name: str = "sleep"

    def create(self, model: str | None, **options: Any) -> Sleeper:
        return Sleeper(**options)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class Tools:
    """What the names in these jobs stand for, in every process."""

    def open_source(self, spec: samplat.SourceSpec) -> Any:
        if spec.factory == "blank":
            return Picture(np.broadcast_to(np.int64(0), (int(spec.path),) * 2))
        return Picture(np.load(spec.path, mmap_mode="r"))

    def rescaler(self, name: str) -> Any:
        return IdentityRescaler()

    def segmenter(self, name: str) -> Any:
        return Bed()

    def prompter(self, name: str) -> Any:
        raise KeyError(name)


def draw(folder: Path, tiles: int) -> Path:
    """A picture of about so many tiles, with an object for each two of them."""
    rows = max(1, int(tiles**0.5))
    shape = (rows * SIDE, -(-tiles // rows) * SIDE)
    labels, rng = np.zeros(shape, np.int64), np.random.default_rng(0)
    for name in range(1, tiles // 2 + 1):
        y, x = (int(rng.integers(0, n)) for n in shape)
        labels[y : y + int(rng.integers(2, 16)), x : x + int(rng.integers(2, 16))] = name
    path = folder / "picture.npy"
    np.save(path, labels)
    return path


def run(picture: Path, folder: Path, executor: Any, progress: Any = None) -> samplat.JobResult:
    job = samplat.SegmentJob(
        source=samplat.SourceSpec(path=str(picture), factory="picture"),
        job_dir=str(folder),
        model=None,
        segmenter="sleep",
        segmenter_options={"seconds": SLEEP},
        rescaler="none",
        tile_size=SIDE,
        halo=HALO,
    )
    return samplat.run_job(job, tools=Tools(), executor=executor, progress=progress or Silent())


def digest(result: samplat.JobResult) -> str:
    found = hashlib.sha256(str(result.objects.to_pylist()).encode())
    for _, labels in result.shards():
        found.update(labels.tobytes())
    return found.hexdigest()


def dask(workers: int) -> Any:
    return samplat.registry().executor("dask").create(workers=workers)


@dataclass(frozen=True)
class Shuffled:
    """Hands tasks over in a random order."""

    executor: Any
    seed: int

    def check(self, plan: Any, tools: Any) -> None:
        self.executor.check(plan, tools)

    def map(self, task: Callable[[int], Any], indices: Sequence[int]) -> Iterator[Any]:
        order = np.random.default_rng(self.seed).permutation(len(indices))
        return self.executor.map(task, [indices[i] for i in order])  # type: ignore[no-any-return]


def identity_row(parsed: argparse.Namespace, folder: Path) -> Row:
    picture = draw(folder, min(parsed.tiles, 200))
    expected = digest(run(picture, folder / "serial", SerialExecutor()))
    found = {"threads": [digest(run(picture, folder / "threads", ThreadsExecutor(workers=2)))]}
    for workers in (1, 2, 4, 8):
        with dask(workers) as executor:
            orders = (executor, *(Shuffled(executor, k) for k in range(1, parsed.runs)))
            found[f"dask_{workers}"] = [
                digest(run(picture, folder / f"{workers}-{k}", each))
                for k, each in enumerate(orders)
            ]
    return {name: f"{sum(d != expected for d in each)}/{len(each)}" for name, each in found.items()}


def known_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


@dataclass(kw_only=True)
class Watch(Silent):
    """Times the stage of tiles."""

    began: float = 0.0
    seconds: float = 0.0

    def start(self, stage: str, total: int) -> None:
        if stage == "tiles":
            self.began = time.monotonic()

    def finish(self, stage: str) -> None:
        if stage == "tiles":
            self.seconds = time.monotonic() - self.began


@dataclass(kw_only=True)
class Clock(Watch):
    """Times the stage of tiles, and looks what the scheduler knows."""

    executor: Any
    known: list[int] = field(default_factory=list)

    def advance(self, stage: str, steps: int = 1) -> None:
        if stage == "tiles" and steps == 1 and len(self.known) < time.monotonic() - self.began:
            self.known.append(self.executor.client.run_on_scheduler(known_tasks))


def efficiency_row(parsed: argparse.Namespace, folder: Path) -> Row:
    picture = draw(folder, parsed.tiles)
    with dask(parsed.workers) as executor:
        # imports and compiled loops are not the question
        run(draw(folder / "warm", 8 * parsed.workers), folder / "first", executor)
        before, clock = resident(), Clock(executor=executor)
        tiles = len(run(picture, folder / "job", executor, clock).tiles)
        grown = resident() - before
    ideal = tiles * SLEEP / parsed.workers
    return {
        "tiles": tiles,
        "workers": parsed.workers,
        "seconds": round(clock.seconds, 2),
        "efficiency": round(ideal / clock.seconds, 3),
        "overhead_ms": round(1000 * (clock.seconds - ideal) * parsed.workers / tiles, 2),
        "tasks_known": max(clock.known, default=0),
        "grown_mib": round(grown, 1),
    }


def resident() -> float:
    """MiB of this process, in which the scheduler of a local cluster lives."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def by_signal(client: Any, address: str, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def by_nanny(client: Any, address: str, pid: int) -> None:
    client.restart_workers([address], timeout=60, raise_for_error=False)


def by_memory(client: Any, address: str, pid: int) -> None:
    client.run(swell, workers=[address], on_error="ignore")


def swell(dask_worker: Any) -> None:
    """Take more memory than the nanny lets a worker have, until it ends this process."""
    limit = dask_worker.memory_manager.memory_limit
    taken = np.ones(int(MEMORY_SHARE * limit), np.uint8)
    time.sleep(60)
    del taken


DEATHS = {"signal": by_signal, "nanny": by_nanny, "memory": by_memory}


@contextmanager
def murderer(executor: Any, seed: int, death: str) -> Iterator[list[int]]:
    """Kills a random worker at random times."""
    over, rng, killed = threading.Event(), np.random.default_rng(seed), list[int]()

    def kill() -> None:
        while not over.wait(rng.exponential(INTERVAL)):
            pids = executor.client.run(os.getpid, on_error="ignore")
            found = [(name, pid) for name, pid in pids.items() if isinstance(pid, int)]
            if found:
                address, pid = found[rng.integers(len(found))]
                with suppress(OSError):  # a worker that has just ended
                    DEATHS[death](executor.client, address, pid)
                    killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def kills_row(parsed: argparse.Namespace, folder: Path) -> Row:
    from dask import config

    picture = draw(folder, min(parsed.tiles, 1000))
    expected = digest(run(picture, folder / "threads", ThreadsExecutor(workers=8)))

    def tried(death: str) -> Row:
        return killed_runs(picture, folder / death, parsed.runs, death, expected)

    with config.set({"distributed.worker.memory.terminate": MEMORY_SHARE}):
        return {death: tried(death) for death in DEATHS}


def killed_runs(picture: Path, folder: Path, runs: int, death: str, expected: str) -> Row:
    finished, different, dead = 0, 0, 0
    for k in range(runs):
        with dask(4) as executor, murderer(executor, k, death) as killed:
            try:
                found = digest(run(picture, folder / str(k), executor))
            except SamplatError as error:
                print(f"    {death} {k}: {error}", file=sys.stderr)
                continue
            finally:
                dead += len(killed)
            finished += 1
            different += found != expected
    return {"runs": runs, "finished": finished, "different": different, "killed": dead}


def listen_row(parsed: argparse.Namespace, folder: Path) -> Row:
    import psutil

    with dask(2):
        ours = psutil.Process()
        family = [ours, *ours.children(recursive=True)]
        found = [c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"]
    return {"addresses": sorted(set(found)), "sockets": len(found)}


def merge_row(parsed: argparse.Namespace, folder: Path) -> Row:
    # whole blocks, so that it is known what must come out
    side = BLOCK * max(1, round(parsed.merge_tiles**0.5 / BLOCK))
    with dask(2) as executor:
        return merged(samplat.plan(blank(folder, side), Tools()), side, executor)


def resume_row(parsed: argparse.Namespace, folder: Path) -> Row:
    job, found = blank(folder, max(9, round(parsed.resume_tiles**0.5)), SLEEP), {}
    tiles = half_done(samplat.plan(job, Tools()))
    for name, executor in (("threads", ThreadsExecutor(workers=2)), ("dask", None)):

        def again(progress: Any, executor: Any = executor) -> None:
            with closing(executor or dask(2)) as running:
                samplat.run_job(job, tools=Tools(), executor=running, progress=progress)

        found[f"{name}_seconds"] = round(resumed(again), 1)
    return {"tiles": tiles, **found}


@dataclass(kw_only=True)
class Killing(Silent):
    """Kills a process when so many more tiles are done."""

    process: Any
    left: int

    def advance(self, stage: str, steps: int = 1) -> None:
        if stage == "tiles" and steps == 1:
            self.left -= 1
            if self.left == 0:
                self.process.kill()


def schedulers_row(parsed: argparse.Namespace, folder: Path) -> Row:
    picture = draw(folder, min(parsed.tiles, 400))
    expected = digest(run(picture, folder / "threads", ThreadsExecutor(workers=8)))
    errors = 0
    factory = samplat.registry().executor("dask")
    for _ in range(KILLS):
        with cluster(4) as (address, scheduler):
            progress = Killing(process=scheduler, left=min(parsed.tiles, 400) // (2 * KILLS))
            with closing(factory.create(scheduler_address=address)) as executor:
                try:
                    run(picture, folder / "job", executor, progress)
                except SamplatError:
                    errors += 1
    with dask(2) as executor:
        found = digest(run(picture, folder / "job", executor))
    return {"killed": KILLS, "errors": errors, "different": int(found != expected)}


def inference_row(parsed: argparse.Namespace, folder: Path) -> Row:
    import torch

    torch.set_num_threads(1)
    write_mosaic(folder / "mosaic.tif", parsed.inference_side)
    job = samplat.SegmentJob(
        source=samplat.SourceSpec(path=str(folder / "mosaic.tif"), factory="raster"),
        job_dir="",
        tile_size=384,
        halo=64,
    )
    small = samplat.Window(start=(0, 0, 0), stop=(1, 384, 2 * 384))
    seconds: dict[str, float] = {}
    for name in ("threads", "dask"):
        with closing(ThreadsExecutor(workers=2) if name == "threads" else dask(2)) as executor:
            # models are loaded, and loops compiled, by a run of two tiles
            first = replace(job, job_dir=str(folder / f"{name}-warm"), window=small)
            clock = Clock(executor=executor) if name == "dask" else Watch()
            with samplat.keeping_segmenters():
                samplat.segment(first, executor=executor)
                again = replace(job, job_dir=str(folder / name))
                tiles = samplat.segment(again, executor=executor, progress=clock).tiles
            seconds[name] = clock.seconds
    return {
        "tiles": len(tiles),
        **{f"{name}_seconds": round(value, 1) for name, value in seconds.items()},
        "throughput": round(seconds["threads"] / seconds["dask"], 3),
    }


def batch_row(parsed: argparse.Namespace, folder: Path) -> Row:
    return mixed(parsed.data, folder, segmenter=parsed.batch_segmenter, workers=2)


ROWS: dict[str, Callable[[argparse.Namespace, Path], Row]] = {
    "identity": identity_row,
    "efficiency": efficiency_row,
    "kills": kills_row,
    "batch": batch_row,
    "schedulers": schedulers_row,
    "inference": inference_row,
    "merge": merge_row,
    "resume": resume_row,
    "listen": listen_row,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=8, help="of the row efficiency")
    parser.add_argument("--merge-tiles", type=int, default=10_000, help="of the row merge")
    parser.add_argument("--resume-tiles", type=int, default=100_000, help="of the row resume")
    parser.add_argument("--data", type=Path, default=default_root(), help="of the row batch")
    parser.add_argument("--batch-segmenter", default="automatic", help="threshold needs no model")
    parser.add_argument("--inference-side", type=int, default=3072, help="of the row inference")
    parser.add_argument("--runs", type=int, default=10, help="of the rows identity and kills")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help="some of the rows")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parsed = parser.parse_args(arguments)
    # workers unpickle what is defined here
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    found = {}
    try:
        if parsed.json:
            check_file(parsed.json)
        for name in parsed.only or ROWS:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "warm").mkdir()
                found[name] = ROWS[name](parsed, Path(folder))
            told = ", ".join(f"{key} {value}" for key, value in found[name].items())
            print(f"{name:<12}{told}", flush=True)
    except SamplatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if parsed.json:
        parsed.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    # by its full name, so that what is pickled is found in other processes
    from benchmarks.scaling import main as run_main

    sys.exit(run_main())

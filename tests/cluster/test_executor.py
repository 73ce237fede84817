"""Labels are the same wherever tiles are worked on, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cluster.support import fingerprint, free_port, portable, scheduler, started, tools_of
from core import test_nested as nesting
from core.oracle import oracle_job, oracle_tools, paint, random_labels
from core.test_prompted import Scene, point
from core.volumes import VolumeArray
from samplat import JobError, JobResult, StackRules, run_job
from samplat.executors import SerialExecutor, ThreadsExecutor
from samplat.progress import Silent
from samplat_dask import waves
from samplat_dask.executor import DaskExecutor

TRUTH = random_labels(np.random.default_rng(5), (60, 70), 14, 60)
TOOLS = tools_of(TRUTH)


def run(job_dir: Path, executor: Any, **options: Any) -> JobResult:
    return run_job(oracle_job(job_dir, **options), tools=TOOLS, executor=executor)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fingerprint(run(tmp_path_factory.mktemp("serial") / "job", SerialExecutor()))


def test_threads_give_the_same(tmp_path: Path, serial: str) -> None:
    assert fingerprint(run(tmp_path / "job", ThreadsExecutor(workers=2))) == serial


@dataclass(frozen=True)
class ShuffledFirst:
    """Hands tasks over in another order."""

    executor: DaskExecutor
    seed: int

    def check(self, plan: Any, tools: Any) -> None:
        self.executor.check(plan, tools)

    def map(self, task: Callable[[int], Any], indices: Sequence[int]) -> Iterator[Any]:
        order = np.random.default_rng(self.seed).permutation(len(indices))
        return self.executor.map(task, [indices[i] for i in order])


@pytest.mark.parametrize("seed", range(3))
def test_any_order_gives_the_same(
    seed: int, tmp_path: Path, dask: DaskExecutor, serial: str
) -> None:
    assert fingerprint(run(tmp_path / "job", ShuffledFirst(dask, seed))) == serial


@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_processes_gives_the_same(workers: int, tmp_path: Path, serial: str) -> None:
    with DaskExecutor(workers=workers) as executor:
        assert len(executor.client.nthreads()) == workers
        assert fingerprint(run(tmp_path / "job", executor)) == serial


def test_every_stage_runs_there(tmp_path: Path, dask: DaskExecutor) -> None:
    masks = nesting.discs(3)
    tools = portable(nesting.tools(masks))
    job = oracle_job(tmp_path / "a", nested=True, tile_size=24, halo=12)
    expected = fingerprint(run_job(job, tools=tools))
    job = replace(job, job_dir=str(tmp_path / "b"))
    assert fingerprint(run_job(job, tools=tools, executor=dask)) == expected


def test_regions_are_surveyed_there(tmp_path: Path, dask: DaskExecutor) -> None:
    given = {"fill_holes": 6, "drop_islands": 6}
    expected = fingerprint(run(tmp_path / "a", SerialExecutor(), **given))
    assert fingerprint(run(tmp_path / "b", dask, **given)) == expected


def test_prompts_are_answered_there(tmp_path: Path, dask: DaskExecutor) -> None:
    bright = np.where(random_labels(np.random.default_rng(8), (90, 110), 20, 20) > 0, 255, 0)
    places = np.argwhere(bright > 0)[::97]
    scene = Scene(bright.astype(np.uint8), [point(x + 0.5, y + 0.5) for y, x in places])
    tools = portable(scene.tools)
    expected = fingerprint(run_job(scene.job(tmp_path / "a"), tools=tools))
    result = run_job(scene.job(tmp_path / "b"), tools=tools, executor=dask)
    assert fingerprint(result) == expected
    assert result.objects.num_rows > 5


def test_volumes_are_stacked_there(tmp_path: Path, dask: DaskExecutor) -> None:
    slices = [
        random_labels(np.random.default_rng(seed // 2), (40, 50), 14, 20) for seed in range(9)
    ]
    tools = oracle_tools(image=VolumeArray(paint(np.array(slices))))
    job = oracle_job(tmp_path / "a", stacking=StackRules(block=3), tile_size=24)
    expected = run_job(job, tools=portable(tools))
    job = replace(job, job_dir=str(tmp_path / "b"))
    result = run_job(job, tools=portable(tools), executor=dask)
    assert fingerprint(result) == fingerprint(expected)
    assert len(result.tiles) == 18


def test_a_finished_job_asks_the_workers_nothing(
    tmp_path: Path, dask: DaskExecutor, serial: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "job", SerialExecutor())
    monkeypatch.setattr(waves.Waves, "results", None)
    assert fingerprint(run(tmp_path / "job", dask)) == serial


def test_names_say_which_stage_and_tile(tmp_path: Path, dask: DaskExecutor) -> None:
    run(tmp_path / "job", dask)
    names = dask.client.run_on_scheduler(
        lambda dask_scheduler: [str(t[0]) for t in dask_scheduler.transition_log]
    )
    stages = {name.rpartition("-")[0] for name in names}
    assert {"segment-000000", "segment-000019", "seams-000007", "paint-000019"} <= stages


def test_the_scheduler_knows_few_tasks_at_once(dask: DaskExecutor) -> None:
    most = 0
    for _ in dask.map(nothing, range(300)):
        most = max(most, dask.client.run_on_scheduler(known_tasks))
    # some are done, and about to be forgotten
    assert 0 < most <= 2 * waves.LEAST
    forgotten(dask)


def forgotten(executor: DaskExecutor) -> None:
    """The scheduler knows no task any more, soon."""
    until = time.monotonic() + 10
    while executor.client.run_on_scheduler(known_tasks):
        assert time.monotonic() < until
        time.sleep(0.05)


def known_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def nothing(index: int) -> int:
    return index


def test_results_are_all_there_and_errors_are_passed_on(dask: DaskExecutor) -> None:
    assert sorted(dask.map(nothing, range(500))) == list(range(500))
    with pytest.raises(ValueError, match="seven"):
        list(dask.map(fails_at_seven, range(500)))
    assert sorted(dask.map(nothing, range(3))) == [0, 1, 2]


def fails_at_seven(index: int) -> int:
    if index == 7:
        raise ValueError("seven")
    return index


def test_what_waits_is_cancelled_and_what_runs_is_waited_for(
    tmp_path: Path, dask: DaskExecutor
) -> None:
    running = dask.map(Leaves(folder=str(tmp_path)), range(1000))
    next(running)
    running.close()
    left = len(list(tmp_path.iterdir()))
    assert left < 1000
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == left
    forgotten(dask)


@dataclass(frozen=True)
class Leaves:
    """Leaves a file when it is done."""

    folder: str

    def __call__(self, index: int) -> int:
        time.sleep(0.1)
        (Path(self.folder) / str(index)).touch()
        return index


def test_each_process_makes_one_segmenter(tmp_path: Path, dask: DaskExecutor, serial: str) -> None:
    made = tmp_path / "made"
    made.mkdir()
    options = {"segmenter_options": {"folder": str(made)}}
    job = replace(oracle_job(tmp_path / "job", **options), segmenter="by-process")
    assert fingerprint(run_job(job, tools=TOOLS, executor=dask)) == serial
    processes = [path.name.split("-")[0] for path in made.iterdir()]
    workers = set(map(str, dask.client.run(os.getpid).values()))
    # and ours, which found out that it can be made
    assert sorted(processes) == sorted({*workers, str(os.getpid())})


@pytest.mark.slow
def test_only_workers_with_a_gpu_run_the_model(tmp_path: Path, serial: str) -> None:
    made = tmp_path / "made"
    made.mkdir()
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    options = {"segmenter_options": {"folder": str(made)}}
    job = replace(oracle_job(tmp_path / "job", **options), segmenter="by-process")
    plain = ("worker", address, "--no-dashboard", "--no-nanny", "--nthreads", "1")
    with (
        scheduler(port),
        started(*plain),
        started(*plain, "--resources", "GPU=1") as with_gpu,
        DaskExecutor(address=address) as executor,
    ):
        executor.client.wait_for_workers(2, timeout=60)
        result = run_job(job, tools=TOOLS, executor=executor)
    assert fingerprint(result) == serial
    # and this process, which found out that it can be made
    processes = sorted(path.name.split("-")[0] for path in made.iterdir())
    assert processes == sorted(map(str, (with_gpu.pid, os.getpid())))


def workers_of(executor: DaskExecutor) -> list[psutil.Process]:
    """Processes of our own that are ready to work."""
    pids = executor.client.run(os.getpid, on_error="ignore").values()
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


@contextmanager
def murderer(executor: DaskExecutor, interval: float) -> Iterator[list[float]]:
    """Kills a worker every now and then; yields when it did."""
    over, rng, killed = threading.Event(), np.random.default_rng(0), list[float]()

    def kill() -> None:
        while not over.wait(rng.exponential(interval)):
            if found := workers_of(executor):
                found[rng.integers(len(found))].kill()
                killed.append(time.monotonic())

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@dataclass
class KillsAt(Silent):
    """Progress that kills a worker after so many steps of a stage."""

    executor: DaskExecutor
    steps: tuple[tuple[str, int], ...]
    done: Counter[str] = field(default_factory=Counter)

    def advance(self, stage: str, steps: int = 1) -> None:
        self.done[stage] += steps
        if steps and (stage, self.done[stage]) in self.steps:
            workers_of(self.executor)[0].kill()


def test_killed_workers_change_nothing(tmp_path: Path, dask: DaskExecutor, serial: str) -> None:
    progress = KillsAt(dask, (("tiles", 5), ("labels", 1)))
    given = oracle_job(tmp_path / "job", segmenter_options={"delay": 0.05})
    result = run_job(given, tools=TOOLS, executor=dask, progress=progress)
    assert fingerprint(result) == serial


@pytest.mark.slow
@pytest.mark.parametrize("again", range(10))
def test_many_killed_workers_change_nothing(again: int, tmp_path: Path) -> None:
    labels = random_labels(np.random.default_rng(again), (160, 170), 14, 300)
    tools, options = tools_of(labels), {"segmenter_options": {"delay": 0.3}}
    expected = fingerprint(run_job(oracle_job(tmp_path / "a", **options), tools=tools))
    with DaskExecutor(workers=4) as executor, murderer(executor, 4.0) as killed:
        result = run_job(oracle_job(tmp_path / "b", **options), tools=tools, executor=executor)
    assert fingerprint(result) == expected
    assert len(killed) >= 1


def lethal(tmp_path: Path, executor: Any, times: int, **options: Any) -> JobResult:
    """A job of which some tiles kill their worker, so often altogether."""
    folder = tmp_path / "deaths"
    folder.mkdir(exist_ok=True)
    (folder / "times").write_text(str(times))
    told = {"poison": 52, "folder": str(folder)}
    job = replace(oracle_job(tmp_path / "job", segmenter_options=told), **options)
    return run_job(replace(job, segmenter="lethal"), tools=TOOLS, executor=executor)


@pytest.mark.slow
def test_a_tile_that_kills_its_worker_now_and_then_is_tried_again(
    tmp_path: Path, dask: DaskExecutor, serial: str
) -> None:
    assert fingerprint(lethal(tmp_path, dask, 2)) == serial
    assert len(list((tmp_path / "deaths").glob("[0-9]*"))) == 2


@pytest.fixture
def impatient(dask: DaskExecutor) -> Iterator[None]:
    """A scheduler to which one death of a worker is enough."""

    def allow(dask_scheduler: Any, failures: int) -> int:
        before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, failures
        return int(before)

    before = dask.client.run_on_scheduler(allow, failures=0)
    yield
    dask.client.run_on_scheduler(allow, failures=before)


@pytest.mark.usefixtures("impatient")
def test_tiles_that_always_kill_their_worker_are_quarantined(
    tmp_path: Path, dask: DaskExecutor
) -> None:
    result = lethal(tmp_path, dask, 10**6, halo=1)
    assert [tile.index for tile in result.quarantined] == tiles_that_see(52, result)
    assert len(result.quarantined) < 3
    assert "most often the memory did not suffice" in str(result.quarantined[0].error)
    # what was named is tried again, and done
    again = lethal(tmp_path, SerialExecutor(), 0, halo=1)
    assert again.complete
    assert len(again.tiles) == len(result.tiles)


def tiles_that_see(name: int, result: JobResult) -> list[int]:
    return [tile.index for tile in result.grid if (TRUTH[tile.read.slices[1:]] == name).any()]


@pytest.mark.usefixtures("impatient")
def test_what_has_no_record_ends_the_run_and_says_what_to_do(dask: DaskExecutor) -> None:
    with pytest.raises(JobError, match="samplat 3 could not be computed.*smaller; then run the"):
        list(dask.map(dies_at_three, range(5)))


def dies_at_three(index: int) -> int:
    if index == 3:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return index

"""What cannot work is refused before any work, or ends with what to do; nothing waits for ever."""

from __future__ import annotations

import importlib.metadata
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cluster.support import Portable, fingerprint, free_port, portable, scheduler, started, tools_of
from core.oracle import OracleFactory, oracle_job, oracle_tools, random_labels
from samplat import InputError, JobError, SegmentJob, run_job
from samplat_dask import checks, cluster, waves
from samplat_dask.executor import DaskExecutor, DaskFactory

TRUTH = random_labels(np.random.default_rng(5), (60, 70), 14, 60)
TOOLS = tools_of(TRUTH)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience."""
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    monkeypatch.setattr(waves, "PATIENCE", 2.0)
    monkeypatch.setattr(waves, "LOOK", 0.5)


@pytest.mark.usefixtures("short")
def test_a_scheduler_that_is_not_there_is_an_error_at_once() -> None:
    began, address = time.monotonic(), f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=f"no Dask scheduler answers at {address} within 1 s"):
        DaskFactory().create(scheduler_address=address)
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("short")
def test_a_port_where_something_else_listens_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, began = f"tcp://127.0.0.1:{server.getsockname()[1]}", time.monotonic()
        with pytest.raises(InputError, match="no Dask scheduler answers at"):
            DaskFactory().create(scheduler_address=address)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["foo://x:1", "tcp://127.0.0.1:port", "here"])
def test_an_address_that_is_none_is_an_error(address: str) -> None:
    with pytest.raises(InputError, match=f"no Dask scheduler answers at {address}"):
        DaskFactory().create(scheduler_address=address)


@pytest.mark.usefixtures("short")
def test_dasks_own_configuration_names_the_scheduler() -> None:
    import dask

    address = f"tcp://127.0.0.1:{free_port()}"
    with dask.config.set({"scheduler-address": address}):
        with pytest.raises(InputError, match=address):
            DaskFactory().create()
        with pytest.raises(InputError, match="leave out the number"):
            DaskFactory().create(workers=2)


def test_nobody_else_can_reach_processes_of_our_own(dask: DaskExecutor) -> None:
    ours = psutil.Process()
    family = [ours, *ours.children(recursive=True)]
    found = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(found) >= 4
    assert set(found) == {"127.0.0.1"}


def job(job_dir: Path | str, **options: Any) -> SegmentJob:
    return oracle_job(Path(job_dir), **options)


def test_another_version_of_samplat_is_an_error(
    tmp_path: Path, dask: DaskExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name == "samplat" else real(name)
    )
    with pytest.raises(InputError, match=r"worker tcp\S+ has samplat \S+ on Python .*samplat 9.9"):
        checks.check_versions(HidesScheduler(dask.client))
    with pytest.raises(InputError, match="the scheduler has samplat"):
        run_job(job(tmp_path / "job"), tools=TOOLS, executor=dask)
    assert not (tmp_path / "job" / "run.json").exists()


class HidesScheduler:
    """A client whose scheduler has the same version as itself."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def get_versions(self, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get_versions(**options)
        found["scheduler"]["packages"]["samplat"] = "9.9"
        return found


@pytest.mark.parametrize("who", ["scheduler", "worker"])
def test_samplat_that_is_missing_is_an_error(dask: DaskExecutor, who: str) -> None:
    class Bare(HidesScheduler):
        def get_versions(self, **options: Any) -> dict[str, Any]:
            found: dict[str, Any] = self.client.get_versions(**options)
            machines = [found["scheduler"]] if who == "scheduler" else found["workers"].values()
            for each in machines:
                each["packages"]["samplat"] = None
            return found

    with pytest.raises(InputError, match=f"{who} ?\\S* has no samplat on Python.*the same every"):
        checks.check_versions(Bare(dask.client))


class Forgetful(Portable):
    """A registry that arrives without its segmenters."""

    def __reduce__(self) -> Any:
        found = {**self.found, "segmenters": {}}
        return Portable, (), {"found": found, "owners": self.owners}


def test_a_plugin_that_workers_lack_is_an_error(tmp_path: Path, dask: DaskExecutor) -> None:
    lacking = Forgetful(found=TOOLS.found, owners=TOOLS.owners)
    with pytest.raises(InputError, match="cannot do this job: there is no segmenter called 'orac"):
        run_job(job(tmp_path / "job"), tools=lacking, executor=dask)
    assert not (tmp_path / "job" / "run.json").exists()


class Other(Portable):
    """A registry whose segmenter is another one elsewhere."""

    def __reduce__(self) -> Any:
        found = {**self.found, "segmenters": {"oracle": Changed()}}
        return Portable, (), {"found": found, "owners": self.owners}


class Changed(OracleFactory):
    def identity(self, model: str | None, **options: Any) -> dict[str, Any]:
        return {"weights": "others"}


def test_another_model_on_workers_is_an_error(tmp_path: Path, dask: DaskExecutor) -> None:
    other = Other(found=TOOLS.found, owners=TOOLS.owners)
    with pytest.raises(InputError, match="oracle or its model is another one on"):
        run_job(job(tmp_path / "job"), tools=other, executor=dask)


def test_a_plugin_of_another_version_is_an_error(tmp_path: Path, dask: DaskExecutor) -> None:
    from samplat import plan

    known = portable(oracle_tools())
    known.found["sources"] = TOOLS.found["sources"]
    known.owners["segmenters", "oracle"] = "raster"
    planned = plan(job(tmp_path / "job"), known)
    reply = {"plugins": {"raster": "samplat 0.0.1"}, "host": "here", "file": "x"}
    needed = checks._needed(planned, known)
    with pytest.raises(InputError, match=r"has samplat 0.0.1 for the plugin raster, here is"):
        checks._check_reply("tcp://x", reply, tmp_path, "", needed)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[DaskExecutor]:
    """A worker of which the working directory is another one, and so is all that lies there."""
    (tmp_path / "theirs").mkdir()
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(scheduler(port))
        address = f"tcp://127.0.0.1:{port}"
        stack.enter_context(
            started("worker", address, "--no-nanny", "--no-dashboard", cwd=tmp_path / "theirs")
        )
        yield stack.enter_context(DaskExecutor(address=address))


def test_a_store_or_an_image_that_a_worker_does_not_see_is_an_error(
    tmp_path: Path, elsewhere: DaskExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths of a process's working directory stand for storage of a machine."""
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "image.npy", TRUTH)
    np.save(tmp_path / "theirs" / "image.npy", TRUTH + 1)
    own = Path("/proc/self/cwd")
    with pytest.raises(InputError, match=r"worker tcp\S+ cannot .* does not see the job directory"):
        run_job(job(own / "job"), tools=TOOLS, executor=elsewhere)
    assert not (tmp_path / "job" / "run.json").exists()
    other = job(tmp_path / "job", path=str(own / "image.npy"))
    with pytest.raises(InputError, match="is not the image that is here"):
        run_job(other, tools=TOOLS, executor=elsewhere)
    # a worker that writes somewhere else, although it sees ours
    (tmp_path / "theirs" / "job").symlink_to(tmp_path / "job")
    elsewhere.client.run(write_nowhere)
    with pytest.raises(InputError, match=r"cannot write to the job directory .*Read-only file"):
        run_job(job(own / "job"), tools=TOOLS, executor=elsewhere)
    assert not list((tmp_path / "job").glob(".*samplat-tmp"))
    elsewhere.client.run(write_again)
    with_image = replace(other, job_dir=str(tmp_path / "job"))
    np.save(tmp_path / "theirs" / "image.npy", TRUTH)
    assert run_job(with_image, tools=TOOLS, executor=elsewhere).complete


def write_nowhere() -> None:
    def fail(self: Path, data: bytes) -> int:
        raise OSError(30, "Read-only file system")

    Path.real = Path.write_bytes  # type: ignore[attr-defined]
    Path.write_bytes = fail  # type: ignore[method-assign,assignment]


def write_again() -> None:
    Path.write_bytes = Path.real  # type: ignore[attr-defined,method-assign]


@pytest.mark.usefixtures("short")
def test_a_scheduler_without_workers_is_an_error_after_a_while(tmp_path: Path) -> None:
    port = free_port()
    with scheduler(port), DaskExecutor(address=f"tcp://127.0.0.1:{port}") as executor:
        with pytest.raises(InputError, match="has had no worker for 2 s; start some with `dask w"):
            run_job(job(tmp_path / "job"), tools=TOOLS, executor=executor)
        with pytest.raises(JobError, match="all workers of .* have been gone for 2 s"):
            list(executor.map(str, range(3)))


@pytest.mark.usefixtures("short")
def test_a_job_resumes_when_its_scheduler_was_killed(tmp_path: Path) -> None:
    expected = fingerprint(run_job(job(tmp_path / "serial"), tools=TOOLS))
    slow = job(tmp_path / "job", segmenter_options={"delay": 0.3})
    dies(slow, lambda: len(list((tmp_path / "job" / "tiles").glob("*.json"))) > 3)
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "job" / "tiles").glob("*.json")}
    assert 3 < len(finished) < 20
    assert fingerprint(run_job(slow, tools=TOOLS)) == expected
    assert {p: p.stat().st_mtime_ns for p in finished} == finished


def dies(slow: SegmentJob, far_enough: Callable[[], bool]) -> None:
    """Run a job until its scheduler dies."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with (
        scheduler(port) as process,
        started("worker", address, "--no-dashboard", "--death-timeout", "5"),
        DaskExecutor(address=address) as executor,
        ThreadPoolExecutor(1) as pool,
    ):
        executor.client.wait_for_workers(1, timeout=60)
        running = pool.submit(run_job, slow, tools=TOOLS, executor=executor)
        until = time.monotonic() + 60
        while not far_enough():
            assert time.monotonic() < until
            assert not running.done()
            time.sleep(0.05)
        process.kill()
        with pytest.raises(JobError, match="scheduler at .* was lost.*run the same command again"):
            running.result(60)

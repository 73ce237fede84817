"""Many jobs on Dask: batches, their checks, tasks that travel with indices; lazy labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batch.inputs import QUICK, cut, write_scene, write_volume
from cluster.support import fingerprint, free_port, tools_of
from core.oracle import oracle_job, random_labels
from samplat.batch import running
from samplat.errors import ExecutorError
from samplat.pipeline import run_job
from samplat.xarray import segment
from samplat_dask import checks, cluster, sharing, worker
from samplat_dask.executor import DaskExecutor

Samplat = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_volume(tmp_path / f"scan-{number}.nii.gz", seed=number)
    write_scene(tmp_path / "scene.tif", seed=3, shape=(100, 150))
    return tmp_path


@pytest.fixture
def there(dask: DaskExecutor) -> tuple[str, str]:
    """Options: the workers of this module."""
    return "--scheduler-address", dask.client.scheduler.address


def test_a_batch_on_dask_gives_the_same_files(
    folder: Path, samplat: Samplat, there: tuple[str, str]
) -> None:
    cut(folder / "scan-1.nii.gz")
    batch = ("batch", "*.nii.gz", "scene.tif", *QUICK)
    assert samplat(*batch, "-o", "here", "--executor", "serial")[0] == 3
    code, told, err = samplat(*batch, "-o", "there", *there)
    assert code == 3, err
    assert "4 items, 3 done, 1 failed" in told
    for path in Path("here").glob("sc*"):
        assert path.read_bytes() == (Path("there") / path.name).read_bytes()


@pytest.mark.parametrize("small", [0, 2**22])
def test_stages_of_many_jobs_at_once_are_each_its_own(
    small: int, dask: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a stage is told to workers beforehand, or travels with its indices."""
    monkeypatch.setattr(sharing, "SMALL", small)
    seen: list[tuple[int, str]] = []
    jobs = {}
    for seed in range(8):
        labels = random_labels(np.random.default_rng(seed), (70, 90), 20, 60)
        job = oracle_job(str(tmp_path / f"job-{seed}"), tile_size=32, halo=10)
        jobs[seed] = (job, tools_of(labels))

    def lead(shared: Any, seed: int) -> None:
        job, tools = jobs[seed]
        seen.append((seed, fingerprint(run_job(job, tools=tools, executor=shared))))

    with running.sharing(dask) as (shared, several):
        assert several == 4
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(several) as pool:
            list(pool.map(lambda seed: lead(shared, seed), jobs))
    for seed, found in seen:
        job, tools = jobs[seed]
        alone = oracle_job(str(tmp_path / f"alone-{seed}"), tile_size=32, halo=10)
        assert fingerprint(run_job(alone, tools=tools)) == found
    left = dask.client.run(lambda: (len(worker._kept), len(worker._carried)))
    assert set(left.values()) == {(0, 0)}


def test_workers_are_asked_once_for_all_items_of_a_kind(
    folder: Path, samplat: Samplat, there: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    check = checks.check_job

    def counted(client, plan, tools):
        asked.append(plan.job.source.factory)
        check(client, plan, tools)

    monkeypatch.setattr(checks, "check_job", counted)
    code, _, err = samplat("batch", "*.nii.gz", "scene.tif", *QUICK, *there)
    assert code == 0, err
    assert sorted(asked) == ["raster", "volume"]


def test_workers_that_can_do_nothing_end_the_batch(
    folder: Path, samplat: Samplat, there: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client, plan, tools):
        raise checks.InputError("worker x does not see the job directory")

    monkeypatch.setattr(checks, "check_job", refuse)
    batch = ("batch", "*.nii.gz", *QUICK, *there)
    code, told, err = samplat(*batch)
    assert (code, told) == (1, "")
    assert "error: worker x does not see the job directory" in err
    # nobody failed: it was not their fault
    assert not list(Path("segmented/samplat-batch").glob("items/*"))


def test_a_scheduler_that_is_lost_is_nobodys_failure(
    folder: Path, samplat: Samplat, there: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self, task, indices):
        raise ExecutorError("the connection to the scheduler was lost; run the same command again")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(sharing.SharedDask, "map", lost)
        code, _, err = samplat("batch", "*.nii.gz", *QUICK, *there)
    assert code == 1
    assert "the connection to the scheduler was lost" in err
    code, _, err = samplat("batch", "*.nii.gz", *QUICK, "--executor", "serial")
    assert code == 0, err
    assert json.loads(Path("segmented/samplat-batch.json").read_text())["done"] == 3


def test_a_scheduler_that_is_not_there(
    folder: Path, samplat: Samplat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    address = f"tcp://127.0.0.1:{free_port()}"
    code, _, err = samplat("batch", "scene.tif", *QUICK, "--scheduler-address", address)
    assert code == 1
    assert f"no Dask scheduler answers at {address}" in err


def test_a_cluster_computes_lazy_labels(dask: DaskExecutor, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70)).astype(np.uint8)
    image = xr.DataArray(pixels, dims=("y", "x")).chunk(y=20, x=30)
    quick = {"model": None, "segmenter": "threshold", "tile_size": 24, "halo": 6}
    wanted = segment(image, **quick).compute(scheduler="synchronous")
    found = segment(image, job_dir=tmp_path / "a", **quick).compute(scheduler=dask.client)
    np.testing.assert_array_equal(found, wanted)
    kept = image.copy(data=dask.client.persist(image.data))
    found = segment(kept, job_dir=tmp_path / "b", **quick).compute(scheduler=dask.client)
    np.testing.assert_array_equal(found, wanted)

"""The command line on Dask: options, the same bytes, Ctrl-C."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
import rasterio
from affine import Affine

from cluster.support import free_port, scheduler, started
from core.oracle import random_labels
from samplat_dask import cluster

Samplat = Callable[..., tuple[int, str, str]]

QUICK = ("--segmenter", "threshold", "--tile-size", "32", "--halo", "8", "--stretch", "none")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    labels = random_labels(np.random.default_rng(1), (200, 260), 20, 150)
    place = {"crs": "EPSG:32633", "transform": Affine(1, 0, 500_000, 0, -1, 5_000_000)}
    shape = {"width": 260, "height": 200, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(np.where(labels > 0, 255, 0).astype(np.uint8), 1)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_cluster_gives_the_same_file(scene: Path, tmp_path: Path, samplat: Samplat) -> None:
    serial = ("tile-segment", scene, tmp_path / "a.tif", *QUICK, "--executor", "serial")
    assert samplat(*serial)[0] == 0
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with scheduler(port), started("worker", address, "--no-dashboard", "--no-nanny"):
        # of a relative path, which a worker elsewhere would not find
        command = ("tile-segment", os.path.relpath(scene), tmp_path / "b.tif", *QUICK)
        code, _, told = samplat(*command, "--scheduler-address", address)
        assert code == 0, told
        # by Dask's own configuration, and nothing is left to do
        with dask.config.set({"scheduler-address": address}):
            code, _, told = samplat(*command, "--executor", "dask")
        assert code == 0, told
    assert digest(tmp_path / "a.tif") == digest(tmp_path / "b.tif")


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_the_command_resumes(
    scene: Path, tmp_path: Path, samplat: Samplat
) -> None:
    small = ("--segmenter", "threshold", "--tile-size", "8", "--halo", "4", "--stretch", "none")
    command = ["tile-segment", str(scene), str(tmp_path / "out.tif"), *small]
    on_dask = [sys.executable, "-m", "samplat", *command, "--executor", "dask", "--workers", "2"]
    job = tmp_path / "out.tif.samplat-job"
    # as a terminal does, to all processes of the group
    with subprocess.Popen(
        on_dask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 90
        while len(list((job / "tiles").glob("*.json"))) < 10:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "error: stopped; a job resumes with the same command" in told
    assert not psutil.wait_procs(family, timeout=20)[1]
    finished = len(list((job / "tiles").glob("*.json")))
    assert 10 <= finished < 825
    code, _, told = samplat(*command, "--executor", "threads")
    assert code == 0, told
    assert "tiles: 825/825" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--executor", "serial", "--workers", "2"), "--executor serial takes no --workers; leave"),
        (("--executor", "threads", "--scheduler-address", "tcp://x:1"), "takes no --scheduler-add"),
        (("--executor", "steam"), "--executor must be one of"),
        (("--workers", "0"), "--workers"),
    ],
)
def test_options_that_do_not_go_together(
    scene: Path, tmp_path: Path, samplat: Samplat, options: tuple[str, ...], told: str
) -> None:
    code, _, error = samplat("tile-segment", scene, tmp_path / "a.tif", *QUICK, *options)
    assert code == 2
    assert told in " ".join(error.split())


def test_a_scheduler_that_is_not_there_ends_the_command(
    scene: Path, tmp_path: Path, samplat: Samplat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    address = f"tcp://127.0.0.1:{free_port()}"
    command = ("tile-segment", scene, tmp_path / "a.tif", *QUICK)
    code, _, told = samplat(*command, "--scheduler-address", address)
    assert code == 1
    assert f"error: no Dask scheduler answers at {address}" in told
    assert not (tmp_path / "a.tif.samplat-job").exists()

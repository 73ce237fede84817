"""kill -9 at random moments, then the same command: the same labels, and nothing done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from core.oracle import random_labels
from samplat.files import TEMPORARY, sha256

TESTS = Path(__file__).parent.parent
STAGES = ("tiles", "seams", "labels")


def start(image: Path, job_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "core.job_process", str(image), str(job_dir), "0.01"]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=120)
    assert process.returncode == 0


def wait_for(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == stage:
            return


def kill_in(process: subprocess.Popen[str], stage: str, seconds: float) -> None:
    wait_for(process, stage)
    time.sleep(seconds)
    process.kill()
    process.communicate()


def labels_digest(job_dir: Path) -> str:
    found = sorted(p for p in (job_dir / "labels").rglob("*") if p.is_file())
    return sha256("".join(sha256(p.read_bytes()) for p in found).encode())


def ledger(job_dir: Path) -> dict[str, tuple[int, int]]:
    """When each finished tile's marker and objects were written."""
    return {
        p.stem: (
            p.stat().st_mtime_ns,
            (job_dir / "objects" / f"{p.stem}.parquet").stat().st_mtime_ns,
        )
        for p in (job_dir / "tiles").glob("[0-9]*.json")
        if json.loads(p.read_text())["outcome"] == "done"
    }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "labels.npy"
    np.save(path, random_labels(np.random.default_rng(5), (60, 70), 14, 60))
    return path


@pytest.fixture(scope="module")
def uninterrupted(image: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """Digest of the labels, and the seconds between the first stage and the end."""
    job_dir = tmp_path_factory.mktemp("whole") / "job"
    process = start(image, job_dir)
    wait_for(process, "tiles")
    began = time.monotonic()
    finish(process)
    return labels_digest(job_dir), time.monotonic() - began


@pytest.mark.parametrize("moment", range(10))
def test_a_killed_job_resumes_to_the_same_labels(
    moment: int, image: Path, uninterrupted: tuple[str, float], job_dir: Path
) -> None:
    digest, seconds = uninterrupted
    stage = STAGES[moment % len(STAGES)]
    later = float(np.random.default_rng(moment).uniform(0, seconds / len(STAGES)))
    kill_in(start(image, job_dir), stage, later)
    finished = ledger(job_dir)
    finish(start(image, job_dir))
    assert labels_digest(job_dir) == digest
    after = ledger(job_dir)
    assert {name: after[name] for name in finished} == finished
    assert not list(job_dir.rglob(f"*{TEMPORARY}"))


def test_a_job_that_is_killed_again_and_again_gets_there(
    image: Path, uninterrupted: tuple[str, float], job_dir: Path
) -> None:
    digest, seconds = uninterrupted
    for stage in STAGES:
        kill_in(start(image, job_dir), stage, seconds / 10)
    finish(start(image, job_dir))
    assert labels_digest(job_dir) == digest


def test_a_second_process_is_refused_and_a_dead_ones_lease_is_taken(
    image: Path, uninterrupted: tuple[str, float], job_dir: Path
) -> None:
    first = start(image, job_dir)
    wait_for(first, "tiles")
    first.send_signal(19)  # SIGSTOP: it holds the lease and does not move
    command = [sys.executable, "-m", "core.job_process", str(image), str(job_dir), "0.01"]
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    second = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"in use by process {first.pid} on" in second.stderr
    first.kill()
    first.communicate()
    finish(start(image, job_dir))
    assert labels_digest(job_dir) == uninterrupted[0]

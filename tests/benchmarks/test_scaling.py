"""The benchmark of scaling, small."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import samplat
from benchmarks import merging, mixed_batch, resuming, scaling
from benchmarks.accuracy import default_root
from samplat.executors import SerialExecutor


def test_rows_are_what_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the benchmark changes it
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    out = tmp_path / "out.json"
    small = ("--tiles", "20", "--workers", "2", "--json", str(out))
    assert scaling.main([*small, "--only", "listen", "efficiency"]) == 0
    found = json.loads(out.read_text())
    assert found["listen"]["addresses"] == ["127.0.0.1"]
    assert 0 < found["efficiency"]["efficiency"] <= 1
    assert found["efficiency"]["tiles"] >= 20


@pytest.mark.slow
def test_labels_are_the_same_and_all_runs_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    out = tmp_path / "out.json"
    small = ("--tiles", "200", "--runs", "2", "--json", str(out))
    assert scaling.main([*small, "--only", "identity", "kills"]) == 0
    found = json.loads(out.read_text())
    assert {each.split("/")[0] for each in found["identity"].values()} == {"0"}
    for death in scaling.DEATHS:
        assert found["kills"][death]["finished"] == 2
        assert found["kills"][death]["different"] == 0


def test_a_merge_ends_with_as_many_objects_as_there_must_be(tmp_path: Path) -> None:
    planned = samplat.plan(merging.blank(tmp_path, 8), scaling.Tools())
    found = merging.merged(planned, 8, SerialExecutor())
    assert found["merged"] == found["expected"] == 64 * 500 + 4 * 63
    assert found["links"] == 60 * merging.LINKS


def test_a_resumed_run_is_timed_at_its_first_tile(tmp_path: Path) -> None:
    job = merging.blank(tmp_path, 9, 0.01)
    assert resuming.half_done(samplat.plan(job, scaling.Tools())) == 81

    def run(progress: object) -> None:
        samplat.run_job(job, tools=scaling.Tools(), progress=progress)

    assert 0.01 < resuming.resumed(run) < 60


@pytest.mark.slow
def test_a_mixed_batch_ends_as_it_must(tmp_path: Path) -> None:
    root = default_root()
    if not (root / "med_hippocampus").is_dir():
        pytest.skip("there are no hippocampi; set SAMPLAT_DATA")
    found = mixed_batch.mixed(root, tmp_path, segmenter="threshold", workers=2)
    assert (found["first_status"], found["first_done"]) == (3, 33)
    assert found["names_the_broken"]
    assert len(found["first_failed"]) == 1
    assert (found["second_status"], found["second_done"]) == (0, 34)

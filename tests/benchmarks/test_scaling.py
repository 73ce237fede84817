"""The benchmark of scaling, small."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import scaling


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
    assert found["kills"]["finished"] == 2
    assert found["kills"]["different"] == 0

"""The benchmark of big volumes, on a small one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import big_volume


def test_every_ball_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--sizes", "128", "--depth", "64", "--tile", "64", "--halo", "32"]
    big_volume.main([*given, "--json", str(tmp_path / "rows.json")])
    row = json.loads((tmp_path / "rows.json").read_text())["volume_128"]
    assert row["objects"] == row["balls"] == 2 * 4 * 4
    assert row["voxels_lost"] == 0
    assert row["tiles"] == 4 * 2 * 2
    assert 0.05 < row["peak_gib"] < 2
    assert "volume_128: {" in capsys.readouterr().out


def test_sizes_that_do_not_fit_the_chunks_are_refused() -> None:
    with pytest.raises(SystemExit, match="multiples of 64"):
        big_volume.main(["--sizes", "100"])

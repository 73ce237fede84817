from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raster import crafted
from samplat.plugins import Registry, collect, load_plugins


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def eval_data() -> Path:
    beside = Path(__file__).parents[3] / "shared" / "data"
    root = Path(os.environ.get("SAMPLAT_DATA", beside)) / "eval"
    if not root.is_dir():
        pytest.skip("no evaluation data: set SAMPLAT_DATA")
    return root


@pytest.fixture(scope="session")
def tools() -> Registry:
    """The installed plugins, and the segmenters of `crafted`."""
    manager = load_plugins().manager
    manager.register(crafted, name="crafted")
    return collect(manager)


@pytest.fixture
def samplat(
    tools: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line here, with those plugins: exit status, stdout, stderr."""
    from samplat import cli

    monkeypatch.setattr("samplat.plugins.registry", lambda: tools)
    monkeypatch.delenv("SAMPLAT_DEBUG", raising=False)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process in which `crafted` is an installed plugin."""
    site = tmp_path / "site"
    info = site / "samplat_crafted-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: samplat-crafted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[samplat.plugins]\ncrafted = raster.crafted\n")
    inherited = os.environ.get("PYTHONPATH")
    paths = [str(site), str(Path(__file__).parents[1]), *([inherited] if inherited else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHON": sys.executable}

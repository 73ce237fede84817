from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch.inputs import write_scene, write_volume


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def samplat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line here, with the installed plugins: exit status, stdout, stderr."""
    from samplat import cli

    monkeypatch.delenv("SAMPLAT_DEBUG", raising=False)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two volumes and a raster, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path / "one.nii.gz", seed=1)
    write_volume(tmp_path / "two.nii.gz", seed=2)
    write_scene(tmp_path / "scene.tif", seed=3)
    return tmp_path

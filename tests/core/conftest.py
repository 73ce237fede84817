from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# a busy machine is not a fault of the code
settings.register_profile("samplat", deadline=None)
settings.load_profile("samplat")


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durability against power cuts cannot be tested here, and costs most of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    return tmp_path / "job"

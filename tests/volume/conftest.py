from __future__ import annotations

import os
from pathlib import Path

import pytest


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

from __future__ import annotations

import locale
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def own_locale() -> Iterator[None]:
    """Reading VTK files with SimpleITK changes the process's."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def eval_data() -> Path:
    beside = Path(__file__).parents[3] / "shared" / "data"
    root = Path(os.environ.get("SAMPLAT_DATA", beside)) / "eval"
    if not root.is_dir():
        pytest.skip("no evaluation data: set SAMPLAT_DATA")
    return root

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cluster.support import TESTS
from samplat_dask.executor import DaskExecutor


@pytest.fixture(scope="session", autouse=True)
def _workers_find_the_tests() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        patch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def dask() -> Iterator[DaskExecutor]:
    """Two worker processes, shared by the tests of a module."""
    with DaskExecutor(workers=2) as executor:
        yield executor

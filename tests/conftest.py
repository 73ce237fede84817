"""What tests keep to themselves: downloads, models and embeddings of their own."""

import os
from collections.abc import Iterator

import pytest

# Side by side, processes and what they start must not fight for the cores. Before torch is loaded.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file stay together, but for those that name a group of their own."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if "SAMPLAT_HOME" not in os.environ:
            patch.setenv("SAMPLAT_HOME", str(tmp_path_factory.mktemp("home")))
        yield

"""What tests keep to themselves: downloads, models and embeddings of their own."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

# Side by side, processes and what they start must not fight for the cores. Before torch is loaded.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


APART = ("docs/test_documentation.py", "train/test_trainer.py")
"""Files whose tests take long and share little: each may run in another process."""
FIRST = (*APART, "train/test_finetune.py", "docs/test_demo.py", "model/test_automatic.py")
"""Files that take longest: begun late, they would be waited for."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first; all else keeps its order."""

    def turn(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((n for n, file in enumerate(FIRST) if path.endswith(file)), len(FIRST))

    items.sort(key=turn)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file run in one process, so that what they share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return nodeid if file.endswith(APART) else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if "SAMPLAT_HOME" not in os.environ:
            patch.setenv("SAMPLAT_HOME", str(tmp_path_factory.mktemp("home")))
        yield

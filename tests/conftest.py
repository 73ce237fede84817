"""What tests keep to themselves: downloads, models and embeddings of their own."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if "SAMPLAT_HOME" not in os.environ:
            patch.setenv("SAMPLAT_HOME", str(tmp_path_factory.mktemp("home")))
        yield

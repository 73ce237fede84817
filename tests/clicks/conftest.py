"""A screen that nobody sees, and a napari viewer on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evaluation.hands import screen, settings_of
from clicks.near import Near
from napari_sam.hosting import Host

QUIET = (
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning:napari.*",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
"""What napari and its libraries say of themselves."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name != "test_session.py":
            for text in QUIET:
                item.add_marker(pytest.mark.filterwarnings(text))


@pytest.fixture(scope="session")
def display() -> Iterator[None]:
    """An X server of this process's own, so that the tests run on any machine, unseen."""
    with screen() as name, pytest.MonkeyPatch.context() as patch:
        patch.delenv("WAYLAND_DISPLAY", raising=False)
        for variable, value in settings_of(name).items():
            patch.setenv(variable, value)
        yield


@pytest.fixture(scope="session")
def window(display: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real viewer, with settings of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_CONFIG", str(tmp_path_factory.mktemp("napari") / "settings.yaml"))
        import napari

        made = napari.Viewer(show=True)
        made.window.resize(1240, 960)
        yield made
        made.close()


@pytest.fixture
def host() -> Iterator[Host]:
    """Who has the model: threads of this process, so that tests see and change what they do."""
    made = Host(Near)
    yield made
    made.close()


@pytest.fixture
def viewer(window: Any, host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The viewer, empty: a new one for each test takes seconds."""
    monkeypatch.setattr("napari_sam.widget.host_of", lambda _: host)
    from qtpy.QtWidgets import QApplication

    # napari collects garbage for each layer that goes, which takes a second beside torch
    monkeypatch.setattr("gc.collect", lambda *_: 0)
    window.dims.order, window.dims.ndim = (0, 1), 2
    yield window
    for widget in list(window.window.dock_widgets.values()):
        widget.shutdown()
        window.window.remove_dock_widget(widget)
    window.layers.clear()
    QApplication.processEvents()

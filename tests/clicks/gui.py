"""Hands and eyes for the tests of the window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.hands import at, canvas_of, click, drag, press, wait
from napari_sam.widget import SegmentWidget

__all__ = ["answered", "at", "canvas_of", "click", "drag", "opened", "press", "seen", "wait"]


def opened(viewer: Any, folder: Path) -> SegmentWidget:
    """The widget, docked, with a session on the only image."""
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QApplication

    widget = SegmentWidget(viewer, folder)
    dock = viewer.window.add_dock_widget(widget, name="samplat")
    viewer.window._qt_window.resizeDocks([dock], [300], Qt.Orientation.Horizontal)
    QApplication.processEvents()
    viewer.reset_view()
    widget.open()
    return widget


def answered(widget: SegmentWidget) -> bool:
    """Whether the finished mask of the present question is there."""
    mine = widget.annotation
    assert mine is not None
    return mine.session.state.candidate is not None and not mine.busy


def seen(viewer: Any, world: Sequence[float]) -> NDArray[np.int64]:
    """The colour of the canvas there: red, green, blue."""
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    picture = viewer.window._qt_viewer.screenshot(flash=False)
    scale = picture.shape[1] / canvas_of(viewer).width()
    x, y = at(viewer, world)
    return np.asarray(picture[round(y * scale), round(x * scale), :3], int)

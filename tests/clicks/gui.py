"""Hands and eyes for the tests of the window."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.widget import SegmentWidget


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


def wait(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Let the window work until something holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        QApplication.processEvents()
        time.sleep(0.002)
    QApplication.processEvents()


def answered(widget: SegmentWidget) -> bool:
    """Whether the mask of the present question is there."""
    assert widget.annotation is not None
    return widget.annotation.session.state.candidate is not None


def canvas_of(viewer: Any) -> Any:
    """Qt's widget that shows the layers."""
    return viewer.window._qt_viewer.canvas.native


def at(viewer: Any, world: Sequence[float]) -> tuple[int, int]:
    """x, y on the canvas of a position in the two axes that are shown."""
    canvas, zoom = canvas_of(viewer), viewer.camera.zoom
    centre = viewer.camera.center[-2:]
    y, x = (
        size / 2 + (place - middle) * zoom
        for size, place, middle in zip(
            (canvas.height(), canvas.width()), world[-2:], centre, strict=True
        )
    )
    return round(x), round(y)


def click(viewer: Any, world: Sequence[float]) -> None:
    """Press and release the left button there."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    canvas, place = canvas_of(viewer), QPoint(*at(viewer, world))
    QTest.mouseMove(canvas, place)
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=place)
    QApplication.processEvents()


def drag(viewer: Any, start: Sequence[float], stop: Sequence[float]) -> None:
    """Draw from one place to another."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    canvas, left = canvas_of(viewer), Qt.MouseButton.LeftButton
    places = [QPoint(*at(viewer, p)) for p in np.linspace(start, stop, 6)]
    QTest.mouseMove(canvas, places[0])
    QTest.mousePress(canvas, left, pos=places[0])
    for place in places[1:]:
        _move(canvas, place)
    QTest.mouseRelease(canvas, left, pos=places[-1])
    QApplication.processEvents()


def _move(canvas: Any, place: Any) -> None:
    """With the button held, which QTest forgets."""
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    spot, whole = QPointF(place), QPointF(canvas.mapToGlobal(place))
    event = QMouseEvent(
        QEvent.Type.MouseMove, spot, whole, none, left, Qt.KeyboardModifier.NoModifier
    )
    QApplication.sendEvent(canvas, event)
    QApplication.processEvents()
    time.sleep(0.03)  # vispy looks at moves 60 times a second


def press(viewer: Any, key: str) -> None:
    """Type one key on the canvas: "C", "Shift-C", "Control-Z"."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    *held, letter = key.split("-")
    modifiers = Qt.KeyboardModifier.NoModifier
    for name in held:
        modifiers |= getattr(Qt.KeyboardModifier, f"{name}Modifier")
    QTest.keyClick(canvas_of(viewer), getattr(Qt.Key, f"Key_{letter}"), modifiers)
    QApplication.processEvents()


def seen(viewer: Any, world: Sequence[float]) -> NDArray[np.int64]:
    """The colour of the canvas there: red, green, blue."""
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    picture = viewer.window._qt_viewer.screenshot(flash=False)
    scale = picture.shape[1] / canvas_of(viewer).width()
    x, y = at(viewer, world)
    return np.asarray(picture[round(y * scale), round(x * scale), :3], int)

"""A screen that nobody sees, and hands at a napari window: mouse, keys, waiting."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

LOOK = 2
"""Milliseconds between looks at whether something has happened."""
MOVE = 0.03
"""Seconds between moves of the mouse: vispy looks at them 60 times a second."""


@contextmanager
def screen() -> Iterator[str]:
    """An X server of this process's own, 1280 x 1024; its name, as DISPLAY has it."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


def settings_of(display: str) -> dict[str, str]:
    """What Qt and OpenGL have to know of such a screen: variables of the environment."""
    return {"DISPLAY": display, "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}


def wait(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Let the window work, as it does for a person, until something holds.

    Raises:
        AssertionError: it did not happen.
    """
    from qtpy.QtCore import QEventLoop, QTimer
    from qtpy.QtWidgets import QApplication

    loop, timer, end = QEventLoop(), QTimer(), time.monotonic() + seconds
    timer.timeout.connect(lambda: loop.quit() if condition() or time.monotonic() > end else None)
    timer.start(LOOK)
    if not condition():
        loop.exec()
    timer.stop()
    assert condition(), "it did not happen"  # noqa: S101 it is for tests and benchmarks
    QApplication.processEvents()


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
    first, *others = np.linspace(start, stop, 6)
    place = QPoint(*at(viewer, first))
    QTest.mouseMove(canvas, place)
    QTest.mousePress(canvas, left, pos=place)
    for other in others:  # each where it is by then: the window may still be laid out
        place = QPoint(*at(viewer, other))
        _move(canvas, place)
    QTest.mouseRelease(canvas, left, pos=place)
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
    time.sleep(MOVE)


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


class Frames:
    """When a layer's changes were to be seen: the first frame drawn after each refresh of it.

    Args:
        viewer: that draws.
        layer: one of its layers.
        tell: asked at each refresh; what it says is kept with the time.
    """

    def __init__(self, viewer: Any, layer: Any, tell: Callable[[], Any]) -> None:
        self.times: list[tuple[float, Any]] = []
        """Of `time.perf_counter`, and what `tell` said."""
        self._tell, self._due, self._told = tell, False, None
        self._drawn_event = viewer.window._qt_viewer.canvas._scene_canvas.events.draw
        self._drawn_event.connect(self._drawn, position="last")
        self._layer = layer
        layer.events.set_data.connect(self._refreshed)

    def _refreshed(self, event: Any) -> None:
        self._due, self._told = True, self._tell()

    def _drawn(self, event: Any) -> None:
        if self._due:
            self.times.append((time.perf_counter(), self._told))
            self._due = False

    def first(self, began: float, told: Any) -> float | None:
        """Milliseconds from a time to the first frame of which `tell` said so; None: not yet."""
        seen = (at for at, said in self.times if at > began and said == told)
        return next((1e3 * (at - began) for at in seen), None)

    def close(self) -> None:
        """Look no more."""
        self._drawn_event.disconnect(self._drawn)
        self._layer.events.set_data.disconnect(self._refreshed)


class Stalls:
    """How long the event loop did not come round, in ms, while this is open."""

    def __init__(self, every: int = 5) -> None:
        from qtpy.QtCore import Qt, QTimer

        self.gaps: list[float] = []
        self._every, self._timer = every, QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)

    def __enter__(self) -> Self:
        self._last = time.perf_counter()
        self._timer.start(self._every)
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.stop()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(max(0.0, 1e3 * (now - self._last) - self._every))
        self._last = now

    def row(self) -> dict[str, float]:
        """The longest, and how many were above 50 ms."""
        gaps = np.array(self.gaps or [0.0])
        return {"longest_ms": round(float(gaps.max()), 1), "above_50_ms": int((gaps > 50).sum())}

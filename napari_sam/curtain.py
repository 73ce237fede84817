"""Frames of the window that are held back for a moment, so that the next one shows more. Qt only.

A frame with the point that was just placed takes as long as one with the mask, and the mask is
about to come: one frame with both is there sooner than two.
"""

from __future__ import annotations

import contextlib
from typing import Any

from qtpy.QtCore import QObject, QTimer

LONGEST = 60
"""Milliseconds that frames are held back at most: nobody is to wait for a mark because of it."""


class Curtain(QObject):
    """Over the canvas and the list of layers.

    Args:
        viewer: whose they are.
        parent: the widget that this goes with.
    """

    def __init__(self, viewer: Any, parent: Any) -> None:
        super().__init__(parent)
        whole = viewer.window._qt_viewer
        self._covered = (whole.canvas.native, whole.layers)
        self._held = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.lift)

    def hold(self) -> None:
        """No frames from now on, until it is lifted or the time is over."""
        self._cover(True)
        self._timer.start(LONGEST)

    def lift(self) -> None:
        """Draw what has changed."""
        if self._held:
            self._timer.stop()
            self._cover(False)

    def _cover(self, held: bool) -> None:
        self._held = held
        with contextlib.suppress(RuntimeError):  # the window is gone
            for each in self._covered:
                each.setUpdatesEnabled(not held)

"""How sure each slice of a followed object is: a thin strip of colours, one column for a slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from qtpy.QtCore import QRectF
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import QToolTip, QWidget

from napari_sam.following import Column

HEIGHT = 22
EMPTY, MARK, HERE = QColor("#3b3f46"), QColor("#ffffff"), QColor("#4aa3ff")
HUES = 0.0, 0.36
"""Of no confidence and of full: red and green, yellow between them."""


def colour_of(confidence: float) -> QColor:
    """From red, 0, by yellow to green, 1."""
    low, high = HUES
    share = min(max(confidence, 0.0), 1.0)
    return QColor.fromHsvF(low + share * (high - low), 0.85, 0.85)


class ConfidenceStrip(QWidget):
    """Slices from left to right. A click goes to one.

    Args:
        go: called with the slice that was clicked.
    """

    def __init__(self, go: Callable[[int], None]) -> None:
        super().__init__()
        self._go, self._here = go, -1
        self._columns: tuple[Column, ...] = ()
        self.setFixedHeight(HEIGHT)
        self.setMouseTracking(True)
        self.setToolTip("How sure each slice is: red is not; a white foot has prompts")

    def show_columns(self, columns: Sequence[Column], here: int) -> None:
        """What there is, and the slice that is on the screen."""
        if (tuple(columns), here) != (self._columns, self._here):
            self._columns, self._here = tuple(columns), here
            self.update()

    def place_of(self, index: int) -> QRectF:
        """Where a slice's column is."""
        width = self.width() / max(1, len(self._columns))
        return QRectF(index * width, 0, max(width, 1.0), self.height())

    def slice_at(self, x: float) -> int | None:
        """Which slice is there."""
        if not self._columns:
            return None
        found = int(x * len(self._columns) / max(1, self.width()))
        return min(max(found, 0), len(self._columns) - 1)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 Qt's name
        """All columns."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), EMPTY)
        for column in self._columns:
            place = self.place_of(column.index)
            if isfinite(column.confidence):
                painter.fillRect(place, colour_of(column.confidence))
            if column.marked:
                painter.fillRect(place.adjusted(0, self.height() * 0.75, 0, 0), MARK)
        if 0 <= self._here < len(self._columns):
            painter.setPen(HERE)
            painter.drawRect(self.place_of(self._here).adjusted(0, 0, -1, -1))
        painter.end()

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 Qt's name
        """Go there."""
        if (found := self.slice_at(event.position().x())) is not None:
            self._go(found)

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 Qt's name
        """Say what is there."""
        if (found := self.slice_at(event.position().x())) is None:
            return
        sure = self._columns[found].confidence
        text = f"slice {found}: {sure:.2f}" if isfinite(sure) else f"slice {found}: not in it"
        QToolTip.showText(event.globalPosition().toPoint(), text, self)

"""The part of the widget for masks of everything: start, sliders, commit."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFormLayout,
    QGridLayout,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_sam.annotation import Annotation
from napari_sam.automatic import Automatic
from napari_sam.everything import LEAST_IOU, LEAST_STABILITY, Choice
from napari_sam.worker import Latest
from samplat import SamplatError

HUNDREDTHS = 100
"""Steps of a slider from 0 to 1."""


class AutomaticPanel(QWidget):
    """Buttons and sliders.

    Args:
        worker: finds the masks.
    """

    def __init__(self, worker: Latest) -> None:
        super().__init__()
        self._worker = worker
        self.automatic: Automatic | None = None
        self.side = QSpinBox()
        self.side.setRange(4, 64)
        self.side.setValue(16)
        self.side.setToolTip("Points along each side")
        self.told = QLabel("")
        self.told.setWordWrap(True)
        column = QVBoxLayout(self)
        column.addLayout(self._buttons())
        column.addLayout(self._sliders())
        column.addWidget(self.told)
        self.refresh()

    def _buttons(self) -> QGridLayout:
        grid = QGridLayout()
        self.find = _button("Find all", self._start)
        self.cancel = _button("Stop", lambda: self._do(Automatic.cancel))
        self.commit = _button("Commit all", lambda: self._do(Automatic.commit))
        self.drop = _button("Drop", lambda: self._do(Automatic.drop))
        placed = (self.find, self.side, self.cancel, self.commit, self.drop)
        for n, widget in enumerate(placed):
            grid.addWidget(widget, n // 3, n % 3)
        return grid

    def _sliders(self) -> QFormLayout:
        form = QFormLayout()
        self.iou = _slider(round(LEAST_IOU * HUNDREDTHS), HUNDREDTHS, 88)
        self.stability = _slider(round(LEAST_STABILITY * HUNDREDTHS), HUNDREDTHS, 95)
        self.area = QSpinBox()
        self.area.setRange(0, 10**6)
        for text, widget in (
            ("Predicted IoU", self.iou),
            ("Stability", self.stability),
            ("Smallest area", self.area),
        ):
            widget.valueChanged.connect(self._choose)
            form.addRow(text, widget)
        return form

    def attach(self, annotation: Annotation | None) -> None:
        """Be about this one from now on."""
        if self.automatic is not None:
            self.automatic.drop()
        self.automatic = None
        if annotation is not None:
            self.automatic = Automatic(annotation, self._worker, self.refresh)
            self._choose()
        self.refresh()

    def _start(self) -> None:
        if self.automatic is None:
            return
        try:
            self.automatic.start(self.side.value())
        except SamplatError as error:
            self.told.setText(str(error))

    def _do(self, action: Callable[[Automatic], None]) -> None:
        if self.automatic is not None:
            action(self.automatic)
        self.refresh()

    def _choose(self) -> None:
        if self.automatic is not None:
            iou, stability = self.iou.value() / HUNDREDTHS, self.stability.value() / HUNDREDTHS
            choice = Choice(iou=iou, stability=stability, area=self.area.value())
            self.automatic.choose(choice)

    def refresh(self) -> None:
        """Show what there is."""
        mine = self.automatic
        self.find.setEnabled(mine is not None and not mine.busy)
        self.cancel.setEnabled(mine is not None and mine.busy)
        self.commit.setEnabled(mine is not None and mine.found and not mine.choosing)
        self.drop.setEnabled(mine is not None and mine.found)
        texts = [f"IoU at least {self.iou.value() / HUNDREDTHS:.2f}"]
        texts.append(f"stability {self.stability.value() / HUNDREDTHS:.2f}")
        state = "" if mine is None else ("finding …" if mine.busy else mine.told)
        self.told.setText("\n".join(filter(None, [", ".join(texts), state])))


def _button(text: str, method: Callable[[], object]) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(lambda: method())
    return button


def _slider(low: int, high: int, value: int) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setRange(low, high)
    slider.setValue(value)
    return slider

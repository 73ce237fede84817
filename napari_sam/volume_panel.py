"""The part of the widget that is for volumes: following, its range, and how sure each slice is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_sam.annotation import Annotation
from napari_sam.strip import ConfidenceStrip


class VolumePanel(QWidget):
    """Buttons and the strip. Of no use where an image has no slices."""

    def __init__(self) -> None:
        super().__init__()
        self._annotation: Annotation | None = None
        self.three = QCheckBox("Look along all three axes")
        self.ranged = QCheckBox("Only slices")
        self.first, self.last = QSpinBox(), QSpinBox()
        self.last.setValue(self.last.maximum())
        self.strip = ConfidenceStrip(self._go)
        self.told = QLabel("")
        self.told.setWordWrap(True)
        column = QVBoxLayout(self)
        column.addLayout(self._buttons())
        column.addWidget(self.three)
        column.addLayout(self._range())
        column.addWidget(self.strip)
        column.addWidget(self.told)
        for box in (self.three, self.ranged):
            box.toggled.connect(self._choose)
        for number in (self.first, self.last):
            number.valueChanged.connect(self._choose)
        self.setEnabled(False)

    def _buttons(self) -> QGridLayout:
        grid = QGridLayout()
        self.follow = self._button("Follow", lambda a: a.follow())
        self.cancel = self._button("Stop", lambda a: a.following.cancel())
        self.single = self._button("One slice again", lambda a: a.single())
        self.worst = self._button("Go to the worst slice", lambda a: a.look_at_worst())
        for n, button in enumerate((self.follow, self.cancel, self.single, self.worst)):
            grid.addWidget(button, n // 2, n % 2)
        return grid

    def _button(self, text: str, action: Callable[[Annotation], Any]) -> QPushButton:
        button = QPushButton(text)
        button.clicked.connect(
            lambda: None if self._annotation is None else action(self._annotation)
        )
        return button

    def _range(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.addWidget(self.ranged)
        row.addWidget(self.first)
        row.addWidget(QLabel("to"))
        row.addWidget(self.last)
        row.addStretch()
        return row

    def attach(self, annotation: Annotation | None) -> None:
        """Be about this one from now on."""
        if self._annotation is not None:
            self._listen(self._annotation, "disconnect")
        self._annotation = annotation
        self.setEnabled(annotation is not None and annotation.image.ndim > 2)
        if annotation is None:
            return
        self._listen(annotation, "connect")
        self._choose()
        self.refresh()

    def _listen(self, annotation: Annotation, how: str) -> None:
        events = annotation.viewer.dims.events
        getattr(events.current_step, how)(self._show_strip)
        getattr(events.order, how)(self._fit_range)

    def _fit_range(self, event: Any = None) -> None:
        """As many slices as there are; a range that was all of them is all of them again."""
        annotation = self._annotation
        if annotation is None or (axis := annotation.slice_axis) is None:
            return
        most = annotation.session.labels.shape[axis] - 1
        if self.last.maximum() != most:
            whole = self.last.value() == self.last.maximum()
            for number in (self.first, self.last):
                number.setRange(0, most)
            if whole:
                self.last.setValue(most)

    def _choose(self) -> None:
        if self._annotation is None:
            return
        first, last = sorted((self.first.value(), self.last.value()))
        following = self._annotation.following
        following.three = self.three.isChecked()
        following.extent = (first, last) if self.ranged.isChecked() else None

    def refresh(self) -> None:
        """Show what the annotation says."""
        if self._annotation is None:
            return
        self._fit_range()
        following = self._annotation.following
        self.cancel.setEnabled(following.busy)
        self.single.setEnabled(following.on)
        self.worst.setEnabled(following.worst() is not None)
        self.told.setText("following …" if following.busy else following.told)
        self._show_strip()

    def _show_strip(self, event: Any = None) -> None:
        annotation = self._annotation
        if annotation is None:
            return
        axis = annotation.following.axis
        here = -1 if axis is None else annotation.slice_on_screen(axis)
        self.strip.show_columns(annotation.following.columns(), here)

    def _go(self, index: int) -> None:
        annotation = self._annotation
        if annotation is not None and annotation.following.axis is not None:
            annotation.look_at(annotation.following.axis, index)

"""The widget: buttons, keys and a list of objects over an `Annotation`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_sam import keys
from napari_sam.annotation import Annotation
from napari_sam.asking import Asker
from napari_sam.automatic_panel import AutomaticPanel
from napari_sam.curtain import Curtain
from napari_sam.export_row import ExportRow
from napari_sam.hosting import Host
from napari_sam.layers import folder_of, picture_of, shape_of
from napari_sam.session import Session
from napari_sam.state import Object
from napari_sam.volume_panel import VolumePanel
from napari_sam.worker import Latest
from samplat import SamplatError, home

COLUMNS = {"object": None, "class": "kind", "status": "status", "score": None, "note": "note"}
"""Headings of the list of objects, and what of an object the user may write there."""


MOVING = 60
"""Milliseconds from a move of the camera to a look at what it shows then."""


class _Courier(QObject):
    """Carries functions into the window's thread."""

    sent = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.sent.connect(self._run, Qt.ConnectionType.QueuedConnection)

    def _run(self, function: Callable[[], None]) -> None:
        function()

    def carry(self, function: Callable[[], None]) -> None:
        """Run a function there, soon; from any thread."""
        with contextlib.suppress(RuntimeError):  # the window is gone
            self.sent.emit(function)


class _Home(QObject):
    """Ties the process of the model to a viewer's window: all widgets there share it.

    Args:
        window: Qt's, which this goes with.
    """

    def __init__(self, window: Any) -> None:
        super().__init__(window)
        self.host = Host()
        self.destroyed.connect(self.host.close)


def host_of(viewer: Any) -> Host:
    """Who has the model for a viewer."""
    window = viewer.window._qt_window
    home: _Home = window.findChild(_Home) or _Home(window)
    return home.host


class _Models(QComboBox):
    """Models by name. What there is is looked up when it is opened, since that takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.setEditable(True)
        self.addItem("samplat-tiny")

    def showPopup(self) -> None:  # noqa: N802 Qt's name
        """Fill the list, then show it."""
        from samplat import registry

        known = {self.itemText(n) for n in range(self.count())}
        self.addItems([name for name in registry().models() if name not in known])
        super().showPopup()


class SegmentWidget(QWidget):
    """Segment Anything by clicks, in a session that loses nothing.

    Args:
        napari_viewer: where it is docked.
        folder: where sessions are kept; `napari` in samplat's home if not given.
    """

    def __init__(self, napari_viewer: Any, folder: Path | None = None) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.folder = folder or home() / "napari"
        self.cache: Path | None = None
        """Folder of embeddings; None: the user's."""
        self.annotation: Annotation | None = None
        self._filling = False
        self._bound: keys.Bound | None = None
        self.listeners: list[Callable[[], None]] = []
        """Called when anything may be different, after it is shown."""
        keys.register()
        self._courier = _Courier()
        self.carry = self._courier.carry
        self._workers = tuple(Latest(self._courier.carry) for _ in range(3))
        self._moved = QTimer(self)
        self._moved.setSingleShot(True)
        self._moved.timeout.connect(lambda: self.call("look_around"))
        for event in (self.viewer.camera.events, self.viewer.dims.events.order):
            event.connect(self._on_camera)
        for worker in self._workers:
            self.destroyed.connect(worker.close)
        self._worker, self._slow, whole = self._workers
        self._host = host_of(napari_viewer)
        self._curtain = Curtain(napari_viewer, self)
        self.volume, self.automatic = VolumePanel(), AutomaticPanel(whole)
        self._build()
        layers = self.viewer.layers
        layers.events.inserted.connect(self._fill_images)
        layers.events.removed.connect(self._on_removed)
        self._fill_images()
        self._idle = QTimer(self)
        self._idle.setSingleShot(True)
        self._idle.timeout.connect(self._load)
        self._idle.start()

    def _build(self) -> None:
        self.images, self.models = QComboBox(), _Models()
        self.live = QCheckBox("Show the mask while points are placed")
        self.live.setChecked(True)
        self.over = QCheckBox("Masks take pixels of open objects")
        for box in (self.live, self.over):
            box.toggled.connect(self._choose)
        self.busy, self.told, self.place = QLabel(""), QLabel(""), QLabel("")
        for label in (self.busy, self.told, self.place):
            label.setWordWrap(True)
            label.setMinimumHeight(2 * label.fontMetrics().height() + 4)
        self.place.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        form = QFormLayout()
        form.addRow("Image", self.images)
        form.addRow("Model", self.models)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(_button("Annotate", self.open))
        for widget in (self.live, self.over, self.busy, self.told, self.place):
            column.addWidget(widget)
        column.addLayout(self._step_buttons())
        column.addWidget(self._table())
        column.addLayout(self._object_buttons())
        self.exports = ExportRow(lambda: self.annotation, self._courier.carry)
        column.addWidget(self.exports)
        column.addWidget(self._tabs())

    def _step_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        for name in ("commit", "clear", "undo", "redo"):
            row.addWidget(_button(name.capitalize(), functools.partial(self.call, name)))
        return row

    def _tabs(self) -> QTabWidget:
        """One below the other they would make the window as high as a screen."""
        self.keys = QLabel(keys.told())
        self.keys.setToolTip("Other keys can be chosen in napari's preferences, under Shortcuts")
        self.tabs = QTabWidget()
        for widget, name in (
            (self.keys, "Keys"),
            (self.volume, "Volume"),
            (self.automatic, "Everything"),
        ):
            self.tabs.addTab(widget, name)
        return self.tabs

    def _object_buttons(self) -> QGridLayout:
        grid = QGridLayout()
        named = {"Refine": "refine", "Go to": "go_to", "Finished": "finish", "Delete": "delete"}
        buttons = [
            _button(text, functools.partial(self.call_chosen, name)) for text, name in named.items()
        ]
        for n, button in enumerate([*buttons, _button("Label as prompt", self.use_label)]):
            grid.addWidget(button, n // 3, n % 3)
        return grid

    def use_label(self) -> None:
        """What the active Labels layer has selected, or the object chosen in the list."""
        row = self.table.currentRow()
        self.call("use_label", None if row < 0 else int(self.table.item(row, 0).text()))

    def _table(self) -> QTableWidget:
        self.table = QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setDefaultSectionSize(56)
        self.table.horizontalHeader().setStretchLastSection(True)
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.table.cellChanged.connect(self._on_cell)
        return self.table

    def open(self, folder: Path | None = None) -> None:
        """Begin, or go on with, the work on the chosen image.

        Args:
            folder: the session's; found by the image's file or pixels if not given.
        """
        self.close_session()
        if not (name := self.images.currentText()):
            self.told.setText("Open an image first.")
            return
        try:
            self._open(self.viewer.layers[name], folder)
        except SamplatError as error:
            self.told.setText(str(error))

    def _load(self) -> None:
        """Begin to load the model while the user looks around, unless work has begun."""
        if self.annotation is not None:
            return
        asker = Asker(self._host, self.models.currentText())
        self._worker.ask(asker.load, lambda _: None, lambda _: None)

    def _open(self, image: Any, folder: Path | None) -> None:
        picture_of(image)  # refuses what cannot be looked at before anything is made
        path = folder or folder_of(self.folder, image)
        about = {"name": image.name, "path": str(getattr(image.source, "path", None) or "")}
        session = Session(path, shape_of(image), about)
        asker = Asker(self._host, self.models.currentText(), self.cache)
        try:
            self.annotation = Annotation(
                self.viewer,
                image,
                session,
                asker,
                self._worker,
                self._slow,
                self._refresh,
                self._curtain,
            )
        except BaseException:
            session.close()
            raise
        self._choose()
        self._bind(self.annotation)
        for panel in (self.volume, self.automatic):
            panel.attach(self.annotation)
        if self.annotation.image.ndim > 2:
            self.tabs.setCurrentWidget(self.volume)
        self._refresh()
        self.place.setText(f"Kept in\n{path}")

    def _bind(self, annotation: Annotation) -> None:
        owners = (self.viewer, *annotation.layers.values())
        self._bound = keys.Bound(owners, self.call, self._show_keys)
        self._show_keys()

    def _show_keys(self) -> None:
        self.keys.setText(keys.told())

    def close_session(self) -> None:
        """End the work on the image; everything is on the disk already."""
        if self.annotation is None:
            return
        annotation, self.annotation = self.annotation, None
        if self._bound is not None:
            self._bound.release()
        for panel in (self.volume, self.automatic):
            panel.attach(None)
        annotation.close()
        self.place.setText("")
        self._refresh()

    def shutdown(self) -> None:
        """End the session and the thread; waits for nothing."""
        self.close_session()
        for worker in self._workers:
            worker.close()

    def closeEvent(self, event: Any) -> None:  # noqa: N802 Qt's name
        """The dock or the window closes."""
        self.shutdown()
        super().closeEvent(event)

    def call(self, name: str, *arguments: Any) -> None:
        """What a key or a button does: a method of the annotation, if there is one."""
        if self.annotation is not None:
            getattr(self.annotation, name)(*arguments)

    def call_chosen(self, name: str) -> None:
        """The same for the object that is chosen in the list."""
        row = self.table.currentRow()
        if row >= 0:
            self.call(name, int(self.table.item(row, 0).text()))

    def _on_camera(self, event: Any = None) -> None:
        if self.annotation is not None and not self._moved.isActive():
            self._moved.start(MOVING)

    def _choose(self) -> None:
        if self.annotation is not None:
            self.annotation.live = self.live.isChecked()
            self.annotation.over = self.over.isChecked()

    def _on_removed(self, event: Any) -> None:
        self._fill_images()
        mine = self.annotation
        if mine is not None and (event.value is mine.image or event.value in mine.layers.values()):
            self.close_session()
            self.told.setText(f"{event.value.name!r} was removed; what you did is kept.")

    def _fill_images(self, event: Any = None) -> None:
        chosen = self.images.currentText()
        names = [each.name for each in self.viewer.layers if type(each).__name__ == "Image"]
        self.images.clear()
        self.images.addItems(names)
        if chosen in names:
            self.images.setCurrentText(chosen)

    def _on_cell(self, row: int, column: int) -> None:
        name = list(COLUMNS.values())[column]
        if not self._filling and self.annotation is not None and name is not None:
            number = int(self.table.item(row, 0).text())
            text = self.table.item(row, column).text().strip()
            self.annotation.describe(number, **{name: text})

    def _refresh(self) -> None:
        """Show what the annotation says."""
        mine = self.annotation
        objects = [] if mine is None else list(mine.session.state.objects.values())
        self._filling = True
        self.table.setRowCount(len(objects))
        for row, each in enumerate(objects):
            for column, text in enumerate(_cells(each)):
                self._set_cell(row, column, text)
        self._filling = False
        self.told.setText("" if mine is None else mine.told)
        self.busy.setText("" if mine is None else _progress(mine))
        self.volume.refresh()
        for listener in tuple(self.listeners):
            listener()

    def _set_cell(self, row: int, column: int, text: str) -> None:
        item = self.table.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            if list(COLUMNS.values())[column] is None:
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
            self.table.setItem(row, column, item)
        if item.text() != text:
            item.setText(text)


def _button(text: str, method: Callable[[], None]) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(lambda: method())
    return button


def _cells(each: Object) -> tuple[str, ...]:
    score = "" if each.score is None else f"{each.score:.2f}"
    return str(each.number), each.kind, each.status, score, each.note


def _progress(annotation: Annotation) -> str:
    state = annotation.session.state
    parts = [f"Points lie {'on' if annotation.positive else 'beside'} the object."]
    if state.preview is not None and (found := state.candidate) is not None:
        count = len(state.preview.candidates)
        parts.append(f"Mask {state.draft.chosen % count + 1} of {count}, score {found.score:.2f}.")
    return " ".join([*parts, annotation.busy])

"""The window onto a queue of pictures: takes one after the other, and tells what was done."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QProcess, QTimer
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_sam.recording import Recording
from napari_sam.stopwatch import Stopwatch
from napari_sam.widget import SegmentWidget
from napari_sam.worker import Latest, Stale, Superseded
from samplat import InputError, JobError, SamplatError

if TYPE_CHECKING:
    from samplat import PictureQueue, PictureWork, QueuedPicture, QueueStatus

TICK = 500
"""Milliseconds between looks at the stopwatch."""
NOTES = 3
"""Pictures that cannot be opened are told of, the last ones."""


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """A picture that was taken, ready to be shown."""

    queue: PictureQueue
    status: QueueStatus
    skipped: frozenset[int]
    """Pictures that are not wanted now."""
    work: PictureWork | None
    """None: there is none left."""
    recording: Recording | None
    notes: tuple[str, ...]
    """What the person has to know."""


class QueueWidget(QWidget):
    """Takes pictures of a project, shows what there is, and records what the person does.

    Args:
        napari_viewer: where it is docked.
        segment: the widget to click with; one of the viewer, or a new one, if not given.
    """

    def __init__(self, napari_viewer: Any, segment: SegmentWidget | None = None) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.segment = segment or _docked(napari_viewer)
        self.queue: PictureQueue | None = None
        self.recording: Recording | None = None
        self.watch = Stopwatch()
        self._skipped: frozenset[int] = frozenset()
        self._image: Any = None
        self._closing = False
        self._worker = Latest(self.segment.carry)
        self.destroyed.connect(self._worker.close)
        self._training: QProcess | None = None
        self._build()
        self.segment.listeners.append(self._on_step)
        for callbacks in self._mouse():
            callbacks.append(self._on_sign)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._show_time)
        self._timer.start(TICK)
        self._show(None)

    def _mouse(self) -> tuple[Any, ...]:
        viewer = self.viewer
        return (
            viewer.mouse_move_callbacks,
            viewer.mouse_drag_callbacks,
            viewer.mouse_wheel_callbacks,
        )

    def _build(self) -> None:
        self.folder, self.bar = QLineEdit(), QProgressBar()
        self.folder.setPlaceholderText("folder of a project")
        self.folder.returnPressed.connect(self._open_named)
        self.stage, self.picture, self.time, self.told = (QLabel("") for _ in range(4))
        for label in (self.stage, self.told):
            label.setWordWrap(True)
        row = QHBoxLayout()
        row.addWidget(self.folder, 1)
        row.addWidget(_button("…", self.choose))
        row.addWidget(_button("Open", self._open_named))
        column = QVBoxLayout(self)
        column.addLayout(row)
        for widget in (self.stage, self.bar, self.picture, self.time):
            column.addWidget(widget)
        column.addLayout(self._buttons())
        column.addWidget(self.told)
        column.addStretch(1)

    def _buttons(self) -> QGridLayout:
        self.done, self.skipping = _button("Done, next", self.finish), _button("Skip", self.skip)
        self.pausing, self.train = _button("Pause", self.pause), _button("Retrain", self.retrain)
        self.rejecting = _button("Reject object", self.reject)
        self.correcting = _button("Correct object", self.correct)
        self.done.setToolTip("Nothing is left to do: masks that were filled in are accepted")
        self.skipping.setToolTip("Come back to this picture when the others are done")
        self.correcting.setToolTip("Open the object that is chosen in the list to clicks and brush")
        self.train.setToolTip("Train the model with all that was recorded, and go on with it")
        grid = QGridLayout()
        buttons = (
            self.done,
            self.skipping,
            self.pausing,
            self.correcting,
            self.rejecting,
            self.train,
        )
        for n, button in enumerate(buttons):
            grid.addWidget(button, n // 3, n % 3)
        return grid

    def choose(self) -> None:
        """Ask for a project, and open it."""
        if name := QFileDialog.getExistingDirectory(self, "Open a project"):
            self.open(Path(name))

    def _open_named(self) -> None:
        self.open(Path(self.folder.text()).expanduser())

    def open(self, folder: Path) -> None:
        """Begin, or go on with, a project: its next picture is taken and shown."""
        self._leave()
        self.queue = None
        self.folder.setText(str(folder))

        def opened() -> PictureQueue:
            from samplat import registry

            return registry().open_queue(folder)

        self._take(opened, frozenset())

    def finish(self) -> None:
        """The picture is done: tell so, and take the next one."""
        if self.recording is None:
            return
        try:
            self.recording.tell()
            self.recording.work.finish()
        except SamplatError as error:
            self._say(str(error))
            return
        self._close_picture()
        self._go_on()

    def skip(self) -> None:
        """Leave the picture as it is, and take another one."""
        if self.recording is None:
            return
        self._skipped |= {self.recording.work.picture.index}
        self._leave()
        self._go_on()

    def pause(self) -> None:
        """Stop the clock, or let it go on."""
        if self.watch.held:
            self.watch.go()
        else:
            self.watch.hold()
        self._show_time()

    def reject(self) -> None:
        """The chosen object is none."""
        annotation, recording, number = self.segment.annotation, self.recording, self._chosen()
        if annotation is not None and recording is not None and number is not None:
            annotation.attempt(lambda session: recording.withdrawal(session, number))

    def correct(self) -> None:
        """The chosen object is opened, and clicks and brush are for it."""
        annotation, number = self.segment.annotation, self._chosen()
        if annotation is None or number is None:
            return
        if annotation.session.state.objects[number].status == "finished":
            annotation.describe(number, status="open")
        annotation.layers["labels"].selected_label = number
        annotation.refine(number)

    def retrain(self) -> None:
        """Train the model in another process, or stop that; a round that was stopped goes on."""
        if self._training is not None:
            self._training.kill()
        elif self.queue is not None:
            self._training = process = QProcess(self)
            process.setProcessChannelMode(QProcess.ProcessChannelMode.MergedChannels)
            process.readyReadStandardOutput.connect(self._on_output)
            process.finished.connect(self._on_trained)
            process.start(sys.executable, ["-m", "samplat", *self.queue.training()])
            self.train.setText("Stop training")
            self._say("training …")

    def _on_output(self) -> None:
        if self._training is not None:
            text = bytes(self._training.readAllStandardOutput().data()).decode(errors="replace")
            if lines := [line for line in text.splitlines() if line.strip()]:
                self._say("\n".join(lines[-3:]))

    def _on_trained(self, *ended: Any) -> None:
        self._on_output()
        process, self._training = self._training, None
        self.train.setText("Retrain")
        if process is not None:
            process.deleteLater()
        self._look()

    def _look(self) -> None:
        """Ask in the other thread where the queue stands: it may be long."""
        queue = self.queue
        if queue is not None and self.recording is not None:
            self._worker.ask(lambda stale: queue.status(), self._show, self._on_failed)

    def _chosen(self) -> int | None:
        """The object that is chosen in the list, or else picked in the picture."""
        table, annotation = self.segment.table, self.segment.annotation
        if annotation is None:
            return None
        number = annotation.layers["labels"].selected_label
        if (row := table.currentRow()) >= 0:
            number = int(table.item(row, 0).text())
        if number in annotation.session.state.objects:
            return int(number)
        self._say("choose an object in the list, or pick one in the layer objects")
        return None

    def _go_on(self) -> None:
        queue = self.queue
        if queue is not None:
            self._take(lambda: queue, self._skipped)

    def _take(self, opened: Any, skipped: frozenset[int]) -> None:
        """Take a picture in the other thread: the model may have masks to fill in."""
        self._say("taking a picture …")
        watch = self.watch

        def work(stale: Stale) -> _Taken:
            queue = opened()
            return _taken(queue, skipped, watch, stale)

        self._worker.ask(work, self._on_taken, self._on_failed)

    def _on_taken(self, taken: _Taken) -> None:
        self.queue, self._skipped = taken.queue, taken.skipped
        self._say("\n".join(taken.notes))
        if taken.work is None or taken.recording is None:
            self._say("\n".join((*taken.notes, "There is no picture left in this stage.")))
        else:
            self._show_picture(taken.work, taken.recording, taken.status.model)
        self._show(taken.status)

    def _show_picture(self, work: PictureWork, recording: Recording, model: str) -> None:
        self._image = self.viewer.add_image(work.image, rgb=True, name=work.picture.path.name)
        self.viewer.reset_view()
        self.segment.images.setCurrentText(self._image.name)
        self.segment.models.setCurrentText(model)
        self.segment.open(recording.folder)
        if self.segment.annotation is None:
            self._say(self.segment.told.text())
            work.close()
            self._remove_image()
            return
        self.recording = recording
        recording.attach(self.segment.annotation.session)
        self.watch.go()
        self.watch.clear()

    def _on_failed(self, error: Exception) -> None:
        plain = isinstance(error, SamplatError)
        self._say(str(error) if plain else f"unexpected {type(error).__name__}: {error}")
        self._show(None)

    def _on_step(self) -> None:
        """Something in the widget of clicks may be different."""
        if self.recording is None or self._closing:
            return
        if self.segment.annotation is None:
            self._leave()
            self._say("The picture was closed; what you did is kept. Press Open to go on.")
            return
        try:
            told = self.recording.tell()
        except SamplatError as error:
            self._say(str(error))
            return
        if told:
            self._say("")
            self._look()

    def _on_sign(self, *told: Any) -> None:
        self.watch.sign()

    def _leave(self) -> None:
        """Give the picture back as it is."""
        if (recording := self.recording) is None:
            return
        recording.work.close()
        self._close_picture()

    def _close_picture(self) -> None:
        self.recording, self._closing = None, True
        try:
            self.segment.close_session()
            self._remove_image()
        finally:
            self._closing = False

    def _remove_image(self) -> None:
        image, self._image = self._image, None
        if image is not None and image in self.viewer.layers:
            self.viewer.layers.remove(image)

    def _say(self, text: str) -> None:
        self.told.setText(text)

    def _show(self, status: QueueStatus | None) -> None:
        """Show where the queue stands."""
        busy = self.recording is not None
        for button in (self.done, self.skipping, self.pausing, self.correcting, self.rejecting):
            button.setEnabled(busy)
        self.train.setEnabled(self.queue is not None)
        self.bar.setVisible(status is not None)
        if status is None:
            self.stage.setText("")
        else:
            self.bar.setMaximum(max(1, status.pictures))
            self.bar.setValue(status.finished)
            self.bar.setFormat(f"%v of {status.pictures} pictures done")
            each = "" if status.seconds is None else f", {status.seconds:.1f} s each"
            model = Path(status.model).name
            self.stage.setText(f"{status.stage}, {model}: {status.masks} masks{each}")
        self._show_time()

    def _show_time(self) -> None:
        recording, watch = self.recording, self.watch
        if recording is None:
            self.picture.setText("")
            self.time.setText("")
            return
        queued = recording.work.picture
        self.picture.setText(f"Picture {queued.index + 1}: {queued.path.name}")
        self.pausing.setText("Go on" if watch.held else "Pause")
        state = "paused" if watch.away else "at work"
        self.time.setText(f"{watch.seconds:.0f} s on this mask, {state}")

    def shutdown(self) -> None:
        """Give the picture back and end the thread; waits for nothing."""
        self._leave()
        self._worker.close()
        self._timer.stop()
        if self._training is not None:
            self._training.kill()
        if self._on_step in self.segment.listeners:
            self.segment.listeners.remove(self._on_step)
        for callbacks in self._mouse():
            if self._on_sign in callbacks:
                callbacks.remove(self._on_sign)

    def closeEvent(self, event: Any) -> None:  # noqa: N802 Qt's name
        """The dock or the window closes."""
        self.shutdown()
        super().closeEvent(event)


def _taken(queue: PictureQueue, skipped: frozenset[int], watch: Stopwatch, stale: Stale) -> _Taken:
    """The next picture, open; pictures that cannot be are told of and left out."""
    notes, unusable = list[str](), frozenset[int]()
    while True:
        found = queue.next(skipped | unusable)
        if found is None and skipped - unusable:  # those that were skipped come again
            found, skipped = queue.next(unusable), frozenset()
        work, recording = None, None
        if found is not None:
            try:
                work, recording = _opened(queue, found, watch, stale)
            except (InputError, JobError) as error:
                notes.append(str(error))
                unusable |= {found.index}
                continue
        status = queue.status()
        return _Taken(
            queue=queue,
            status=status,
            skipped=skipped | unusable,
            work=work,
            recording=recording,
            notes=(*status.notes, *notes[-NOTES:]),
        )


def _opened(
    queue: PictureQueue, picture: QueuedPicture, watch: Stopwatch, stale: Stale
) -> tuple[PictureWork, Recording]:
    work = queue.begin(picture)
    try:
        recording = Recording(work, watch)
        recording.prepare()
        if stale():
            raise Superseded
    except BaseException:
        work.close()
        raise
    return work, recording


def _docked(viewer: Any) -> SegmentWidget:
    """The viewer's widget to click with; docked if there is none yet."""
    for each in viewer.window.dock_widgets.values():
        if isinstance(each, SegmentWidget):
            return each
    made = SegmentWidget(viewer)
    viewer.window.add_dock_widget(made, name="Segment Anything", area="right")
    return made


def _button(text: str, method: Any) -> QPushButton:
    button = QPushButton(text)
    button.clicked.connect(lambda: method())
    return button

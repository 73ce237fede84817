"""Work on one image: a folder with a journal, which owns the truth, and the labels that follow it.

::

    SESSION/journal.jsonl    everything that was done
    SESSION/labels.zarr      what it led to
    SESSION/.lock            held while a program has it open
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Block, Window
from napari_sam.journal import Journal, Line, history_of, read_journal, step_line
from napari_sam.labels import DiskLabels, check_shape
from napari_sam.state import Preview, StackPreview, State, Step, painted
from samplat import InputError, JobError, replacing

log = logging.getLogger(__name__)

JOURNAL, LABELS, LOCK = "journal.jsonl", "labels.zarr", ".lock"
SNAPSHOT = "snapshot-"
"""Begins the names of copies that are written out."""


class Session:
    """An open folder. A step is in the journal before it shows anywhere else.

    Args:
        folder: made if it is missing.
        shape: extent of the image in pixels.
        about: what else the journal's first line shall tell of the image, JSON values.

    Raises:
        InputError: the image has no pixels.
        JobError: the folder belongs to an image of another shape, is open elsewhere, damaged, or
            cannot be written.
    """

    def __init__(
        self, folder: Path, shape: Sequence[int], about: Mapping[str, Any] | None = None
    ) -> None:
        check_shape(shape)
        self.folder = folder
        self._lock = _locked(folder)
        try:
            self._open([int(n) for n in shape], about or {})
        except BaseException:
            self._lock.release()
            raise

    def _open(self, shape: list[int], about: Mapping[str, Any]) -> None:
        path = self.folder / JOURNAL
        if not path.exists() or b"\n" not in path.read_bytes():
            path.unlink(missing_ok=True)  # killed before it had a first line
            Journal.create(path, {"shape": shape, "image": dict(about)}).close()
        written = read_journal(path)
        if written.header["shape"] != shape:
            raise JobError(
                f"{self.folder} belongs to an image of {written.header['shape']} pixels, this one "
                f"has {shape}; choose another folder"
            )
        self.history, pixels = history_of(written.lines)
        for left in self.folder.glob(f"{SNAPSHOT}*.zarr"):  # by a program that was killed
            shutil.rmtree(left, ignore_errors=True)
        self.labels = DiskLabels(self.folder / LABELS, shape)
        """Labels of all pixels, uint32; 0 is background. Changed by this session alone."""
        try:
            wrong = self.labels.mend(pixels)
        except OSError as error:
            raise JobError(f"cannot write {self.folder}: {error.strerror or error}") from error
        self._journal = Journal(path, size=written.size, seal=written.seal)
        if wrong:
            log.info("%s: %d chunks of labels were made again from the journal", path, wrong)

    @property
    def state(self) -> State:
        """The present."""
        return self.history.state

    def read(self, window: Window) -> NDArray[np.uint32]:
        """Labels of a window, a copy."""
        labels: NDArray[np.uint32] = self.labels[window]
        return labels

    def do(self, transition: Callable[..., Step], *arguments: Any, **options: Any) -> Step:
        """Take a step of `napari_sam.state`, with the state and these arguments.

        Raises:
            InputError: it is not possible now; nothing changed.
            JobError: the journal cannot be written; nothing changed.
        """
        step = transition(self.state, *arguments, **options)
        following = self.history.do(step)
        self._journal.append(step_line(step))
        self.history = following
        self._put(step.after.pixels)
        return step

    def undo(self) -> Step:
        """Take the last step back; returns what that does. Errors as of `do`."""
        following = self.history.undo()
        return self._moved({"undo": True}, following, self.history.done[-1].inverse())

    def redo(self) -> Step:
        """Take the step that was taken back again. Errors as of `do`."""
        following = self.history.redo()
        return self._moved({"redo": True}, following, self.history.undone[-1])

    def _moved(self, line: Line, following: Any, step: Step) -> Step:
        self._journal.append(line)
        self.history = following
        self._put(step.after.pixels)
        return step

    def paint(self, start: Sequence[int], values: NDArray[Any]) -> Step:
        """A brush made the labels of a box these; its first pixel is `start`. Errors as of `do`."""
        window = tuple(slice(a, a + n) for a, n in zip(start, values.shape, strict=True))
        return self.do(painted, start, self.read(window), values)

    def show(self, preview: Preview) -> None:
        """Keep an answer of the model, if it is one to the present question."""
        self.history = self.history.previewed(preview)

    def follow(self, stack: StackPreview | None) -> None:
        """The same of an answer of a stack; None: it is not wanted any more."""
        history = self.history
        self.history = history.unfollowed() if stack is None else history.followed(stack)

    def _put(self, block: Block | None) -> None:
        if block is None:
            return
        try:
            self.labels.write(block)
        except OSError as error:
            log.warning(
                "%s cannot be written (%s); the journal has it, and the labels are made again "
                "when the session is opened",
                self.labels.path,
                error.strerror or error,
            )

    def snapshot(self) -> AbstractContextManager[DiskLabels]:
        """The labels as they are now, for any thread, whatever is done meanwhile.

        Raises:
            JobError: the disk is full or failing.
        """
        place = self.folder / f"{SNAPSHOT}{uuid.uuid4().hex[:8]}.zarr"
        try:
            self.labels.copy(place)
        except OSError as error:
            raise JobError(f"cannot write {place}: {error.strerror or error}") from error
        return _until_used(place, self.labels.shape)

    def close(self) -> None:
        """Release the folder; everything is on the disk already."""
        self._journal.close()
        self._lock.release()


@contextmanager
def _until_used(place: Path, shape: Sequence[int]) -> Iterator[DiskLabels]:
    try:
        yield DiskLabels(place, shape)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _locked(folder: Path) -> Any:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise JobError(
            f"{folder} is open in another window or program; close it there first"
        ) from None
    except OSError as error:
        raise JobError(f"cannot write {folder}: {error.strerror or error}") from error
    return lock


def replay(journal: Path, output: Path) -> tuple[int, int]:
    """Make the labels of a journal again, as a folder equal to the session's, byte for byte.

    Args:
        journal: the file, or the session's folder.
        output: the zarr array to write; replaced if it is there.

    Returns:
        how many lines were followed, and how many objects there are.

    Raises:
        InputError: the output is the session's own.
        JobError: the journal is damaged, or the output cannot be written.
    """
    path = journal / JOURNAL if journal.is_dir() else journal
    if output.resolve() == (path.parent / LABELS).resolve():
        raise InputError(f"{output} are the session's own labels; choose another output")
    written = read_journal(path)
    history, pixels = history_of(written.lines)
    with replacing(output) as place:
        DiskLabels(place, written.header["shape"]).mend(pixels)
    return len(written.lines), len(history.state.objects)

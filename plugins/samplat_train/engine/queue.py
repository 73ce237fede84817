"""A project as a queue for windows: pictures one by one, with what a person did to their masks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samplat import (
    MaskChange,
    QueuedMask,
    QueuedPicture,
    QueueStatus,
    SamplatError,
)
from samplat_train.engine.listing import PictureEntry
from samplat_train.engine.project import Project
from samplat_train.engine.statistics import effort_of

if TYPE_CHECKING:
    from samplat_train.engine.session import Session
    from samplat_train.engine.settings import Stage

ROOMS = "windows"
"""Folder in the project where windows keep their work, one for each picture and stage."""


class EngineWork:
    """A picture of a project that is being annotated in a window.

    Args:
        session: of the picture; asks no model for prompts.
        picture: which.
    """

    def __init__(self, session: Session, picture: QueuedPicture) -> None:
        self.picture, self._session = picture, session

    @property
    def image(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        return self._session.image

    @property
    def version(self) -> int:
        """How many lines there are."""
        return self._session.state.lines

    @property
    def room(self) -> Path:
        """In the project."""
        session = self._session
        return _room(session.project, self.picture.index, session.stage)

    def masks(self) -> tuple[QueuedMask, ...]:
        """Recorded masks, then proposals."""
        there = (
            QueuedMask(id=m.id, mask=m.mask(), score=m.predicted_iou, proposed=False)
            for m in self._session.masks.values()
        )
        offered = (
            QueuedMask(id=p.id, mask=p.mask, score=p.predicted_iou, proposed=True)
            for p in self._session.proposals
        )
        return (*there, *offered)

    def record(self, changes: Sequence[MaskChange]) -> None:
        """As lines, all or none."""
        self._session.change(changes)

    def finish(self) -> None:
        """Untouched proposals are accepted."""
        self._session.finish()

    def close(self) -> None:
        """Give the picture back."""
        self._session.close()


class EngineQueue:
    """A project as one annotator sees it.

    Args:
        project: to work through.
        clock: as of `Project.annotate`.
    """

    def __init__(self, project: Project, clock: Callable[[], float] = time.monotonic) -> None:
        self.project, self._clock = project, clock

    def status(self) -> QueueStatus:
        """Of the stage that the project is in."""
        project, settings = self.project, self.project.settings
        states = [state for _, state in project.states()]
        return QueueStatus(
            stage=settings.stage,
            model=project.located(settings.model).name,
            finished=sum(settings.stage in state.finished for state in states),
            pictures=len(states),
            masks=sum(len(state.of_stages([settings.stage])) for state in states),
            seconds=effort_of(project, settings.stage).seconds_median,
            notes=tuple(note for state in states for note in state.notes),
        )

    def next(self, skip: Collection[int] = ()) -> QueuedPicture | None:
        """The picture that was worked on last, if it is not finished; else the project's next."""
        everything = {entry.index for entry in self.project.pictures}
        for index in self._left():
            if found := self.project.next_picture({*skip, *(everything - {index})}):
                return _queued(found)
        new = self.project.next_picture(skip)
        return None if new is None else _queued(new)

    def begin(self, picture: QueuedPicture) -> EngineWork:
        """Check model and picture; propose masks in the semi-automatic stage."""
        try:
            self.project.assistant  # noqa: B018 without a model there is nothing to be done
        except SamplatError as error:
            self.project.desk.release(picture.index)
            raise SamplatError(str(error)) from error
        session = self.project.annotate(picture.index, clock=self._clock, prompted=False)
        return EngineWork(session, picture)

    def training(self) -> tuple[str, ...]:
        """A round of retraining."""
        return ("engine", "retrain", str(self.project.folder))

    def _left(self) -> list[int]:
        """Numbers of unfinished pictures with work in this stage, the latest first."""
        stage = self.project.settings.stage
        used = {}
        for entry, state in self.project.states():
            room = _room(self.project, entry.index, stage)
            if stage not in state.finished and room.is_dir():
                used[entry.index] = max((p.stat().st_mtime_ns for p in room.iterdir()), default=0)
        return sorted(used, key=lambda index: -used[index])


def _room(project: Project, index: int, stage: Stage) -> Path:
    """One for each stage, since each begins with what the one before left."""
    return project.folder / ROOMS / f"{index:06}-{stage}"


def _queued(entry: PictureEntry) -> QueuedPicture:
    return QueuedPicture(index=entry.index, path=entry.path, size=entry.size)

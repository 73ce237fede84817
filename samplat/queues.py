"""Pictures that people annotate one after the other, for windows that show them.

Who keeps the pictures and what people did to them is a queue; a window takes one picture at a time,
shows the masks that are there, and tells what the person changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat.prompts import Prompts


@dataclass(frozen=True, kw_only=True)
class QueuedPicture:
    """One picture of a queue."""

    index: int
    """Its number in the queue, from 0."""
    path: Path
    """Its file."""
    size: tuple[int, int]
    """Height and width in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QueuedMask:
    """A mask that a picture has, or that a model fills in."""

    id: str
    """Names it within its picture."""
    mask: NDArray[np.bool_]
    """(H, W). True: the pixel belongs to the object; masks of a picture may overlap."""
    score: float | None
    """Predicted IoU; None where a person drew."""
    proposed: bool
    """True: a model filled it in, and nobody has said anything of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskChange:
    """What a person did to one mask."""

    id: str
    """Of a mask that the picture has, or of a new one."""
    mask: NDArray[np.bool_] | None
    """(H, W) as it is now; None: it was taken away."""
    prompts: Prompts | None = None
    """What a model answered with it; None: nobody pointed at it."""
    score: float | None = None
    """Predicted IoU; None: the person drew the outline."""
    seconds: float = 0.0
    """The person's time for it."""


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """Where a queue stands."""

    stage: str
    """What the pictures are annotated for now."""
    model: str
    """In use: a name or file that `load_model` takes."""
    finished: int
    """Pictures that this stage has nothing left to do with."""
    pictures: int
    """All pictures."""
    masks: int
    """Masks of this stage that are there."""
    seconds: float | None
    """Median time of a person per mask of this stage; None: there are none yet."""
    notes: tuple[str, ...] = field(default=())
    """What the person has to know, a line each."""


class PictureWork(Protocol):
    """One picture that this process holds, until it is closed or finished."""

    @property
    def picture(self) -> QueuedPicture:
        """Which one."""
        ...

    @property
    def image(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        ...

    @property
    def version(self) -> int:
        """A number that grows with everything that anybody records of the picture."""
        ...

    @property
    def room(self) -> Path:
        """The folder in which a window keeps its work on the picture; need not be there."""
        ...

    def masks(self) -> Sequence[QueuedMask]:
        """Those that are there, and those that are filled in."""
        ...

    def record(self, changes: Sequence[MaskChange]) -> None:
        """Keep changes durably, all or none.

        Raises:
            InputError: an empty mask, or one of another size than the picture.
            SamplatError: the picture is somebody else's by now, or the disk is full.
        """
        ...

    def finish(self) -> None:
        """Nothing is left to do; masks that were filled in and not changed are accepted.

        Raises:
            SamplatError: as of `record`; the picture is not finished.
        """
        ...

    def close(self) -> None:
        """Give the picture back as it is."""
        ...


class PictureQueue(Protocol):
    """A queue as one person sees it."""

    def status(self) -> QueueStatus:
        """Where it stands.

        Raises:
            InputError: its files are damaged.
        """
        ...

    def next(self, skip: Collection[int] = ()) -> QueuedPicture | None:
        """Take the next picture; nobody else gets it. Work that was left comes first.

        Args:
            skip: numbers of pictures that are not wanted now.

        Returns:
            None if there is none left.

        Raises:
            InputError: nobody is needed now.
        """
        ...

    def begin(self, picture: QueuedPicture) -> PictureWork:
        """Open a picture that was taken; may take seconds, for any thread.

        Raises:
            InputError: this picture cannot be used: its file is gone, or was changed.
            SamplatError: none can, as without the model; or the picture is somebody else's.
        """
        ...

    def training(self) -> Sequence[str]:
        """The arguments of `samplat` that train the model with what was recorded."""
        ...


class QueueFactory(Protocol):
    """Opens queues of one kind."""

    @property
    def name(self) -> str:
        """Unique name, such as "engine"."""
        ...

    def accepts(self, folder: Path) -> bool:
        """Whether a folder is a queue of this kind; no error if it turns out to be damaged."""
        ...

    def open(self, folder: Path, *args: Any, **options: Any) -> PictureQueue:
        """A queue that is there.

        Args:
            folder: that it lies in.
            args: none.
            options: of its kind.

        Raises:
            InputError: its files are damaged.
        """
        ...

"""What the window asks of the process of the model, in the window's terms. For its threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.answering import Picture
from napari_sam.everything import Choice, Chosen, Found
from napari_sam.hosting import Host
from napari_sam.sights import Named, sight_of
from napari_sam.stacks import Followed, Heard
from napari_sam.state import Plane, Preview, Question, StackQuestion
from napari_sam.views import View
from napari_sam.worker import Stale


class Asker:
    """A model of which things are asked; another thread may ask one of each kind at a time.

    Args:
        host: who has the models.
        model: a name, or a checkpoint's path.
        cache: folder of a job's embeddings; the user's if not given.
    """

    def __init__(self, host: Host, model: str, cache: Path | None = None) -> None:
        self._named = Named(model=model, cache=cache)
        self._clicks, self._stacks, self._whole = host.lines

    def load(self, stale: Stale) -> None:
        """Load the model, so that the first picture does not wait for it."""
        self._clicks.ask("prepare", self._named, None, (), [], stale=stale)

    def prepare(self, picture: Picture, plane: Plane, views: Iterable[View], stale: Stale) -> None:
        """Encode views, see `Answerer.prepare`."""
        self._clicks.ask(
            "prepare",
            self._named,
            sight_of(picture),
            plane,
            list(views),
            stale=stale,
            read=_reader(picture),
        )

    def answer(
        self,
        picture: Picture,
        question: Question,
        held: Any,
        drafted: Callable[[Preview], None],
        stale: Stale,
    ) -> Preview:
        """Candidate masks, see `Answerer.answer`; `drafted` gets a quick one before."""
        preview: Preview = self._clicks.ask(
            "answer",
            self._named,
            sight_of(picture),
            question,
            held,
            stale=stale,
            read=_reader(picture),
            drafted=drafted,
        )
        return preview

    def follow(
        self,
        picture: Picture,
        asked: StackQuestion,
        spacing: Sequence[float],
        taken: NDArray[np.bool_],
        earlier: Any,
        heard: Heard,
        stale: Stale,
    ) -> Followed:
        """An object through a stack, see `stacks.follow`. Its memory is a name here."""
        found: Followed = self._stacks.ask(
            "follow",
            self._named,
            sight_of(picture),
            asked,
            spacing,
            np.packbits(taken),
            earlier,
            stale=stale,
            read=_reader(picture),
            heard=heard,
        )
        return found

    def find(
        self,
        picture: Picture,
        plane: Plane,
        view: View,
        side: int,
        wanted: Callable[[], bool],
        stale: Stale,
    ) -> Found | None:
        """Masks of a grid of points, see `everything.find`; None: no more was wanted."""
        found: Found | None = self._whole.ask(
            "find",
            self._named,
            sight_of(picture),
            plane,
            view,
            side,
            stale=stale,
            read=_reader(picture),
            wanted=wanted,
        )
        return found

    def choose(self, found: Found, choice: Choice, stale: Stale) -> Chosen:
        """Those of them that pass."""
        chosen: Chosen = self._whole.ask("choose", found, choice, stale=stale)
        return chosen


def _reader(picture: Picture) -> Callable[[int, Any], NDArray[Any]]:
    levels = (picture.data, *picture.levels)
    return lambda level, index: np.asarray(levels[level][index])

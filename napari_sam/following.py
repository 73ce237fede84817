"""Shift-S: an object is followed through a volume while the window goes on.

Slices are shown as they come. When prompts change, only what they touch is followed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.answering import Picture
from napari_sam.asking import Asker
from napari_sam.blocks import Block
from napari_sam.layers import spacing_of
from napari_sam.progress import Activity
from napari_sam.session import Session
from napari_sam.stacks import Followed, window_of
from napari_sam.state import Candidate, StackQuestion, answers, stack_question
from napari_sam.worker import Latest, Stale
from samplat import InputError

TOLD = 3
"""Slices that are named as those to look at."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A slice in the strip of confidences."""

    index: int
    """Its number."""
    confidence: float
    """0 to 1; NaN where the object is not, or not yet."""
    marked: bool
    """True: a prompt lies on it."""


class Following:
    """The object that is followed, if one is.

    Args:
        image: the layer.
        layer: shows the object before it is committed.
        pixels: what it shows, of the image's shape.
        session: of the image.
        asker: has the model.
        worker: of its own, so that clicks are answered meanwhile.
        changed: called when anything of this may be different.
        failed: told of errors.
        on_screen: the slice across an axis that the window shows; -1: the axis itself is shown.
    """

    def __init__(
        self,
        image: Any,
        layer: Any,
        pixels: Any,
        session: Session,
        asker: Asker,
        worker: Latest,
        changed: Callable[[], None],
        failed: Callable[[Exception], None],
        on_screen: Callable[[int], int],
    ) -> None:
        self.on = False
        """True: the mask that is shown is that of a volume."""
        self.extent: tuple[int, int] | None = None
        """First and last slice that the object may be in."""
        self.three = False
        """True: all three axes are looked along."""
        self.over = False
        """True: it may take pixels of objects that are not finished."""
        self.told = ""
        """What the user has to know of the last answer."""
        self._image, self._layer, self._pixels, self._session = image, layer, pixels, session
        self._asker, self._worker = asker, worker
        self._changed, self._failed, self._on_screen = changed, failed, on_screen
        self._activity: Activity | None = None
        self._enough = threading.Event()
        self._shown: dict[int, Block] = {}
        self._asked: StackQuestion | None = None
        self._sure: dict[int, float] = {}
        self._last: tuple[Picture, Followed] | None = None

    @property
    def busy(self) -> bool:
        """Whether slices are still coming."""
        return self._activity is not None

    @property
    def axis(self) -> int | None:
        """The axis of the image that the slices are across."""
        return None if self._asked is None else self._asked.axis

    def start(self, picture: Picture) -> None:
        """Follow what the present prompts point at.

        Raises:
            InputError: there are none, or the image is no volume.
        """
        asked = stack_question(self._session.state, extent=self.extent, three=self.three)
        before = self._asked
        if before is not None and (before.plane, before.axes) != (asked.plane, asked.axes):
            self._clear()
        self._stop()
        self.on, self.told, self._asked = True, "", asked
        self._sure.clear()
        self._enough = enough = threading.Event()
        self._activity = Activity("following an object", self._total(asked), self.cancel)
        self._worker.ask(self._work(picture, asked, enough), self._done(picture), self._error)
        self._changed()

    def _total(self, asked: StackQuestion) -> int:
        first, last = asked.extent or (0, self._session.labels.shape[asked.axis] - 1)
        others = [self._session.labels.shape[a] for a in asked.stacked if a != asked.axis]
        return last - first + 1 + (sum(others) if asked.three else 0)

    def _work(
        self, picture: Picture, asked: StackQuestion, enough: threading.Event
    ) -> Callable[[Stale], Followed]:
        earlier = self._memory(picture, asked)
        spacing, over = spacing_of(self._image, asked.stacked), self.over

        def work(stale: Stale) -> Followed:
            def heard(axis: int, k: int, found: Candidate | None) -> bool:
                self._worker.tell(stale, lambda: self._heard(axis, k, found))
                return not stale() and not enough.is_set()

            taken = self._taken(asked, over=over)
            return self._asker.follow(picture, asked, spacing, taken, earlier, heard, stale)

        return work

    def _memory(self, picture: Picture, asked: StackQuestion) -> Any:
        """Of what was followed last, if it lies in the same stack of the same picture."""
        if self._last is None or self._last[0] is not picture:
            return None
        found = self._last[1]
        return found.memory if found.preview.question.plane == asked.plane else None

    def _taken(self, asked: StackQuestion, *, over: bool) -> NDArray[np.bool_]:
        """Pixels of the stack that other objects keep."""
        state = self._session.state
        window = window_of(asked, self._session.labels.shape)
        others = tuple(n for n, at in enumerate(asked.plane) if at is not None)
        labels = self._session.labels[window].squeeze(others)
        if over:
            held = [n for n, each in state.objects.items() if each.status == "finished"]
            return np.isin(labels, held)
        own = 0 if asked.target is None else asked.target
        taken: NDArray[np.bool_] = (labels != 0) & (labels != own)
        return taken

    def cancel(self) -> None:
        """Slices that are there are kept, and no others come."""
        self._enough.set()

    def drop(self, *, forget: bool = True) -> None:
        """The object is not wanted; nor is it when its prompts come back, if it is forgotten."""
        if forget:
            self._last = None
        self._worker.cancel()
        self._stop()
        self._session.follow(None)
        self.on, self.told, self._asked = False, "", None
        self._sure.clear()
        self._clear()

    def committed(self) -> None:
        """It is an object now; how sure its slices are stays to be seen."""
        self.on, self.told = False, ""
        self._clear()

    def redraw(self) -> None:
        """Show it again, after all pixels were dropped."""
        for each in self._shown.values():
            self._pixels[each.window] = each.array()

    def close(self) -> None:
        """Nothing is shown any more; waits for nothing."""
        self._enough.set()
        self._worker.cancel()
        self._stop()

    def _stop(self) -> None:
        if self._activity is not None:
            self._activity.close()
        self._activity = None

    def settle(self, picture: Picture, *, live: bool) -> None:
        """After a step: prompts may be others now, or those of before again.

        Args:
            picture: the image.
            live: whether to follow what they point at without being asked to.
        """
        state = self._session.state
        if self._last is not None and self._last[0] is picture:
            asked = self._last[1].preview.question
            if answers(state, asked) and (asked.extent, asked.three) == (self.extent, self.three):
                self._again(self._last[1])
                return
        if not self.on or (self.busy and self._asked and answers(state, self._asked)):
            return
        if not state.draft.prompts:
            self.drop(forget=False)
        elif live and state.stack is None:
            try:
                self.start(picture)
            except InputError:
                self.drop(forget=False)

    def _again(self, found: Followed) -> None:
        """What was followed is asked for once more, after an undo."""
        if self._session.state.stack is found.preview:
            return
        self._worker.cancel()
        self._stop()
        self.on, self._asked = True, found.preview.question
        self._show(found)

    def _heard(self, axis: int, k: int, found: Candidate | None) -> None:
        """Another slice is done."""
        if self._activity is not None:
            self._activity.advance()
        if found is not None:
            self._sure[k] = found.score
            self._put(k, found.mask)
            if self.axis is not None and self._on_screen(self.axis) in (-1, k):
                self._refresh()
            self._changed()

    def _done(self, picture: Picture) -> Callable[[Followed], None]:
        def done(found: Followed) -> None:
            self._stop()
            self._last = picture, found
            self._show(found)

        return done

    def _show(self, found: Followed) -> None:
        slices = dict(found.preview.slices)
        self._session.follow(found.preview)
        for k in self._shown.keys() - slices.keys():
            self._put(k, None)
        for k, each in slices.items():
            self._put(k, each.mask)
        self._refresh()
        self._sure = {k: each.score for k, each in slices.items()}
        self.told = _told(found)
        self._changed()

    def _error(self, error: Exception) -> None:
        self.drop(forget=False)
        self._failed(error)

    def _put(self, k: int, mask: Block | None) -> None:
        """Show the object on a slice; None: it is not there."""
        if (old := self._shown.pop(k, None)) is not None:
            if old == mask:
                self._shown[k] = old
                return
            self._pixels[old.window] = 0
        if mask is not None:
            self._pixels[mask.window] = mask.array()
            self._shown[k] = mask

    def _clear(self) -> None:
        for k in list(self._shown):
            self._put(k, None)
        self._refresh()

    def _refresh(self) -> None:
        self._layer.refresh(extent=False, thumbnail=False)

    def columns(self) -> list[Column]:
        """All slices across the axis, for the strip."""
        if self._asked is None:
            return []
        count = self._session.labels.shape[self._asked.axis]
        marked = self._marked()
        return [
            Column(index=k, confidence=self._sure.get(k, float("nan")), marked=k in marked)
            for k in range(count)
        ]

    def _marked(self) -> set[int]:
        if self._asked is None:
            return set()
        axis = self._asked.axis
        return {round(p.place[axis]) for p in self._asked.prompts}

    def worst(self) -> int | None:
        """The slice to look at; prompts lie on others."""
        marked = self._marked()
        walked = [(sure, k) for k, sure in self._sure.items() if k not in marked]
        return min(walked)[1] if walked else None


def _told(found: Followed) -> str:
    slices = found.preview.slices
    if not slices:
        return "the object is on no slice"
    first, last = slices[0][0], slices[-1][0]
    sure = dict(slices)
    worst = ", ".join(f"{k} ({sure[k].score:.2f})" for k in found.worst()[:TOLD] if k in sure)
    text = f"slices {first} to {last}" + (f"; look at {worst}" if worst else "")
    ended = "; cancelled: commit keeps what there is, following goes on" if found.cancelled else ""
    return text + ended

"""Everything on the screen as masks: found in another thread, chosen by sliders, committed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from napari_sam import state as steps
from napari_sam.annotation import Annotation
from napari_sam.everything import Choice, Chosen, Found, batches
from napari_sam.lazy import Scratch
from napari_sam.progress import Activity
from napari_sam.session import Session
from napari_sam.worker import Latest, Stale, Superseded
from samplat import InputError, SamplatError

NAME = "found"
"""Of the layer that shows them."""


class Automatic:
    """Masks of everything, for one annotation.

    Args:
        annotation: whose image is looked at.
        worker: of its own.
        changed: called when anything of this may be different.
    """

    def __init__(self, annotation: Annotation, worker: Latest, changed: Callable[[], None]) -> None:
        self.choice = Choice(iou=0.88, stability=0.95, area=0)
        """What the sliders say."""
        self.told = ""
        """What came of it."""
        self._annotation, self._worker, self._changed = annotation, worker, changed
        self._activity: Activity | None = None
        self._enough = threading.Event()
        self._found: Found | None = None
        self._shown: Chosen | None = None
        self._choosing = False
        self._layer: Any = None
        self._pixels: Any = None

    @property
    def busy(self) -> bool:
        """Whether they are still being found."""
        return self._activity is not None

    @property
    def found(self) -> bool:
        """Whether any are shown, to choose from."""
        return self._shown is not None

    @property
    def scores(self) -> tuple[float, ...]:
        """Of those that are shown."""
        return () if self._shown is None else self._shown.scores

    @property
    def choosing(self) -> bool:
        """Whether what is shown passed other thresholds, and those that pass now will come."""
        return self._choosing

    def start(self, side: int) -> None:
        """Look for everything on the screen, with a grid of `side` x `side` points.

        Raises:
            InputError: the viewer shows three dimensions.
        """
        shown = self._annotation.on_screen()
        if shown is None:
            raise InputError("masks are found on slices; leave the 3D view")
        self.drop()
        plane, view = shown
        asker, picture = self._annotation.asker, self._annotation.picture
        self._enough = enough = threading.Event()
        total = len(batches(side))
        self._activity = Activity("finding all masks", total, self.cancel)

        def work(stale: Stale) -> Found:
            def wanted() -> bool:
                self._worker.tell(stale, self._advance)
                return not stale() and not enough.is_set()

            found = asker.find(picture, plane, view, side, wanted, stale)
            if found is None:
                raise Superseded
            return found

        self._worker.ask(work, self._done, self._failed)
        self._changed()

    def _advance(self) -> None:
        if self._activity is not None:
            self._activity.advance()

    def _done(self, found: Found) -> None:
        self._stop()
        self._found = found
        self.choose(self.choice)

    def _failed(self, error: Exception) -> None:
        self._stop()
        self._choosing = False
        plain = isinstance(error, SamplatError)
        self.told = str(error) if plain else f"unexpected {type(error).__name__}: {error}"
        self._changed()

    def choose(self, choice: Choice) -> None:
        """Other thresholds: the model is not asked again."""
        self.choice, found = choice, self._found
        if found is not None:
            self._choosing, asker = True, self._annotation.asker
            self._worker.ask(
                lambda stale: asker.choose(found, choice, stale), self._chosen, self._failed
            )
        self._changed()

    def _chosen(self, chosen: Chosen) -> None:
        self._choosing = False
        if (found := self._found) is not None:
            self.told = f"{len(chosen.scores)} masks of {len(found.masks)} candidates"
            self._shown = chosen
            self._show(chosen.block)
        self._changed()

    def commit(self) -> None:
        """Those that are shown become objects, in one step."""
        if (found := self._found) is None or (shown := self._shown) is None:
            return
        if not shown.scores:
            self.told = "no mask passes; lower the sliders"
            self._changed()
            return
        axes = tuple(n for n, at in enumerate(found.plane) if at is None)
        over = self._annotation.over

        def action(session: Session) -> steps.Step:
            step = session.do(
                steps.gathered,
                shown.block,
                list(shown.scores),
                (axes[0], axes[1]),
                session.read,
                over=over,
            )
            self.drop()
            return step

        self._annotation.attempt(action)

    def cancel(self) -> None:
        """They are not wanted any more."""
        self._enough.set()
        self._worker.cancel()
        self._stop()
        self._changed()

    def drop(self) -> None:
        """None are shown."""
        self.cancel()
        self._found, self._shown, self._choosing, self.told = None, None, False, ""
        layer, self._layer = self._layer, None
        if layer is not None and layer in self._annotation.viewer.layers:
            self._annotation.viewer.layers.remove(layer)

    def _stop(self) -> None:
        if self._activity is not None:
            self._activity.close()
        self._activity = None

    def _show(self, block: Any) -> None:
        annotation = self._annotation
        if self._layer is None or self._layer not in annotation.viewer.layers:
            active = annotation.viewer.layers.selection.active
            self._pixels = Scratch(annotation.session.labels.shape, np.uint32)
            sheet, place = annotation.sheet_of(self._pixels)
            self._layer = annotation.viewer.add_labels(sheet, name=NAME, opacity=0.5, **place)
            annotation.viewer.layers.selection.active = active  # clicks go where they went
        self._pixels.drop()
        self._pixels[block.window] = block.array()
        self._layer.refresh(extent=False)

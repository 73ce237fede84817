"""One image being annotated: what the user does becomes steps, and layers show what they led to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from napari_sam import state as steps
from napari_sam.answering import Answerer, View, view_of
from napari_sam.blocks import Block, Window, starts
from napari_sam.following import Following
from napari_sam.layers import (
    NEGATIVE,
    POSITIVE,
    PREVIEW,
    is_drawn,
    merged,
    painted_window,
    picture_of,
    placed_like,
    points_in,
    region_in,
    shape_for,
    shape_of,
    shapes_in,
    shown_axes,
)
from napari_sam.session import Session
from napari_sam.worker import Latest, Stale
from samplat import InputError, SamplatError

log = logging.getLogger(__name__)


class Annotation:
    """A session and its layers in a viewer.

    Args:
        viewer: that shows the image.
        image: the layer.
        session: of the image; closed with this.
        answerer: the model.
        worker: runs it.
        slow: runs it where an answer takes many slices.
        changed: called when anything of this may be different.
    """

    def __init__(
        self,
        viewer: Any,
        image: Any,
        session: Session,
        answerer: Answerer,
        worker: Latest,
        slow: Latest,
        changed: Callable[[], None],
    ) -> None:
        self.viewer, self.image, self.session = viewer, image, session
        self.live = True
        """True: the model is asked whenever the question is another one."""
        self.over = False
        """True: commits take pixels of objects that are not finished."""
        self.positive = True
        """True: the next points lie on the object."""
        self.busy, self.told = "", ""
        """What the model is at, and what the user has to know of the last step."""
        self.answerer, self._worker, self._changed = answerer, worker, changed
        self.picture = picture_of(image)
        self._syncing = False
        self._shown: Window | None = None
        self._add_layers()
        self.following = Following(
            image, self.layers["preview"], session, answerer, slow, changed, self._failed
        )
        image.events.contrast_limits.connect(self._on_contrast)
        self._show()
        self._prepare()

    def _add_layers(self) -> None:
        from napari.utils import DirectLabelColormap

        viewer, place = self.viewer, placed_like(self.image)
        ndim, shape = self.image.ndim, self.session.labels.shape
        yellow = DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: PREVIEW})
        self.layers: dict[str, Any] = {
            "labels": viewer.add_labels(self.session.labels.copy(), name="objects", **place),
            "preview": viewer.add_labels(
                np.zeros(shape, np.uint8), name="preview", colormap=yellow, opacity=0.5, **place
            ),
            "boxes": viewer.add_shapes(
                ndim=ndim, name="box", face_color="transparent", edge_color=PREVIEW, **place
            ),
            "points": viewer.add_points(
                ndim=ndim, name="points", size=self._point_size(), border_color="white", **place
            ),
        }
        self.layers["points"].mode = "add"
        self.layers["boxes"].mode = "add_rectangle"
        self.layers["labels"].events.paint.connect(self._on_paint)
        self.layers["points"].events.data.connect(self._on_points)
        self.layers["boxes"].events.data.connect(self._on_boxes)
        viewer.layers.selection.active = self.layers["points"]

    def _point_size(self) -> float:
        return max(3.0, 0.02 * max(shape_of(self.image)[-2:]))

    def close(self) -> None:
        """Take the layers away and close the session; everything is on the disk already."""
        self._worker.cancel()
        self.following.close()
        self._syncing = True
        self.image.events.contrast_limits.disconnect(self._on_contrast)
        for layer in self.layers.values():
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self.session.close()

    def _on_contrast(self, event: Any = None) -> None:
        self.picture = picture_of(self.image)

    def segment(self) -> None:
        """Ask the model again, of the slice or of the volume."""
        if self.following.on:
            self.follow()
        else:
            self._ask()

    def commit(self) -> None:
        """The mask that is shown becomes an object."""
        if self.following.on and self.session.state.stack is None:
            self.told = "the object is still being followed; wait, or stop it and commit that part"
            if not self.following.busy:
                self.told = "the object was followed from other prompts; follow it again first"
            self._changed()
            return

        def action(session: Session) -> steps.Step:
            step = session.do(steps.committed, session.read, over=self.over)
            self.following.committed()
            return step

        self.attempt(action)
        self.layers["labels"].selected_label = self.session.state.following

    def follow(self) -> None:
        """Follow what the prompts point at through the volume."""
        self.told = ""
        self.following.over = self.over
        try:
            self.following.start(self.picture)
        except SamplatError as error:
            self.told = str(error)
        else:
            self._worker.cancel()
            self.busy = ""
        self._show()

    def single(self) -> None:
        """Prompts mean a mask on one slice again."""
        self.following.drop()
        self._ask()
        self._show()

    def look_at(self, axis: int, index: int) -> None:
        """Show a slice across an axis of the image."""
        viewer, image = self.viewer, self.image
        at = np.asarray(image.world_to_data(viewer.dims.point[-image.ndim :]), float)
        at[axis] = index
        lead = viewer.dims.ndim - image.ndim
        for n, place in enumerate(image.data_to_world(at), lead):
            if n not in viewer.dims.displayed:
                viewer.dims.set_point(n, place)

    def slice_on_screen(self, axis: int) -> int:
        """The slice across an axis of the image that the viewer is at; -1 if it shows that axis."""
        image, dims = self.image, self.viewer.dims
        if axis + dims.ndim - image.ndim in dims.displayed:
            return -1
        return round(float(image.world_to_data(dims.point[-image.ndim :])[axis]))

    @property
    def slice_axis(self) -> int | None:
        """The axis of the image that objects are followed along now; None without one."""
        if self.following.on:
            return self.following.axis
        lead = self.viewer.dims.ndim - self.image.ndim
        shown = [n - lead for n in self.viewer.dims.displayed]
        return max((n for n in range(self.image.ndim) if n not in shown), default=None)

    def look_at_worst(self) -> None:
        """Show the slice of the followed object that is least sure."""
        worst, axis = self.following.worst(), self.following.axis
        if worst is None or axis is None:
            self.told = "there is no followed object with slices to look at"
            self._changed()
        else:
            self.look_at(axis, worst)

    def clear(self) -> None:
        """Drop the draft."""
        self._do(steps.cleared)

    def another(self) -> None:
        """Show the next candidate."""
        self._do(steps.next_candidate)

    def undo(self) -> None:
        """One step back."""
        self._move("undo")

    def redo(self) -> None:
        """One step forth again."""
        self._move("redo")

    def toggle(self) -> None:
        """The next points lie on the object, or beside it."""
        self.positive = not self.positive
        layer = self.layers["points"]
        layer.selected_data = set()  # whose colour would change
        layer.current_face_color = POSITIVE if self.positive else NEGATIVE
        self._changed()

    def refine(self, number: int) -> None:
        """An object's prompts become the draft."""
        self._do(steps.refining, number)

    def use_label(self, number: int | None = None) -> None:
        """The label that is selected becomes a prompt on the slice that is shown.

        Args:
            number: an object of ours; None, or if another Labels layer is active: its label.
        """
        active, ours = self.viewer.layers.selection.active, self.layers["labels"]
        other = hasattr(active, "selected_label") and active not in self.layers.values()
        layer = active if other else ours
        value = ours.selected_label if number is None else number
        self.attempt(lambda session: self._suggest(session, layer, value, other=other))

    def _suggest(self, session: Session, layer: Any, value: int, *, other: bool) -> steps.Step:
        axes = shown_axes(self.viewer, self.image)
        if axes is None:
            raise InputError("labels are taken from slices; leave the 3D view")
        at = np.round(self.image.world_to_data(self.viewer.dims.point[-self.image.ndim :]))
        plane = steps.plane_of(at.tolist(), axes)
        value = int(layer.selected_label) if other else value
        region = region_in(self.image, layer, value, plane)
        target = value if not other and value in session.state.objects else None
        return session.do(steps.suggested, region, axes, target)

    def delete(self, number: int) -> None:
        """An object goes."""
        self._do(steps.deleted, number, self.session.read)

    def describe(self, number: int, **told: Any) -> None:
        """An object's `kind`, `status` or `note` changes."""
        self._do(steps.described, number, **told)

    def finish(self, number: int) -> None:
        """An object is finished, or open again."""
        found = self.session.state.objects.get(number)
        done = found is not None and found.status == "finished"
        self.describe(number, status="open" if done else "finished")

    def go_to(self, number: int) -> None:
        """Bring an object to the middle of the screen."""
        each = self.session.state.objects[number]
        middle = [(a + b - 1) / 2 for a, b in zip(each.start, each.stop, strict=True)]
        place = self.image.data_to_world(middle)
        lead = self.viewer.dims.ndim - len(place)
        for axis, at in enumerate(place, lead):
            self.viewer.dims.set_point(axis, at)
        self.viewer.camera.center = tuple(place[n - lead] for n in self.viewer.dims.displayed)

    def _on_points(self, event: Any) -> None:
        action = str(getattr(event.action, "value", event.action))
        if self._syncing or action not in ("added", "removed", "changed"):
            return
        signs = self._signs(event, lambda p: isinstance(p, steps.Point))
        self._place(points_in(self.image, self.layers["points"], signs), steps.Point)

    def _on_boxes(self, event: Any) -> None:
        action = str(getattr(event.action, "value", event.action))
        if self._syncing or action not in ("added", "removed", "changed"):
            return
        signs = self._signs(event, is_drawn)
        drawn = steps.Box | steps.Scribble | steps.Polygon
        self._place(shapes_in(self.image, self.layers["boxes"], signs), drawn)

    def _signs(self, event: Any, shown: Callable[[steps.Prompt], bool]) -> list[bool]:
        """Which of a layer's points or lines lie on the object: new ones as it is chosen."""
        prompts = [p for p in self.session.state.draft.prompts if shown(p)]
        signs = [bool(getattr(p, "positive", True)) for p in prompts]
        if str(getattr(event.action, "value", event.action)) == "removed" and signs:
            gone = {n % len(signs) for n in event.data_indices}
            signs = [sign for n, sign in enumerate(signs) if n not in gone]
        count = len(event.source.data)
        return [*signs, *[self.positive] * (count - len(signs))][:count]

    def _place(self, placed: Sequence[steps.Prompt], kind: Any) -> None:
        """Prompts of a kind are these now."""
        old = self.session.state.draft.prompts
        axes = shown_axes(self.viewer, self.image)
        if axes is None:
            self.told = "prompts are placed on slices; leave the 3D view"
            self._show()
            return
        others = [p for p in old if not isinstance(p, kind)]
        self._do(steps.prompted, merged(old, [*others, *placed], axes), axes)

    def _on_paint(self, event: Any) -> None:
        if self._syncing:
            return
        layer = self.layers["labels"]
        window = painted_window(event.value, self.session.labels.shape)
        values = np.array(layer.data[window])
        if (values == self.session.labels[window]).all():
            return
        self.attempt(lambda session: session.paint(starts(window), values))
        if (values != self.session.labels[window]).any():  # protected, or the disk is full
            self.told = self.told or "finished objects are protected"
            layer.data[window] = self.session.labels[window]
            layer.refresh()
            self._changed()

    def _do(self, transition: Callable[..., steps.Step], *arguments: Any, **options: Any) -> None:
        self.attempt(lambda session: session.do(transition, *arguments, **options))

    def _move(self, way: str) -> None:
        self.attempt(lambda session: getattr(session, way)())

    def attempt(self, action: Callable[[Session], steps.Step]) -> None:
        """Take a step, show it, and ask the model if the question is another one then."""
        self.told = ""
        try:
            step = action(self.session)
        except SamplatError as error:
            self.told = str(error)
        else:
            self._show_labels(step.after.pixels)
        self.following.settle(self.picture, live=self.live)
        if self.live and self.session.state.preview is None and not self.following.on:
            self._ask()
        self._show()

    def _prepare(self) -> None:
        """Encode what is on the screen, so that the first click need not wait for it."""
        if (shown := self.on_screen()) is None:
            return
        answerer, picture = self.answerer, self.picture
        plane, view = shown
        self.busy = "encoding …"
        self._worker.ask(
            lambda stale: answerer.prepare(picture, plane, view), self._prepared, self._failed
        )

    def on_screen(self) -> tuple[steps.Plane, View] | None:
        """The slice that is shown, and the part of it that is seen at once; None in 3D."""
        axes = shown_axes(self.viewer, self.image)
        if axes is None:
            return None
        shape = np.array(self.picture.shape)
        middle = np.clip(self.image.world_to_data(self._screen_centre()), 0, shape - 1)
        size = int(shape[axes[0]]), int(shape[axes[1]])
        return steps.plane_of(middle.tolist(), axes), view_of(middle[None, list(axes)], size)

    def _screen_centre(self) -> list[float]:
        point = list(self.viewer.dims.point)
        for axis, at in zip(
            self.viewer.dims.displayed, self.viewer.camera.center[-2:], strict=True
        ):
            point[axis] = at
        return point

    def _prepared(self, nothing: None) -> None:
        self.busy = ""
        self._changed()
        if self.session.state.preview is None and not self.following.on:
            self._ask()

    def _ask(self) -> None:
        if (asked := steps.question(self.session.state)) is None:
            self._worker.cancel()
            self.busy = ""
            return
        answerer, picture = self.answerer, self.picture
        held = None if asked.target is None else self._held(asked)

        def work(stale: Stale) -> steps.Preview:
            return answerer.answer(picture, asked, held, stale)

        self.busy = "segmenting …"
        self._worker.ask(work, self._answered, self._failed)

    def _held(self, asked: steps.Question) -> Any:
        cut = tuple(slice(None) if at is None else at for at in asked.plane)
        return self.session.labels[cut] == asked.target

    def _answered(self, preview: steps.Preview) -> None:
        self.busy = ""
        self.session.show(preview)
        self._show_preview()
        self._changed()

    def _failed(self, error: Exception) -> None:
        self.busy = ""
        if isinstance(error, SamplatError):
            self.told = str(error)
        else:
            log.error("the model failed", exc_info=error)
            self.told = f"unexpected {type(error).__name__}: {error}"
        self._changed()

    def _show(self) -> None:
        self._show_prompts()
        self._show_preview()
        self._changed()

    def _show_prompts(self) -> None:
        draft = self.session.state.draft
        self._syncing = True
        try:
            self._show_points([p for p in draft.prompts if isinstance(p, steps.Point)])
            self._show_shapes([shape_for(p, draft.axes) for p in draft.prompts if is_drawn(p)])
        finally:
            self._syncing = False

    def _show_shapes(self, shapes: Sequence[tuple[Any, str, str]]) -> None:
        layer = self.layers["boxes"]
        if _same([data for data, *_ in shapes], layer.data):
            return
        if getattr(layer, "_is_creating", False):
            layer._is_creating = False  # napari tells of a shape just before it is done with it
        layer.data = []
        for data, kind, colour in shapes:
            layer.add(data, shape_type=kind, edge_color=colour, edge_width=self._point_size() / 4)

    def _show_points(self, points: list[steps.Point]) -> None:
        layer = self.layers["points"]
        places = np.array([p.position for p in points]).reshape(-1, self.image.ndim)
        if not _same(places, layer.data):
            layer.data = places
        if points:
            layer.face_color = [POSITIVE if p.positive else NEGATIVE for p in points]
        layer.selected_data = set()
        layer.current_face_color = POSITIVE if self.positive else NEGATIVE

    def _show_preview(self) -> None:
        state = self.session.state
        alone, waited = not self.following.on, steps.question(state) is not None
        if alone and state.preview is None and self.live and waited:
            return  # the last mask stays until the next one is there
        layer, found = self.layers["preview"], state.candidate if alone else None
        if self._shown is not None:
            layer.data[self._shown] = 0
            self.following.redraw()
        self._shown = None if found is None else found.mask.window
        if found is not None:
            layer.data[found.mask.window] = found.mask.array()
        layer.refresh(extent=False, thumbnail=False)

    def _show_labels(self, block: Block | None) -> None:
        if block is None:
            return
        layer = self.layers["labels"]
        if (layer.data[block.window] != self.session.labels[block.window]).any():
            layer.data[block.window] = self.session.labels[block.window]
            layer.refresh(extent=False)


def _same(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a, b) for a, b in zip(first, second, strict=True)
    )

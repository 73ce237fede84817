"""One image being annotated: what the user does becomes steps, and layers show what they led to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_sam import state as steps
from napari_sam.asking import Asker
from napari_sam.blocks import Block, starts
from napari_sam.following import Following
from napari_sam.layers import (
    DIGITS,
    NEGATIVE,
    POSITIVE,
    PREVIEW,
    is_drawn,
    merged,
    painted_window,
    picture_of,
    pixel_of,
    placed_like,
    placed_on,
    points_in,
    region_in,
    screen_of,
    shape_for,
    shape_of,
    shapes_in,
    shown_axes,
)
from napari_sam.lazy import Scratch
from napari_sam.session import Session
from napari_sam.sheets import Place, Sheet, place_for, step_for
from napari_sam.views import View, centred_view, views_over
from napari_sam.worker import Latest, Stale
from samplat import InputError, SamplatError

log = logging.getLogger(__name__)


class Curtain(Protocol):
    """What `curtain.Curtain` does, which is Qt's matter."""

    def hold(self) -> None:
        """No frames for a moment."""

    def lift(self) -> None:
        """Frames again."""


class Annotation:
    """A session and its layers in a viewer.

    Args:
        viewer: that shows the image.
        image: the layer.
        session: of the image; closed with this.
        asker: has the model.
        worker: asks it.
        slow: asks it where an answer takes many slices.
        changed: called when anything of this may be different.
        curtain: holds frames back while a mask is about to come, and is lifted when it is there.
    """

    def __init__(
        self,
        viewer: Any,
        image: Any,
        session: Session,
        asker: Asker,
        worker: Latest,
        slow: Latest,
        changed: Callable[[], None],
        curtain: Curtain,
    ) -> None:
        self.viewer, self.image, self.session = viewer, image, session
        self._curtain = curtain
        self.live = True
        """True: the model is asked whenever the question is another one."""
        self.over = False
        """True: commits take pixels of objects that are not finished."""
        self.positive = True
        """True: the next points lie on the object."""
        self.busy, self.told = "", ""
        """What the model is at, and what the user has to know of the last step."""
        self.asker, self._worker, self._changed = asker, worker, changed
        self.picture = picture_of(image)
        self._syncing = False
        self._looked_at: Any = None
        self._sent: steps.Question | None = None  # what the worker asks now
        self._early: steps.Preview | None = None  # its answer, if the point is not there yet
        self._owed = False  # the answer that was given up for that one
        shape = session.labels.shape
        # strokes stay here until they are steps; napari has no array of ours in its hands
        self._strokes = Scratch(shape, np.uint32, below=session.labels)
        self._preview = Scratch(shape, np.uint8)
        self._add_layers()
        self.following = Following(
            image,
            self.layers["preview"],
            self._preview,
            session,
            asker,
            slow,
            changed,
            self._failed,
            self.slice_on_screen,
        )
        image.events.contrast_limits.connect(self._on_contrast)
        self._show()
        self._ask()

    def _add_layers(self) -> None:
        from napari.utils import DirectLabelColormap

        viewer, place, ndim = self.viewer, placed_like(self.image), self.image.ndim
        self._place_of_sheets = sheet = self._wanted_place()
        on_sheet = placed_on(self.image, sheet)
        yellow = DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: PREVIEW})
        self.layers: dict[str, Any] = {
            "labels": viewer.add_labels(
                Sheet(self._strokes, sheet),
                name="objects",
                metadata=dict(self.image.metadata),
                **on_sheet,
            ),
            "preview": viewer.add_labels(
                Sheet(self._preview, sheet),
                name="preview",
                colormap=yellow,
                opacity=0.5,
                **on_sheet,
            ),
            "boxes": viewer.add_shapes(
                ndim=ndim, name="box", face_color="transparent", edge_color=PREVIEW, **place
            ),
            "points": viewer.add_points(
                ndim=ndim, name="points", size=self._point_size(), border_color="white", **place
            ),
        }
        self.layers["labels"].editable = sheet.paintable
        self.layers["points"].mode = "add"
        self.layers["boxes"].mode = "add_rectangle"
        self.layers["labels"].events.paint.connect(self._on_paint)
        self.layers["points"].events.data.connect(self._on_points)
        self.layers["points"].mouse_drag_callbacks.append(self._on_press)
        self.layers["boxes"].events.data.connect(self._on_boxes)
        viewer.layers.selection.active = self.layers["points"]

    def _point_size(self) -> float:
        return min(30.0, max(3.0, 0.02 * max(shape_of(self.image)[-2:])))

    def _wanted_place(self) -> Place:
        """Where sheets are to lie, so that the screen is on them."""
        shape, axes = shape_of(self.image), shown_axes(self.viewer, self.image)
        old: Place | None = getattr(self, "_place_of_sheets", None)
        if axes is None:
            return old or place_for(shape, (len(shape) - 2, len(shape) - 1), (0, 0), (0, 0))
        screen = screen_of(self.image, axes)
        middle = [(screen[axis].start + screen[axis].stop) / 2 for axis in axes]
        extent = [screen[axis].stop - screen[axis].start for axis in axes]
        if old is not None and old.holds(screen) and max(old.steps) == step_for(extent):
            return old
        return place_for(shape, axes, middle, extent)

    def sheet_of(self, pixels: Any) -> tuple[Sheet, dict[str, Any]]:
        """What a layer shows of pixels of the image's shape, and where it lies in the window."""
        place = self._place_of_sheets
        return Sheet(pixels, place), placed_on(self.image, place)

    def look_around(self) -> None:
        """The camera moved: lay the sheets where it looks, and encode what is there."""
        self._lay_sheets()
        self._prepare()

    def _lay_sheets(self) -> None:
        place = self._wanted_place()
        if place == self._place_of_sheets or self._strokes.written:
            return
        self._place_of_sheets = place
        for name, array in (("labels", self._strokes), ("preview", self._preview)):
            layer, placed = self.layers[name], placed_on(self.image, place)
            layer.data = Sheet(array, place)
            layer.scale, layer.translate = placed["scale"], placed["translate"]
        self.layers["labels"].editable = place.paintable

    def close(self) -> None:
        """Take the layers away and close the session; everything is on the disk already."""
        self._give_up()
        self.following.close()
        self._syncing = True
        self.image.events.contrast_limits.disconnect(self._on_contrast)
        for layer in self.layers.values():
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self.session.close()

    def _on_contrast(self, event: Any = None) -> None:
        self.picture, self._looked_at = picture_of(self.image), None
        self._sent, self._early = None, None  # that is of other pixels

    def segment(self) -> None:
        """Ask the model again, of the slice or of the volume."""
        self._give_up()
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
            self._give_up()
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
        window = layer.data.window(painted_window(event.value, layer.data.shape))
        values = self._strokes[window]
        if (values != self.session.labels[window]).any():
            self.attempt(lambda session: session.paint(starts(window), values))
        self._strokes.drop()
        if (values != self.session.labels[window]).any():  # protected, or the disk is full
            self.told = self.told or "finished objects are protected"
            layer.refresh(extent=False)
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
            if step.after.pixels is not None:
                self._early = None
        self.following.settle(self.picture, live=self.live)
        if self.live and self.session.state.preview is None and not self.following.on:
            self._ask()
        self._show()

    def _prepare(self) -> None:
        """Encode what is on the screen, then what is around it, until something is asked."""
        axes = shown_axes(self.viewer, self.image)
        if axes is None or steps.question(self.session.state) is not None:
            return
        asker, picture, shape = self.asker, self.picture, self.picture.shape
        screen, (first, second) = screen_of(self.image, axes), axes
        plane = steps.plane_of(self._screen_middle(axes), axes)
        views = list(views_over((screen[first], screen[second]), (shape[first], shape[second])))
        if (plane, views) == self._looked_at:
            return
        self._looked_at = plane, views
        self._sent, self.busy = None, "encoding …"
        self._worker.ask(
            lambda stale: asker.prepare(picture, plane, views, stale),
            self._prepared,
            self._failed,
        )

    def on_screen(self) -> tuple[steps.Plane, View] | None:
        """The slice that is shown, and the part of it that is seen at once; None in 3D."""
        axes = shown_axes(self.viewer, self.image)
        if axes is None:
            return None
        middle, shape = np.array(self._screen_middle(axes)), self.picture.shape
        view = centred_view(middle[None, list(axes)], (shape[axes[0]], shape[axes[1]]))
        return steps.plane_of(middle.tolist(), axes), view

    def _screen_middle(self, axes: tuple[int, int]) -> list[float]:
        """The pixel of the image in the middle of the screen, on the slice that is shown."""
        shape, screen = self.picture.shape, screen_of(self.image, axes)
        middle = [(part.start + part.stop - 1) / 2 for part in screen]
        for axis, at in enumerate(self.image.world_to_data(self.viewer.dims.point)):
            if axis not in axes:
                middle[axis] = min(max(0.0, float(at)), shape[axis] - 1.0)
        return middle

    def _prepared(self, nothing: None) -> None:
        self.busy = ""
        self._changed()
        if self.session.state.preview is None and not self.following.on:
            self._ask()

    def _on_press(self, layer: Any, event: Any) -> None:
        """Ask already when the button goes down: napari is at the point for a while yet."""
        axes, state = shown_axes(self.viewer, self.image), self.session.state
        plain = event.button == 1 and str(layer.mode) == "add" and axes is not None
        if not (plain and self.live) or self.following.on or axes is None:
            return
        place = pixel_of(self.image, layer, layer.world_to_data(event.position))
        point = steps.Point(position=place, positive=self.positive)
        placed = merged(state.draft.prompts, [*state.draft.prompts, point], axes)
        ahead = steps.question(state.after(steps.prompted(state, placed, axes).after))
        if ahead is not None:
            self._owed = self._owed or self._sent is not None
            self._send(ahead)
            self._curtain.hold()

    def _ask(self) -> None:
        if (asked := steps.question(self.session.state)) is None:
            self._give_up()
            self._prepare()
            return
        self._looked_at, self._owed = None, False
        early, self._early = self._early, None
        if early is not None and early.question == asked:
            self.session.show(early)
        elif self._sent != asked:
            self._send(asked)

    def _send(self, asked: steps.Question) -> None:
        asker, picture = self.asker, self.picture
        held = None if asked.target is None else self._held(asked)

        def work(stale: Stale) -> steps.Preview:
            def drafted(preview: steps.Preview) -> None:
                self._worker.tell(stale, lambda: self._drafted(preview))

            return asker.answer(picture, asked, held, drafted, stale)

        self._sent, self._early, self.busy = asked, None, "segmenting …"
        self._worker.ask(work, self._answered, self._failed)

    def _give_up(self) -> None:
        """Nothing that was asked is wanted any more."""
        self._worker.cancel()
        self._sent, self._early, self._owed, self.busy = None, None, False, ""

    def _drafted(self, preview: steps.Preview) -> None:
        self.busy = "looking again …"
        self._show_answer(preview)

    def _held(self, asked: steps.Question) -> Any:
        """The refined object on the slice of a question."""
        each = self.session.state.objects[asked.target or 0]
        plane = [
            n for n, at in zip(self.session.labels.shape, asked.plane, strict=True) if at is None
        ]
        held = Scratch(plane, bool)
        axes = list(zip(each.window, asked.plane, strict=True))
        if all(at is None or w.start <= at < w.stop for w, at in axes):
            cut = tuple(w if at is None else at for w, at in axes)
            held[tuple(w for w, at in axes if at is None)] = self.session.labels[cut] == each.number
        return held

    def _answered(self, preview: steps.Preview) -> None:
        self._sent, self.busy = None, ""
        self._show_answer(preview)
        asked = steps.question(self.session.state)
        if self._owed and asked is not None:  # the press became no point
            self._send(asked)
            self._owed = False

    def _show_answer(self, preview: steps.Preview) -> None:
        if preview.question != steps.question(self.session.state):
            self._early = preview
            return
        self.session.show(preview)
        self._show_preview()
        self._curtain.lift()
        self._changed()

    def _failed(self, error: Exception) -> None:
        self._sent, self._owed, self.busy = None, False, ""
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
        colours = _coloured([colour for *_, colour in shapes])
        if _same([d for d, *_ in shapes], layer.data) and _same(colours, layer.edge_color):
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
        # each of these draws the window again, also where nothing changes
        colours = _coloured([POSITIVE if p.positive else NEGATIVE for p in points])
        if not _same(colours, layer.face_color):
            layer.face_color = colours
        if layer.selected_data:
            layer.selected_data = set()
        colour = POSITIVE if self.positive else NEGATIVE
        if layer.current_face_color != colour:
            layer.current_face_color = colour

    def _show_preview(self) -> None:
        state = self.session.state
        alone, waited = not self.following.on, steps.question(state) is not None
        if alone and state.preview is None and self.live and waited:
            return  # the last mask stays until the next one is there
        found = state.candidate if alone else None
        self._preview.drop()
        self.following.redraw()
        if found is not None:
            self._preview[found.mask.window] = found.mask.array()
        self.layers["preview"].refresh(extent=False, thumbnail=False)

    def _show_labels(self, block: Block | None) -> None:
        if block is not None:
            self._strokes.drop()
            self.layers["labels"].refresh(extent=False)


def _same(first: Any, second: Any) -> bool:
    """Whether two lists of places or colours are equal but for rounding."""
    return len(first) == len(second) and all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=0, atol=10**-DIGITS)
        for a, b in zip(first, second, strict=True)
    )


def _coloured(names: Sequence[str]) -> NDArray[np.float64]:
    """(N, 4) of colours as #rrggbb."""
    channels = [[int(n[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0] for n in names]
    return np.array(channels, float).reshape(-1, 4)

"""Clicking in a real napari window: how long a mask takes, does the window wait, how many clicks.

    python benchmarks/interactive.py [DIR] [--only ROW ...] [--clicks N] [--json OUT]

DIR is the evaluation data. A viewer is opened on a screen of its own (Xvfb), the model is
samplat-tiny, and mouse and keys are Qt's events.

    click      a picture of 1024 x 1024 whose embedding is there, N clicks at random places, every
               third one a new object: from the press of the button to the first frame that shows
               a mask (`preview_ms`), and to the one with the finished mask (`finished_ms`);
               medians and 90th percentiles
    stall      longest time that the event loop did not come round beyond its timer's 5 ms, in ms,
               and how often it was more than 50: while the first picture of a process is encoded
               (`first`: the model's process starts, and loads it), at the first click of all
               (`first_click`, with the time to a frame with a mask, `preview_ms`), while another
               picture is encoded (`encode`), while a hippocampus is followed through its volume
               (`propagate`), and while all masks of a picture are found (`automatic`);
               `layers_ms` is what napari takes to make the four layers of a session, before
    sessions   objects of a picture of nuclei, of a NAIP scene and of a hippocampus volume, by a
               simulated person who zooms in and clicks into the largest error: clicks to an IoU of
               0.8 and 0.9 by points alone, and by a box first (counted as one); `failed`: objects
               that ten did not get there; for the volume also the IoU of the whole object,
               followed from the prompts on one slice
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.annotator import GOALS, MOST_CLICKS, iou, needed, next_click
from benchmarks.evaluation.hands import (
    Frames,
    Stalls,
    canvas_of,
    click,
    drag,
    press,
    screen,
    settings_of,
    wait,
)
from benchmarks.evaluation.objects import Mask, tight_box
from benchmarks.evaluation.places import default_root, say
from benchmarks.evaluation.scenes import Scene, hippocampus, scenes
from samplat.errors import SamplatError

SIDE = 1024
DRAFT, FINISHED = "draft", "finished"
Row = dict[str, Any]


class Window:
    """A viewer with our widget, and one picture at a time in it."""

    def __init__(self, folder: Path) -> None:
        import napari

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(1200, 800)
        self._folder = folder
        self.widget: Any = None

    def show(self, pixels: NDArray[Any], **options: Any) -> None:
        """Another picture, and a session on it that is ready for clicks."""
        self.prepare(pixels, **options)
        self.begin()
        self.ready()

    def prepare(self, pixels: NDArray[Any], **options: Any) -> None:
        """Another picture, without a session."""
        from qtpy.QtWidgets import QApplication

        from napari_sam.widget import SegmentWidget

        self.clear()
        self.viewer.add_image(pixels, name="image", **options)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self.widget = SegmentWidget(self.viewer, folder)
        self.viewer.window.add_dock_widget(self.widget, name="Segment Anything")
        QApplication.processEvents()
        self.viewer.reset_view()

    def begin(self) -> None:
        """A session on it, as `Annotate` does; its layers are drawn once."""
        from qtpy.QtWidgets import QApplication

        self.widget.open()
        QApplication.processEvents()

    def ready(self) -> None:
        """Wait until the picture is encoded."""
        wait(lambda: not self.annotation.busy, 120)

    def clear(self) -> None:
        """Nothing is shown."""
        if self.widget is not None:
            self.widget.shutdown()
            self.viewer.window.remove_dock_widget(self.widget)
            self.widget = None
        self.viewer.layers.clear()

    @property
    def annotation(self) -> Any:
        """The session's layers and steps."""
        return self.widget.annotation

    @property
    def state(self) -> Any:
        """What there is: prompts, masks, objects."""
        return self.annotation.session.state

    def click(self, place: Sequence[float], positive: bool = True) -> None:
        """On a pixel of the picture, as lying on the object or beside it."""
        if self.annotation.positive != positive:
            press(self.viewer, "T")
        self.viewer.layers.selection.active = self.annotation.layers["points"]
        click(self.viewer, self.annotation.image.data_to_world(place))

    def look_at(self, low: Sequence[float], high: Sequence[float]) -> None:
        """Zoom in until a part of the slice that is shown takes a third of the canvas."""
        image, viewer = self.annotation.image, self.viewer
        ends = np.array([image.data_to_world(low), image.data_to_world(high)])[:, -2:]
        canvas = canvas_of(viewer)
        viewer.camera.center = (0.0, *ends.mean(axis=0))
        viewer.camera.zoom = min(canvas.width(), canvas.height()) / (3 * np.ptp(ends, axis=0).max())

    def draw_box(self, start: Sequence[float], stop: Sequence[float]) -> None:
        """From one position to another."""
        self.viewer.layers.selection.active = self.annotation.layers["boxes"]
        world = self.annotation.image.data_to_world
        drag(self.viewer, world(start), world(stop))

    def answer(self) -> None:
        """Wait for the finished mask."""
        wait(lambda: self.state.preview is not None and not self.annotation.busy)

    def told(self) -> str:
        """What the mask that is shown is."""
        if self.state.preview is None:
            return ""
        return DRAFT if self.annotation.busy else FINISHED

    def mask(self, index: int) -> Mask:
        """The mask that is shown, on a slice of a volume or in an image (H, W)."""
        whole = np.zeros(self.annotation.session.labels.shape, bool)
        if (found := self.state.candidate) is not None:
            whole[found.mask.window] = found.mask.array() > 0
        return whole if whole.ndim == 2 else whole[index]


def clicks(window: Window, count: int) -> Row:
    """The row `click`."""
    window.show(_coins())
    rng = np.random.default_rng(0)
    frames = Frames(window.viewer, window.annotation.layers["preview"], window.told)
    first, finished = [], []
    for number in range(count):
        place = rng.integers(SIDE // 16, SIDE * 15 // 16, 2).tolist()
        began = time.perf_counter()
        window.click(place)
        wait(lambda: frames.first(began, FINISHED) is not None)  # noqa: B023 it is over here
        done = frames.first(began, FINISHED) or 0.0
        first.append(min(done, frames.first(began, DRAFT) or done))
        finished.append(done)
        if number % 3 == 2:
            press(window.viewer, "Shift-C")
    frames.close()
    return {"n": count, **_spread("preview", first), **_spread("finished", finished)}


def _coins() -> NDArray[np.uint8]:
    from skimage import data, transform

    return transform.resize(data.coins(), (SIDE, SIDE), preserve_range=True).astype(np.uint8)  # type: ignore[no-any-return]


def _spread(name: str, values: list[float]) -> Row:
    return {
        f"{name}_ms": round(float(np.median(values)), 1),
        f"{name}_p90_ms": round(float(np.quantile(values, 0.9)), 1),
    }


def stalls(window: Window, root: Path, count: int) -> Row:
    """The row `stall`; to be the first one, since `first` is of a process that did nothing yet."""
    parts: dict[str, Callable[[], Row]] = {
        "first": lambda: _encoding(window, 0),
        "first_click": lambda: _first_click(window),
        "encode": lambda: _encoding(window, 1),
        "propagate": lambda: _propagating(window, root),
        "automatic": lambda: _finding(window),
    }
    row: Row = {}
    for name, measure in parts.items():
        row[name] = measure()
        say(f"stall, {name}: {row[name]}")
    return row


def _encoding(window: Window, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    window.prepare(rng.integers(0, 255, (SIDE, SIDE), dtype=np.uint8))
    began = time.perf_counter()
    window.begin()
    opened = 1e3 * (time.perf_counter() - began)
    with Stalls() as seen:
        window.ready()
    return seen.row() | {"layers_ms": round(opened, 1)}


def _first_click(window: Window) -> Row:
    frames = Frames(window.viewer, window.annotation.layers["preview"], window.told)
    with Stalls() as seen:
        began = time.perf_counter()
        window.click((SIDE // 2, SIDE // 2))
        wait(lambda: frames.first(began, FINISHED) is not None)
    first = frames.first(began, DRAFT) or frames.first(began, FINISHED) or 0.0
    frames.close()
    return seen.row() | {"preview_ms": round(first, 1)}


def _propagating(window: Window, root: Path) -> Row:
    scene = hippocampus(root)
    _open(window, scene)
    index, truth = scene.objects[0]
    (x0, y0, x1, y1) = tight_box(truth)
    window.draw_box((index, y0 - 0.5, x0 - 0.5), (index, y1 - 0.5, x1 - 0.5))
    window.answer()
    with Stalls() as seen:
        _follow(window)
    return seen.row()


def _finding(window: Window) -> Row:
    window.show(_coins())
    panel = window.widget.automatic
    with Stalls() as seen:
        panel.find.click()
        wait(lambda: panel.automatic.found, 300)
    return seen.row() | {"found": len(panel.automatic.scores)}


def _open(window: Window, scene: Scene) -> None:
    """A scene, on the slice of its first object."""
    window.show(scene.pixels, rgb=scene.rgb, scale=scene.scale)
    if scene.pixels.ndim == 3 and not scene.rgb:
        window.viewer.dims.set_point(0, scene.objects[0][0] * scene.scale[0])


def _follow(window: Window) -> None:
    press(window.viewer, "Shift-S")
    wait(lambda: not window.annotation.following.busy, 300)


def sessions(window: Window, root: Path, count: int) -> Row:
    """The row `sessions`."""
    return {scene.name: session(window, scene) for scene in scenes(root)}


def session(window: Window, scene: Scene) -> Row:
    """One scene: all its objects, by points and by boxes."""
    _open(window, scene)
    row: Row = {"objects": len(scene.objects)}
    for way in ("points", "box"):
        qualities = []
        for index, truth in scene.objects:
            qualities.append(annotate(window, index, truth, boxed=way == "box"))
            if scene.truth is not None:
                _follow(window)
                row[f"{way}_volume_iou"] = round(_volume_iou(window, scene.truth), 3)
            press(window.viewer, "C")
            press(window.viewer, "Control-Z")
            press(window.viewer, "Shift-C")
            say(f"{scene.name}, {way}: " + " ".join(f"{q:.2f}" for q in qualities[-1]))
        for goal in GOALS:
            row[f"{way}_{goal}"] = _counts(qualities, goal)
    return row


def annotate(window: Window, index: int, truth: Mask, *, boxed: bool) -> list[float]:
    """IoU after each click, or after the box and each click, until the last goal is reached."""
    volume = window.annotation.image.ndim > 2

    def placed(row: float, column: float) -> tuple[float, ...]:
        return (index, row, column) if volume else (row, column)

    x0, y0, x1, y1 = tight_box(truth)
    window.look_at(placed(y0, x0), placed(y1, x1))
    found, quality = np.zeros_like(truth), []
    while len(quality) < MOST_CLICKS and (not quality or quality[-1] < GOALS[-1]):
        if boxed and not quality:
            window.draw_box(placed(y0 - 0.5, x0 - 0.5), placed(y1 - 0.5, x1 - 0.5))
        else:
            place, positive = next_click(found, truth)
            window.click(placed(*place), positive)
        window.answer()
        found = window.mask(index)
        quality.append(iou(found, truth))
    return quality


def _volume_iou(window: Window, truth: NDArray[np.bool_]) -> float:
    shown = np.asarray(window.annotation.layers["preview"].data) > 0
    return iou(shown, truth)


def _counts(qualities: list[list[float]], goal: float) -> Row:
    found = [needed(quality, goal) for quality in qualities]
    there = [count for count in found if count is not None]
    mean = round(float(np.mean(there)), 2) if there else None
    return {"clicks": mean, "failed": len(found) - len(there)}


ROWS: dict[str, Callable[[Window, Path, int], Row]] = {
    "stall": stalls,
    "click": lambda window, root, count: clicks(window, count),
    "sessions": sessions,
}
"""In the order in which they are measured."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("root", type=Path, nargs="?", metavar="DIR", default=default_root())
    add("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    add("--clicks", type=int, default=30, metavar="N")
    add("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, screen() as display:
        own = {"SAMPLAT_HOME": folder, "NAPARI_CONFIG": str(Path(folder) / "settings.yaml")}
        os.environ.update(settings_of(display) | own)
        window, rows = Window(Path(folder)), {}
        for name in (name for name in ROWS if name in options.only):
            say(name)
            rows[name] = ROWS[name](window, options.root, options.clicks)
            print(name, json.dumps(rows[name]), flush=True)
        window.clear()
        window.viewer.close()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    try:
        main()
    except SamplatError as error:
        sys.exit(str(error))

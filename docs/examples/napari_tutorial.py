"""Take the pictures of `docs/tutorial.md`: every step of it, done by this script in a real window.

python docs/examples/napari_tutorial.py --output docs/images

It needs a screen with OpenGL; without one: `xvfb-run -s "-screen 0 1280x1024x24" python ...`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import napari
from napari_picture import done, save, wait
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from skimage import data

from napari_sam.queue_widget import QueueWidget
from napari_sam.samples import volume
from napari_sam.widget import SegmentWidget

SIZE = 1200, 820
COIN = 121, 271
OTHERS = (122, 340), (58, 45), (60, 155)
HALF = 118, 262
"""Beside the middle of a coin: its face, the coin, or more."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    output = parser.parse_args().output
    for chapter in (picture, bodies, engine):
        with tempfile.TemporaryDirectory() as folder, window() as viewer:
            chapter(viewer, Path(folder), lambda name, v=viewer: save(v, output / name))


@contextmanager
def window() -> Iterator[Any]:
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    yield viewer
    viewer.close()


def docked(viewer: Any, widget: Any, name: str) -> None:
    dock = viewer.window.add_dock_widget(widget, name=name, area="right")
    viewer.window._qt_window.resizeDocks([dock], [340], Qt.Orientation.Horizontal)
    QApplication.processEvents()


def ready(viewer: Any, folder: Path) -> SegmentWidget:
    widget = SegmentWidget(viewer, folder)
    docked(viewer, widget, "Segment Anything")
    viewer.reset_view()
    widget.open()
    widget.place.setText("Kept in\n~/.cache/samplat/napari/coins-359661b118e5")
    wait(lambda: not widget.annotation.busy)
    return widget


def click(widget: SegmentWidget, place: tuple[float, ...]) -> None:
    widget.annotation.layers["points"].add(place)
    wait(lambda: done(widget.annotation))
    widget.annotation.layers["points"].selected_data = set()


def picture(viewer: Any, folder: Path, taken: Callable[[str], None]) -> None:
    """Open, click, choose, commit, export."""
    viewer.add_image(data.coins(), name="coins")
    widget = ready(viewer, folder)
    taken("tutorial_open.png")
    click(widget, HALF)
    taken("tutorial_click.png")
    for _ in range(2):
        widget.call("another")
    taken("tutorial_candidates.png")
    widget.call("clear")
    for place in (COIN, *OTHERS):
        click(widget, place)
        widget.call("commit")
    widget.annotation.describe(1, kind="denarius", status="finished")
    widget.exports.export(folder / "coins.parquet")
    wait(lambda: "wrote" in widget.exports.told.text())
    taken("tutorial_export.png")
    widget.shutdown()


def bodies(viewer: Any, folder: Path, taken: Callable[[str], None]) -> None:
    """A volume: a box on one slice, followed through the others."""
    (pixels, told, _), *_ = volume()
    viewer.add_image(pixels, **told)
    viewer.dims.set_current_step(0, 20)
    widget = ready(viewer, folder)
    widget.place.setText("Kept in\n~/.cache/samplat/napari/bodies-3d1c0a8be2f4")
    corners = [(20, 27, 33), (20, 27, 87), (20, 93, 87), (20, 93, 33)]
    scaled = [(z, y / told["scale"][1], x / told["scale"][2]) for z, y, x in corners]
    widget.annotation.layers["boxes"].add([scaled], shape_type="rectangle")
    widget.call("follow")
    wait(lambda: widget.annotation.session.state.stack is not None)
    taken("tutorial_volume.png")
    widget.shutdown()


def engine(viewer: Any, folder: Path, taken: Callable[[str], None]) -> None:
    """A project in its semi-automatic stage: what the model is sure of is there already."""
    (folder / "pictures").mkdir()
    for n, (y, x) in enumerate([(0, 0), (0, 180), (150, 0), (150, 180)]):
        part = Image.fromarray(data.coins()[y : y + 150, x : x + 200])
        part.save(folder / f"pictures/coins-{n}.png")
    for arguments in (
        ["create", "project", "pictures"],
        ["stage", "project", "semi-automatic", "--proposal-points-per-side", "6"],
    ):
        command = [sys.executable, "-m", "samplat", "engine", *arguments]
        subprocess.run(command, cwd=folder, check=True)
    widget = SegmentWidget(viewer, folder / "sessions")
    queue = QueueWidget(viewer, widget)
    docked(viewer, queue, "Data Engine")
    docked(viewer, widget, "Segment Anything")
    for _ in range(2):
        queue.open(folder / "project") if queue.queue is None else queue.finish()
        wait(lambda: queue.recording is not None)
    queue.folder.setText("~/coins/project")
    widget.place.setText("Kept in\n~/coins/project/windows/000001-semi-automatic")
    time.sleep(1)
    wait(lambda: not widget.annotation.busy)
    taken("tutorial_engine.png")
    queue.shutdown()
    widget.shutdown()


if __name__ == "__main__":
    main()

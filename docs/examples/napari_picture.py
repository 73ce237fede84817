"""Take the picture of `docs/napari.md`: a photograph of coins in napari, clicked by this script.

python docs/examples/napari_picture.py --output docs/images/napari.png

It needs a screen with OpenGL; without one: `xvfb-run -s "-screen 0 1280x1024x24" python ...`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from skimage import data

from napari_sam.widget import SegmentWidget

COINS = ((121, 271), (122, 340), (58, 45), (60, 155), (185, 100))
"""Row and column of the coins that become objects."""
NEXT = ((58, 98), True), ((35, 130), False)
"""Points of the one that is not committed yet."""


def wait(condition: Callable[[], Any]) -> None:
    while not condition():
        QApplication.processEvents()
        time.sleep(0.01)


def done(annotation: Any) -> bool:
    """Whether the finished mask is there."""
    return annotation.session.state.candidate is not None and not annotation.busy


def save(viewer: Any, output: Path) -> None:
    """The whole window, without the last two bits of each colour, which are noise to a PNG."""
    QApplication.processEvents()
    seen = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    Image.fromarray(seen & 0xFC).save(output, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/images/napari.png"))
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        viewer = napari.Viewer(show=True)
        viewer.window.resize(1200, 760)
        viewer.add_image(data.coins(), name="coins")
        widget = SegmentWidget(viewer, Path(folder))
        dock = viewer.window.add_dock_widget(widget, name="Segment Anything")
        viewer.window._qt_window.resizeDocks([dock], [320], Qt.Orientation.Horizontal)
        QApplication.processEvents()
        viewer.reset_view()
        widget.open()
        click(widget)
        widget.place.setText("Kept in\n~/.cache/samplat/napari/coins-359661b118e5")
        wait(lambda: done(widget.annotation))
        widget.annotation.layers["points"].selected_data = set()
        save(viewer, output)
        widget.shutdown()
        viewer.close()


def click(widget: SegmentWidget) -> None:
    annotation = widget.annotation
    for place in COINS:
        annotation.layers["points"].add(place)
        wait(lambda: done(annotation))
        annotation.commit()
    annotation.describe(1, kind="denarius", status="finished")
    annotation.describe(2, kind="denarius", note="worn at the edge")
    for place, positive in NEXT:
        if annotation.positive != positive:
            annotation.toggle()
        annotation.layers["points"].add(place)
        wait(lambda: done(annotation))


if __name__ == "__main__":
    main()

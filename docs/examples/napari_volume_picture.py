"""Take the picture of volumes in `docs/napari.md`: a spleen in napari, followed from a box.

python docs/examples/napari_volume_picture.py DATA --output docs/images/napari_volume.png

DATA is a folder with `med_ct_spleen_msd`, as the benchmarks use it. It needs a screen with OpenGL;
without one: `xvfb-run -s "-screen 0 1280x1024x24" python ...`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import SimpleITK as sitk
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_sam.widget import SegmentWidget

TISSUE = -110, 190
"""Hounsfield units shown black and white."""


def wait(condition: Callable[[], Any]) -> None:
    while not condition():
        QApplication.processEvents()
        time.sleep(0.01)


def box_on(labels: Any) -> tuple[int, Any]:
    """The slice with most of the object, and the corners of its box there."""
    k = int(np.argmax((labels > 0).sum(axis=(1, 2))))
    rows, columns = (np.flatnonzero((labels[k] > 0).any(axis=a))[[0, -1]] for a in (1, 0))
    (top, bottom), (left, right) = rows.tolist(), columns.tolist()
    return k, [(k, top, left), (k, top, right), (k, bottom, right), (k, bottom, left)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images/napari_volume.png"))
    told = parser.parse_args()
    folder = told.data / "med_ct_spleen_msd"
    scan = sitk.ReadImage(str(folder / "spleen2_ct.nii.gz"))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "spleen2_label.nii.gz")))
    k, corners = box_on(labels)
    with tempfile.TemporaryDirectory() as work:
        viewer = napari.Viewer(show=True)
        viewer.window.resize(1200, 860)
        pixels, scale = sitk.GetArrayFromImage(scan), scan.GetSpacing()[::-1]
        viewer.add_image(pixels, name="CT", scale=scale, contrast_limits=TISSUE)
        viewer.dims.set_current_step(0, k)
        widget = SegmentWidget(viewer, Path(work))
        dock = viewer.window.add_dock_widget(widget, name="Segment Anything")
        viewer.window._qt_window.resizeDocks([dock], [330], Qt.Orientation.Horizontal)
        QApplication.processEvents()
        viewer.reset_view()
        widget.open()
        annotation = widget.annotation
        annotation.layers["boxes"].add([corners], shape_type="rectangle")
        annotation.follow()
        wait(lambda: annotation.session.state.stack is not None)
        widget.place.setText("Kept in\n~/.cache/samplat/napari/spleen2_ct-4a0b8f6ad1c2")
        viewer.dims.set_current_step(0, k + 2)
        QApplication.processEvents()
        viewer.screenshot(str(told.output), canvas_only=False, flash=False)
        widget.shutdown()
        viewer.close()


if __name__ == "__main__":
    main()

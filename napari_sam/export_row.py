"""A button that writes the objects to a file, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_sam.annotation import Annotation
from napari_sam.exporting import export_labels
from samplat import SamplatError

log = logging.getLogger(__name__)

FORMATS = (
    "COG (*.tif);;GeoParquet (*.parquet);;GeoPackage (*.gpkg);;FlatGeobuf (*.fgb);;"
    "GeoJSON (*.geojson);;GeoZarr (*.zarr);;NIfTI (*.nii.gz);;NRRD (*.nrrd);;MetaImage (*.mha);;"
    "DICOM SEG (*.dcm);;OME-Zarr (*.ome.zarr);;Measurements (*.csv)"
)
"""What the dialog offers; the suffix decides."""


class ExportRow(QWidget):
    """The button, and what became of the last export.

    Args:
        annotation: the one that is open, if there is one.
        carry: runs a function in the window's thread.
    """

    def __init__(
        self,
        annotation: Callable[[], Annotation | None],
        carry: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__()
        self._annotation, self._carry = annotation, carry
        self._thread: threading.Thread | None = None
        self.told = QLabel("")
        self.told.setWordWrap(True)
        button = QPushButton("Export …")
        button.clicked.connect(lambda: self.choose())
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(button)
        row.addWidget(self.told, 1)

    def choose(self) -> None:
        """Ask for a file, and write it."""
        name, _ = QFileDialog.getSaveFileName(self, "Export objects", "", FORMATS)
        if name:
            self.export(Path(name))

    def export(self, output: Path) -> None:
        """Write the objects as they are now; the window goes on meanwhile."""
        mine = self._annotation()
        if mine is None or self._thread is not None:
            self.told.setText("Annotate first." if mine is None else "Another export is running.")
            return
        objects = dict(mine.session.state.objects)
        meta = {
            "name": mine.image.name,
            "metadata": mine.image.metadata,
            "scale": mine.image.scale,
            "translate": mine.image.translate,
            "rotate": mine.image.rotate,
            "shear": mine.image.shear,
            "affine": mine.image.affine.affine_matrix,
        }
        try:
            snapshot = mine.session.snapshot()
        except SamplatError as error:
            self.told.setText(str(error))
            return
        self.told.setText(f"writing {output.name} …")
        work = threading.Thread(
            target=self._write, args=(output, snapshot, meta, objects), name="samplat export"
        )
        self._thread = work
        work.start()

    def _write(self, output: Path, snapshot: Any, meta: dict[str, Any], objects: Any) -> None:
        try:
            with snapshot as labels:
                export_labels(output, labels, meta, objects)
            told = f"wrote {output.name}: {len(objects)} objects"
        except SamplatError as error:
            told = str(error)
        except Exception as error:
            log.exception("the export failed")
            told = f"unexpected {type(error).__name__}: {error}"
        self._carry(lambda: self._end(told))

    def _end(self, told: str) -> None:
        self._thread = None
        self.told.setText(told)

"""A window with an image, ready for clicks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_sam.widget import SegmentWidget
from samplat import InputError


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was opened."""

    viewer: Any
    """Of napari."""
    widget: SegmentWidget
    """Docked in it."""
    run: Callable[[], None]
    """Returns when the last window is closed."""


def open_window(image: Path, model: str, session: Path | None) -> Window:
    """Open an image by napari's readers, and begin or go on with the work on it.

    Raises:
        InputError: no reader opens it, or there is no image in it.
    """
    import napari

    viewer = napari.Viewer(show=True)
    try:
        viewer.open(str(image), plugin=None)
    except Exception as error:  # readers raise what they like
        viewer.close()
        raise InputError(f"napari cannot open {image}: {error}") from error
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Segment Anything", area="right")
    if not widget.images.count():
        viewer.close()
        raise InputError(f"there is no image in {image} that napari's readers know")
    widget.models.setCurrentText(model)
    widget.open(session)
    return Window(viewer=viewer, widget=widget, run=napari.run)

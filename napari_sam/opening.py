"""A window with an image, ready for clicks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_sam.queue_widget import QueueWidget
from napari_sam.reading import factory_for
from napari_sam.widget import SegmentWidget
from samplat import InputError, SamplatError


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was opened."""

    viewer: Any
    """Of napari."""
    widget: SegmentWidget
    """Docked in it."""
    queue: QueueWidget | None = None
    """Docked beside it, if a project was opened."""
    run: Callable[[], None]
    """Returns when the last window is closed."""


PLAIN = (".png", ".jpg", ".jpeg")
"""Suffixes of pictures that lie nowhere in the world: napari's own reader is as good."""


def _is_ours(image: Path) -> bool:
    return image.suffix.lower() not in PLAIN and factory_for(str(image)) is not None


def open_window(image: Path, model: str, session: Path | None, cache: Path | None = None) -> Window:
    """Open an image by our reader or napari's, and begin or go on with the work on it.

    Raises:
        InputError: no reader opens it, or there is no image in it.
    """
    import napari

    viewer = napari.Viewer(show=True)
    try:
        viewer.open(str(image), plugin="samplat" if _is_ours(image) else None)
    except SamplatError:
        viewer.close()
        raise
    except Exception as error:  # other readers raise what they like
        viewer.close()
        raise InputError(f"napari cannot open {image}: {error}") from error
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Segment Anything", area="right")
    if not widget.images.count():
        viewer.close()
        raise InputError(f"there is no image in {image} that napari's readers know")
    widget.models.setCurrentText(model)
    widget.cache = cache
    widget.open(session)
    return Window(viewer=viewer, widget=widget, run=napari.run)


def open_project(folder: Path, cache: Path | None = None) -> Window:
    """Open a data engine project, and begin or go on with its next picture.

    Raises:
        InputError: the folder is none that anything installed knows, or its files are damaged.
    """
    from samplat import registry

    registry().open_queue(folder)  # what is wrong with it is told before there is a window
    import napari

    viewer = napari.Viewer(show=True)
    widget = SegmentWidget(viewer)
    widget.cache = cache
    queue = QueueWidget(viewer, widget)
    viewer.window.add_dock_widget(queue, name="Data Engine", area="right")
    viewer.window.add_dock_widget(widget, name="Segment Anything", area="right")
    queue.open(folder)
    return Window(viewer=viewer, widget=widget, queue=queue, run=napari.run)

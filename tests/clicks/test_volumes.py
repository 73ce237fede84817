"""Objects that are followed through volumes in a real viewer.

By the real model, or, where it is not about that, by a segmenter that knows the object.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clicks.gui import click, drag, opened, press, seen, wait
from napari_sam.layers import picture_of, spacing_of
from napari_sam.session import JOURNAL, LABELS, replay
from napari_sam.stacks import StackSource, marks_of
from napari_sam.state import Box, Point, Polygon, StackQuestion
from samplat import InputError, Window
from samplat_volume.watched import Watcher
from volume.followers import PatchSlices

EVAL = Path(os.environ.get("SAMPLAT_DATA", "../shared/data")) / "eval/med_hippocampus"
SHAPE = (12, 64, 56)
SCALE = (3.0, 1.0, 1.0)
MIDDLE = (6, 36, 24)
"""Of the lesion; slices, rows, columns."""
OFF = (36, 32)
"""Row and column on the lesion in its middle slices, not under the point's mark."""
OUTSIDE = (12, 40)


@pytest.fixture(scope="module")
def scan() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A dark head with a bright, round lesion, 3 mm between slices; and where the lesion is."""
    z, y, x = np.ogrid[:12, :64, :56]
    head = ((y - 31.5) / 29) ** 2 + ((x - 27.5) / 24) ** 2 < 1
    lesion = (3 * (z - 6)) ** 2 + (y - 36) ** 2 + (x - 24) ** 2 < 12**2
    noise = np.random.default_rng(0).normal(0, 6, lesion.shape)
    volume = np.clip(20 + 60 * head + 110 * lesion + noise, 0, 255).astype(np.uint8)
    return volume, lesion


@pytest.fixture
def knowing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Objects are followed by the bright patches of slices; returns what happens before each."""
    before: list[Any] = []

    class Knowing(PatchSlices):
        def __call__(self, index: int, prompts: Any) -> Any:
            for each in before:
                each(index)
            return super().__call__(index, prompts)

    monkeypatch.setattr("napari_sam.stacks._follower", lambda *_: Watcher(slices=Knowing))
    return before


def is_yellow(colour: Any) -> bool:
    return bool(min(colour[0], colour[1]) > colour[2] + 60)


def dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def show(viewer: Any, scan: Any, folder: Path, *, axis: int = 0, **placing: Any) -> Any:
    """The scan with slices across an axis, at the lesion's middle."""
    image = viewer.add_image(scan[0], **{"scale": SCALE, **placing})
    viewer.dims.order = (axis, *(a for a in range(3) if a != axis))
    viewer.dims.set_current_step(axis, MIDDLE[axis])
    widget = opened(viewer, folder)
    wait(lambda: not widget.annotation.busy)
    assert widget.volume.isEnabled()
    assert widget.tabs.currentWidget() is widget.volume
    return image, widget


def following(widget: Any) -> Any:
    return widget.annotation.following


def followed(widget: Any) -> bool:
    return not following(widget).busy and widget.annotation.session.state.stack is not None


def limit(widget: Any, first: int, last: int) -> None:
    widget.volume.ranged.setChecked(True)
    widget.volume.first.setValue(first)
    widget.volume.last.setValue(last)


def place_of(image: Any, axis: int, row: float, column: float) -> Any:
    index = [0.0, row, column] if axis == 0 else [row, 0.0, column]
    if axis == 2:
        index = [row, column, 0.0]
    index[axis] = MIDDLE[axis]
    world = image.data_to_world(index)
    return [world[a] for a in range(3) if a != axis]


def test_shift_s_follows_and_c_commits_one_object(viewer: Any, scan: Any, tmp_path: Path) -> None:
    image, widget = show(viewer, scan, tmp_path)
    limit(widget, 5, 7)  # encoding a slice takes its time
    lesion = scan[1].copy()
    lesion[:5], lesion[8:] = False, False
    click(viewer, place_of(image, 0, *MIDDLE[1:]))
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    assert is_yellow(seen(viewer, place_of(image, 0, *OFF)))
    assert not is_yellow(seen(viewer, place_of(image, 0, *OUTSIDE)))
    viewer.dims.set_current_step(0, 7)
    assert is_yellow(seen(viewer, place_of(image, 0, *OFF)))
    viewer.dims.set_current_step(0, 8)
    assert not is_yellow(seen(viewer, place_of(image, 0, *OFF)))

    session = widget.annotation.session
    steps = len(session.history.done)
    press(viewer, "C")
    assert len(session.history.done) == steps + 1
    assert dice(session.labels == 1, lesion) > 0.85
    assert session.state.objects[1].area == (session.labels == 1).sum()
    assert session.state.draft.prompts == ()
    viewer.dims.set_current_step(0, 5)
    colour = seen(viewer, place_of(image, 0, *OFF))
    assert np.ptp(colour) > 40
    assert not is_yellow(colour)

    press(viewer, "Control-Z")
    assert not session.labels[...].any()
    assert is_yellow(seen(viewer, place_of(image, 0, *OFF)))  # it is there again, nothing is asked
    assert followed(widget)
    press(viewer, "Control-Shift-Z")
    assert dice(session.labels == 1, lesion) > 0.85
    widget.shutdown()
    replay(session.folder / JOURNAL, tmp_path / "out.zarr")
    files = sorted(p.relative_to(tmp_path / "out.zarr") for p in (tmp_path / "out.zarr").rglob("*"))
    for file in files:
        if (tmp_path / "out.zarr" / file).is_file():
            kept = session.folder / LABELS / file
            assert (tmp_path / "out.zarr" / file).read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("axis", [1, 2])
def test_any_plane_and_any_scale(
    viewer: Any, scan: Any, tmp_path: Path, knowing: Any, axis: int
) -> None:
    image, widget = show(viewer, scan, tmp_path, axis=axis)
    inside = [MIDDLE[a] for a in range(3) if a != axis]
    click(viewer, place_of(image, axis, *inside))
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    assert following(widget).axis == axis
    assert widget.volume.last.value() == widget.volume.last.maximum() == SHAPE[axis] - 1
    press(viewer, "C")
    assert dice(widget.annotation.session.labels == 1, scan[1]) > 0.95


def test_boxes_on_two_slices_and_a_stop(
    viewer: Any, scan: Any, tmp_path: Path, knowing: Any
) -> None:
    image, widget = show(viewer, scan, tmp_path)
    viewer.layers.selection.active = widget.annotation.layers["boxes"]
    for z, half in ((6, 13), (4, 11)):
        viewer.dims.set_current_step(0, z)
        drag(viewer, (36 - half, 24 - half), (36 + half, 24 + half))
    prompts = widget.annotation.session.state.draft.prompts
    assert [round(p.place[0]) for p in prompts] == [6, 4]
    viewer.layers.selection.active = widget.annotation.layers["points"]
    viewer.dims.set_current_step(0, 8)
    press(viewer, "T")
    click(viewer, place_of(image, 0, *OFF))
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    stack = widget.annotation.session.state.stack
    assert {k for k, _ in stack.slices} == {3, 4, 5, 6, 7}
    marked = [c.index for c in following(widget).columns() if c.marked]
    assert marked == [4, 6, 8]


def test_a_correction_follows_again_only_what_it_touches(
    viewer: Any, scan: Any, tmp_path: Path, knowing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, widget = show(viewer, scan, tmp_path)
    click(viewer, place_of(image, 0, *MIDDLE[1:]))
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    heard: list[int] = []
    plain = type(following(widget))._heard

    def listening(self: Any, axis: int, k: int, found: Any) -> None:
        heard.append(k)
        plain(self, axis, k, found)

    monkeypatch.setattr(type(following(widget)), "_heard", listening)
    before = dict(widget.annotation.session.state.stack.slices)
    viewer.dims.set_current_step(0, 8)
    press(viewer, "T")
    click(viewer, place_of(image, 0, *OFF))  # not here: it is followed again by itself
    wait(lambda: followed(widget) and heard)
    after = dict(widget.annotation.session.state.stack.slices)
    assert max(after) == 7
    assert heard == [6]  # all others hold as they are
    assert all(after[k] == before[k] for k in after)
    assert not is_yellow(seen(viewer, place_of(image, 0, *OFF)))
    press(viewer, "Control-Z")
    wait(lambda: followed(widget))
    assert dict(widget.annotation.session.state.stack.slices) == before


def test_three_axes_a_range_and_the_strip(
    viewer: Any, scan: Any, tmp_path: Path, knowing: Any
) -> None:
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    image, widget = show(viewer, scan, tmp_path)
    panel = widget.volume
    panel.three.setChecked(True)
    limit(widget, 4, 7)
    click(viewer, place_of(image, 0, *MIDDLE[1:]))
    panel.follow.click()
    wait(lambda: followed(widget))
    stack = widget.annotation.session.state.stack
    assert {k for k, _ in stack.slices} == {4, 5, 6, 7}
    assert set(following(widget)._last[1].confidences) == {0, 1, 2}

    strip = panel.strip
    picture = strip.grab().toImage()
    scale = picture.width() / strip.width()
    worst = following(widget).worst()
    colours = {}
    for k in (1, worst):
        place = strip.place_of(k).center()
        colours[k] = picture.pixelColor(int(place.x() * scale), int(6 * scale))
    assert colours[1].saturation() < 80  # not in it
    assert colours[worst].saturation() > 150
    viewer.dims.set_current_step(0, 0)
    panel.worst.click()
    assert viewer.dims.current_step[0] == worst != 6
    spot = strip.place_of(5).center().toPoint()
    QTest.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(spot.x(), spot.y()))
    assert viewer.dims.current_step[0] == 5

    panel.last.setValue(5)  # the prompt lies on 6
    press(viewer, "Shift-S")
    wait(lambda: "from 4 to 5" in widget.told.text())
    assert not following(widget).on


def test_finished_objects_keep_their_voxels(
    viewer: Any, scan: Any, tmp_path: Path, knowing: Any
) -> None:
    image, widget = show(viewer, scan, tmp_path)
    session = widget.annotation.session
    session.paint((0, 36, 0), np.full((12, 28, 56), 7))
    widget.annotation.finish(7)
    widget.over.setChecked(True)
    click(viewer, place_of(image, 0, 30, 24))
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    press(viewer, "C")
    assert (session.labels[:, 36:] == 7).all()
    assert 0.3 < (session.labels == 8).sum() / scan[1].sum() < 0.7


@pytest.fixture
def slow(knowing: Any) -> threading.Event:
    """Each slice but the first takes its time, without a lock of Python's, until it is set."""
    free, asked = threading.Event(), []

    def before(index: int) -> None:
        if asked:
            free.wait(0.3)
        asked.append(index)

    knowing.append(before)
    return free


def test_progress_cancelling_and_a_window_that_never_waits(
    viewer: Any, scan: Any, tmp_path: Path, slow: threading.Event
) -> None:
    from napari.utils.progress import progress
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    image, widget = show(viewer, scan, tmp_path)
    click(viewer, place_of(image, 0, *MIDDLE[1:]))
    wait(lambda: widget.annotation.session.state.candidate is not None)
    ticks: list[float] = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(time.monotonic()))
    timer.start(5)
    press(viewer, "Shift-S")
    assert widget.volume.cancel.isEnabled()
    (bar,) = progress._all_instances
    assert bar.total == 12
    wait(lambda: bar.n >= 2)
    timer.stop()
    press(viewer, "C")
    assert "followed" in widget.told.text()
    assert not widget.annotation.session.labels[...].any()
    QApplication.processEvents()
    bar.cancel()  # what the dock's button does
    wait(lambda: followed(widget))
    assert not progress._all_instances
    assert "cancelled" in widget.volume.told.text()
    part = len(widget.annotation.session.state.stack.slices)
    assert 1 <= part < 7
    assert np.diff(ticks).max() < 0.5
    slow.set()
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    assert len(widget.annotation.session.state.stack.slices) > part
    press(viewer, "C")
    assert dice(widget.annotation.session.labels == 1, scan[1]) > 0.85


@pytest.mark.parametrize("end", ["removed", "closed"])
def test_removing_the_image_or_closing_while_slices_come(
    viewer: Any, scan: Any, tmp_path: Path, slow: threading.Event, end: str
) -> None:
    from napari.utils.progress import progress
    from qtpy.QtWidgets import QApplication

    image, widget = show(viewer, scan, tmp_path)
    click(viewer, place_of(image, 0, *MIDDLE[1:]))
    press(viewer, "Shift-S")
    wait(lambda: len(following(widget)._sure) >= 1)
    folder = widget.annotation.session.folder
    begun = time.monotonic()
    if end == "removed":
        viewer.layers.remove(image)
    else:
        widget.close()
    assert time.monotonic() - begun < 2
    assert widget.annotation is None
    assert not progress._all_instances
    slow.set()
    for _ in range(20):
        QApplication.processEvents()
        time.sleep(0.01)
    assert [each.name for each in viewer.layers] == ([] if end == "removed" else [image.name])
    if end == "removed":
        viewer.add_image(scan[0], scale=SCALE, name="again")
        widget.open(folder)
        (point,) = widget.annotation.session.state.draft.prompts
        assert round(point.position[0]) == 6


def test_four_axes_and_turned_layers(viewer: Any, scan: Any, tmp_path: Path, knowing: Any) -> None:
    turned = {"rotate": 30, "scale": (1, *SCALE)}
    image = viewer.add_image(np.stack([scan[0] * 0, scan[0]]), **turned)
    viewer.dims.set_current_step(0, 1)
    viewer.dims.set_current_step(1, MIDDLE[0])
    widget = opened(viewer, tmp_path)
    viewer.reset_view()
    click(viewer, image.data_to_world((1, *MIDDLE))[-2:])
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    assert following(widget).axis == 1
    press(viewer, "C")
    labels = widget.annotation.session.labels
    assert not labels[0].any()
    assert dice(labels[1] == 1, scan[1]) > 0.85
    np.testing.assert_allclose(spacing_of(image, (1, 2, 3)), SCALE)
    viewer.dims.set_current_step(1, 0)
    widget.annotation.look_at_worst()
    assert viewer.dims.current_step[1] == following(widget).worst()


def test_pictures_and_empty_volumes_have_nothing_to_follow(
    viewer: Any, scan: Any, tmp_path: Path
) -> None:
    viewer.add_image(scan[0][6])
    widget = opened(viewer, tmp_path)
    assert not widget.volume.isEnabled()
    press(viewer, "Shift-S")
    assert "first" in widget.told.text()
    click(viewer, MIDDLE[1:])
    press(viewer, "Shift-S")
    assert "no slices" in widget.told.text()
    viewer.layers.clear()
    viewer.add_image(np.zeros((3, 16, 16), np.float32), name="nothing in it")
    widget.open()
    click(viewer, (8, 8))
    press(viewer, "Shift-S")
    wait(lambda: not following(widget).busy)
    press(viewer, "C")  # whatever it found, it does no harm
    widget.annotation.undo()


def test_a_stack_is_read_slice_by_slice(scan: Any) -> None:
    read: list[Any] = []

    class Lazy:
        shape, dtype, ndim = scan[0].shape, scan[0].dtype, 3

        def __getitem__(self, cut: Any) -> Any:
            read.append(cut)
            return scan[0][cut]

    from types import SimpleNamespace

    layer = SimpleNamespace(
        data=Lazy(), multiscale=False, ndim=3, name="x", contrast_limits=(20, 200), rgb=False
    )
    source = StackSource(picture_of(layer), (None, None, None), SCALE)
    pixels, valid = source.view(1)(36)
    assert read == [(slice(0, 12), slice(36, 37), slice(0, 56))]
    assert pixels.shape == (12, 56, 3)
    assert valid.all()
    expected = np.clip((scan[0][:, 36].astype(float) - 20) / 180 * 255, 0, 255)
    np.testing.assert_allclose(pixels[..., 0], expected, atol=1)
    whole = Window(start=(0, 0, 0), stop=SHAPE)
    assert source.read(whole).shape == (*SHAPE, 1)


@pytest.mark.skipif(not EVAL.is_dir(), reason=f"there is no {EVAL}")
def test_a_hippocampus_from_one_box(viewer: Any, tmp_path: Path) -> None:
    """Six of its slices, from a box on one: with the truth at hand it is a good part of it."""
    import SimpleITK as sitk

    name = "hippocampus_001.nii.gz"
    images = [sitk.ReadImage(str(EVAL / part / name)) for part in ("images", "labels")]
    pixels, truth = (sitk.GetArrayFromImage(each) for each in images)
    k = int(np.argmax((truth > 0).sum(axis=(1, 2))))
    viewer.add_image(pixels, scale=images[0].GetSpacing()[::-1])
    viewer.dims.set_current_step(0, k)
    widget = opened(viewer, tmp_path)
    limit(widget, k - 3, k + 2)
    rows, columns = (np.flatnonzero((truth[k] > 0).any(axis=a)) for a in (1, 0))
    viewer.layers.selection.active = widget.annotation.layers["boxes"]
    drag(viewer, (rows[0] - 0.5, columns[0] - 0.5), (rows[-1] + 0.5, columns[-1] + 0.5))
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    press(viewer, "C")
    part = slice(k - 3, k + 3)
    assert dice(widget.annotation.session.labels[part] == 1, truth[part] > 0) > 0.6


def test_what_is_said_of_each_slice() -> None:
    prompts = (
        Point(position=(6, 30, 20)),
        Box(start=(6, 20, 10), stop=(6, 40, 30)),
        Polygon(places=((4, 9.6, 9.6), (4, 9.6, 20.4), (4, 20.4, 20.4), (4, 20.4, 9.6))),
        Point(position=(9, 30, 20), positive=False),
    )
    asked = StackQuestion(
        prompts=prompts, plane=(None, None, None), axes=(1, 2), target=None, extent=(2, 10)
    )
    marks = marks_of(asked, SHAPE)
    assert sorted(marks) == [1, 4, 6, 9, 11]
    assert [k for k, mark in marks.items() if mark.stops] == [1, 9, 11]
    assert marks[6].prompt.points.tolist() == [[20.5, 30.5]]
    assert marks[6].prompt.box.tolist() == [10.5, 20.5, 30.5, 40.5]
    drawn = marks[4].mask((64, 56))
    assert drawn[10:21, 10:21].all()
    assert drawn.sum() == 121
    with pytest.raises(InputError, match="slice 9"):
        marks_of(
            StackQuestion(**{**vars(asked), "extent": (2, 8)}),
            SHAPE,
        )


@pytest.mark.slow
def test_a_full_disk_leaves_the_volume_as_it_was(
    viewer: Any, scan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knowing: Any
) -> None:
    """While the object is committed: the journal cannot be written, then the labels cannot."""
    _, widget = show(viewer, scan, tmp_path)
    annotation = widget.annotation
    session = annotation.session
    annotation.layers["points"].add(MIDDLE)
    press(viewer, "Shift-S")
    wait(lambda: followed(widget))
    written = (session.folder / JOURNAL).read_bytes()
    journal = session._journal._file

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(journal, name)

        def write(self, data: memoryview) -> int:
            if journal.tell() > len(written):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(journal.write(data[:100]))

    monkeypatch.setattr(session._journal, "_file", Full())
    press(viewer, "C")
    assert "No space left" in widget.told.text()
    assert not session.state.objects
    assert not session.labels[...].any()
    assert (session.folder / JOURNAL).read_bytes() == written
    assert followed(widget)  # nothing of it is lost
    monkeypatch.undo()

    array = session.labels._array

    class FullLabels:
        chunks, shape = array.chunks, array.shape

        def __setitem__(self, part: Any, values: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(session.labels, "_array", FullLabels())
    press(viewer, "C")
    monkeypatch.undo()
    assert session.state.objects[1].area > 0
    widget.close_session()
    widget.open()
    labels = widget.annotation.session.labels
    assert (labels == 1).sum() == widget.annotation.session.state.objects[1].area
    assert dice(labels == 1, scan[1]) > 0.85

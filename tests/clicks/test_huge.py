"""Images that no memory holds: arrays in chunks, labels on disk, sheets, a click on 50 000²."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicks.files import write_huge
from clicks.gui import answered, click, drag, opened, press, seen, wait
from napari_sam.blocks import block_of
from napari_sam.labels import DiskLabels
from napari_sam.lazy import Scratch
from napari_sam.session import Session
from napari_sam.sheets import Sheet, place_for
from samplat import JobError

SHAPE = (3, 40, 50)
SIDE_OF_HUGE = 50_000
MIDDLE = (30_300, 20_400)
SHOWN = 1000
"""Rows of the finest level that napari reads itself to show them, at most: the canvas's."""


def cuts(data: st.DataObject, shape: tuple[int, ...]) -> tuple[slice, ...]:
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
    return tuple(
        slice(a, max(b, a + 1)) if a < n else slice(0, 1)
        for (a, b), n in zip(ends, shape, strict=True)
    )


@mock.patch("napari_sam.lazy.CHUNK", 16)  # of which little arrays have many
@mock.patch("napari_sam.sheets.SIDE", 32)
@given(data=st.data())
def test_what_is_written_to_chunks_is_read_from_them(data: st.DataObject) -> None:
    plain, below = np.zeros(SHAPE, np.uint32), Scratch(SHAPE, np.uint32)
    array = Scratch(SHAPE, np.uint32, below=below)
    for value in range(1, 5):
        window = cuts(data, SHAPE)
        if data.draw(st.booleans()):
            below[window] = plain[window] = value
            array.drop()  # what lies above would hide it
            plain[...] = np.asarray(below)
        else:
            array[window] = plain[window] = value
    index = tuple(slice(c.start, c.stop, data.draw(st.integers(1, 30))) for c in cuts(data, SHAPE))
    np.testing.assert_array_equal(array[index], plain[index])
    places = tuple(
        np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=3, max_size=3))) for n in SHAPE
    )
    np.testing.assert_array_equal(array[places], plain[places])
    array[places] = plain[places] = 77
    np.testing.assert_array_equal(array[...], plain)
    assert array.written
    array.drop()
    assert not array.written


@mock.patch("napari_sam.lazy.CHUNK", 16)  # of which little arrays have many
@mock.patch("napari_sam.sheets.SIDE", 32)
@given(data=st.data())
def test_sheets_show_every_nth_pixel_and_paint_all_of_them(data: st.DataObject) -> None:
    plain = np.random.default_rng(3).integers(0, 3, (100, 130)).astype(np.uint32)
    array = Scratch(plain.shape, np.uint32)
    array[...] = plain
    extent = data.draw(st.tuples(*[st.floats(1, 130)] * 2))
    middle = data.draw(st.tuples(*[st.floats(0, n) for n in plain.shape]))
    place = place_for(plain.shape, (0, 1), middle, extent)
    sheet = Sheet(array, place)
    step = place.steps[0]
    assert max(sheet.shape) <= 32
    for at, part, n in zip(middle, place.window, plain.shape, strict=True):
        assert part.start % step == 0
        assert 0 <= part.start <= at <= part.stop <= n
    whole = plain[place.window]
    np.testing.assert_array_equal(np.asarray(sheet), whole[::step, ::step])

    height, width = sheet.shape
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    stroke = np.asarray(sheet[max(0, y - 5) : y + 1, max(0, x - 5) : x + 1])
    stroke[-1, -1] = 9  # napari writes the whole box back
    sheet[max(0, y - 5) : y + 1, max(0, x - 5) : x + 1] = stroke
    whole[y * step : (y + 1) * step, x * step : (x + 1) * step] = 9
    np.testing.assert_array_equal(array[...], plain)


def test_labels_of_any_size_take_the_space_of_what_is_painted(tmp_path: Path) -> None:
    shape = (4, 200_000, 200_000)  # 640 GB
    tracemalloc.start()
    session = Session(tmp_path / "work", shape)
    rng = np.random.default_rng(2)
    for n in range(6):
        start = (n % 4, *rng.integers(0, 199_000, 2).tolist())
        session.paint(start, np.full((1, 700, 300), n + 1))
    session.undo()
    session.close()
    session = Session(tmp_path / "work", shape)
    assert {1, 2, 3, 4, 5} == set(np.unique(session.labels[:, ::100, ::100])) - {0}
    for number, each in session.state.objects.items():
        assert (session.read(each.window) == number).sum() == each.area == 700 * 300
    session.close()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 300e6
    assert sum(f.stat().st_size for f in (tmp_path / "work").rglob("*") if f.is_file()) < 1e6


def test_a_chunk_that_rots_while_it_is_open_is_named_and_mended(tmp_path: Path) -> None:
    block = block_of(np.arange(1, 601 * 20 + 1).reshape(20, 601), (3, 5))
    labels = DiskLabels(tmp_path / "labels", (600, 900))
    labels.write(block)
    file = tmp_path / "labels" / "c" / "0" / "1"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 8
    file.write_bytes(data)
    labels = DiskLabels(tmp_path / "labels", (600, 900))
    with pytest.raises(JobError, match=r"damaged in chunk \(0, 1\)"):
        labels[:, 512:]
    assert labels.mend([block]) == 1
    np.testing.assert_array_equal(labels[block.window], block.array())
    assert labels.mend([]) == 2
    assert not list((tmp_path / "labels" / "c").rglob("*.*"))
    assert not labels[...].any()


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_huge(
        tmp_path_factory.mktemp("huge") / "huge.tif", SIDE_OF_HUGE, MIDDLE, radius=150
    )


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What is read of the finest level for the model, encoded and decoded from now on."""
    import samplat.cache
    import samplat.prediction
    from samplat_raster.source import RasterSource

    found: dict[str, Any] = {"reads": [], "encodes": 0, "decodes": []}
    read, embed, predict = RasterSource.read, samplat.cache.embed, samplat.prediction.predict

    def reading(source: RasterSource, window: Any) -> Any:
        if source.info.shape[1] == SIDE_OF_HUGE and window.shape[1] >= SHOWN:
            found["reads"].append(window.shape[1:])
        return read(source, window)

    def encoding(*arguments: Any) -> Any:
        found["encodes"] += 1
        return embed(*arguments)

    def decoding(*arguments: Any, **options: Any) -> Any:
        found["decodes"].append("begun")

        def drafted(draft: Any) -> None:
            found["decodes"].append("drafted")
            if tell is not None:
                tell(draft)

        tell = options.pop("on_draft", None)
        return predict(*arguments, **options, on_draft=drafted)

    monkeypatch.setattr(RasterSource, "read", reading)
    monkeypatch.setattr("samplat.cache.embed", encoding)
    monkeypatch.setattr("samplat.prediction.predict", decoding)
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "home"))  # nothing is embedded there
    return found


def test_a_click_on_50_000_squared_reads_one_tile(
    viewer: Any, huge: Path, tmp_path: Path, counts: dict[str, Any]
) -> None:
    (image,) = viewer.open(str(huge), plugin="samplat")
    viewer.reset_view()
    widget = opened(viewer, tmp_path)
    wait(lambda: not widget.annotation.busy)
    viewer.reset_view()
    wait(lambda: image.data_level == 2)
    assert counts == {"reads": [], "encodes": 0, "decodes": []}

    click(viewer, image.data_to_world(MIDDLE))  # a screen's pixel is 90 of the image
    (point,) = widget.annotation.session.state.draft.prompts
    assert np.abs(np.subtract(point.position, MIDDLE)).max() < 100
    wait(lambda: widget.annotation.session.state.candidate is not None)
    shown = ["begun", "drafted"]
    assert counts["decodes"] == shown
    wait(lambda: answered(widget))
    assert counts == {"reads": [(1024, 1024)], "encodes": 1, "decodes": shown}
    mask = widget.annotation.session.state.candidate.mask
    np.testing.assert_allclose(mask.start, np.subtract(MIDDLE, 150), atol=8)
    wait(lambda: True)
    press(viewer, "C")
    assert widget.annotation.session.labels[MIDDLE] == 1
    assert counts == {"reads": [(1024, 1024)], "encodes": 1, "decodes": shown}

    viewer.camera.zoom = 1 / image.scale[0]
    viewer.camera.center = image.data_to_world(MIDDLE)
    labels = widget.annotation.layers["labels"]
    wait(lambda: labels.data.place.steps == (1, 1))
    assert np.ptp(seen(viewer, image.data_to_world(np.add(MIDDLE, (0, 60))))) > 40
    assert np.ptp(seen(viewer, image.data_to_world(np.add(MIDDLE, (0, 190))))) == 0


def test_brush_eraser_fill_and_undo_on_a_sheet(viewer: Any, huge: Path, tmp_path: Path) -> None:
    (image,) = viewer.open(str(huge), plugin="samplat")
    widget = opened(viewer, tmp_path)
    viewer.camera.zoom = 1 / image.scale[0]
    viewer.camera.center = image.data_to_world(MIDDLE)
    labels, session = widget.annotation.layers["labels"], widget.annotation.session
    wait(lambda: labels.data.place.steps == (1, 1))
    viewer.layers.selection.active = labels
    labels.mode, labels.brush_size, labels.selected_label = "paint", 20, 3

    def world(y: float, x: float) -> Any:
        return image.data_to_world(np.add(MIDDLE, (y, x)))

    drag(viewer, world(-60, -60), world(-60, 60))
    wait(lambda: session.labels[MIDDLE[0] - 60, MIDDLE[1]] == 3)
    assert session.state.objects[3].area > 80 * 18  # where moves of the mouse are merged
    wait(lambda: np.ptp(seen(viewer, world(-60, 0))) > 40)
    labels.mode = "erase"
    drag(viewer, world(-60, 0), world(-60, 5))
    wait(lambda: session.labels[MIDDLE[0] - 60, MIDDLE[1]] == 0)
    labels.mode, labels.selected_label = "fill", 4
    click(viewer, world(-60, -40))
    wait(lambda: session.labels[MIDDLE[0] - 60, MIDDLE[1] - 40] == 4)
    assert session.labels[MIDDLE[0] - 60, MIDDLE[1] + 40] == 3
    for _ in range(3):
        press(viewer, "Control-Z")
    assert not session.labels.held()
    wait(lambda: np.ptp(seen(viewer, world(-60, 40))) == 0)
    press(viewer, "Control-Shift-Z")
    assert session.labels[MIDDLE[0] - 60, MIDDLE[1]] == 3
    wait(lambda: np.ptp(seen(viewer, world(-60, 0))) > 40)

    viewer.camera.zoom /= 8
    wait(lambda: labels.data.place.steps[0] > 1)
    wait(lambda: np.ptp(seen(viewer, world(-60, 40))) > 40)


def test_what_is_on_the_screen_is_encoded_before_a_click_which_ends_that(
    viewer: Any, huge: Path, tmp_path: Path, counts: dict[str, Any]
) -> None:
    from qtpy.QtWidgets import QApplication

    (image,) = viewer.open(str(huge), plugin="samplat")
    widget = opened(viewer, tmp_path)
    viewer.camera.zoom = 1 / image.scale[0]
    viewer.camera.center = image.data_to_world(MIDDLE)
    wait(lambda: counts["encodes"] >= 2)
    click(viewer, image.data_to_world(MIDDLE))
    wait(lambda: answered(widget))
    known = dict(counts, reads=list(counts["reads"]))
    assert known["encodes"] == len(known["reads"]) <= 4  # those ahead, none for the click
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        QApplication.processEvents()
    assert counts == known
    press(viewer, "C")  # nothing is asked any more
    wait(lambda: counts["encodes"] > known["encodes"])
    viewer.layers.remove(image)  # while that goes on
    assert widget.annotation is None
    assert "removed" in widget.told.text()

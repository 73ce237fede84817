"""Clicks, keys and brushes on a real viewer, judged by the pixels of its canvas and by labels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clicks.gui import answered, at, canvas_of, click, drag, opened, press, seen, wait
from napari_sam.answering import Answerer
from napari_sam.layers import picture_of
from napari_sam.serving import Served
from napari_sam.session import JOURNAL, LABELS, Session, replay
from napari_sam.state import Point, Question
from napari_sam.widget import SegmentWidget
from samplat import InputError

COIN = (121, 271)
"""Row and column of the middle of a coin."""
BESIDE = (121, 285)
"""On that coin, but not under the point's mark."""
GROUND = (75, 150)


@pytest.fixture(scope="module")
def coins() -> Any:
    from skimage import data

    return data.coins()


def state_of(widget: Any) -> Any:
    return widget.annotation.session.state


def is_yellow(colour: Any) -> bool:
    return bool(min(colour[0], colour[1]) > colour[2] + 60)


def test_a_click_shows_a_mask_and_c_makes_it_an_object(
    viewer: Any, coins: Any, tmp_path: Path
) -> None:
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    plain = seen(viewer, BESIDE)
    assert plain[0] == plain[1] == plain[2]
    click(viewer, COIN)
    wait(lambda: answered(widget))
    assert is_yellow(seen(viewer, BESIDE))
    assert not is_yellow(seen(viewer, GROUND))
    mask = state_of(widget).candidate.mask

    press(viewer, "C")
    labels = widget.annotation.session.labels
    assert labels[COIN] == 1
    assert labels[GROUND] == 0
    assert labels[...].sum() == mask.array().sum()
    assert 1500 < labels[...].sum() < 2300  # a coin of 50 pixels
    colour = seen(viewer, BESIDE)
    assert not is_yellow(colour)
    assert np.ptp(colour) > 40  # a label's colour over grey
    assert (seen(viewer, GROUND) == plain).any() or np.ptp(seen(viewer, GROUND)) == 0
    assert widget.table.item(0, 0).text() == "1"

    press(viewer, "Control-Z")
    assert not labels[...].any()
    wait(lambda: answered(widget))
    assert is_yellow(seen(viewer, BESIDE))  # the draft is back, and its mask
    press(viewer, "Control-Z")
    assert (seen(viewer, BESIDE) == plain).all()
    press(viewer, "Control-Shift-Z")
    press(viewer, "Control-Shift-Z")
    assert labels[COIN] == 1
    assert (seen(viewer, BESIDE) == colour).all()

    session = widget.annotation.session
    widget.shutdown()
    replay(session.folder / JOURNAL, tmp_path / "out.zarr")
    import zarr

    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr", mode="r")[:], labels)
    np.testing.assert_array_equal(zarr.open_array(session.folder / LABELS, mode="r")[:], labels)


def test_keys_for_signs_candidates_and_clearing(viewer: Any, coins: Any, tmp_path: Path) -> None:
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    click(viewer, (118, 262))
    wait(lambda: answered(widget))
    count = len(state_of(widget).preview.candidates)
    assert count > 1
    scores = [c.score for c in state_of(widget).preview.candidates]
    assert scores == sorted(scores, reverse=True)
    before = np.array(widget.annotation.layers["preview"].data)
    press(viewer, "M")
    assert state_of(widget).draft.chosen == 1
    assert (widget.annotation.layers["preview"].data != before).any()
    press(viewer, "T")
    click(viewer, GROUND)
    prompts = state_of(widget).draft.prompts
    assert [p.positive for p in prompts] == [True, False]
    np.testing.assert_allclose(prompts[1].position, GROUND, atol=1)
    colour = seen(viewer, GROUND)
    assert colour[0] > colour[1] + 30  # red
    press(viewer, "Shift-C")
    assert state_of(widget).draft.prompts == ()
    assert len(widget.annotation.layers["points"].data) == 0
    assert not widget.annotation.layers["preview"].data[...].any()


def test_a_box_is_a_prompt(viewer: Any, coins: Any, tmp_path: Path) -> None:
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    viewer.layers.selection.active = widget.annotation.layers["boxes"]
    drag(viewer, (93, 243), (147, 300))
    (box,) = state_of(widget).draft.prompts
    np.testing.assert_allclose((box.start, box.stop), [(93, 243), (147, 300)], atol=1.5)
    wait(lambda: answered(widget))
    press(viewer, "C")
    assert widget.annotation.session.labels[COIN] == 1
    assert 1500 < widget.annotation.session.state.objects[1].area < 2300


PLACED = [
    {"scale": (0.5, 2.0), "translate": (30, -70), "rotate": 30},
    {"affine": np.array([[0.6, 0.5, 8], [-0.3, 1.4, -9], [0, 0, 1]])},
]


@pytest.mark.parametrize("placing", PLACED, ids=["scaled", "affine"])
def test_prompts_are_pixels_wherever_the_layer_lies(
    viewer: Any, coins: Any, tmp_path: Path, placing: dict[str, Any]
) -> None:
    image = viewer.add_image([coins, coins[::2, ::2]], multiscale=True, **placing)
    widget = opened(viewer, tmp_path)
    viewer.reset_view()
    click(viewer, image.data_to_world(COIN))
    (point,) = state_of(widget).draft.prompts
    np.testing.assert_allclose(point.position, COIN, atol=3)
    wait(lambda: answered(widget))
    assert is_yellow(seen(viewer, image.data_to_world((121, 287))))
    press(viewer, "C")
    assert widget.annotation.session.labels[COIN] == 1
    assert 1500 < state_of(widget).objects[1].area < 2300


def test_any_plane_of_a_volume(viewer: Any, coins: Any, tmp_path: Path) -> None:
    volume = np.zeros((140, 3, 220), np.float32)
    volume[:, 1] = coins[60:200, 160:380] / 255
    volume[:2, 0] = np.nan
    viewer.add_image(volume, scale=(1, 5, 1))
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_current_step(1, 1)
    widget = opened(viewer, tmp_path)
    wait(lambda: not widget.annotation.busy)
    click(viewer, (61, 5, 111)[::2])
    (point,) = state_of(widget).draft.prompts
    assert round(point.position[1]) == 1
    wait(lambda: answered(widget))
    press(viewer, "C")
    labels = widget.annotation.session.labels
    assert labels[61, 1, 111] == 1
    assert 1500 < (labels[:, 1] == 1).sum() < 2300
    assert not labels[:, ::2].any()
    viewer.dims.set_current_step(1, 2)
    widget.call("go_to", 1)
    assert viewer.dims.current_step[1] == 1


def test_the_brush_corrects_and_finished_objects_are_protected(
    viewer: Any, coins: Any, tmp_path: Path
) -> None:
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    labels, session = widget.annotation.layers["labels"], widget.annotation.session
    viewer.layers.selection.active = labels
    labels.mode, labels.brush_size, labels.selected_label = "paint", 10, 3
    drag(viewer, (40, 100), (40, 140))
    assert session.labels[40, 120] == 3
    assert state_of(widget).objects[3].area == (session.labels == 3).sum() > 300
    assert len(session.history.done) == 1  # a stroke is a step
    assert np.ptp(seen(viewer, (40, 120))) > 40
    widget.annotation.finish(3)
    held = session.labels[...]
    labels.selected_label = 4
    drag(viewer, (40, 120), (60, 120))
    assert session.labels[60, 120] == 4
    assert (session.labels[...][held == 3] == 3).all()
    assert (labels.data[...] == session.labels).all()
    labels.mode = "erase"
    drag(viewer, (40, 100), (40, 110))
    assert (labels.data[...] == session.labels).all()
    assert (session.labels == 3).sum() == (held == 3).sum()
    assert "finished" in widget.told.text()
    press(viewer, "Control-Z")  # ours, not the layer's own
    assert not (labels.data == 4).any()
    press(viewer, "Control-Z")
    press(viewer, "Control-Z")
    assert not labels.data[...].any()
    assert not labels._undo_history or not session.labels[...].any()


def test_what_was_done_is_there_again(viewer: Any, coins: Any, tmp_path: Path) -> None:
    """As after kill -9: the first session is not closed, only its lock is gone."""
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    click(viewer, COIN)
    wait(lambda: answered(widget))
    press(viewer, "C")
    widget.annotation.describe(1, kind="denarius", note="worn")
    click(viewer, (200, 150))
    folder = widget.annotation.session.folder
    widget.annotation.session._lock.release()
    viewer.layers.clear()
    assert widget.annotation is None
    viewer.add_image(coins, name="the same pixels")
    widget.open()
    assert widget.annotation.session.folder == folder
    assert widget.annotation.layers["labels"].data[COIN] == 1
    assert [widget.table.item(0, n).text() for n in (0, 1, 4)] == ["1", "denarius", "worn"]
    wait(lambda: answered(widget))
    np.testing.assert_allclose(state_of(widget).draft.prompts[0].position, (200, 150), atol=1)
    press(viewer, "Control-Z")
    press(viewer, "Control-Z")
    press(viewer, "Control-Z")
    assert not widget.annotation.layers["labels"].data[...].any()


def test_the_model_is_asked_when_the_button_goes_down(
    viewer: Any, coins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    asked, answer = [], Served.answer

    def asking(served: Any, caller: Any, named: Any, sight: Any, question: Any, held: Any) -> Any:
        asked.append(question)
        return answer(served, caller, named, sight, question, held)

    monkeypatch.setattr(Served, "answer", asking)
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    wait(lambda: not widget.annotation.busy)
    canvas, left = canvas_of(viewer), Qt.MouseButton.LeftButton
    place = QPoint(*at(viewer, COIN))
    QTest.mouseMove(canvas, place)
    QTest.mousePress(canvas, left, pos=place)
    assert not canvas.updatesEnabled()  # the next frame is to have the mask
    wait(lambda: asked and not widget.annotation.busy)
    assert not state_of(widget).draft.prompts
    assert state_of(widget).preview is None
    wait(canvas.updatesEnabled)
    QTest.mouseRelease(canvas, left, pos=place)
    wait(lambda: answered(widget))
    assert is_yellow(seen(viewer, BESIDE))
    assert len(asked) == 1

    press(viewer, "Shift-C")
    click(viewer, COIN)
    drag(viewer, GROUND, COIN)  # before the mask of the click is finished, and no point
    wait(lambda: answered(widget))
    time.sleep(0.1)
    wait(lambda: answered(widget))
    assert len(state_of(widget).draft.prompts) == 1
    assert state_of(widget).preview.question == asked[-1]
    assert len(state_of(widget).preview.candidates) == 3


class Slow(Answerer):
    """A model that takes its time, holding no lock of Python's."""

    free = threading.Event()

    def answer(self, *arguments: Any, **options: Any) -> Any:
        self.free.wait(20)
        return super().answer(*arguments, **options)

    def prepare(self, *arguments: Any) -> None:
        pass


def test_the_window_goes_on_while_the_model_works_and_closes_at_once(
    viewer: Any, coins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    monkeypatch.setattr("napari_sam.serving.Answerer", Slow)
    Slow.free.clear()
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    ticks: list[float] = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(time.monotonic()))
    click(viewer, COIN)
    click(viewer, (200, 150))
    timer.start(5)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        QApplication.processEvents()
    timer.stop()
    assert len(ticks) > 50
    assert "segmenting" in widget.busy.text()
    begun = time.monotonic()
    viewer.layers.remove(widget.annotation.image)  # while the model works
    assert widget.annotation is None
    assert time.monotonic() - begun < 5
    assert "removed" in widget.told.text()
    Slow.free.set()
    for _ in range(20):
        QApplication.processEvents()
        time.sleep(0.005)
    assert len(viewer.layers) == 0


@pytest.mark.parametrize(
    ("data", "told"), [(np.zeros((0, 8)), "pixels"), (np.zeros((8, 8), complex), "complex")]
)
def test_layers_that_cannot_be_annotated(data: Any, told: str) -> None:
    layer = SimpleNamespace(
        data=data, multiscale=False, ndim=2, name="x", contrast_limits=(0, 1), rgb=False
    )
    with pytest.raises(InputError, match=told):
        picture_of(layer)


KINDS: dict[str, Callable[[Any], tuple[Any, dict[str, Any]]]] = {
    "rgb": lambda coins: (np.stack([coins] * 3, axis=-1), {}),
    "rgba float": lambda coins: (np.stack([coins / 255] * 3 + [coins * 0 + 1.0], axis=-1), {}),
    "nan": lambda coins: (np.where(coins < 40, np.nan, coins / 255), {}),
    "bool": lambda coins: (coins > 115, {}),
    "uint16": lambda coins: (coins.astype(np.uint16) * 100, {}),
    "one level": lambda coins: ([coins], {"multiscale": True}),
    "4D": lambda coins: (np.broadcast_to(coins, (2, 3, *coins.shape)), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind(coins: Any, kind: str) -> None:
    from napari.layers import Image

    data, options = KINDS[kind](coins)
    picture = picture_of(Image(data, **options))
    lead = (1, 2) if kind == "4D" else ()
    question = Question(
        prompts=(Point(position=(*lead, *COIN)),), plane=(*lead, None, None), target=None
    )
    answerer = Answerer("samplat-tiny")
    found = answerer.answer(picture, question, None, lambda: False).candidates[0].mask
    assert found.start[:-2] == lead
    assert 1300 < found.array().sum() < 2600


def test_sessions_that_cannot_be_opened_and_models_that_are_missing(
    viewer: Any, coins: Any, tmp_path: Path
) -> None:
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    folder = widget.annotation.session.folder
    other = SegmentWidget(viewer, tmp_path)
    other.open(folder)
    assert other.annotation is None
    assert "open in another" in other.told.text()
    other.shutdown()

    Session(tmp_path / "other", (5, 5)).close()
    widget.open(tmp_path / "other")
    assert widget.annotation is None
    assert "[5, 5]" in widget.told.text()

    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    for name in ("no-such-model", str(tmp_path / "cut.safetensors")):
        widget.models.setCurrentText(name)
        widget.open()
        click(viewer, COIN)
        wait(lambda name=name: Path(name).name in widget.told.text())
    assert len(state_of(widget).draft.prompts) == 2


def test_there_is_nothing_to_annotate(viewer: Any, tmp_path: Path) -> None:
    """Labels, shapes and points are no images."""
    viewer.add_labels(np.ones((8, 8), int))
    viewer.add_shapes(ndim=2)
    viewer.add_points(ndim=2)
    widget = opened(viewer, tmp_path)
    assert widget.annotation is None
    assert "Open an image" in widget.told.text()
    assert not list(tmp_path.iterdir())


def test_two_viewers(viewer: Any, coins: Any, tmp_path: Path) -> None:
    """On one picture the second waits for the first; on two they do not meet."""
    import napari

    viewer.add_image(coins)
    first = opened(viewer, tmp_path)
    other = napari.Viewer(show=False)
    try:
        second = SegmentWidget(other, tmp_path)
        other.add_image(coins, name="the same pixels")
        second.open()
        assert second.annotation is None
        assert "open in another" in second.told.text()
        turned = other.add_image(coins[::-1])
        second.images.setCurrentText(turned.name)
        second.open()
        assert second.annotation is not None
        second.annotation.session.paint((3, 3), np.full((2, 2), 5))
        press(viewer, "T")  # the key is the first one's
        assert not first.annotation.positive
        assert second.annotation.positive
        first.annotation.session.paint((3, 3), np.full((2, 2), 1))
        assert second.annotation.session.labels[3, 3] == 5
        assert first.annotation.session.labels[3, 3] == 1
        first.close_session()
        second.images.setCurrentText("the same pixels")
        second.open()
        assert second.annotation.session.labels[3, 3] == 1
    finally:
        second.shutdown()
        other.close()


def test_an_image_opens_ready(
    display: None, coins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `samplat napari IMAGE` does before it waits for the user, and again."""
    from PIL import Image

    from napari_sam.opening import open_window

    monkeypatch.setattr("gc.collect", lambda *_: 0)

    Image.fromarray(coins).save(tmp_path / "coins.png")
    for left in ((), ((121.0, 271.0),)):
        opened = open_window(tmp_path / "coins.png", "samplat-tiny", tmp_path / "work")
        annotation = opened.widget.annotation
        assert annotation is not None
        assert [p.position for p in annotation.session.state.draft.prompts] == list(left)
        if not left:
            annotation.layers["points"].add(COIN)
        opened.widget.shutdown()
        opened.viewer.close()
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match=r"notes\.txt"):
        open_window(tmp_path / "notes.txt", "samplat-tiny", None)

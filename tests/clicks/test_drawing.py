"""Scribbles, polygons and labels as prompts, and keys that the user chose, on a real viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicks.gui import answered, click, drag, opened, press, seen, wait
from napari_sam import keys
from napari_sam.blocks import block_of
from napari_sam.layers import region_in, shape_for, shapes_in
from napari_sam.pointed import ALONG, Seen, pointed
from napari_sam.state import Box, Point, Polygon, Region, Scribble
from samplat import InputError

COIN = (121, 271)
BESIDE = (121, 285)
AREAS = 1500, 2300
"""Pixels of that coin, by and large."""


@pytest.fixture(scope="module")
def coins() -> Any:
    from skimage import data

    return data.coins()


def state_of(widget: Any) -> Any:
    return widget.annotation.session.state


def draw(viewer: Any, widget: Any, mode: str) -> Any:
    """The layer for shapes, with one of its tools at hand."""
    layer = widget.annotation.layers["boxes"]
    viewer.layers.selection.active = layer
    layer.mode = mode
    return layer


def is_yellow(colour: Any) -> bool:
    return bool(min(colour[0], colour[1]) > colour[2] + 60)


def test_a_scribble_is_a_prompt_and_another_one_says_where_not(
    viewer: Any, coins: Any, tmp_path: Path
) -> None:
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    draw(viewer, widget, "add_path")
    drag(viewer, (110, 258), (132, 284))
    (drawn,) = state_of(widget).draft.prompts
    assert isinstance(drawn, Scribble)
    assert drawn.positive
    np.testing.assert_allclose(drawn.places[0], (110, 258), atol=3)
    wait(lambda: answered(widget))
    assert is_yellow(seen(viewer, (121, 255)))
    press(viewer, "T")
    drag(viewer, (75, 140), (75, 180))
    signs = [p.positive for p in state_of(widget).draft.prompts]
    assert signs == [True, False]
    colours = [seen(viewer, (row, 160)) for row in (74, 75, 76)]
    assert any(each[0] > each[1] + 30 for each in colours)  # red
    wait(lambda: answered(widget))
    press(viewer, "Control-Z")
    assert state_of(widget).draft.prompts == (drawn,)
    assert len(widget.annotation.layers["boxes"].data) == 1
    wait(lambda: answered(widget))
    press(viewer, "C")
    assert AREAS[0] < state_of(widget).objects[1].area < AREAS[1]
    press(viewer, "Control-Z")
    press(viewer, "Control-Z")
    assert len(widget.annotation.layers["boxes"].data) == 0
    press(viewer, "Control-Shift-Z")
    assert state_of(widget).draft.prompts == (drawn,)


def test_a_polygon_is_a_rough_outline(viewer: Any, coins: Any, tmp_path: Path) -> None:
    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    layer = draw(viewer, widget, "add_polygon_lasso")
    layer.add([[(100, 250), (96, 272), (112, 296), (142, 290), (146, 260)]], shape_type="polygon")
    (drawn,) = state_of(widget).draft.prompts
    assert isinstance(drawn, Polygon)
    wait(lambda: answered(widget))
    assert is_yellow(seen(viewer, BESIDE))
    press(viewer, "C")
    assert AREAS[0] < state_of(widget).objects[1].area < AREAS[1]
    press(viewer, "Control-Z")
    assert state_of(widget).draft.prompts == (drawn,)
    assert layer.shape_type == ["polygon"]


def test_labels_become_prompts(viewer: Any, coins: Any, tmp_path: Path) -> None:
    """Of another layer for a new object; of ours to refine it."""
    viewer.add_image(coins)
    found = np.zeros(coins.shape, int)
    found[98:145, 248:295] = 5  # somebody else's, and rough
    theirs = viewer.add_labels(found, name="theirs")
    widget = opened(viewer, tmp_path)
    viewer.layers.selection.active = theirs
    theirs.selected_label = 4
    widget.use_label()
    assert "no pixels" in widget.told.text()
    theirs.selected_label = 5
    widget.use_label()
    (region,) = state_of(widget).draft.prompts
    assert isinstance(region, Region)
    wait(lambda: answered(widget))
    press(viewer, "C")
    made = state_of(widget).objects[1]
    assert made.prompts == (region,)
    assert AREAS[0] < made.area < AREAS[1]

    viewer.layers.selection.active = widget.annotation.layers["points"]
    widget.table.selectRow(0)
    widget.use_label()
    draft = state_of(widget).draft
    assert draft.target == 1
    assert isinstance(draft.prompts[0], Region)
    assert draft.prompts[0].pixels.array().sum() == made.area
    wait(lambda: answered(widget))
    press(viewer, "Control-Z")
    assert state_of(widget).draft.target is None
    widget.annotation.finish(1)
    widget.use_label()
    assert "finished" in widget.told.text()


def test_regions_lie_on_the_image(coins: Any) -> None:
    from napari.layers import Image, Labels

    image = Image(np.zeros((3, 8, 9)), scale=(2, 1, 1))
    labels = np.zeros((3, 8, 9), int)
    labels[1, 2:4, 5] = 7
    region = region_in(image, Labels(labels, scale=(2, 1, 1)), 7, (1, None, None))
    assert (region.pixels.start, region.pixels.shape) == ((1, 2, 5), (1, 2, 1))
    with pytest.raises(InputError, match="pixel for pixel"):
        region_in(image, Labels(labels), 7, (1, None, None))
    with pytest.raises(InputError, match="no pixels"):
        region_in(image, Labels(labels, scale=(2, 1, 1)), 7, (0, None, None))


def test_shapes_there_and_back() -> None:
    from napari.layers import Image, Shapes

    image = Image(np.zeros((3, 40, 50)))
    prompts = [
        Box(start=(1, 2, 3), stop=(1, 12, 23)),
        Scribble(places=((1, 2, 3), (1, 5, 5), (1, 6, 9)), positive=False),
        Polygon(places=((1, 2, 3), (1, 5, 5), (1, 9, 2))),
    ]
    layer = Shapes(ndim=3)
    for data, kind, colour in (shape_for(p, (1, 2)) for p in prompts):
        layer.add(data, shape_type=kind, edge_color=colour)
    assert shapes_in(image, layer, [True, False, True]) == prompts
    layer.data = []
    layer.add([[1, 5, 5], [1, 5, 25], [1, 15, 25], [1, 15, 5]], shape_type="ellipse")
    layer.add([[1, 5, 5], [1, 5, 5]], shape_type="line")
    (around,) = shapes_in(image, layer, [True, True])
    places = np.array(around.places)[:, 1:]
    np.testing.assert_allclose(((places - (10, 15)) / (5, 10) ** np.array(1.0)) ** 2 @ (1, 1), 1)


places = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=6, unique=True
)


@given(path=places, step=st.integers(1, 4))
def test_points_of_a_scribble_lie_on_it_and_apart(path: Any, step: int) -> None:
    seen_pixels = Seen(axes=(0, 1), start=(0, 0), step=step, size=(64 // step, 64 // step))
    said = pointed([Scribble(places=tuple(path), positive=False)], seen_pixels)
    assert 1 <= len(said.points) <= ALONG
    assert (said.labels == 0).all()
    assert said.box is None
    assert said.mask is None
    for point in (said.points[:, ::-1] + 0.5) * step - 0.5:
        ends = np.array(path, float)
        along = ends[1:] - ends[:-1]
        share = np.clip(((point - ends[:-1]) * along).sum(1) / (along**2).sum(1), 0, 1)
        away = np.linalg.norm(ends[:-1] + share[:, None] * along - point, axis=1)
        assert away.min() < 1e-6


@given(
    start=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    bits=st.lists(st.booleans(), min_size=30, max_size=30),
    window=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    step=st.integers(1, 3),
)
def test_regions_are_seen_pixel_for_pixel(start: Any, bits: Any, window: Any, step: int) -> None:
    whole = np.zeros((48, 48), bool)
    part = np.array(bits).reshape(5, 6)
    whole[start[0] : start[0] + 5, start[1] : start[1] + 6] = part
    shown = whole[window[0] : window[0] + 24 : step, window[1] : window[1] + 24 : step]
    region = Region(pixels=block_of(part, start))
    view = Seen(axes=(0, 1), start=window, step=step, size=shown.shape)
    said = pointed([region], view)
    if not shown.any():
        assert said.mask is None
        assert said.box is None
        return
    np.testing.assert_array_equal(said.mask, shown)
    x0, y0, x1, y1 = said.box.astype(int)
    assert shown[y0:y1, x0:x1].sum() == shown.sum()
    assert shown[y0].any()
    assert shown[:, x1 - 1].any()


def test_what_prompts_say_together() -> None:
    view = Seen(axes=(0, 1), start=(10, 20), step=1, size=(40, 40))
    square = Polygon(places=((19.6, 29.6), (19.6, 35.4), (25.4, 35.4), (25.4, 29.6)))
    point, box = Point(position=(12, 24)), Box(start=(12, 22), stop=(30, 50))
    held = np.zeros((40, 40), bool)
    held[0, 0] = True
    said = pointed([point, square], view, held)
    assert said.points.tolist() == [[4, 2]]
    assert said.box.tolist() == [10, 10, 16, 16]
    assert said.mask.sum() == 37
    assert pointed([square, box], view).box.tolist() == [2.5, 2.5, 30.5, 20.5]
    assert pointed([point], view).is_one_point
    assert not pointed([point], view, held).is_one_point


def test_keys_can_be_chosen_in_napari(viewer: Any, coins: Any, tmp_path: Path) -> None:
    from napari._qt.widgets.qt_keyboard_settings import ShortcutEditor
    from napari.utils.action_manager import action_manager

    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    assert "C:  make the mask an object" in widget.keys.text()
    editor = ShortcutEditor()  # what Preferences → Shortcuts shows
    listed = editor.key_bindings_strs[editor.VIEWER_KEYBINDINGS]
    assert {f"samplat:{name}" for name in keys.ACTIONS} <= set(listed)
    editor.close()
    click(viewer, COIN)
    wait(lambda: answered(widget))
    try:
        action_manager.unbind_shortcut("samplat:commit")
        action_manager.bind_shortcut("samplat:commit", "G")
        assert "G:  make the mask an object" in widget.keys.text()
        press(viewer, "C")
        assert not state_of(widget).objects
        press(viewer, "G")
        assert len(state_of(widget).objects) == 1
        widget.close_session()
        assert all(str(k) != "G" for k in viewer.keymap)
        widget.open()
        press(viewer, "Control-Z")
        assert not state_of(widget).objects
        action_manager.trigger("samplat:redo")
        assert len(state_of(widget).objects) == 1
    finally:
        action_manager.unbind_shortcut("samplat:commit")
        action_manager.bind_shortcut("samplat:commit", "C")
    assert "C:  make the mask an object" in widget.keys.text()

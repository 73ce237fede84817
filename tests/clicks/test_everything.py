"""Masks of everything on the screen: found once, chosen by sliders, committed in one step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clicks.gui import opened, press, seen, wait
from napari_sam.answering import View
from napari_sam.everything import TOGETHER, Choice, Found, batches, find
from napari_sam.session import JOURNAL, LABELS, Session, replay
from napari_sam.state import described, gathered
from samplat import GridParameters, InputError, load_model, mask_set, reselect

SIDE = 4


@pytest.fixture(scope="module")
def coins() -> Any:
    from skimage import data

    return np.ascontiguousarray(data.coins()[40:200, 150:350])


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("samplat-tiny")


@pytest.fixture(scope="module")
def embedding(model: Any, coins: Any) -> Any:
    from samplat import embed

    return embed(model, coins)


def like(a: Any, b: Any) -> float:
    """IoU of two boxes, to the last pixel as the published code measures them."""
    (ax, ay, bx, by), (cx, cy, dx, dy) = a - (0, 0, 1, 1), b - (0, 0, 1, 1)
    both = max(0, min(bx, dx) - max(ax, cx)) * max(0, min(by, dy) - max(ay, cy))
    return both / ((bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - both)


@settings(deadline=None, max_examples=50)
@given(
    boxes=st.lists(
        st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(2, 12)] * 2), min_size=1, max_size=12
    ),
    seed=st.integers(0, 9),
    iou=st.floats(0, 1),
    stability=st.floats(0, 1),
)
def test_a_choice_passes_and_is_like_no_better_one(
    boxes: Any, seed: int, iou: float, stability: float
) -> None:
    rng = np.random.default_rng(seed)
    masks = np.zeros((len(boxes), 32, 32), bool)
    for mask, (y, x, h, w) in zip(masks, boxes, strict=True):
        mask[y : y + h, x : x + w] = True
    scores = rng.permutation(len(boxes)) / len(boxes)
    found = mask_set(masks, predicted_iou=scores, stability=rng.random(len(boxes)))
    params = GridParameters(pred_iou_thresh=iou, stability_score_thresh=stability)
    expected: list[int] = []
    for i in np.argsort(-found.predicted_iou):
        passes = found.predicted_iou[i] > iou and found.stability[i] >= stability
        if passes and all(like(found.boxes[i], found.boxes[k]) <= 0.7 for k in expected):
            expected.append(int(i))
    assert reselect(found, params).rles == found.select(expected).rles


@pytest.mark.parametrize("side", [1, 5, 16, 33, 64])
def test_batches_are_the_grid(side: int) -> None:
    parts = batches(side)
    whole = GridParameters(points_per_side=side).grid(0)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    assert all(len(part) <= max(side, TOGETHER) for part in parts)


def test_what_is_not_wanted_ends_after_a_batch(model: Any, embedding: Any) -> None:
    asked: list[int] = []

    def wanted() -> bool:
        asked.append(1)
        return False

    assert find(model, embedding, SIDE, wanted) is None
    assert len(asked) == 1


def test_masks_are_placed_where_they_were_seen() -> None:
    masks = np.zeros((2, 4, 5), bool)
    masks[0, 0:2, 0:2] = True
    masks[1, 1:4, 1:5] = True
    found = Found(
        masks=mask_set(masks, predicted_iou=np.array([0.9, 0.8]), stability=np.array([0.9, 0.99])),
        plane=(3, None, None),
        view=View(rows=slice(10, 17), columns=slice(20, 30), step=2),
    )
    block = found.block(found.masks)
    assert block.start == (3, 10, 20)
    assert block.shape == (1, 7, 10)
    labels = block.array()[0]
    assert (labels[:4, :4] == 1).all()  # the better one has what both cover
    assert (labels[4:, 2:] == 2).all()
    choice = Choice(iou=0.5, stability=0.5, area=5)
    assert found.passing(choice).areas.tolist() == [12]


def test_many_become_objects_in_one_step_beside_finished_ones(tmp_path: Path) -> None:
    from napari_sam.blocks import block_of

    session = Session(tmp_path / "work", (8, 8))
    session.paint((0, 0), np.full((8, 2), 1))
    session.paint((0, 2), np.full((8, 2), 2))
    session.do(described, 1, status="finished")
    values = np.zeros((8, 8), int)
    values[0:4], values[4:6], values[6:, :2] = 1, 2, 3
    block = block_of(values, (0, 0))
    lone = block_of(np.ones((8, 2)), (0, 0))
    with pytest.raises(InputError, match="another object"):
        session.do(gathered, lone, [0.9], (0, 1), session.read, over=True)
    step = session.do(gathered, block, [0.9, 0.8, 0.7], (0, 1), session.read, over=True)
    assert step.name == "commit 2 masks"  # all of the third is a finished object's
    objects = session.state.objects
    assert {n: each.score for n, each in objects.items() if n > 2} == {3: 0.9, 4: 0.8}
    assert (session.labels[:, :2] == 1).all()
    assert (session.labels[:4, 2:] == 3).all()
    assert (session.labels[4:6, 2:] == 4).all()
    assert (objects[2].area, objects[3].area, objects[4].area) == (4, 24, 12)
    session.undo()
    assert set(np.unique(session.labels)) == {0, 1, 2}
    assert sorted(session.state.objects) == [1, 2]
    session.redo()
    session.do(gathered, block_of(np.ones((2, 8)), (6, 0)), [0.7], (0, 1), session.read, over=True)
    session.close()
    replay(session.folder / JOURNAL, tmp_path / "out.zarr")
    for file in (tmp_path / "out.zarr").rglob("*"):
        if file.is_file():
            kept = session.folder / LABELS / file.relative_to(tmp_path / "out.zarr")
            assert file.read_bytes() == kept.read_bytes()


def test_find_choose_and_commit_in_the_window(viewer: Any, coins: Any, tmp_path: Path) -> None:
    from napari.utils.progress import progress

    viewer.add_image(coins)
    widget = opened(viewer, tmp_path)
    wait(lambda: not widget.annotation.busy)
    panel, session = widget.automatic, widget.annotation.session
    session.paint((0, 0), np.full((160, 60), 1))
    widget.annotation.finish(1)
    panel.side.setValue(SIDE)
    panel.find.click()
    assert panel.cancel.isEnabled()
    (bar,) = progress._all_instances
    assert bar.total == len(batches(SIDE))
    wait(lambda: panel.automatic.found)
    assert not progress._all_instances
    layer = viewer.layers["found"]
    coin = (81, 121)
    assert layer.data[coin] > 0
    assert np.ptp(seen(viewer, (81, 130))) > 20
    many = len(np.unique(layer.data))
    begun = time.monotonic()
    panel.area.setValue(1200)
    panel.iou.setValue(90)
    assert not panel.commit.isEnabled()  # others are shown still
    wait(lambda: not panel.automatic.choosing)
    assert time.monotonic() - begun < 1  # nothing is computed again
    assert panel.commit.isEnabled()
    assert len(np.unique(layer.data)) < many
    shown = len(np.unique(np.asarray(layer.data)[session.labels != 1])) - 1
    steps = len(session.history.done)
    panel.commit.click()
    assert len(session.history.done) == steps + 1
    assert "found" not in viewer.layers
    made = [n for n in session.state.objects if n > 1]
    assert len(made) == shown > 0
    assert (session.labels[:, :60] == 1).all()
    press(viewer, "Control-Z")
    assert sorted(session.state.objects) == [1]

    panel.find.click()
    (bar,) = progress._all_instances
    bar.cancel()  # what the dock's button does
    assert not progress._all_instances
    assert not panel.automatic.found
    assert panel.find.isEnabled()
    panel.find.click()
    viewer.layers.remove(widget.annotation.image)
    assert panel.automatic is None
    assert not progress._all_instances

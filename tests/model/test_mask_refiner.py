"""The second look at masks: where windows lie, what they show, and what they put back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplat.model.mask_refiner import mask_facts
from samplat.model.sam import build_conv, merged_masks
from samplat.model.windows import Prompted, Windows

SIDE = 64
NO_BOX = [float("nan")] * 4


def prompted(points=((0.0, 0.0),), labels=(-1.0,), box=NO_BOX):
    return Prompted(
        torch.tensor([points], dtype=torch.float32),
        torch.tensor([labels], dtype=torch.float32),
        torch.tensor([box], dtype=torch.float32),
    )


def disc(x, y, radius, stride=4):
    place = (torch.arange(SIDE // stride) + 0.5) * stride
    inside = (place[:, None] - y) ** 2 + (place - x) ** 2 < radius**2
    return (2 * inside.float() - 1)[None, None] * 6


def at(*values):
    """Windows x, y, half of a picture of SIDE x SIDE."""
    rows = torch.tensor(values)
    return Windows(middle=rows[:, :2], half=rows[:, 2:], picture=(SIDE, SIDE))


def around(masks, prompts):
    windows = Windows.around(masks, prompts, (SIDE, SIDE))
    return torch.cat([windows.middle, windows.half], dim=1)


coordinate = st.floats(-20, SIDE + 20, allow_nan=False, width=32)
window = st.tuples(coordinate, coordinate, st.floats(4, 60, width=32))


@given(st.lists(window, min_size=2, max_size=6), st.sampled_from([1, 4]))
def test_a_window_shows_the_picture_where_it_lies(windows, stride):
    """A map of its own coordinates comes back as the coordinates of the window's cells."""
    windows = windows[: len(windows) // 2 * 2]
    cell = (torch.arange(SIDE // stride) + 0.5) * stride
    maps = torch.stack([cell.expand(len(cell), -1), cell[:, None].expand(-1, len(cell))])
    maps = torch.stack([maps, maps + 1000])
    shown = at(*windows).show(maps, 8)
    for i, (x, y, half) in enumerate(windows):
        cells = half * ((np.arange(8) + 0.5) / 4 - 1)
        for row in range(8):
            for column in range(8):
                place = np.array([x + cells[column], y + cells[row]])
                if ((place < stride) | (place > SIDE - stride)).any():
                    continue
                expected = place + 1000 * (i >= len(windows) // 2)
                assert shown[i, :, row, column].numpy() == pytest.approx(expected, abs=1e-2)


@given(window)
def test_cells_off_the_picture_are_known_to_be(values):
    known = at(values).known(16)[0, 0]
    x, y, half = values
    cells = half * ((np.arange(16) + 0.5) / 8 - 1)
    columns, rows = x + cells, y + cells
    expected = ((rows >= 0) & (rows <= SIDE))[:, None] & ((columns >= 0) & (columns <= SIDE))
    near = 1e-3 * SIDE
    sure = (np.minimum(abs(rows), abs(rows - SIDE)) > near)[:, None] & (
        np.minimum(abs(columns), abs(columns - SIDE)) > near
    )
    assert np.array_equal(known.numpy()[sure] > 0, expected[sure])


@given(st.floats(20, 44), st.floats(20, 44), st.floats(10, 18))
def test_what_a_window_shows_goes_back_to_its_place(x, y, half):
    place = torch.arange(SIDE) + 0.5
    smooth = torch.exp(-((place[:, None] - y) ** 2 + (place - x) ** 2) / (2 * (half / 4) ** 2))
    windows = at((x, y, half))
    back = windows.put_back(windows.show_own(smooth[None, None], 96), 1)
    assert float((back - smooth).abs().max()) < 0.03


@given(st.data())
def test_a_window_holds_the_box(data):
    x0, x1 = sorted(data.draw(st.tuples(st.floats(0, 63), st.floats(0, 63))))
    y0, y1 = sorted(data.draw(st.tuples(st.floats(0, 63), st.floats(0, 63))))
    empty = torch.full((1, 1, 16, 16), -5.0)
    x, y, half = around(empty, prompted(box=[x0, y0, x1, y1]))[0].tolist()
    assert x - half < x0
    assert x + half > x1
    assert y - half < y0
    assert y + half > y1


@given(st.floats(16, 48), st.floats(16, 48), st.floats(6, 14))
def test_without_a_box_a_window_holds_the_mask(x, y, radius):
    found = around(disc(x, y, radius), prompted([(x, y)], [1.0]))[0]
    assert float((found[:2] - torch.tensor([x, y])).abs().max()) < 4
    assert radius < float(found[2]) < 1.2 * (radius + 4) + 7


def test_a_stray_speck_does_not_widen_a_window():
    masks = disc(20, 20, 14)
    alone = around(masks, prompted([(20, 20)], [1.0]))[0]
    masks[0, 0, -1, -1] = 6
    with_speck = around(masks, prompted([(20, 20)], [1.0]))[0]
    assert float(with_speck[2]) < 1.5 * float(alone[2])


def test_an_empty_mask_has_a_window_around_its_point():
    empty = torch.full((1, 2, 16, 16), -5.0)
    windows = around(empty, prompted([(40, 12)], [1.0]))
    assert windows.isfinite().all()
    assert windows[0, :2].tolist() == [40.5, 12.5]
    assert 16 < float(windows[0, 2]) < 32


def test_a_mask_prompt_alone_has_a_finite_window():
    windows = around(torch.full((1, 1, 16, 16), -5.0), prompted())
    assert windows.isfinite().all()


def test_no_change_leaves_the_draft_and_a_change_stays_in_its_window():
    drafts = torch.randn(1, 1, 16, 16)
    windows = at((20.0, 24.0, 10.0))
    plain = torch.nn.functional.interpolate(drafts, size=(32, 32), mode="bilinear")
    zero = merged_masks(drafts, torch.zeros(1, 1, 96, 96), windows, 2)
    assert torch.equal(zero, plain)
    one = merged_masks(drafts, torch.ones(1, 1, 96, 96), windows, 2) - plain
    place = (torch.arange(32) + 0.5) * 2
    inside = ((place - 24).abs() < 9.9)[:, None] & ((place - 20).abs() < 9.9)
    outside = ((place - 24).abs() > 10.2)[:, None] | ((place - 20).abs() > 10.2)
    assert one[0, 0][inside] == pytest.approx(1, abs=1e-5)
    assert one[0, 0][outside] == pytest.approx(0, abs=1e-5)


def test_facts_of_a_mask_that_is_sure_and_of_one_that_is_not():
    sure, unsure = disc(32, 32, 16, 1) * 3, disc(32, 32, 16, 1) / 20
    expected, stability, share, certainty = mask_facts(sure)[0].tolist()
    assert expected == pytest.approx(1, abs=1e-3)
    assert stability == pytest.approx(1)
    assert share == pytest.approx(np.pi * 16**2 / SIDE**2, rel=0.02)
    assert certainty == pytest.approx(1, abs=1e-3)
    assert mask_facts(unsure)[0, 0] < 0.4


def test_the_second_look_is_the_same_for_many_prompts_at_once():
    torch.manual_seed(0)
    sam = build_conv(128).eval()
    with torch.no_grad():
        for parameter in sam.mask_refiner.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        features = sam.encode(torch.randint(0, 255, (1, 3, 128, 128)))
        boxes = torch.tensor([[10.0, 20, 60, 70], [40, 40, 90, 120]])
        logits, iou = sam.decode(features, boxes=boxes)
        assert logits.shape == (2, 4, *sam.mask_input_size)
        for i in range(2):
            alone, score = sam.decode(features, boxes=boxes[i : i + 1])
            assert torch.allclose(logits[i : i + 1], alone, atol=1e-4)
            assert torch.allclose(iou[i : i + 1], score, atol=1e-4)
            single, _ = sam.decode(features, boxes=boxes[i : i + 1], outputs=slice(0, 1))
            assert torch.allclose(single, alone[:, :1], atol=1e-4)

"""Simulated prompts: where they may lie, and how they are spread."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplat_train import clicks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_masks(seed: int) -> torch.Tensor:
    masks = torch.rand(6, 24, 20, generator=generator(seed)) < 0.2
    masks[:, 3, 4] = True
    return masks


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_first_points_lie_in_their_masks(seed):
    masks = random_masks(seed)
    x, y = clicks.first_points(masks, generator(seed)).long().unbind(-1)
    assert masks[torch.arange(len(masks)), y, x].all()


def test_random_points_are_uniform():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 1:3] = True
    mask[0, 3, 0] = True
    points = clicks.random_points(mask.expand(6000, -1, -1), generator())
    _, counts = torch.unique(points, dim=0, return_counts=True)
    assert len(counts) == 3
    assert counts.min() > 1850
    assert counts.max() < 2150


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_corrective_points_lie_in_the_error_and_say_what_is_right(seed):
    masks = random_masks(seed)
    logits = torch.randn(masks.shape, generator=generator(seed + 1))
    points, labels = clicks.corrective_points(logits, masks, generator(seed))
    x, y = points.long().unbind(-1)
    rows = torch.arange(len(masks))
    assert ((logits > 0) ^ masks)[rows, y, x].all()
    assert (masks[rows, y, x] == (labels == 1)).all()


def test_a_perfect_prediction_gets_another_point_of_the_object():
    masks = random_masks(1)
    points, labels = clicks.corrective_points(masks * 2.0 - 1, masks, generator())
    x, y = points.long().unbind(-1)
    assert masks[torch.arange(len(masks)), y, x].all()
    assert (labels == 1).all()


def test_boxes_are_tight_and_half_open():
    masks = torch.zeros(2, 10, 12, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 0:10, 11] = True
    expected = torch.tensor([[3.0, 2, 9, 5], [11, 0, 12, 10]])
    torch.testing.assert_close(clicks.boxes_of(masks), expected)


@pytest.mark.parametrize(("side", "deviation"), [(50.0, 5.0), (1000.0, 16.5)])
def test_box_noise_is_a_tenth_of_the_side_and_at_most_twenty_pixels(side, deviation):
    boxes = torch.tensor([[0.0, 0, side, side]]).expand(20_000, 4)
    noise = clicks.noisy_boxes(boxes, generator()) - boxes
    assert noise.abs().max() <= 20
    assert noise.std().item() == pytest.approx(deviation, rel=0.15)

"""Losses against values worked out by hand, and their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplat_train import losses

LOGITS = torch.tensor([[[math.log(3.0), math.log(3.0)], [-math.log(3.0), 0.0]]])
"""Probabilities 3/4, 3/4, 1/4, 1/2."""
TARGET = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])


def test_focal_loss_by_hand():
    # alpha (1 - p_correct)^2 (-log p_correct), pixel by pixel
    pixels = [
        0.25 * 0.25**2 * -math.log(0.75),
        0.75 * 0.75**2 * -math.log(0.25),
        0.75 * 0.25**2 * -math.log(0.75),
        0.25 * 0.50**2 * -math.log(0.50),
    ]
    assert losses.focal_loss(LOGITS, TARGET).item() == pytest.approx(sum(pixels) / 4, rel=1e-5)


def test_dice_loss_by_hand():
    shared, total = 0.75 + 0.5, (0.75 + 0.75 + 0.25 + 0.5) + 2
    expected = 1 - (2 * shared + 1) / (total + 1)
    assert losses.dice_loss(LOGITS, TARGET).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_cross_entropy_by_hand():
    inside = (-math.log(0.75) - math.log(0.5)) / 2
    outside = (-math.log(0.25) - math.log(0.75)) / 2
    found = losses.balanced_cross_entropy(LOGITS, TARGET).item()
    assert found == pytest.approx((inside + outside) / 2, rel=1e-5)


def test_mask_loss_is_twenty_focal_and_one_dice():
    expected = 20 * losses.focal_loss(LOGITS, TARGET) + losses.dice_loss(LOGITS, TARGET)
    found = losses.mask_loss(LOGITS, TARGET, focal=20, dice=1, balanced=0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "loss", [losses.focal_loss, losses.dice_loss, losses.balanced_cross_entropy]
)
def test_gradients_match_finite_differences(loss):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 3, 4, generator=generator) < 0.4).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,))


@given(st.integers(0, 10_000))
def test_iou_equals_sets_of_pixels(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 5, generator=generator)
    target = torch.rand(5, 5, generator=generator) < torch.rand(1, generator=generator)
    a = set(map(tuple, torch.nonzero(logits > 0).tolist()))
    b = set(map(tuple, torch.nonzero(target).tolist()))
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert losses.mask_iou(logits, target.float()).item() == pytest.approx(expected)


def test_centre_offsets_lead_to_the_centroid():
    labels = torch.zeros(1, 8, 8, dtype=torch.int32)
    labels[0, 2:4, 2:6] = 1  # centroid x 3.5, y 2.5
    offsets = losses.centre_offsets(labels)[0, :, 2, 2]
    torch.testing.assert_close(offsets, torch.tensor([1.5 / 8, 0.5 / 8]))


def test_dense_loss_is_least_for_the_truth():
    labels = torch.zeros(1, 16, 16, dtype=torch.int32)
    labels[0, 3:9, 4:12] = 2
    edges = losses._boundary(labels)
    truth = torch.cat(
        [
            torch.stack([(labels > 0).float() * 20 - 10, edges * 20 - 10], dim=1),
            losses.centre_offsets(labels),
        ],
        dim=1,
    )
    assert losses.dense_loss(truth, labels) < 1e-3
    assert losses.dense_loss(-truth, labels) > 1

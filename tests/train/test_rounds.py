"""Rounds of prompting: their order, their losses by hand, and what is fed back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from samplat import Draft
from samplat_train import losses
from samplat_train.rounds import PromptRounds, plan_rounds
from samplat_train.sheets import draw_sheet
from samplat_train.trainer import (
    _backward,
    encode,
    new_state,
    train_step,
)
from train.runs import QUICK, batches


def test_every_parameter_that_rounds_use_gets_a_gradient(folder):
    state = new_state(QUICK)
    state.step = QUICK.steps - 1  # late: a second round with mask feedback
    train_step(state, QUICK, [batches(folder)[0]])
    unused = {n for n, p in state.model.named_parameters() if p.grad is None}
    assert not unused


def _gradients(recipe, batch, whole):
    """Gradients of one step: round by round, or of the sum of all rounds in one graph."""
    torch.manual_seed(0)
    state = new_state(recipe)
    if not whole:
        _backward(state, recipe, batch, 0, 1)
    else:
        state.model.train()
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003)
        rounds = PromptRounds(state.model, recipe, batch.masks.flatten(0, 1), generator, late=False)
        features = encode(state.model, batch.images)
        rounds.place(features, len(batch.images))
        maps = F.interpolate(
            state.dense_head(features[0]), size=batch.labels.shape[-2:], mode="bilinear"
        )
        dense = recipe.dense_weight * losses.dense_loss(maps, batch.labels)
        (dense + sum(rounds)).backward()
    return {n: p.grad for n, p in state.model.named_parameters()}


def test_gradients_round_by_round_are_those_of_the_sum(folder):
    recipe = replace(QUICK, corrections=2, refinements=2, late_from=1.0)
    batch = batches(folder, recipe)[0]
    parts, whole = (_gradients(recipe, batch, w) for w in (False, True))
    scale = max(float(g.abs().max()) for g in whole.values())
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, rtol=1e-3, atol=1e-5 * scale), name


@given(st.integers(0, 9), st.integers(0, 4), st.integers(0, 2**31))
def test_rounds_are_the_papers(corrections, refinements, seed):
    rounds = plan_rounds(corrections, refinements, torch.Generator().manual_seed(seed))
    assert rounds.count(True) == corrections
    assert rounds.count(False) == refinements
    assert not refinements or rounds[-1] is False


class Stub(torch.nn.Module):
    """A network that answers with the mask it is asked to, and remembers its mask prompts."""

    mask_refiner = None

    def __init__(self, model, answer):
        super().__init__()
        self.answer, self.fed_back, self.frame_size = answer, [], model.frame_size
        self.inner, self.prompt_encoder = model.prompt_encoder, self.encode
        for name in ("guided", "embedding_size", "dense_pe"):
            setattr(self.encode.__func__, name, getattr(model.prompt_encoder, name))

    def encode(self, image, points, labels, boxes, masks, origin=None):
        self.fed_back.append(masks)
        return self.inner(image, points, labels, boxes, None, origin)

    def mask_decoder(self, features, pe, sparse, dense):
        # The masks of a prompt differ, so that it shows which of them is fed back.
        masks = self.answer[:, None] * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
        iou = torch.tensor([[0.0, 0.1, 0.9, 0.2]]).expand(len(masks), 4)
        return Draft(masks, iou, torch.zeros(len(masks), 4, 128))


def test_points_correct_the_mask_that_was_fed_back(folder):
    """Each new point lies in the error of the previous mask, and is labelled by the truth."""
    recipe = replace(QUICK, corrections=3, late_from=1.0, loss_stride=1)
    batch = batches(folder, recipe)[0]
    masks = batch.masks.flatten(0, 1)
    answer = torch.full((len(masks), 16, 16), -1.0)
    answer[:, :6] = 1.0
    stub = Stub(new_state(recipe).model, answer)
    rounds = PromptRounds(stub, recipe, masks, torch.Generator().manual_seed(1), late=False)
    rounds.place((torch.zeros(2, 128, 8, 8), torch.zeros(2, 32, 16, 16)), 2)
    list(rounds)
    # After the first prompt the mask of the highest predicted IoU, later the single one.
    assert stub.fed_back[0] is None
    for mask, factor in zip(stub.fed_back[1:], (3.0, 1.0, 1.0), strict=True):
        assert torch.equal(mask[:, 0], factor * answer)
    assert rounds.points.shape == (len(masks), 4, 2)
    guess = F.interpolate(answer[:, None], size=(64, 64), mode="bilinear")[:, 0] > 0
    for k in range(len(masks)):
        for (x, y), label in zip(
            rounds.points[k, 1:].long().tolist(), rounds.labels[k, 1:].tolist(), strict=True
        ):
            assert guess[k, y, x] != masks[k, y, x]
            assert bool(label) == bool(masks[k, y, x])


@pytest.mark.parametrize("single_first", [True, False])
def test_the_loss_is_the_least_of_three_first_and_the_single_ones_later(folder, single_first):
    """The paper's rule by hand: minimum over the three masks, IoU by squared error of all four."""
    recipe = replace(QUICK, single_first=single_first, loss_stride=4)
    masks = torch.zeros(4, 64, 64, dtype=torch.bool)
    masks[:, 10:40, 20:50] = True
    rounds = PromptRounds(new_state(recipe).model, recipe, masks, torch.Generator(), late=True)
    logits = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    iou = torch.tensor([[0.3, 0.1, 0.9, 0.2]]).expand(4, 4)
    target = rounds.target[:, None].float()
    each = losses.mask_loss(logits, target, focal=20.0, dice=1.0, balanced=0.0)
    error = (iou - losses.mask_iou(logits, target)).square().mean(dim=1)
    draft = Draft(logits, iou, torch.zeros(4, 4, 128))
    first, best = rounds._draft_loss(draft, first=True)
    least = each[:, 1:].min(dim=1).values + error + (each[:, 0] if single_first else 0)
    assert float(first) == pytest.approx(float(least.mean()), rel=1e-5)
    assert torch.equal(best, each[:, 1:].argmin(dim=1) + 1)
    later, best = rounds._draft_loss(draft, first=False)
    assert float(later) == pytest.approx(float((each[:, 0] + error).mean()), rel=1e-5)
    assert not best.any()


def test_sheets_show_prompts_truth_and_guess(folder, tmp_path):
    batch = batches(folder)[0]
    draw_sheet(new_state(QUICK).model.eval(), QUICK, batch, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 64, 2 * 64)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_masks_are_compared_at_the_loss_stride(folder, stride):
    recipe = replace(QUICK, loss_stride=stride, corrections=1, late_from=1.0)
    report = train_step(new_state(recipe), recipe, [batches(folder, recipe)[0]])
    assert np.isfinite(report.loss)
    assert 0 <= report.iou <= 1

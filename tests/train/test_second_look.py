"""The loss of a second look, against values computed by hand and by pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplat import BUILDERS, Draft, Prompted, Windows
from samplat_train import second_look
from samplat_train.second_look import (
    CROSS_ENTROPY,
    DICE,
    DOUBTED,
    UNSEEN,
    SecondLook,
    _dimmed,
    _doubted,
    _moved,
    window_iou,
    window_loss,
)

SIDE = 64


def rectangle(x0, y0, x1, y1, side=SIDE):
    mask = torch.zeros(1, 1, side, side)
    mask[..., y0:y1, x0:x1] = 1
    return mask


def test_the_loss_of_four_cells_by_hand():
    logits = torch.tensor([[[[2.0, -1.0], [0.5, 3.0]]]])
    target = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    p = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.5, 3.0])))
    entropy = -np.log([p[0], 1 - p[1], 1 - p[2], p[3]])
    dice = 1 - (2 * (p[0] + p[3]) + 1) / (p.sum() + 2 + 1)
    known = torch.ones_like(target)
    expected = CROSS_ENTROPY * entropy.mean() + DICE * dice
    assert float(window_loss(logits, target, known)) == pytest.approx(expected, rel=1e-5)
    # A cell off the picture counts nothing, whatever is predicted there.
    known[..., 1, 0] = 0
    dice = 1 - (2 * (p[0] + p[3]) + 1) / (p[[0, 1, 3]].sum() + 2 + 1)
    expected = CROSS_ENTROPY * entropy[[0, 1, 3]].mean() + DICE * dice
    assert float(window_loss(logits, target, known)) == pytest.approx(expected, rel=1e-5)


@given(st.data())
def test_the_iou_in_a_window_is_that_of_the_pixels_even_if_the_object_reaches_beyond(data):
    def draw():
        (x0, x1), (y0, y1) = (
            sorted(data.draw(st.lists(st.integers(0, SIDE), min_size=2, max_size=2, unique=True)))
            for _ in "xy"
        )
        return rectangle(x0, y0, x1, y1)

    truth, found = draw(), draw()
    inside = rectangle(16, 16, 48, 48)
    seen = truth[..., 16:48, 16:48], found[..., 16:48, 16:48]
    predicted = found * inside
    union = ((predicted + truth) > 0).sum()
    expected = float((predicted * truth).sum() / union)
    measured = window_iou(
        2 * seen[1] - 1, seen[0], torch.ones(1, 1, 32, 32), torch.ones(1), truth.sum()[None]
    )
    assert float(measured) == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def trusting(monkeypatch):
    """Drafts and features as they are."""
    monkeypatch.setattr(second_look, "DOUBTED", 0.0)
    monkeypatch.setattr(second_look, "UNSEEN", 0.0)


@torch.no_grad()
def look(box, truth, draft, meant, seed=0):
    torch.manual_seed(0)
    sam = BUILDERS["conv"](image_size=SIDE).eval()
    features = sam.encode(torch.randint(0, 255, (1, 3, SIDE, SIDE)))
    drafts = Draft(draft, torch.full((1, 1), 0.7), torch.zeros(1, 1, 128))
    prompts = Prompted(torch.zeros(1, 1, 2), -torch.ones(1, 1), torch.tensor([box]).float())
    second = SecondLook(sam, features, drafts, prompts, torch.Generator().manual_seed(seed))
    return second, second.loss(truth[:, 0] > 0, torch.tensor([meant]))


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("meant", [True, False])
def test_a_draft_of_something_else_teaches_its_predicted_iou_alone(meant):
    truth = rectangle(8, 8, 30, 30)
    elsewhere = 8 * rectangle(10, 10, 15, 15, SIDE // 4) - 4
    second, loss = look([40, 40, 60, 60], truth, elsewhere, meant)
    error = float((second.refined.iou - 0).abs())
    if meant:
        assert float(loss) > error + 0.5
    else:
        assert float(loss) == pytest.approx(error, abs=1e-5)


@pytest.mark.usefixtures("trusting")
def test_an_untrained_second_look_leaves_the_draft_and_its_predicted_iou():
    draft = 8 * rectangle(4, 4, 10, 9, SIDE // 4) - 4
    second, _ = look([16, 16, 40, 36], rectangle(16, 16, 40, 36), draft, True)
    assert float(second.refined.iou) == pytest.approx(0.7)
    assert second.logits.shape == (1, 1, SIDE // 2, SIDE // 2)
    grown = torch.nn.functional.interpolate(draft, scale_factor=2, mode="bilinear")
    assert torch.allclose(second.logits, grown, atol=1e-4)


def test_windows_move_a_little_and_the_same_for_the_same_seed():
    windows = Windows(
        middle=torch.full((500, 2), 30.0), half=torch.full((500, 1), 10.0), picture=(SIDE, SIDE)
    )
    a, b = (_moved(windows, torch.Generator().manual_seed(3)) for _ in "ab")
    assert torch.equal(a.middle, b.middle)
    assert torch.equal(a.half, b.half)
    assert float((a.middle - 30).std()) == pytest.approx(0.8, rel=0.15)
    assert float((a.half / 10).log().std()) == pytest.approx(0.12, rel=0.15)


def test_some_drafts_of_boxes_are_doubted_and_those_of_points_never():
    count = 2000
    boxes = torch.tensor([[4.0, 4, 20, 20]]).repeat(count, 1)
    boxes[::2] = torch.nan
    prompts = Prompted(torch.zeros(count, 1, 2), torch.ones(count, 1), boxes)
    draft = Draft(
        torch.full((count, 1, 8, 8), 6.0), torch.full((count, 1), 0.7), torch.ones(count, 1, 4)
    )
    doubted = _doubted(draft, prompts, torch.Generator().manual_seed(0))
    changed = (doubted.logits != 6).flatten(1).any(dim=1)
    blind = (doubted.tokens == 0).flatten(1).all(dim=1)
    assert not (changed | blind)[::2].any()
    assert float(changed[1::2].float().mean()) == pytest.approx(DOUBTED, abs=0.05)
    assert float(blind[1::2].float().mean()) == pytest.approx(UNSEEN, abs=0.05)
    assert float(doubted.logits[changed].mean()) == pytest.approx(3, abs=0.4)
    assert torch.equal(doubted.iou, draft.iou)


def test_some_pictures_lack_their_features_and_never_their_pixels():
    features = tuple(torch.ones(500, 2, n, n) for n in (2, 4, 8))
    dimmed = _dimmed(features, torch.Generator().manual_seed(0))
    assert torch.equal(dimmed[2], features[2])
    lacking = (dimmed[1] == 0).flatten(1).all(dim=1)
    for i in range(2):
        assert torch.equal(dimmed[i][~lacking], features[i][~lacking])
        assert not dimmed[i][lacking].any()
    assert float(lacking.float().mean()) == pytest.approx(UNSEEN, abs=0.06)

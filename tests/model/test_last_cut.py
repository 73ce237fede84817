"""The last cut: what it gains, and what it must leave alone."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import samplat
from samplat.model.last_cut import BAND, SIDE, last_cut, worth_cutting
from samplat.model.mask_refiner import SIDE as LOOK
from samplat.model.prompt_encoder import PADDING
from samplat.model.windows import Prompted, Windows

PICTURE = (512, 512)


def figure():
    """A body with four legs, (512, 512) bool."""
    mask = np.zeros(PICTURE, bool)
    mask[150:260, 120:380] = True
    for x in (125, 190, 300, 360):
        mask[260:360, x : x + 18] = True
    return torch.from_numpy(mask)


def coloured(mask, seed=0):
    """Pixels (1, 3, 512, 512): the figure of one colour on ground of another, with noise."""
    rng = torch.Generator().manual_seed(seed)
    one, other = torch.tensor([1.0, -0.6, -0.8]), torch.tensor([-0.8, 0.6, -0.2])
    flat = torch.where(mask[..., None], one, other).permute(2, 0, 1)[None]
    return flat + 0.2 * torch.randn(1, 3, *PICTURE, generator=rng)


def prompted(box=None):
    boxes = torch.tensor([box or [torch.nan] * 4], dtype=torch.float32)
    return Prompted(torch.zeros(1, 1, 2), torch.full((1, 1), PADDING), boxes)


def window(middle=(250.0, 255.0), half=162.0):
    return Windows(middle=torch.tensor([middle]), half=torch.tensor([[half]]), picture=PICTURE)


def seen(mask, windows, side):
    return windows.show_own(mask[None, None].float(), side)


def iou(one, other):
    return float((one & other).sum() / (one | other).sum())


def test_it_finds_what_the_coarse_mask_blurred():
    mask, windows = figure(), window()
    blurred = F.avg_pool2d(seen(mask, windows, LOOK), 7, stride=1, padding=3)
    logits = 6 * (blurred - 0.6)
    truth = seen(mask, windows, SIDE) > 0.5
    before = F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear") > 0
    after = last_cut(coloured(mask), logits, windows, prompted([118, 148, 382, 362])) > 0
    assert iou(before, truth) < 0.93
    assert iou(after, truth) > 0.97


def test_the_edge_moves_only_within_the_band_and_the_box():
    mask, windows = figure(), window()
    pixels = coloured(mask)
    draft = torch.zeros_like(mask)
    draft[150:200, 120:380] = True  # the upper part alone: legs are out of reach
    logits = 8 * seen(draft, windows, LOOK) - 4
    after = last_cut(pixels, logits, windows, prompted()) > 0
    start = F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear") > 0
    reach = 4 * (BAND + 1)
    near = F.max_pool2d(start.float(), 2 * reach + 1, stride=1, padding=reach) > 0
    assert not (after & ~near).any()
    boxed = last_cut(pixels, logits, windows, prompted([118, 148, 382, 202])) > 0
    outside = seen(torch.from_numpy(np.arange(512)[:, None] >= 206).expand(PICTURE), windows, SIDE)
    assert not (boxed & (outside > 0.99)).any()


@pytest.mark.parametrize(("logit", "expected"), [(-5.0, 0.0), (5.0, 1.0)])
def test_empty_and_full_masks_stay(logit, expected):
    windows = window()
    flat = torch.zeros(1, 3, *PICTURE)
    after = last_cut(flat, torch.full((1, 1, LOOK, LOOK), logit), windows, prompted())
    assert after.isfinite().all()
    assert ((after > 0).float() == expected).all()


def test_windows_are_cut_alike_alone_and_together():
    mask = figure()
    pixels = coloured(mask)
    windows = [window(), window((240.0, 230.0), 150.0)]
    logits = [4 * seen(mask, w, LOOK) - 2 for w in windows]
    both = Windows(
        middle=torch.cat([w.middle for w in windows]),
        half=torch.cat([w.half for w in windows]),
        picture=PICTURE,
    )
    asked = prompted().repeated(2)
    together = last_cut(pixels, torch.cat(logits), both, asked)
    for i, one in enumerate(windows):
        alone = last_cut(pixels, logits[i], one, prompted())
        assert torch.allclose(alone, together[i : i + 1], atol=1e-3)


def test_only_large_coloured_windows_are_worth_it():
    mean, spread = (torch.tensor(v).view(3, 1, 1) for v in ([124.0, 116, 104], [58.0, 57, 57]))
    large, small = window(), window(half=40.0)
    pixels = coloured(figure())
    level = pixels.mean(dim=1, keepdim=True) * 50 + 120
    grey = (level.expand(-1, 3, -1, -1) - mean) / spread
    beyond = window((0.0, 0.0), 200.0)  # three quarters of it show nothing
    given = [(large, pixels), (small, pixels), (large, grey), (beyond, grey)]
    worth = [worth_cutting(w, p, mean, spread, LOOK).tolist() for w, p in given]
    assert worth == [[True], [False], [False], [False]]


@pytest.mark.parametrize("grey", [True, False])
def test_a_model_cuts_coloured_pictures_alone(grey, monkeypatch):
    """Of grey pictures too the normalised channels differ, since their means do."""
    cuts = []
    monkeypatch.setattr("samplat.model.sam.last_cut", lambda *a: cuts.append(1) or last_cut(*a))
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[20:110, 20:110] = 200 if grey else (200, 80, 40)
    model = samplat.load_model("samplat-tiny", precision="fp32")
    prompts = samplat.Prompts(boxes=[(18, 18, 112, 112)])
    found = samplat.predict(model, samplat.embed(model, picture), prompts, multimask=False)
    assert bool(cuts) is not grey
    assert iou(torch.from_numpy(found.masks[0, 0]), torch.from_numpy(picture[..., 0] > 0)) > 0.95

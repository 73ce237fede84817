"""A last cut of large masks at twice their window's resolution, where the picture has colours.

In a window every object has the same few cells, so that the legs and wheels of a large one blur.
Colours tell them apart from what is right beside them: GrabCut once more, begun from the mask and
let loose only near its edge. In grey pictures too many things are of one shade; there, and where
the window's cells are finer than the pixels anyway, masks stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from samplat.model.colour_cuts import (
    Looks,
    cell_costs,
    cut_in_turns,
    fine_cuts,
    halved,
    terms_of,
)
from samplat.model.mask_refiner import drawn_boxes
from samplat.model.windows import Prompted, Windows

SIDE = 192
"""Cells of a window along its side."""
BAND = 3
"""How far the edge may move, in cells of a quarter of SIDE along the window."""
COARSE = 1.0
"""Pixels of the model's input along a cell of the refiner's window from which a mask is cut."""
CHROMA = 8.0
"""Least mean difference between the largest and the smallest of three channels, of 255 levels."""
ROUNDS, ROUGH_STEPS, STEPS = 4, 30, 40
ROUGH_GAMMA, GAMMA = 30.0, 20.0
"""Costs of a cut between like cells, at half and at full resolution, as in `colour_cuts`."""
FIRMNESS = 2.0
"""Logits that the cut adds to a mask's on either side."""
MOST = 4.0
"""Logits of the mask are limited to this, so that the cut can overrule them."""


def worth_cutting(
    windows: Windows, pixels: Tensor, mean: Tensor, spread: Tensor, side: int
) -> Tensor:
    """(N,) True for windows of a coarse resolution that show colours.

    Args:
        windows: N of one picture.
        pixels: (1, 3, H, W) normalised.
        mean: (3, 1, 1) what was taken from them.
        spread: (3, 1, 1) what they were divided by then.
        side: cells of a window as the refiner sees it.
    """
    coarse = 2 * windows.half[:, 0] > COARSE * side
    levels = pixels.float() * spread + mean
    chroma = levels.amax(dim=1, keepdim=True) - levels.amin(dim=1, keepdim=True)
    total, count = (
        part.sum(dim=(1, 2, 3))
        for part in (windows.show(chroma, side // 4), windows.known(side // 4))
    )
    return coarse & (total > CHROMA * count)


@torch.no_grad()
def last_cut(pixels: Tensor, logits: Tensor, windows: Windows, prompts: Prompted) -> Tensor:
    """Logits (N, 1, SIDE, SIDE) of masks (N, 1, h, w) seen in windows of one picture.

    Args:
        pixels: (1, 3, H, W) normalised.
        logits: of the masks in their windows.
        windows: theirs.
        prompts: theirs.
    """
    with torch.autocast(pixels.device.type, enabled=False):
        fine = F.interpolate(logits.float(), size=(SIDE, SIDE), mode="bilinear")
        looks = _looks(pixels.float(), fine, windows, prompts)
        chosen, mixtures = cut_in_turns(halved(looks), ROUNDS, ROUGH_GAMMA, ROUGH_STEPS)
        cost = cell_costs(looks, terms_of(looks.colours), mixtures)
        cut = fine_cuts(looks, cost, chosen, (GAMMA,), STEPS)
        return FIRMNESS * (2 * cut - 1) + fine.clamp(-MOST, MOST)


def _looks(pixels: Tensor, fine: Tensor, windows: Windows, prompts: Prompted) -> Looks:
    """The window's cells; only those near the mask's edge and in the box have a choice."""
    known = windows.known(SIDE)
    mask = (fine > 0).float() * known
    small = F.avg_pool2d(mask, 4)
    wide, core = _grown(small), 1 - _grown(1 - small)
    possible, certain = (F.interpolate(part, size=(SIDE, SIDE)) for part in (wide, core))
    boxed = prompts.boxes.isfinite().all(dim=-1)[:, None, None, None]
    return Looks(
        colours=windows.show(pixels, SIDE),
        known=known,
        possible=(possible > 0.5) * torch.where(boxed, drawn_boxes(prompts, windows, SIDE), 1.0),
        certain=(certain > 0.5).float(),
        start=mask,
    )


def _grown(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask, 2 * BAND + 1, stride=1, padding=BAND)

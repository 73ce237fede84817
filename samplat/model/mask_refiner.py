"""A second look at each mask, in a window around it: the bundled model's.

Edges of small objects do not fit into an embedding, and what belongs to a large one is often told
by colour and texture alone. So each mask of the decoder is drawn again at one size, whatever its
own, by a small U-Net that sees the picture itself, the prompt, and what GrabCut would make of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model.colour_cuts import CONTEXT, CUTS, Looks, colour_cuts
from samplat.model.common import AttentionBlock
from samplat.model.conv_encoder import ResidualBlock, conv_block, doubled
from samplat.model.guided_prompt_encoder import cells_covered, discs
from samplat.model.mask_decoder import Draft
from samplat.model.prompt_encoder import BACKGROUND, FOREGROUND
from samplat.model.windows import Prompted, Windows

SIDE = 96
"""Cells of a window along its side."""
DISC = 2.5
"""Radius of the discs that points are drawn with, in cells."""
CORE = 0.8
"""Share of a window's side in which an object without a box may lie."""
CLICKED = 0.9
"""Of a disc's height: what lies above it is certain."""
OFF_PICTURE = 20.0
"""Taken from the logits where there is no picture."""
FACTS = 4
"""What `mask_facts` tells of a mask."""


class Refined(NamedTuple):
    """N masks after the second look."""

    logits: Tensor
    """(N, 1, SIDE, SIDE) in the windows."""
    change: Tensor
    """(N, 1, SIDE, SIDE): what was added to the draft."""
    iou: Tensor
    """(N,) predicted IoU."""


class MaskRefiner(nn.Module):
    """Redraws masks in windows of SIDE x SIDE cells.

    Args:
        dim: channels of the decoder's tokens.
        fine_channels: channels of the encoder's features at stride 4.
        widths: channels of the U-Net at SIDE, 1/2, 1/4 and 1/8 of it.
    """

    def __init__(
        self,
        *,
        dim: int = 128,
        fine_channels: int = 32,
        widths: tuple[int, int, int, int] = (16, 40, 64, 96),
    ) -> None:
        super().__init__()
        w1, w2, w4, w8 = widths
        seen = 12 + 1 + 1 + 2 + 1 + CUTS
        self.stem = conv_block(seen, w1)
        self.down2 = conv_block(w1, w2, stride=2)
        self.fuse2 = nn.Conv2d(fine_channels, w2, 1)
        self.stage2 = ResidualBlock(w2)
        self.down4 = conv_block(w2, w4, stride=2)
        self.fuse4 = nn.Conv2d(dim, w4, 1)
        self.stage4 = nn.Sequential(*[ResidualBlock(w4) for _ in range(2)])
        self.down8 = conv_block(w4, w8, stride=2)
        self.stage8 = nn.Sequential(*[ResidualBlock(w8) for _ in range(3)])
        self.attend8 = nn.Sequential(*[AttentionBlock(w8, heads=4) for _ in range(2)])
        self.token = nn.Linear(dim, 2 * w8)
        self.up4 = nn.Conv2d(w8, w4, 1)
        self.merge4 = nn.Sequential(*[ResidualBlock(w4) for _ in range(2)])
        self.up2 = nn.Conv2d(w4, w2, 1)
        self.merge2 = ResidualBlock(w2)
        self.up1 = nn.Conv2d(w2, w1, 1)
        self.merge1 = conv_block(w1, w1)
        self.draw = nn.Conv2d(w1, 1, 3, padding=1)
        self.quality = nn.Sequential(nn.Linear(dim + w8 + FACTS, 64), nn.ReLU(), nn.Linear(64, 1))
        for last in (self.token, self.draw, self.quality[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(
        self, features: tuple[Tensor, ...], draft: Draft, prompts: Prompted, windows: Windows
    ) -> Refined:
        """Look again at N masks, equally many of each of B images, image by image in order.

        Args:
            features: of the encoder: embedding, finer features (B, C, h, w) and pixels.
            draft: one mask of each: logits (N, 1, h, w), iou (N, 1), tokens (N, 1, C).
            prompts: theirs.
            windows: theirs.
        """
        embedding, fine, pixels = features
        token = draft.tokens[:, 0]
        coarse = windows.show_own(draft.logits, SIDE)
        known = windows.known(SIDE)
        drawn = _drawn(prompts, windows)
        sharp = F.pixel_unshuffle(windows.show(pixels, 2 * SIDE), 2)
        cuts = colour_cuts(_looks(pixels, sharp, coarse, known, prompts, windows, drawn))
        seen = _packed([sharp, (coarse / 4).clamp(-3, 3), *drawn, known, cuts], fine.dtype)
        near = _packed([windows.show(fine, SIDE // 2)], fine.dtype)
        wide = _packed([windows.show(embedding, SIDE // 4)], fine.dtype)
        top, change = self._redraw(seen, near, wide, token)
        logits = coarse + change
        facts = mask_facts(logits.detach() - OFF_PICTURE * (1 - known))
        about = torch.cat([part.to(fine.dtype) for part in (token, top, facts)], dim=1)
        iou = draft.iou[:, 0].float() + self.quality(about)[:, 0].float()
        return Refined(logits, change, iou)

    def _redraw(
        self, seen: Tensor, near: Tensor, wide: Tensor, token: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The U-Net: a summary of the window (N, C) and the change (N, 1, SIDE, SIDE) in fp32."""
        x1 = self.stem(seen)
        x2 = self.stage2(self.down2(x1) + self.fuse2(near))
        x4 = self.stage4(self.down4(x2) + self.fuse4(wide))
        scale, shift = self.token(token)[..., None, None].chunk(2, dim=1)
        x8 = self.attend8(self.stage8(self.down8(x4)) * (1 + scale) + shift)
        up = self.merge4(x4 + doubled(self.up4(x8)))
        up = self.merge2(x2 + doubled(self.up2(up)))
        up = self.merge1(x1 + doubled(self.up1(up)))
        return x8.mean(dim=(2, 3)), self.draw(up).float()


def _packed(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    joined = torch.cat([part.to(dtype) for part in parts], dim=1)
    return joined.contiguous(memory_format=torch.channels_last)


def _drawn(prompts: Prompted, windows: Windows) -> list[Tensor]:
    """Maps (N, 1, SIDE, SIDE) of the prompts: box, points off the object, points on it."""
    box = drawn_boxes(prompts, windows, SIDE)
    places = windows.placed(prompts.points + 0.5, SIDE) - 0.5
    kinds = [prompts.labels == kind for kind in (BACKGROUND, FOREGROUND)]
    points = [discs(places, kind, DISC, 1, (SIDE, SIDE)) for kind in kinds]
    return [box, *(drawn[:, None] for drawn in points)]


def drawn_boxes(prompts: Prompted, windows: Windows, side: int) -> Tensor:
    """(N, 1, side, side): the share of each cell inside of its box, 0 without one."""
    corners = windows.placed(prompts.boxes.nan_to_num().reshape(-1, 2, 2), side)
    (x0, y0), (x1, y1) = corners[:, 0].unbind(-1), corners[:, 1].unbind(-1)
    box = cells_covered(y0, y1, side)[..., None] * cells_covered(x0, x1, side)[..., None, :]
    return (box * prompts.boxes.isfinite().all(dim=-1)[:, None, None])[:, None]


def _looks(
    pixels: Tensor,
    sharp: Tensor,
    coarse: Tensor,
    known: Tensor,
    prompts: Prompted,
    windows: Windows,
    drawn: list[Tensor],
) -> Looks:
    """What is cut: all that a box leaves possible, or the draft where there is none."""
    box, off, on = drawn
    boxed = prompts.boxes.isfinite().all(dim=-1)[:, None, None, None]
    place = ((torch.arange(SIDE, device=box.device) + 0.5) * 2 / SIDE - 1).abs() < CORE
    certain = (on > CLICKED).float()
    return Looks(
        colours=sharp.reshape(len(sharp), 3, 4, SIDE, SIDE).mean(dim=2),
        known=known,
        context=windows.scaled(CONTEXT).show(F.avg_pool2d(pixels, 4), SIDE // 2),
        # A box says itself what is not the object; what lies far from it only blurs that.
        known_context=windows.scaled(CONTEXT).known(SIDE // 2) * ~boxed,
        possible=torch.where(boxed, box, (place[:, None] & place).float()) * (off <= CLICKED),
        certain=certain,
        start=torch.where(boxed, torch.ones_like(coarse), (coarse > 0).float()).maximum(certain),
    )


def mask_facts(logits: Tensor) -> Tensor:
    """(N, FACTS) of masks (N, 1, H, W): expected IoU, stability, share of the window, certainty.

    The IoU expected is that of the mask with an object that has each pixel with the probability
    that the model gives it.
    """
    probability = logits.float().sigmoid()
    chosen = (logits > 0).float()
    area, shared = chosen.sum(dim=(1, 2, 3)), (probability * chosen).sum(dim=(1, 2, 3))
    union = area + (probability * (1 - chosen)).sum(dim=(1, 2, 3))
    sure = (probability > 0.73).float().sum(dim=(1, 2, 3))
    possible = (probability > 0.27).float().sum(dim=(1, 2, 3))
    facts = [
        shared / union.clamp_min(1),
        sure / possible.clamp_min(1),
        area / chosen[0].numel(),
        shared / area.clamp_min(1),
    ]
    return torch.stack(facts, dim=1)

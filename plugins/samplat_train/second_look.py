"""The loss of a mask's second look, in its window."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from samplat import Draft, Prompted, Sam, Windows, merged_masks

SHIFT, STRETCH = 0.08, 0.12
"""Deviations of where a window lies, in halves of its side, and of the logarithm of its size."""
DOUBTED, UNSEEN = 0.4, 0.2
"""Shares of boxes whose draft is made faint and noisy, or comes without its token, and share of
pictures whose features are left out. On pictures of a kind never seen all of these are poor,
and the second look has to go by what it sees itself."""
DOUBT = 2.0
"""Deviation of the noise in logits."""
GOOD = 0.5
"""IoU from which a draft is taken to mean the object, and is made better."""
CROSS_ENTROPY, DICE = 2.0, 1.0
"""Weights. In its window an object and its surroundings are of like size: neither needs balance."""


class SecondLook:
    """Masks of N objects looked at again, in windows a little beside those of use.

    Args:
        model: with a mask refiner.
        features: of the pictures.
        draft: one mask of each object.
        prompts: theirs.
        generator: source of randomness, on the CPU.
    """

    def __init__(
        self,
        model: Sam,
        features: tuple[Tensor, ...],
        draft: Draft,
        prompts: Prompted,
        generator: torch.Generator,
    ) -> None:
        assert model.mask_refiner is not None  # noqa: S101 for the type checker
        size = (features[2].shape[-2], features[2].shape[-1])
        self.windows = _moved(Windows.around(draft.logits, prompts, size), generator)
        draft = _doubted(draft, prompts, generator)
        self.refined = model.mask_refiner(
            _dimmed(features, generator), draft, prompts, self.windows
        )
        self.draft = draft
        with torch.no_grad():
            self.logits = merged_masks(
                draft.logits, self.refined.change, self.windows, model.mask_stride
            )

    def loss(self, masks: Tensor, meant: Tensor) -> Tensor:
        """Of the masks that mean the true ones (N, S, S), and of every predicted IoU.

        Args:
            masks: the true ones.
            meant: (N,) True: this draft stands for the object, however bad it is. One that stands
                for something else counts only if it overlaps the object by GOOD.
        """
        logits = self.refined.logits
        side = logits.shape[-1]
        known = self.windows.known(side)
        fine = self.windows.show_own(masks[:, None].float(), 2 * side)
        target = (F.avg_pool2d(fine, 2) >= 0.5).float() * known
        cell = (2 * self.windows.half[:, 0] / side) ** 2
        total = masks.sum(dim=(1, 2)).float()
        draft = self.windows.show_own(self.draft.logits, side)
        before = window_iou(draft, target, known, cell, total)
        after = window_iou(logits, target, known, cell, total)
        weight = (meant | (before > GOOD)).float()
        # The absolute error, unlike the square, is not ruled by the few that fail altogether.
        error = (self.refined.iou - after).abs()
        loss: Tensor = (weight * window_loss(logits, target, known) + error).mean()
        return loss


def _doubted(draft: Draft, prompts: Prompted, generator: torch.Generator) -> Draft:
    """Some of the boxes' drafts spoilt."""
    count, device = len(draft.logits), draft.logits.device
    chance = torch.rand(3, count, generator=generator).to(device)
    noise = torch.randn(count, 1, 6, 6, generator=generator).to(device)
    boxed = prompts.boxes.isfinite().all(dim=1)
    faint = (boxed & (chance[0] < DOUBTED))[:, None, None, None]
    smooth = F.interpolate(noise, size=draft.logits.shape[-2:], mode="bicubic")
    spoilt = draft.logits * chance[1, :, None, None, None] + DOUBT * smooth.to(draft.logits.dtype)
    known = ~(boxed & (chance[2] < UNSEEN))
    return draft._replace(
        logits=torch.where(faint, spoilt, draft.logits), tokens=draft.tokens * known[:, None, None]
    )


def _dimmed(features: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Features of which some pictures have nothing but their pixels."""
    seen = torch.rand(len(features[0]), generator=generator) >= UNSEEN
    seen = seen.to(features[0].device)[:, None, None, None]
    return *(part * seen for part in features[:2]), *features[2:]


def window_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy and dice of masks (N, 1, H, W) where the picture is known: (N,)."""
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
    cross_entropy = each.sum(dim=(1, 2, 3)) / known.sum(dim=(1, 2, 3)).clamp_min(1)
    probability = logits.sigmoid() * known
    shared = (probability * target).sum(dim=(1, 2, 3))
    both = probability.sum(dim=(1, 2, 3)) + target.sum(dim=(1, 2, 3))
    return CROSS_ENTROPY * cross_entropy + DICE * (1 - (2 * shared + 1) / (both + 1))


@torch.no_grad()
def window_iou(
    logits: Tensor, target: Tensor, known: Tensor, cell: Tensor, total: Tensor
) -> Tensor:
    """IoU (N,) of masks seen in windows with objects that may reach beyond.

    Args:
        logits: (N, 1, H, W).
        target: (N, 1, H, W), 0 or 1.
        known: (N, 1, H, W), 1 on the picture.
        cell: (N,) pixels of each cell.
        total: (N,) pixels of the whole objects.
    """
    chosen = (logits > 0) * known
    shared = (chosen * target).sum(dim=(1, 2, 3)) * cell
    union = chosen.sum(dim=(1, 2, 3)) * cell + total - shared
    return (shared / union.clamp_min(1)).clamp(0, 1)


def _moved(windows: Windows, generator: torch.Generator) -> Windows:
    noise = torch.randn(len(windows.half), 3, generator=generator).to(windows.half.device)
    return windows.shifted(SHIFT * noise[:, :2]).scaled((STRETCH * noise[:, 2:]).exp())

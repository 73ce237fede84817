"""The losses of the paper (appendix A, "Losses") and two that help a start from random weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017), mean over pixels: (..., H, W) to (...)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    correct = probability * target + (1 - probability) * (1 - target)
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return (alpha * (1 - correct) ** FOCAL_GAMMA * cross_entropy).mean(dim=(-2, -1))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, smoothed by 1: (..., H, W) to (...)."""
    probability = logits.sigmoid()
    shared = (probability * target).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    return 1 - (2 * shared + 1) / (total + 1)


def balanced_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy in which object and background weigh the same: (..., H, W) to (...)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    inside = (cross_entropy * target).sum(dim=(-2, -1)) / target.sum(dim=(-2, -1)).clamp_min(1)
    outside = (cross_entropy * (1 - target)).sum(dim=(-2, -1))
    return (inside + outside / (1 - target).sum(dim=(-2, -1)).clamp_min(1)) / 2


def mask_loss(
    logits: Tensor, target: Tensor, *, focal: float, dice: float, balanced: float
) -> Tensor:
    """Weighted sum of the three: logits and target (..., H, W) to (...)."""
    target = target.expand_as(logits)
    loss = focal * focal_loss(logits, target) + dice * dice_loss(logits, target)
    return loss + balanced * balanced_cross_entropy(logits, target) if balanced else loss


@torch.no_grad()
def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of the masks logits > 0 with the target: (..., H, W) to (...); 1 where both are empty."""
    predicted, true = logits > 0, target.expand_as(logits) > 0.5
    union = (predicted | true).sum(dim=(-2, -1))
    shared = (predicted & true).sum(dim=(-2, -1))
    return torch.where(union > 0, shared / union.clamp_min(1), 1.0)


def dense_loss(maps: Tensor, labels: Tensor) -> Tensor:
    """Loss of the dense auxiliary head: a scalar.

    Args:
        maps: (B, 4, h, w) logits of object and boundary, then the offset x, y to the centre of the
            object, in crops (1 is the whole crop).
        labels: (B, h, w) integers, 0 no object.
    """
    inside = (labels > 0).float()
    boundary = _boundary(labels)
    classes = F.binary_cross_entropy_with_logits(maps[:, 0], inside)
    edge_weight = 1 + 3 * boundary
    edges = F.binary_cross_entropy_with_logits(maps[:, 1], boundary, weight=edge_weight)
    distance = (maps[:, 2:] - centre_offsets(labels)).abs().sum(dim=1) * inside
    return classes + edges + 4 * distance.sum() / inside.sum().clamp_min(1)


def _boundary(labels: Tensor) -> Tensor:
    """1 where the 3x3 neighbourhood holds more than one label."""
    ids = labels[:, None].float()
    high = F.max_pool2d(ids, 3, stride=1, padding=1)
    low = -F.max_pool2d(-ids, 3, stride=1, padding=1)
    return (high != low)[:, 0].float()


def centre_offsets(labels: Tensor) -> Tensor:
    """(B, 2, h, w): x and y from each pixel to the centroid of its label, in images."""
    b, h, w = labels.shape
    place = torch.stack(
        torch.meshgrid(
            torch.arange(w, device=labels.device) / w,
            torch.arange(h, device=labels.device) / h,
            indexing="xy",
        )
    )
    stride = int(labels.max()) + 1
    flat = (labels + stride * torch.arange(b, device=labels.device)[:, None, None]).flatten().long()
    count = torch.bincount(flat, minlength=b * stride).clamp_min(1)
    centres = torch.stack(
        [
            torch.bincount(flat, c.expand(b, h, w).flatten(), minlength=b * stride) / count
            for c in place
        ]
    )
    return centres[:, flat].view(2, b, h, w).transpose(0, 1) - place

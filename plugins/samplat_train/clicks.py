"""Simulated prompts (paper, appendix A, "Training algorithm"), for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

NOISE_SHARE, NOISE_LIMIT = 0.1, 20.0
"""Standard deviation of box noise as a share of the side, and its largest value in pixels."""


def random_points(region: Tensor, generator: torch.Generator) -> Tensor:
    """One pixel x, y of each region, uniformly: (N, H, W) bool to (N, 2)."""
    score = _uniform(region.shape, generator, region.device) * region
    return _place(score)


def central_points(region: Tensor, generator: torch.Generator) -> Tensor:
    """One pixel x, y of each region, likelier far from its edge: (N, H, W) bool to (N, 2)."""
    size = 2 * (region.shape[-1] // 24) + 1
    depth = F.avg_pool2d(region[:, None].float(), (1, size), 1, (0, size // 2))
    depth = F.avg_pool2d(depth, (size, 1), 1, (size // 2, 0))[:, 0]
    score = _uniform(region.shape, generator, region.device) * 0.3 + depth
    return _place(score * region)


def first_points(masks: Tensor, generator: torch.Generator, *, central: float = 0.5) -> Tensor:
    """A point x, y in each mask (N, H, W): (N, 2).

    Args:
        masks: bool.
        generator: source of randomness.
        central: share of points near the middle; the others are uniform, as in the paper.
    """
    uniform = random_points(masks, generator)
    middle = central_points(masks, generator)
    chosen = _uniform((len(masks), 1), generator, masks.device) < central
    return torch.where(chosen, middle, uniform)


def corrective_points(
    logits: Tensor, masks: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A point from the error region of each prediction, and whether it lies in the object.

    Args:
        logits: (N, H, W) prediction.
        masks: (N, H, W) bool.
        generator: source of randomness.

    Returns:
        points (N, 2) x, y and labels (N,) of 1 or 0; where nothing is wrong, a point of the object.
    """
    error = (logits > 0) ^ masks
    region = torch.where(error.any(dim=(-2, -1), keepdim=True), error, masks)
    points = random_points(region, generator)
    x, y = points.long().unbind(-1)
    return points, masks[torch.arange(len(masks), device=masks.device), y, x].to(points.dtype)


def boxes_of(masks: Tensor) -> Tensor:
    """Tight half-open boxes x0, y0, x1, y1 of non-empty masks: (N, H, W) to (N, 4)."""
    rows, columns = masks.any(dim=-1).float(), masks.any(dim=-2).float()
    h, w = masks.shape[-2:]
    x0, y0 = columns.argmax(-1), rows.argmax(-1)
    x1, y1 = w - columns.flip(-1).argmax(-1), h - rows.flip(-1).argmax(-1)
    return torch.stack([x0, y0, x1, y1], dim=-1).float()


def noisy_boxes(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """Boxes with Gaussian noise on each side: a tenth of the side's length, at most 20 pixels."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.randn(boxes.shape, generator=generator).to(boxes.device)
    return boxes + (noise * NOISE_SHARE * size).clamp(-NOISE_LIMIT, NOISE_LIMIT)


def _uniform(size: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    # Always drawn on the CPU: a run places the same prompts on every device.
    return torch.rand(size, generator=generator).to(device)


def _place(score: Tensor) -> Tensor:
    best = score.flatten(1).argmax(dim=1)
    return torch.stack([best % score.shape[-1], best // score.shape[-1]], dim=-1).float()

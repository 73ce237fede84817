"""Everything that decides what a training run does, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from samplat import InputError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters; the paper's values are named. The model card says what was changed."""

    architecture: str = "conv"
    """Name of a builder of `samplat`: conv, vit_t, vit_b, vit_l or vit_h."""
    image_size: int = 512
    """Side of the model's input in pixels."""
    crop: int = 256
    """Side of a training crop in pixels; it lies at a random place of the model's input."""
    steps: int = 4000
    """Optimiser steps."""
    images: int = 16
    """Crops per step."""
    prompts: int = 4
    """Prompted objects per crop."""
    rounds: int = 1
    """Rounds of prompting at the start: 1 is the first prompt alone. The paper ends at 11."""
    late_rounds: int = 3
    """Rounds of prompting once `late_from` of the steps are done."""
    late_from: float = 0.6
    """Fraction of the steps after which `late_rounds` and `late_balanced_weight` hold."""
    learning_rate: float = 1e-3
    """Peak of the schedule (paper: 8e-4 for batches of 256)."""
    warmup: int = 150
    """Steps of linear warm-up (paper: 250)."""
    weight_decay: float = 0.05
    """Of AdamW (paper: 0.1)."""
    focal_weight: float = 20.0
    """Of the focal loss (paper: 20)."""
    dice_weight: float = 1.0
    """Of the dice loss (paper: 1)."""
    balanced_weight: float = 1.0
    """Of cross-entropy balanced between object and background, before `late_from`. From random
    weights the focal loss alone settles on empty masks."""
    late_balanced_weight: float = 0.0
    """The same from `late_from` on. A little of it keeps logits from becoming flat."""
    loss_stride: int = 4
    """Pixels of a crop per pixel at which masks are compared."""
    dense_weight: float = 0.5
    """Of the dense auxiliary loss: foreground, boundary and offset to the object's centre."""
    box_share: float = 0.4
    """Share of first prompts that are boxes; the others are points."""
    ema: float = 0.998
    """Decay of the moving average of weights, which is what is saved."""
    bf16: bool = True
    """Autocast to bfloat16."""
    seed: int = 0
    """Of weights, crops and prompts; the same seed gives the same run."""

    def __post_init__(self) -> None:
        if self.crop % 32 or not 32 <= self.crop <= self.image_size:
            raise InputError(
                f"crop must be a multiple of 32 and at most image_size {self.image_size}, "
                f"got {self.crop}"
            )
        if self.loss_stride not in (1, 2, 4):
            raise InputError(f"loss_stride must be 1, 2 or 4, got {self.loss_stride}")
        for name in ("steps", "images", "prompts", "rounds", "late_rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")

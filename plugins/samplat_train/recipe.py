"""Everything that decides what a training run does, in one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import samplat
from samplat import InputError

COUNTS = ("corrections", "refinements", "late_corrections", "late_refinements")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters; the paper's values are named. The model card says what was changed."""

    architecture: str = "conv"
    """Name of a builder of `samplat`: conv, vit_t, vit_b, vit_l or vit_h."""
    image_size: int = 512
    """Side of the model's input in pixels."""
    crop: int = 256
    """Side of a training crop in pixels; it lies at a random place of the model's input."""
    aspect: float = 1.0
    """Columns of a crop per row of it; its area stays `crop` squared. `conv` alone sees others than
    squares."""
    fit: bool = False
    """True: crops show pictures at about the zoom at which the model sees them in use, whole ones
    with their proportions; for fine-tuning. False: at any zoom."""
    steps: int = 4000
    """Optimiser steps."""
    images: int = 16
    """Crops per step."""
    prompts: int = 4
    """Prompted objects per crop."""
    accumulate: int = 1
    """Batches whose gradients are summed for one optimiser step."""
    corrections: int = 0
    """Rounds after the first with a point out of the error region (paper: 8)."""
    refinements: int = 0
    """Rounds with the previous logits and nothing else (paper: 2, one of them last)."""
    late_from: float = 0.6
    """Fraction of the steps after which the values called late hold."""
    late_corrections: int = 1
    """`corrections` from `late_from` on."""
    late_refinements: int = 0
    """`refinements` from `late_from` on."""
    learning_rate: float = 1e-3
    """Peak of the schedule (paper: 8e-4 for batches of 256)."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """How the rate falls; "steps" is the paper's."""
    layer_decay: float = 1.0
    """Factor of the rate from each layer of the image encoder to the one below (paper: 0.8)."""
    warmup: int = 150
    """Steps of linear warm-up (paper: 250)."""
    weight_decay: float = 0.05
    """Of AdamW (paper: 0.1)."""
    later_weight: float = 0.5
    """Of the losses of each round after the first (paper: 1)."""
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
    noisy_boxes: float = 0.35
    """Share of boxes with noise (paper: 1). Many a user's box comes from a program and is tight."""
    central_points: float = 0.5
    """Share of first points near the middle of their object; others are uniform (paper: 0)."""
    single_first: bool = True
    """True: the single mask learns from the first prompt too, since boxes are answered with it;
    False: from later rounds alone, as in the paper."""
    augment: bool = True
    """Change colours, noise and blur of crops, turn and mirror them (paper: no)."""
    drop_path: float = 0.0
    """Stochastic depth of a ViT's blocks, rising linearly to this (paper: 0.4)."""
    learn: str = ""
    """Shell patterns of the parameters that learn, with commas between, such as "mask_refiner.*";
    empty: all that can."""
    freeze_statistics: bool = False
    """True: batch normalisation keeps the statistics that it has; for fine-tuning."""
    ema: float = 0.998
    """Decay of the moving average of weights, which is what is saved."""
    bf16: bool = True
    """Autocast to bfloat16."""
    seed: int = 0
    """Of weights, crops and prompts; the same seed gives the same run."""

    @property
    def crop_shape(self) -> tuple[int, int]:
        """Rows and columns of a crop, multiples of 32."""
        stretch = math.sqrt(self.aspect)
        rows, columns = (
            max(32, round(n / 32) * 32) for n in (self.crop / stretch, self.crop * stretch)
        )
        return rows, columns

    def input_scale(self, size: tuple[int, int]) -> float:
        """Pixels of the model's input per pixel of a picture of that many rows and columns."""
        frame = samplat.frame_size(self.architecture, self.image_size)
        return samplat.input_scale(size, self.image_size, frame)

    def __post_init__(self) -> None:
        if self.crop % 32 or not 32 <= self.crop <= self.image_size:
            raise InputError(
                f"crop must be a multiple of 32 and at most image_size {self.image_size}, "
                f"got {self.crop}"
            )
        if not 0.5 <= self.aspect <= 2 or (self.aspect != 1 and self.architecture != "conv"):
            raise InputError(
                f"aspect must lie between 0.5 and 2, and be 1 but for conv, got {self.aspect}"
            )
        frame = samplat.frame_size(self.architecture, self.image_size)
        if max(self.crop_shape) > frame:
            raise InputError(
                f"expected crops within the model's {frame} x {frame} pixels, got "
                f"{self.crop_shape[0]} x {self.crop_shape[1]}; lower crop, or aspect closer to 1"
            )
        if self.loss_stride not in (1, 2, 4):
            raise InputError(f"loss_stride must be 1, 2 or 4, got {self.loss_stride}")
        if self.crop != self.image_size and self.architecture != "conv":
            raise InputError(
                f"{self.architecture} sees whole inputs only: set crop to image_size "
                f"{self.image_size}, got {self.crop}"
            )
        for name in ("box_share", "noisy_boxes", "central_points", "drop_path"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.schedule not in ("cosine", "steps"):
            raise InputError(f"schedule must be cosine or steps, got {self.schedule!r}")
        least = dict.fromkeys(("steps", "images", "prompts", "accumulate"), 1)
        least |= dict.fromkeys(COUNTS, 0)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"{name} must be >= {value}, got {getattr(self, name)}")


PAPER: dict[str, Any] = {
    "architecture": "vit_h",
    "image_size": 1024,
    "crop": 1024,
    "steps": 90_000,
    "images": 4,
    "accumulate": 64,
    "prompts": 64,
    "corrections": 8,
    "refinements": 2,
    "late_from": 1.0,
    "learning_rate": 8e-4,
    "schedule": "steps",
    "layer_decay": 0.8,
    "warmup": 250,
    "weight_decay": 0.1,
    "balanced_weight": 0.0,
    "dense_weight": 0.0,
    "later_weight": 1.0,
    "box_share": 0.5,
    "noisy_boxes": 1.0,
    "central_points": 0.0,
    "single_first": False,
    "augment": False,
    "drop_path": 0.4,
    "ema": 0.0,
}
"""Appendix A of the paper, "Training details", as changes to a plain recipe."""

"""Small networks with seeded random weights, for tests that need no trained model."""

from __future__ import annotations

import torch

from samplat.checkpoints import Model
from samplat.model.sam import Sam, build_conv, build_vit


def small_model(kind: str = "vit", *, seed: int = 0, image_size: int = 128) -> Model:
    torch.manual_seed(seed)
    sam = small_vit(image_size) if kind == "vit" else build_conv(image_size)
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            # Away from the trivial start: relative positions and norms must matter.
            if parameter.ndim >= 1 and "norm" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
            if "hypernetworks" in name and "layers.2" in name:
                parameter.mul_(20)  # logits large enough for masks to be stable
    return Model(
        sam=sam.eval().requires_grad_(False),
        name=f"small-{kind}",
        architecture=kind,
        weights_sha256=f"{seed:064x}",
        precision="fp32",
        device=torch.device("cpu"),
    )


def small_vit(image_size: int) -> Sam:
    return build_vit(dim=32, depth=2, heads=2, global_blocks=(1,), image_size=image_size)

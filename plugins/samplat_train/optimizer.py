"""The optimiser: which parameters learn, how fast each, and the schedule of the rate."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn

from samplat import InputError
from samplat_train.recipe import Recipe


def make_optimizer(
    recipe: Recipe, modules: Iterable[tuple[nn.Module, str]]
) -> torch.optim.Optimizer:
    """AdamW over the parameters that require gradients; those of one dimension do not decay.

    Args:
        recipe: rate, decay, and `layer_decay`.
        modules: modules and the prefix of their parameters' names.
    """
    named = [
        (f"{prefix}{name}", parameter)
        for module, prefix in modules
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]
    depths = layer_depths([name for name, _ in named])
    top = max(depths.values(), default=0)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        groups.setdefault((depths[name], parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": recipe.weight_decay if decays else 0.0,
                "scale": recipe.layer_decay ** (top - depth),
            }
            for (depth, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.999),
    )


def choose_learning(model: nn.Module, patterns: str) -> None:
    """Let only the parameters learn whose names match shell patterns, with commas between.

    Raises:
        InputError: a pattern matches none.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    named = dict(model.named_parameters())
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in named):
            tops = sorted({name.partition(".")[0] for name in named})
            raise InputError(
                f"learn={pattern!r} matches no parameter; they begin with {', '.join(tops)}"
            )
    for name, parameter in named.items():
        if wanted and not any(fnmatchcase(name, pattern) for pattern in wanted):
            parameter.requires_grad_(False)


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Stochastic depth of a ViT's blocks: from 0 at the first to `rate` at the last (ViTDet)."""
    blocks = [module for module in model.modules() if hasattr(module, "drop_path")]
    for i, block in enumerate(blocks):
        block.drop_path = rate * i / max(1, len(blocks) - 1)  # type: ignore[assignment]


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """How many layers lie below each parameter: 0 for those that see the pixels.

    Stages and blocks of the image encoder count one each, in their order; all that follows the
    encoder lies above its last one.
    """
    names = list(names)
    stages = list(dict.fromkeys(stage for n in names if (stage := _stage(n)) is not None))
    depth = {stage: i for i, stage in enumerate(stages)}
    return {n: len(stages) if (s := _stage(n)) is None else depth[s] for n in names}


def _stage(name: str) -> str | None:
    match = re.search(r"image_encoder\.((?:blocks|layers)\.\d+|[^.]+)", name)
    if match is None or match[1] in ("neck", "fine"):
        return None
    return "input" if match[1] in ("patch_embed", "pos_embed", "stem") else match[1]


def set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    """Give every group its rate for a step."""
    rate = learning_rate(recipe, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then the recipe's schedule.

    "cosine" falls to a hundredth of the peak; "steps" divides by ten at two thirds and again at
    the last twenty-seventh of the steps, as the paper does at 60 000 and 86 666 of 90 000.
    """
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    if recipe.schedule == "steps":
        drops = (step >= recipe.steps * 2 / 3) + (step >= recipe.steps * 26 / 27)
        return float(recipe.learning_rate * 0.1**drops)
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)

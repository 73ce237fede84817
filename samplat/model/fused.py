"""A network as it is run: normalisation over the batch folded into the convolutions before it."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from samplat.model.sam import Sam


@torch.no_grad()
def fused(sam: Sam, dtype: torch.dtype) -> Sam:
    """A copy in evaluation mode that gives the same to within rounding, in less time.

    Args:
        sam: whose convolutions may be followed by `BatchNorm2d`.
        dtype: what it computes in. Weights of the encoder and of the second look are kept in it, so
            that autocasting does not convert them at each run.
    """
    made = copy.deepcopy(sam).eval().requires_grad_(False)
    _fold(made)
    for part in (made.image_encoder, made.mask_refiner):
        for module in part.modules() if part else ():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)
    # Channels last, as processors and matrix units take them.
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made


def can_be_fused(network: nn.Module) -> bool:
    """Whether there is anything to fold, and no weight is computed from others, as adapters are."""
    modules = list(network.modules())
    adapted = any(parametrize.is_parametrized(module) for module in modules)
    return any(isinstance(module, nn.BatchNorm2d) for module in modules) and not adapted


def _fold(network: nn.Module) -> None:
    for module in network.children():
        if isinstance(module, nn.Sequential):
            _fold_pairs(module)
        _fold(module)


def _fold_pairs(layers: nn.Sequential) -> None:
    names = list(layers._modules)
    for first, second in pairwise(names):
        convolution, norm = layers._modules[first], layers._modules[second]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers._modules[first] = fuse_conv_bn_eval(convolution, norm)
            layers._modules[second] = nn.Identity()

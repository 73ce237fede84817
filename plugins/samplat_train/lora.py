"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) for linear layers and convolutions.

An adapter adds to a frozen weight a product of two thin matrices, the second of which starts at
zero. It is a parametrisation of the weight (`torch.nn.utils.parametrize`), not a second path
through the network: no module is replaced, whatever reads a weight gets the adapted one, and
`merge` only has to write down what the network has computed with all along.

For a convolution, a k x k one down to `rank` channels and a 1 x 1 one up again are together a
k x k convolution whose weight, seen as a matrix, has that rank; so one rule serves all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from samplat import InputError

KERNELS = ((1, 1), (3, 3))
"""Sizes of convolutions that can be adapted."""
ENCODER: tuple[str, ...] = ("image_encoder.*",)
"""Every layer of the image encoder that can be adapted."""
QUERIES_AND_VALUES: tuple[str, ...] = ("image_encoder.*.qkv",)
"""The choice of section 4.2 of the LoRA paper, for encoders with attention."""


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """How much of a network learns."""

    trainable: int
    """Numbers in parameters that require gradients."""
    total: int
    """Numbers in all parameters, adapters included."""


class LowRank(nn.Module):
    """A weight plus `scale` · up · down; up is zero at the start.

    Args:
        weight: (O, ...) the one that is adapted; tells shape, type and device.
        rank: of the product; at most the weight's own.
        scale: factor of the product.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.down, self.up = _factors(weight, len(weight), rank)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        # In full precision, so that `merge` changes nothing but the place of the sum.
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.up @ self.down).view_as(weight)


class LowRankQueriesValues(nn.Module):
    """The same for a fused layer of queries, keys and values: one for queries, one for values.

    Args:
        weight: (3 · C, I).
        groups: 1 if all queries come first, then all keys; the number of heads if queries, keys
            and values of one head lie together.
        rank: of each product.
        scale: factor of the products.
    """

    def __init__(self, weight: Tensor, groups: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale, self.groups = scale, groups
        self.query_down, self.query_up = _factors(weight, len(weight) // 3, rank)
        self.value_down, self.value_up = _factors(weight, len(weight) // 3, rank)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        inputs = weight.shape[1]
        with torch.autocast(weight.device.type, enabled=False):
            queries = (self.query_up @ self.query_down).view(self.groups, -1, inputs)
            values = (self.value_up @ self.value_down).view(self.groups, -1, inputs)
            change = torch.stack([queries, torch.zeros_like(queries), values], dim=1)
            return weight + self.scale * change.view_as(weight)


class _FrozenStatistics(_BatchNorm):
    """Batch normalisation that stays in evaluation mode."""

    def train(self, mode: bool = True) -> _FrozenStatistics:
        return super().train(False)


def adapt(
    model: nn.Module, *, rank: int, alpha: float, targets: Sequence[str]
) -> list[nn.Parameter]:
    """Freeze a network and add adapters to some of its layers.

    All parameters stop to require gradients, and batch normalisation keeps its statistics even in
    training mode; what else is to learn can be thawed afterwards. At first the network computes
    what it did before, bit by bit.

    Args:
        model: changed in place.
        rank: of the adapters; a layer whose weight has a smaller one gets that.
        alpha: the products are scaled by alpha / rank.
        targets: patterns of module names, as in a shell, such as `image_encoder.*.qkv`. They choose
            linear layers and 1 x 1 and 3 x 3 convolutions without groups; others that match are
            left alone. Of a fused `qkv` queries and values are adapted.

    Returns:
        the adapters' parameters.

    Raises:
        InputError: a pattern chooses nothing, the network has adapters already, or a number is
            unusable.
    """
    if rank < 1 or not alpha > 0:
        raise InputError(f"expected a rank >= 1 and an alpha > 0, got {rank} and {alpha}")
    if any(_adapters(model)):
        raise InputError("the network has adapters already; merge them before adding others")
    chosen = choose_layers(model, targets)
    model.requires_grad_(False)
    _freeze_statistics(model)
    for name in chosen:
        parametrize.register_parametrization(
            model.get_submodule(name), "weight", _adapter(model, name, rank, alpha / rank)
        )
    return [p for adapter in _adapters(model) for p in adapter.parameters()]


def merge(model: nn.Module) -> None:
    """Fold the adapters into the weights: afterwards names and types of all tensors are as before.

    The network computes what it did with its adapters. Its parameters stay frozen, and batch
    normalisation obeys `train` again.

    Raises:
        InputError: there are no adapters.
    """
    adapted = [m for m in model.modules() if _adapter_of(m) is not None]
    if not adapted:
        raise InputError("the network has no adapters; adapt it first")
    for module in adapted:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    _thaw_statistics(model)


def count_parameters(model: nn.Module) -> ParameterCount:
    """How many numbers a network has, and how many of them learn."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return ParameterCount(
        trainable=sum(n for n, learns in sizes if learns), total=sum(n for n, _ in sizes)
    )


def choose_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the layers that patterns choose, in the network's order.

    Raises:
        InputError: a pattern chooses nothing; names what it matches, or what it may have meant.
    """
    if isinstance(targets, str) or not targets:
        raise InputError(f"expected a list of patterns as targets, got {targets!r}")
    names = [name for name, module in model.named_modules() if _is_adaptable(module)]
    for pattern in targets:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(_nothing_chosen(model, pattern, names))
    return [n for n in names if any(fnmatchcase(n, pattern) for pattern in targets)]


def _is_adaptable(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.kernel_size in KERNELS
    return isinstance(module, nn.Linear)


def _nothing_chosen(model: nn.Module, pattern: str, names: list[str]) -> str:
    others = [n for n, module in model.named_modules() if n and fnmatchcase(n, pattern)]
    if others:
        kind = type(model.get_submodule(others[0])).__name__
        return (
            f"target {pattern!r} matches {others[0]}, a {kind} without adapters; expected linear "
            "layers or 1x1 and 3x3 convolutions without groups"
        )
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
    return f"target {pattern!r} matches no module; the nearest are {', '.join(near) or 'none'}"


def _adapter(model: nn.Module, name: str, rank: int, scale: float) -> nn.Module:
    weight = model.get_submodule(name).get_parameter("weight")
    if name.rpartition(".")[2] != "qkv" or len(weight) % 3:
        return LowRank(weight, rank, scale)
    return LowRankQueriesValues(weight, _groups(model, name), rank, scale)


def _groups(model: nn.Module, name: str) -> int:
    """TinyViT, known by its attention biases, keeps queries, keys and values of a head together."""
    attention = model.get_submodule(name.rpartition(".")[0])
    return int(attention.heads) if hasattr(attention, "attention_biases") else 1  # type: ignore[arg-type]


def _factors(weight: Tensor, outputs: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Random down (R, I) and zero up (O, R)."""
    inputs = weight[0].numel()
    rank = min(rank, inputs, outputs)
    down, up = weight.new_empty(rank, inputs), weight.new_zeros(outputs, rank)
    nn.init.kaiming_uniform_(down, a=5**0.5)
    return nn.Parameter(down), nn.Parameter(up)


def _adapters(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        adapter = _adapter_of(module)
        if adapter is not None:
            yield adapter


def _adapter_of(module: nn.Module) -> nn.Module | None:
    if not parametrize.is_parametrized(module, "weight"):
        return None
    found = module.get_submodule("parametrizations.weight.0")
    return found if isinstance(found, LowRank | LowRankQueriesValues) else None


def _freeze_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            kind = type(module)
            # The class, not a hook or a wrapper: neither names nor copies of the network change.
            module.__class__ = type(f"Frozen{kind.__name__}", (_FrozenStatistics, kind), {})
            module.train(False)


def _thaw_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _FrozenStatistics):
            module.__class__ = type(module).__bases__[1]
            module.train(model.training)

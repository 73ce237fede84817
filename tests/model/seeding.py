"""Weights and inputs that depend on names alone, so that two implementations can share them.

The reference outputs in `fixtures/` were made with this very rule; changing it invalidates them.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

RULE = (
    "numpy default_rng(crc32(name)); n = standard_normal(shape): running_var 0.5 + random, "
    "num_batches_tracked 0, one-dimensional .weight 1 + 0.1 n, one-dimensional 0.1 n, "
    "gaussian matrix n, rel_pos and attention_biases 0.3 n, other n / sqrt(shape[1] * shape[2] …)"
)


def values(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the tensor of this name holds."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return (0.5 + rng.random(shape)).astype(np.float32)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.float32)
    normal = rng.standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return 0.1 * normal + name.endswith(".weight")
    if name.endswith("gaussian_matrix"):
        return normal
    if "rel_pos" in name or name.endswith("attention_biases"):
        return np.float32(0.3) * normal
    return normal / np.float32(math.sqrt(math.prod(shape[1:])))


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Give every tensor of the state dict its values."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(torch.from_numpy(np.asarray(values(name, tuple(tensor.shape)))))


def pixels(size: int) -> Tensor:
    """An image (1, 3, size, size) of values 0..255."""
    rng = np.random.default_rng(zlib.crc32(b"pixels"))
    return torch.from_numpy(rng.integers(0, 256, (1, 3, size, size)).astype(np.float32))


def prompts(size: int) -> dict[str, dict[str, Tensor]]:
    """Prompts by kind, as arguments of `Sam.decode`, for an input of this side in pixels."""
    rng = np.random.default_rng(zlib.crc32(b"prompts"))
    points = torch.from_numpy(rng.uniform(0, size - 1, (2, 3, 2)).astype(np.float32))
    labels = torch.tensor([[1, 0, 1], [1, 1, -1]])
    corners = np.sort(rng.uniform(0, size - 1, (2, 2, 2)), axis=1).reshape(2, 4)
    boxes = torch.from_numpy(corners.astype(np.float32))
    masks = torch.from_numpy(rng.normal(0, 4, (2, 1, size // 4, size // 4)).astype(np.float32))
    return {
        "points": {"points": points, "labels": labels},
        "boxes": {"boxes": boxes},
        "masks": {"masks": masks},
        "points and boxes": {"points": points, "labels": labels, "boxes": boxes},
        "points and masks": {"points": points, "labels": labels, "masks": masks},
        "boxes and masks": {"boxes": boxes, "masks": masks},
        "all": {"points": points, "labels": labels, "boxes": boxes, "masks": masks},
    }


def sample(tensor: Tensor, count: int = 8) -> list[float]:
    """A few entries, evenly spread, of the flattened tensor."""
    flat = tensor.detach().flatten()
    index = torch.linspace(0, len(flat) - 1, count).long()
    return [float(v) for v in flat[index]]

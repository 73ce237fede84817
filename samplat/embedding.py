"""Image embeddings: what the encoder made of one image, and what it depends on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EmbeddingKey:
    """Everything that an embedding depends on; two equal keys mean equal embeddings."""

    weights_sha256: str
    """SHA-256 of the model's weights."""
    pixels_sha256: str
    """SHA-256 of the uint8 pixels and their shape."""
    precision: str
    """"fp32", "bf16" or "fp16"."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """The encoder's features of one image."""

    features: tuple[Tensor, ...]
    """The embedding (1, C, h, w), then finer features of encoders that have them."""
    input_size: tuple[int, int]
    """Height and width of the resized image inside of the model's square input, in pixels."""
    original_size: tuple[int, int]
    """Height and width of the image, in pixels."""
    key: EmbeddingKey
    """What it depends on."""


def pixels_sha256(pixels: NDArray[Any]) -> str:
    """SHA-256 of an array's shape, type and values."""
    array = np.ascontiguousarray(pixels)
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str}".encode())
    digest.update(array.data)
    return digest.hexdigest()

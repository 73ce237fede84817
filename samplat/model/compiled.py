"""An image encoder compiled by torch, if that works on this machine."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from samplat.model.sam import Sam

log = logging.getLogger(__name__)

Features = tuple[Tensor, ...]


class CompiledEncoder(nn.Module):
    """The same as an encoder; compiled at the first image of each size, which takes a while.

    Compiling needs a compiler of C++ on processors, and can fail in many ways: then this is said
    once, and the encoder runs as it is.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self._compiled: Callable[[Tensor], Features] | None = torch.compile(encoder, dynamic=False)

    def __getattr__(self, name: str) -> Any:
        # What the encoder says of itself, such as its stride.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("encoder"), name)

    def forward(self, x: Tensor) -> Features:
        """As of the encoder."""
        if self._compiled is not None:
            try:
                return self._compiled(x)
            except Exception as error:  # noqa: BLE001 whatever it is, the encoder itself works
                reason = str(error).strip().splitlines()
                log.warning("the encoder cannot be compiled: %s", reason[0] if reason else error)
                self._compiled = None
        features: Features = self.encoder(x)
        return features


def with_compiled_encoder(sam: Sam) -> Sam:
    """The same network, its weights shared, with a compiled encoder."""
    made = copy.copy(sam)
    made._modules = {**sam._modules, "image_encoder": CompiledEncoder(sam.image_encoder)}
    return made

"""Embeddings as the decoder wants them: on the model's device, in its precision, shared parts done.

Preparing costs as much as a prompt or two, so that the latest few are remembered: the second click
on an image then finds its image ready. An entry goes with its embedding.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from samplat.checkpoints import Model
from samplat.embedding import Embedding
from samplat.model.sam import Sam
from samplat.model.shared_image import SharedImage
from samplat.precision import dtype_of

KEPT = 4
"""Images that are remembered: 20 to 40 MB each for the paper's models."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What prompts of one image need."""

    features: tuple[Tensor, ...]
    """Of the encoder."""
    shared: SharedImage | None
    """What prompts share, where the model's decoder allows for it."""


@dataclass(frozen=True)
class _Entry:
    embedding: ReferenceType[Embedding]
    network: ReferenceType[Sam]
    prepared: Prepared


_entries: OrderedDict[tuple[int, int, str], _Entry] = OrderedDict()
_lock = threading.Lock()


def prepared(model: Model, embedding: Embedding) -> Prepared:
    """An embedding ready for prompts of a model, from memory if it was among the latest."""
    key = (id(embedding), id(model.network), model.precision)
    with _lock:
        entry = _entries.get(key)
        # An object that is gone may have left its id to another one.
        if entry and entry.embedding() is embedding and entry.network() is model.network:
            _entries.move_to_end(key)
            return entry.prepared
    made = _prepare(model, embedding)
    with _lock:
        _entries[key] = _Entry(ref(embedding, lambda _: _forget(key)), ref(model.network), made)
        while len(_entries) > KEPT:
            _entries.popitem(last=False)
    return made


def _forget(key: tuple[int, int, str]) -> None:
    # Called by the garbage collector, which may run while this thread holds the lock.
    _entries.pop(key, None)


def _prepare(model: Model, embedding: Embedding) -> Prepared:
    # In one type all through: under autocast, sums of bf16 and fp32 would be fp32.
    dtype = dtype_of(model.precision)
    with torch.inference_mode():
        features = tuple(f.to(model.device, dtype) for f in embedding.features)
        return Prepared(features=features, shared=model.network.share(features))

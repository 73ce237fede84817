"""samplat: Segment Anything as a platform.

Everything public is here, and nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from samplat.errors import (
    CheckpointError,
    InputError,
    JobError,
    PluginError,
    SamplatError,
)

_HOME = {
    "automatic": ("GridParameters", "generate_masks"),
    "checkpoints": ("Model", "ModelSpec", "load_model", "save_model"),
    "embedding": ("Embedding", "EmbeddingKey"),
    "masks": ("MaskSet", "mask_set"),
    "pixels": ("ImageInfo", "ImageSource", "SourceFactory", "SourceSpec", "Stretch"),
    "prediction": ("Prediction", "embed", "predict"),
    "prompts": ("Prompts",),
    "tiles": ("Tile", "TileGrid", "Window"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "CheckpointError",
    "InputError",
    "JobError",
    "PluginError",
    "SamplatError",
    *sorted(_MODULE_OF),
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'samplat' has no attribute {name!r}")
    return getattr(import_module(f"samplat.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from samplat.automatic import GridParameters, generate_masks
    from samplat.checkpoints import Model, ModelSpec, load_model, save_model
    from samplat.embedding import Embedding, EmbeddingKey
    from samplat.masks import MaskSet, mask_set
    from samplat.pixels import ImageInfo, ImageSource, SourceFactory, SourceSpec, Stretch
    from samplat.prediction import Prediction, embed, predict
    from samplat.prompts import Prompts
    from samplat.tiles import Tile, TileGrid, Window

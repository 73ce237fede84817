"""The built-in segmenter: a model prompted with a grid of points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import MaskSet

if TYPE_CHECKING:
    from samplat.cache import EmbeddingCache
    from samplat.checkpoints import Model, ModelSpec


@dataclass(frozen=True, kw_only=True)
class AutomaticSegmenter:
    """Masks of everything in a tile."""

    model: Model
    """A loaded model."""
    options: Mapping[str, Any]
    """Parameters of `generate_masks`."""
    cache: EmbeddingCache | None = None
    """Where embeddings of tiles are kept, if they are."""

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        """Embed the tile, then ask for a mask at every point of the grid."""
        from samplat.automatic import generate_masks
        from samplat.prediction import embed

        if self.cache is not None:
            embedding = self.cache.embed(self.model, pixels)
        else:
            embedding = embed(self.model, pixels)
        return generate_masks(self.model, embedding, **self.options)


@dataclass(frozen=True, kw_only=True)
class AutomaticFactory:
    """Makes the automatic segmenter."""

    name: str = "automatic"
    models: Mapping[str, ModelSpec] | None = None
    """Models by name; None for the core's own."""
    embeddings: str | None = None
    """Folder of an `EmbeddingCache`; None: nothing is kept."""

    def with_models(self, models: Mapping[str, ModelSpec]) -> AutomaticFactory:
        """The same factory, knowing the models of plugins too."""
        return replace(self, models=models)

    def with_embeddings(self, folder: str) -> AutomaticFactory:
        """The same factory, whose segmenters keep embeddings in a folder."""
        return replace(self, embeddings=folder)

    def create(self, model: str | None, **options: Any) -> AutomaticSegmenter:
        """Load the model; options are those of `generate_masks`."""
        from samplat.checkpoints import load_model

        _check_parameters(options)
        loaded = load_model(_needed(model), models=self.models)
        # a file states defaults of its own, which no tile should be the first to try
        _check_parameters({**loaded.grid_defaults, **options})
        return AutomaticSegmenter(model=loaded, options=options, cache=self._cache())

    def _cache(self) -> EmbeddingCache | None:
        from samplat.cache import EmbeddingCache

        # With all their bits, so that labels do not depend on what was there; and not in memory:
        # a job does not come back to a tile.
        folder = self.embeddings
        return EmbeddingCache(folder, storage="full", memory=0) if folder is not None else None

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        """The weights' digest, and the options."""
        from samplat.checkpoints import weights_digest

        return {"weights": weights_digest(_needed(model), models=self.models), **options}


def _check_parameters(options: Mapping[str, Any]) -> None:
    from samplat.grid import GridParameters

    try:
        GridParameters(**options)
    except TypeError as error:
        raise InputError(f"the automatic segmenter does not take this option: {error}") from None


def _needed(model: str | None) -> str:
    if model is None:
        raise InputError("the automatic segmenter needs a model; name one with --model")
    return model

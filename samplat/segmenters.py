"""The built-in segmenter: a model prompted with a grid of points."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import MaskSet

if TYPE_CHECKING:
    from samplat.checkpoints import Model


@dataclass(frozen=True, kw_only=True)
class AutomaticSegmenter:
    """Masks of everything in a tile."""

    model: Model
    """A loaded model."""
    options: Mapping[str, Any]
    """Parameters of `generate_masks`."""

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        """Embed the tile, then ask for a mask at every point of the grid."""
        from samplat.automatic import generate_masks
        from samplat.prediction import embed

        embedding = embed(self.model, pixels)
        return generate_masks(self.model, embedding, **self.options)


@dataclass(frozen=True, kw_only=True)
class AutomaticFactory:
    """Makes the automatic segmenter."""

    name: str = "automatic"

    def create(self, model: str | None, **options: Any) -> AutomaticSegmenter:
        """Load the model; options are those of `generate_masks`."""
        from samplat.automatic import GridParameters
        from samplat.checkpoints import load_model

        try:
            GridParameters(**options)
        except TypeError as error:
            raise InputError(
                f"the automatic segmenter does not take this option: {error}"
            ) from None
        return AutomaticSegmenter(model=load_model(_needed(model)), options=options)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        """The weights' digest, and the options."""
        return {"weights": weights_digest(_needed(model)), **options}


def weights_digest(model: str) -> str:
    """Digest of the weights of a registered name or a checkpoint file, without loading them."""
    from samplat.checkpoints import registry

    if model in (known := registry()):
        return f"{model}:{known[model].sha256}"
    try:
        with Path(model).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        names = ", ".join(sorted(known))
        raise InputError(f"no model and no file is called {model!r}; models: {names}") from None


def _needed(model: str | None) -> str:
    if model is None:
        raise InputError("the automatic segmenter needs a model; name one with --model")
    return model

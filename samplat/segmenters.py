"""The built-in segmenters: a model asked at a grid of points, or prompts of a job; a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import MaskSet, concatenate, mask_set, masks_of_labels
from samplat.object_prompts import ObjectPrompt

if TYPE_CHECKING:
    from samplat.cache import EmbeddingCache
    from samplat.checkpoints import Model, ModelSpec
    from samplat.embedding import Embedding

Factory = TypeVar("Factory", bound="_ModelFactory")

AT_ONCE = 16
"""Prompts whose masks are held at the image's resolution at a time."""
STABILITY_OFFSET = 1.0
"""Shift of the logits' threshold for the stability score."""


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

        return generate_masks(self.model, _embedded(self, pixels), **self.options)


@dataclass(frozen=True, kw_only=True)
class ModelSegmenter:
    """Masks of what prompts point at, by a model."""

    model: Model
    """A loaded model."""
    cache: EmbeddingCache | None = None
    """Where embeddings of windows are kept, if they are."""

    def __call__(
        self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_], asked: Sequence[ObjectPrompt]
    ) -> MaskSet:
        """Embed the window once, then ask; a lone point may mean three things, and the best counts.

        Prompts of one kind are answered together. Nothing is filled up: a padded prompt would be
        another one.
        """
        embedding = _embedded(self, pixels)
        kinds: dict[Any, list[int]] = {}
        for number, each in enumerate(asked):
            kind = (len(each.points), each.box is not None, each.draft is not None)
            kinds.setdefault(kind, []).append(number)
        parts, order = [], []
        for numbers in kinds.values():
            for first in range(0, len(numbers), AT_ONCE):
                some = numbers[first : first + AT_ONCE]
                parts.append(self._answer(embedding, [asked[number] for number in some]))
                order += some
        return concatenate(parts).select(np.argsort(order))

    def _answer(self, embedding: Embedding, asked: Sequence[ObjectPrompt]) -> MaskSet:
        from samplat.prediction import (
            MULTIMASK,
            SINGLE,
            check_prompts,
            decode,
            mask_prompts,
            upscale_logits,
        )

        alone = len(asked[0].points) == 1 and asked[0].box is None and asked[0].draft is None
        drafts = [each.draft for each in asked if each.draft is not None]
        told = mask_prompts(self.model, embedding, drafts) if drafts else None
        prompts = ObjectPrompt.as_prompts(asked, told)
        check_prompts(self.model, embedding, prompts)
        small, iou = decode(self.model, embedding, prompts, MULTIMASK if alone else SINGLE)
        best = iou.argmax(dim=1, keepdim=True)
        chosen = small.gather(1, best[..., None, None].expand(-1, -1, *small.shape[-2:]))
        logits = upscale_logits(self.model, embedding, chosen)[:, 0].cpu().numpy()
        inner, outer = (
            (logits > shift).sum(axis=(1, 2)) for shift in (STABILITY_OFFSET, -STABILITY_OFFSET)
        )
        return mask_set(
            logits > 0,
            predicted_iou=iou.gather(1, best)[:, 0].cpu().numpy(),
            stability=inner / np.maximum(outer, 1),
            points=np.stack([each.first_point for each in asked]),
        )


def _embedded(
    segmenter: AutomaticSegmenter | ModelSegmenter, pixels: NDArray[np.uint8]
) -> Embedding:
    from samplat.prediction import embed

    if segmenter.cache is not None:
        return segmenter.cache.embed(segmenter.model, pixels)
    return embed(segmenter.model, pixels)


@dataclass(frozen=True, kw_only=True)
class _ModelFactory:
    """What factories of segmenters with a model share."""

    models: Mapping[str, ModelSpec] | None = None
    """Models by name; None for the core's own."""
    embeddings: str | None = None
    """Folder of an `EmbeddingCache`; None: nothing is kept."""

    def with_models(self, models: Mapping[str, ModelSpec]) -> Self:
        """The same factory, knowing the models of plugins too."""
        return replace(self, models=models)

    def with_embeddings(self, folder: str) -> Self:
        """The same factory, whose segmenters keep embeddings in a folder."""
        return replace(self, embeddings=folder)

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


@dataclass(frozen=True, kw_only=True)
class AutomaticFactory(_ModelFactory):
    """Makes the automatic segmenter."""

    name: str = "automatic"

    def create(self, model: str | None, **options: Any) -> AutomaticSegmenter:
        """Load the model; options are those of `generate_masks`."""
        from samplat.checkpoints import load_model

        _check_parameters(options)
        loaded = load_model(_needed(model), models=self.models)
        # a file states defaults of its own, which no tile should be the first to try
        _check_parameters({**loaded.grid_defaults, **options})
        return AutomaticSegmenter(model=loaded, options=options, cache=self._cache())


@dataclass(frozen=True, kw_only=True)
class PromptedFactory(_ModelFactory):
    """Makes the segmenter that answers prompts; it has no options."""

    name: str = "prompted"
    takes_prompts: ClassVar[bool] = True

    def create(self, model: str | None, **options: Any) -> ModelSegmenter:
        """Load the model."""
        from samplat.checkpoints import load_model

        _check_none(options)
        return ModelSegmenter(
            model=load_model(_needed(model), models=self.models), cache=self._cache()
        )

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        """The weights' digest."""
        _check_none(options)
        return super().identity(model)

    def sight(self, model: str | None) -> int:
        """Side of the model's input, in pixels; of a checkpoint that of the paper's models."""
        from samplat.checkpoints import shipped_models

        known = shipped_models() if self.models is None else self.models
        spec = known.get(_needed(model))
        return spec.image_size if spec else 1024


@dataclass(frozen=True, kw_only=True)
class ThresholdSegmenter:
    """Connected bright regions: what needs no model."""

    level: float = 127.5
    """Grey values above this, as the stretch makes them, are objects; the middle of 0..255."""

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        """Regions of valid pixels, brighter on the mean of the bands, connected by their sides."""
        from scipy import ndimage

        bright = pixels.sum(axis=-1, dtype=np.uint16) > pixels.shape[-1] * self.level
        labels, count = ndimage.label(bright & valid)
        return masks_of_labels(labels, count)


@dataclass(frozen=True, kw_only=True)
class ThresholdFactory:
    """Makes the segmenter without a model."""

    name: str = "threshold"

    def create(self, model: str | None, **options: Any) -> ThresholdSegmenter:
        """Its only option is `level`."""
        if unknown := sorted(options.keys() - {"level"}):
            raise InputError(f"the threshold does not take this option: {unknown[0]}")
        return ThresholdSegmenter(**options)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        """The level."""
        return {"level": self.create(model, **options).level}


def _check_none(options: Mapping[str, Any]) -> None:
    if options:
        raise InputError(f"the prompted segmenter does not take this option: {next(iter(options))}")


def _check_parameters(options: Mapping[str, Any]) -> None:
    from samplat.grid import GridParameters

    try:
        GridParameters(**options)
    except TypeError as error:
        raise InputError(f"the automatic segmenter does not take this option: {error}") from None


def _needed(model: str | None) -> str:
    if model is None:
        raise InputError("the segmenter needs a model; name one with --model")
    return model

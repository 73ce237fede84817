"""What proposes masks: a model behind a small protocol, so that laws can be tested without one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, MaskSet, Prompts, SamplatError
from samplat_train.engine.settings import ModelReference, Parameters

if TYPE_CHECKING:
    from samplat import Embedding, Model


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One mask that the model answers to prompts."""

    mask: NDArray[np.bool_]
    """(H, W). True: the pixel belongs to the object."""
    predicted_iou: float
    """The model's own estimate of the mask's IoU with the true object."""
    stability: float
    """IoU of the mask cut at a high and at a low threshold, at the model's own resolution."""
    prompts: Prompts
    """What it answers."""
    logits: NDArray[np.float32]
    """(h, w) at the model's low resolution: `Prompts(masks=...)` of a correction."""


class Assistant(Protocol):
    """Segments pictures on behalf of a person; `prepare` is called once for each picture."""

    @property
    def reference(self) -> ModelReference:
        """Which model it is."""
        ...

    def prepare(self, image: NDArray[np.uint8]) -> Any:
        """What `answer` needs to know of a picture (H, W, 3)."""
        ...

    def answer(self, prepared: Any, prompts: Prompts) -> tuple[Candidate, ...]:
        """Masks for the prompts of one object, the best first.

        Raises:
            InputError: prompts of several objects, or outside of the picture.
        """
        ...

    def confident(self, image: NDArray[np.uint8], parameters: Parameters) -> MaskSet:
        """Masks to pre-fill a picture with (semi-automatic stage)."""
        ...

    def everything(self, image: NDArray[np.uint8], parameters: Parameters) -> MaskSet:
        """All masks that a grid over picture and crops finds (fully automatic stage)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelAssistant:
    """A promptable model as an assistant."""

    model: Model
    """From `samplat.load_model`."""
    reference: ModelReference
    """The same for the records."""

    def prepare(self, image: NDArray[np.uint8]) -> Embedding:
        """The picture's embedding."""
        import samplat

        return samplat.embed(self.model, image)

    def answer(self, prepared: Embedding, prompts: Prompts) -> tuple[Candidate, ...]:
        """Three masks for one ambiguous click, the single mask for more (paper, section 3)."""
        import samplat

        if len(prompts) != 1:
            raise InputError(f"expected the prompts of one object, got those of {len(prompts)}")
        found = samplat.predict(self.model, prepared, prompts, multimask=_ambiguous(prompts))
        return tuple(
            Candidate(
                mask=found.masks[0, k],
                predicted_iou=float(found.predicted_iou[0, k]),
                stability=self._stability(found.logits[0, k], prepared),
                prompts=prompts,
                logits=found.logits[0, k],
            )
            for k in np.argsort(-found.predicted_iou[0], kind="stable")
        )

    def confident(self, image: NDArray[np.uint8], parameters: Parameters) -> MaskSet:
        """Masks of a coarse grid over the whole picture."""
        import samplat

        return samplat.generate_masks(
            self.model,
            image,
            points_per_side=parameters.proposal_points_per_side,
            box_nms_thresh=parameters.nms_thresh,
            min_mask_region_area=parameters.min_region_area,
            **self._thresholds(parameters),
        )

    def everything(self, image: NDArray[np.uint8], parameters: Parameters) -> MaskSet:
        """Masks of a fine grid over the picture, and of thinner ones over its crops."""
        import samplat

        return samplat.generate_masks(
            self.model,
            image,
            points_per_side=parameters.points_per_side,
            crop_n_layers=parameters.crop_layers,
            crop_n_points_downscale_factor=2,
            box_nms_thresh=parameters.nms_thresh,
            crop_nms_thresh=parameters.nms_thresh,
            min_mask_region_area=parameters.min_region_area,
            **self._thresholds(parameters),
        )

    def _thresholds(self, parameters: Parameters) -> dict[str, Any]:
        return parameters.thresholds(self.model.grid_defaults)

    def _stability(self, logits: NDArray[np.float32], embedding: Embedding) -> float:
        offset = self.model.grid_defaults.get("stability_score_offset", 1.0)
        used = (n * logits.shape[0] / self.model.sam.frame_size for n in embedding.input_size)
        rows, columns = (max(1, round(n)) for n in used)
        inside = logits[:rows, :columns]
        lenient = int((inside > -offset).sum())
        return int((inside > offset).sum()) / max(1, lenient)


def durable_name(name_or_path: str | Path) -> str:
    """Paths become absolute: a project is used from other folders, too."""
    path = Path(name_or_path)
    return str(path.resolve()) if path.is_file() else str(name_or_path)


def load_assistant(reference: ModelReference) -> ModelAssistant:
    """The model of a project.

    Args:
        reference: an empty `sha256` takes any weights of that name.

    Raises:
        SamplatError: it is missing, or has other weights by now.
    """
    import samplat

    model = samplat.load_model(reference.name, models=samplat.registry().models())
    if reference.sha256 and model.weights_sha256 != reference.sha256:
        raise SamplatError(
            f"model {reference.name} has the weights {model.weights_sha256[:12]}…, the project "
            f"was made with {reference.sha256[:12]}…; put those back, or switch the project with "
            "`samplat engine stage PROJECT --model NAME`"
        )
    found = ModelReference(name=reference.name, sha256=model.weights_sha256)
    return ModelAssistant(model=model, reference=found)


def _ambiguous(prompts: Prompts) -> bool:
    points = 0 if prompts.points is None else int((prompts.labels[0] >= 0).sum())
    return points == 1 and prompts.boxes is None and prompts.masks is None

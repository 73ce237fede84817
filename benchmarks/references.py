"""What the engine is measured against: the official code, or `transformers`, on our weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import official
from samplat.dialects import to_official
from samplat.model.sam import Sam

Masks = list[dict[str, Any]]


class Reference(Protocol):
    """The other side of a row; an image is encoded before it is asked about."""

    name: str

    def encode(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The embedding (1, 256, 64, 64) of an image (1024, 1024, 3)."""
        ...

    def decode(self, points: NDArray[np.float32]) -> Tensor:
        """Logits (P, 3, 256, 256) of points (P, 1, 2) on the image encoded last."""
        ...

    def predict(self, pixels: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Masks (3, H, W) of points (1, 2) on the same image as at the last call, if it was."""
        ...

    def generate(self, pixels: NDArray[np.uint8], **parameters: Any) -> Masks | None:
        """Automatic masks as COCO records; None where there is no such thing."""
        ...


class Official:
    """A checkout of the official code."""

    name = "segment_anything"

    def __init__(self, checkout: Path, ours: Sam) -> None:
        self.sam = official.load_official(checkout, "vit_b", ours.state_dict())
        self._predictor = official.official_predictor(self.sam)
        self._set: NDArray[np.uint8] | None = None
        self._embedding: Tensor | None = None

    def encode(self, pixels: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        embedding: Tensor = self.sam.image_encoder(self.sam.preprocess(tensor))
        self._embedding = embedding
        return embedding

    def decode(self, points: NDArray[np.float32]) -> Tensor:
        labels = torch.ones(points.shape[:2], dtype=torch.int64)
        sparse, dense = self.sam.prompt_encoder(
            points=(torch.from_numpy(points), labels), boxes=None, masks=None
        )
        logits: Tensor = self.sam.mask_decoder(
            image_embeddings=self._embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )[0]
        return logits

    def predict(self, pixels: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.bool_]:
        if self._set is not pixels:
            self._predictor.set_image(pixels)
            self._set = pixels
        masks: NDArray[np.bool_] = self._predictor.predict(points, np.ones(len(points)))[0]
        return masks

    def generate(self, pixels: NDArray[np.uint8], **parameters: Any) -> Masks | None:
        found: Masks = official.official_generator(self.sam, **parameters).generate(pixels)
        return found


class Transformers:
    """`transformers`' SamModel; it has no generator of its own that works on arrays."""

    name = "transformers"

    def __init__(self, ours: Sam) -> None:
        from transformers import SamConfig, SamModel

        config = SamConfig(mask_decoder_config={"layer_norm_eps": 1e-5})
        self.model = SamModel(config).eval().requires_grad_(False)
        state = ours.state_dict()
        for name, tensor in self.model.state_dict().items():
            named = to_official({"vision_encoder.": torch.empty(0), name: tensor})
            (known,) = named.keys() - {"image_encoder."}
            tensor.copy_(state[known])
        self._ours = ours
        self._embedding: Tensor | None = None
        self._set: NDArray[np.uint8] | None = None

    def encode(self, pixels: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
        embedding: Tensor = self.model.get_image_embeddings(self._ours.preprocess(tensor))
        self._embedding = embedding
        return embedding

    def decode(self, points: NDArray[np.float32]) -> Tensor:
        answer = self.model(
            input_points=torch.from_numpy(points)[None],
            image_embeddings=self._embedding,
            multimask_output=True,
        )
        logits: Tensor = answer.pred_masks[0]
        return logits

    def predict(self, pixels: NDArray[np.uint8], points: NDArray[np.float32]) -> NDArray[np.bool_]:
        if self._set is not pixels:
            self.encode(pixels)
            self._set = pixels
        logits = self.decode(points[None])
        full = torch.nn.functional.interpolate(logits, pixels.shape[:2], mode="bilinear")
        return (full[0] > 0).numpy()

    def generate(self, pixels: NDArray[np.uint8], **parameters: Any) -> Masks | None:
        return None

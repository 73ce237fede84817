"""From an image to an embedding, and from an embedding and prompts to masks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from samplat.checkpoints import Model
from samplat.embedding import Embedding, EmbeddingKey, pixels_sha256
from samplat.errors import InputError
from samplat.pixels import as_uint8
from samplat.prompts import Prompts

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions other than full, and the type that they compute in."""
CPU_CHUNK, GPU_CHUNK = 4, 64
"""Prompts decoded at once: on a CPU, few enough for their image tokens to stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """M masks for each of P prompts."""

    masks: NDArray[np.bool_]
    """(P, M, H, W) at the image's resolution. True: the pixel belongs to the object."""
    predicted_iou: NDArray[np.float32]
    """(P, M) the model's own estimate of each mask's IoU with the true object."""
    logits: NDArray[np.float32]
    """(P, M, h, w) at the model's low resolution; one of them can be the next mask prompt."""

    def best(self) -> NDArray[np.bool_]:
        """(P, H, W): the mask of the highest predicted IoU of each prompt."""
        top = self.predicted_iou.argmax(axis=1)
        best: NDArray[np.bool_] = self.masks[np.arange(len(top)), top]
        return best


def embed(model: Model, image: NDArray[Any]) -> Embedding:
    """Encode an image.

    Args:
        model: from `load_model`.
        image: HxW or HxWx{1,2,3,4} of any real type; other types than uint8 are stretched between
            their minimum and maximum, see `samplat.pixels.as_uint8`.

    Raises:
        InputError: not a real, non-empty 2D image.
    """
    pixels = as_uint8(image)
    resized = resize_longest_side(pixels, model.sam.image_size)
    with torch.inference_mode(), autocast(model):
        features = model.sam.encode(resized.to(model.device))
    key = EmbeddingKey(
        weights_sha256=model.weights_sha256,
        pixels_sha256=pixels_sha256(pixels),
        precision=model.precision,
    )
    height, width = resized.shape[-2:]
    return Embedding(
        features=tuple(f.float() for f in features),
        input_size=(height, width),
        original_size=(pixels.shape[0], pixels.shape[1]),
        key=key,
    )


def predict(
    model: Model, embedding: Embedding, prompts: Prompts, *, multimask: bool = True
) -> Prediction:
    """Masks for P prompts of one image (paper, section 3).

    Args:
        model: the model that made the embedding.
        embedding: from `embed`.
        prompts: in pixels of the original image.
        multimask: three masks for a prompt that may mean several things; else the single mask,
            best for boxes and for several points.

    Raises:
        InputError: a prompt outside of the image, a mask prompt of the wrong size, or an embedding
            of another model.
    """
    check_prompts(model, embedding, prompts)
    step = CPU_CHUNK if model.device.type == "cpu" else GPU_CHUNK
    parts = [
        _predict_chunk(model, embedding, prompts.select(slice(i, i + step)), multimask=multimask)
        for i in range(0, len(prompts), step)
    ]
    return Prediction(
        masks=np.concatenate([p.masks for p in parts]),
        predicted_iou=np.concatenate([p.predicted_iou for p in parts]),
        logits=np.concatenate([p.logits for p in parts]),
    )


def _predict_chunk(
    model: Model, embedding: Embedding, prompts: Prompts, *, multimask: bool
) -> Prediction:
    logits, iou = decode(model, embedding, prompts)
    chosen = slice(1, None) if multimask else slice(0, 1)
    logits, iou = logits[:, chosen], iou[:, chosen]
    masks = upscale_logits(model, embedding, logits) > 0
    return Prediction(
        masks=masks.cpu().numpy(), predicted_iou=iou.cpu().numpy(), logits=logits.cpu().numpy()
    )


def decode(model: Model, embedding: Embedding, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Low-resolution logits (P, 4, h, w), the single mask first, and predicted IoU (P, 4), fp32."""
    (height, width), (rows, columns) = embedding.original_size, embedding.input_size
    placed = prompts.scaled(columns / width, rows / height)
    device = model.device
    points, labels, boxes = (
        _tensor(v, device) for v in (placed.points, placed.labels, placed.boxes)
    )
    masks = _tensor(placed.masks, device)
    with torch.inference_mode(), autocast(model):
        logits, iou = model.sam.decode(
            # In bf16 all through: under autocast, sums of bf16 and fp32 would be fp32.
            tuple(f.to(device, compute_dtype(model)) for f in embedding.features),
            points=points,
            labels=labels,
            boxes=boxes,
            masks=None if masks is None else masks[:, None],
        )
    return logits.float(), iou.float()


def upscale_logits(model: Model, embedding: Embedding, logits: Tensor) -> Tensor:
    """Low-resolution logits (P, M, h, w) at the original image's resolution (P, M, H, W).

    First to the model's square input, cut to the part that holds the image, then to the image, as
    the official code does.
    """
    rows, columns = embedding.input_size
    side = model.sam.image_size
    with torch.inference_mode():
        square = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        return F.interpolate(
            square[..., :rows, :columns],
            embedding.original_size,
            mode="bilinear",
            align_corners=False,
        )


def check_prompts(model: Model, embedding: Embedding, prompts: Prompts) -> None:
    """Refuse prompts that the embedding's image or the model cannot answer.

    Raises:
        InputError: see `predict`.
    """
    if embedding.key.weights_sha256 != model.weights_sha256:
        raise InputError(
            f"this embedding was made with other weights ({embedding.key.weights_sha256[:8]}) than "
            f"those of model {model.name} ({model.weights_sha256[:8]}); embed the image again"
        )
    prompts.check_inside(embedding.original_size)
    wanted = model.sam.mask_input_size
    if prompts.masks is not None and prompts.masks.shape[1:] != wanted:
        raise InputError(
            f"expected mask prompts of {wanted[0]} x {wanted[1]} logits, got "
            f"{prompts.masks.shape[1:]}; pass `logits` of an earlier prediction"
        )


def resize_longest_side(pixels: NDArray[np.uint8], size: int) -> Tensor:
    """Resize (H, W, 3) so that its longest side is `size`: (1, 3, h, w) uint8, antialiased."""
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    shape = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    if shape == (height, width):
        return tensor
    return F.interpolate(tensor, shape, mode="bilinear", align_corners=False, antialias=True)


def compute_dtype(model: Model) -> torch.dtype:
    """What the network's activations are."""
    return REDUCED.get(model.precision, torch.float32)


def autocast(model: Model) -> AbstractContextManager[None]:
    """The precision that the model runs at."""
    reduced = REDUCED.get(model.precision)
    return torch.autocast(model.device.type, dtype=reduced, enabled=reduced is not None)


def _tensor(values: NDArray[Any] | None, device: torch.device) -> Tensor | None:
    return None if values is None else torch.from_numpy(values).to(device)

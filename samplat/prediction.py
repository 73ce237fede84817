"""From an image to an embedding, and from an embedding and prompts to masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from samplat.model import published_order
from samplat.model.mask_decoder import Draft
from samplat.model.windows import Prompted
from samplat.pixels import as_uint8
from samplat.precision import autocast
from samplat.prepared import prepared
from samplat.prompts import Prompts

SINGLE, MULTIMASK = slice(0, 1), slice(1, None)
"""Which of the decoder's four masks."""
DRAFT_MARGIN = 0.25
"""How much a second look is taken to add to a draft's predicted IoU at most, in `draft_confident`.
Of `samplat-tiny`'s good masks one or two in a hundred gain more, and are missed."""
CERTAIN = 10.0
"""Logit of a pixel that a draft says is, or is not, the object."""
CPU_CHUNK, SHARED_CHUNK, GPU_CHUNK = 4, 8, 64
"""Prompts decoded at once: on a CPU, few enough for their image tokens to stay near the cache, of
which there are fewer where prompts share most of the work."""


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
    height, width = model.sam.input_shape(*pixels.shape[:2])
    with torch.inference_mode(), autocast(model.precision, model.device):
        features = model.network.encode(resized(pixels, (height, width)).to(model.device))
    return Embedding(
        features=tuple(f.float() for f in features),
        input_size=(height, width),
        original_size=(pixels.shape[0], pixels.shape[1]),
        key=embedding_key(model, pixels),
    )


def embed_in_published_order(model: Model, image: NDArray[Any]) -> Embedding:
    """The same with the rounding of the published code, in full precision and more time.

    It needs a model of which `has_published_order` is true; other arguments as of `embed`.
    """
    pixels = as_uint8(image)
    height, width = model.sam.input_shape(*pixels.shape[:2])
    placed = resized(pixels, (height, width)).to(model.device)
    with torch.inference_mode():
        features = published_order.encode(model.sam, model.sam.preprocess(placed))
    return Embedding(
        features=(features,),
        input_size=(height, width),
        original_size=(pixels.shape[0], pixels.shape[1]),
        key=embedding_key(model, pixels),
    )


def draw_in_published_order(
    model: Model, embedding: Embedding, prompts: Prompts
) -> tuple[Tensor, Tensor]:
    """Three masks (P, 3, h, w) and predicted IoU (P, 3) of points, rounded as the published code's.

    Needs a model as `embed_in_published_order` does.
    """
    most, image = published_order.PROMPTS, embedding.features[0].to(model.device)
    parts = []
    with torch.inference_mode():
        for i in range(0, len(prompts), most):
            # Filled up with the last one: products of fewer prompts round otherwise.
            wanted = np.minimum(np.arange(i, i + most), len(prompts) - 1)
            placed = _placed(model, embedding, prompts.select(wanted))
            draft = published_order.decode(
                model.sam, image, points=placed["points"], labels=placed["labels"]
            )
            count = min(most, len(prompts) - i)
            parts.append((draft.logits[:count, MULTIMASK], draft.iou[:count, MULTIMASK]))
    logits, iou = (torch.cat(each) for each in zip(*parts, strict=True))
    return logits, iou


def embedding_key(model: Model, pixels: NDArray[np.uint8]) -> EmbeddingKey:
    """What the embedding of an image depends on; `pixels` as `as_uint8` gives them."""
    return EmbeddingKey(
        weights_sha256=model.weights_sha256,
        pixels_sha256=pixels_sha256(pixels),
        precision=model.precision,
    )


def predict(
    model: Model,
    embedding: Embedding,
    prompts: Prompts,
    *,
    multimask: bool = True,
    second_look: bool = True,
    on_draft: Callable[[Prediction], object] | None = None,
    best_only: bool = False,
) -> Prediction:
    """Masks for P prompts of one image (paper, section 3).

    Args:
        model: the model that made the embedding.
        embedding: from `embed`.
        prompts: in pixels of the original image.
        multimask: three masks for a prompt that may mean several things; else the single mask,
            best for boxes and for several points.
        second_look: False: masks as the decoder draws them, in half the time, of a model that
            would look at each again; something to show until the others are there.
        on_draft: told of each prompt's best mask so far as soon as it is drawn, before a model that
            does so looks at it again; of many prompts, group by group. What it raises ends the
            prediction.
        best_only: of each prompt the mask of the highest predicted IoU alone, so that no others
            are brought to the image's resolution.

    Raises:
        InputError: a prompt outside of the image, a mask prompt of the wrong size, or an embedding
            of another model.
    """
    check_prompts(model, embedding, prompts)
    step, outputs = _chunk(model), MULTIMASK if multimask else SINGLE

    def shown(logits: Tensor, iou: Tensor, best_only: bool = best_only) -> Prediction:
        if best_only:
            rows, best = torch.arange(len(iou), device=iou.device), iou.argmax(dim=1)
            logits, iou = logits[rows, best][:, None], iou[rows, best][:, None]
        masks = upscale_logits(model, embedding, logits) > 0
        return Prediction(
            masks=masks.cpu().numpy(), predicted_iou=iou.cpu().numpy(), logits=logits.cpu().numpy()
        )

    def drafted(logits: Tensor, iou: Tensor) -> None:
        if on_draft is not None:
            on_draft(shown(logits.float(), iou.float(), best_only=True))

    parts = [
        shown(
            *decode(
                model,
                embedding,
                prompts.select(slice(i, i + step)),
                outputs,
                second_look=second_look,
                on_draft=None if on_draft is None else drafted,
            )
        )
        for i in range(0, len(prompts), step)
    ]
    return Prediction(
        masks=np.concatenate([p.masks for p in parts]),
        predicted_iou=np.concatenate([p.predicted_iou for p in parts]),
        logits=np.concatenate([p.logits for p in parts]),
    )


def decode(
    model: Model,
    embedding: Embedding,
    prompts: Prompts,
    outputs: slice,
    *,
    second_look: bool = True,
    on_draft: Callable[[Tensor, Tensor], object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Low-resolution logits (P, M, h, w) and predicted IoU (P, M), fp32; see `predict`."""
    image, placed = prepared(model, embedding), _placed(model, embedding, prompts)
    with torch.inference_mode(), autocast(model.precision, model.device):
        logits, iou = model.network.decode(
            image.features,
            **placed,
            outputs=outputs,
            shared=image.shared,
            second_look=second_look,
            on_draft=on_draft,
        )
    return logits.float(), iou.float()


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """N masks as the decoder draws them, before a model that does so looks at them again."""

    draft: Draft
    """One mask of each: logits (N, 1, h, w), predicted IoU (N, 1), tokens."""
    prompts: Prompted
    """Theirs, in pixels of the model's input."""
    rows: Tensor
    """(N,) the number of each one's prompt."""
    numbers: Tensor
    """(N,) which of the prompt's three masks each is."""

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, chosen: Tensor | slice) -> Drafts:
        """Some of them, by index or range."""
        return Drafts(
            draft=Draft(*(part[chosen] for part in self.draft)),
            prompts=Prompted(*(part[chosen] for part in self.prompts)),
            rows=self.rows[chosen],
            numbers=self.numbers[chosen],
        )


def draft_confident(
    model: Model, embedding: Embedding, prompts: Prompts, threshold: float
) -> Drafts:
    """Of three masks for each prompt those whose predicted IoU is above a threshold.

    Drafts that a second look could lift above it count too, if the model looks twice.
    """
    chunks = range(0, len(prompts), _chunk(model))
    parts = [
        _draft_chunk(model, embedding, prompts.select(slice(i, i + _chunk(model))), threshold, i)
        for i in chunks
    ]
    return Drafts(
        draft=Draft(*(torch.cat(each) for each in zip(*(p.draft for p in parts), strict=True))),
        prompts=Prompted(
            *(torch.cat(each) for each in zip(*(p.prompts for p in parts), strict=True))
        ),
        rows=torch.cat([p.rows for p in parts]),
        numbers=torch.cat([p.numbers for p in parts]),
    )


def _draft_chunk(
    model: Model, embedding: Embedding, prompts: Prompts, threshold: float, first: int
) -> Drafts:
    image, placed = prepared(model, embedding), _placed(model, embedding, prompts)
    least = threshold - (DRAFT_MARGIN if model.sam.mask_refiner is not None else 0.0)
    with torch.inference_mode(), autocast(model.precision, model.device):
        asked, given = model.network.ask(image.features, **placed, shared=image.shared)
        # The scores are there before the masks, which are most of the work.
        good = (asked.iou[:, MULTIMASK] > least).any(dim=1).nonzero()[:, 0]
        drawn = model.network.draw(image.features, asked.select(good), MULTIMASK, image.shared)
        row, mask = (drawn.iou > least).nonzero(as_tuple=True)
        return Drafts(
            draft=Draft(*(part[row, mask][:, None] for part in drawn)),
            prompts=Prompted(*(part[good[row]] for part in given)),
            rows=good[row] + first,
            numbers=mask,
        )


def finish_confident(
    model: Model, embedding: Embedding, drafts: Drafts, threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Drafts looked at again, if the model does so, and of them those above a threshold.

    Returns:
        low-resolution logits (N, h, w), predicted IoU (N,), and of each the number of its prompt
        and of its mask (N,).
    """
    features = prepared(model, embedding).features
    parts = []
    with torch.inference_mode(), autocast(model.precision, model.device):
        for i in range(0, max(1, len(drafts)), _chunk(model)):
            some = drafts.select(slice(i, i + _chunk(model)))
            logits, iou = model.network.finish(features, some.draft, some.prompts, last=False)
            kept = iou[:, 0] > threshold
            rows, numbers = some.rows[kept], some.numbers[kept]
            parts.append((logits[kept, 0].float(), iou[kept, 0].float(), rows, numbers))
    logits, iou, rows, numbers = (torch.cat(each) for each in zip(*parts, strict=True))
    return logits, iou, rows, numbers


def _placed(model: Model, embedding: Embedding, prompts: Prompts) -> dict[str, Tensor | None]:
    """Prompts as `Sam.decode` takes them."""
    (height, width), (rows, columns) = embedding.original_size, embedding.input_size
    placed = prompts.scaled(columns / width, rows / height)
    masks = _tensor(placed.masks, model.device)
    return {
        "points": _tensor(placed.points, model.device),
        "labels": _tensor(placed.labels, model.device),
        "boxes": _tensor(placed.boxes, model.device),
        "masks": None if masks is None else masks[:, None],
    }


def _chunk(model: Model) -> int:
    if model.device.type != "cpu":
        return GPU_CHUNK
    return SHARED_CHUNK if model.sam.shares else CPU_CHUNK


def upscale_logits(model: Model, embedding: Embedding, logits: Tensor) -> Tensor:
    """Low-resolution logits (P, M, h, w) at the original image's resolution (P, M, H, W).

    First to the model's square input, cut to the part that holds the image, then to the image, as
    the official code does; but what is cut off is not computed.
    """
    rows, columns = embedding.input_size
    stride = model.sam.mask_stride
    # One more cell on each side, since the last pixels lie between two.
    used = logits[..., : -(-rows // stride) + 1, : -(-columns // stride) + 1]
    shape = [n * stride for n in used.shape[-2:]]
    with torch.inference_mode():
        enlarged = F.interpolate(used, shape, mode="bilinear", align_corners=False)
        enlarged = enlarged[..., :rows, :columns]
        if (rows, columns) == embedding.original_size:
            return enlarged
        return F.interpolate(
            enlarged, embedding.original_size, mode="bilinear", align_corners=False
        )


def mask_prompts(
    model: Model, embedding: Embedding, drafts: Sequence[NDArray[np.bool_]]
) -> NDArray[np.float32]:
    """Drafts as mask prompts: logits (P, h, w) at the model's low resolution, in its square frame.

    Args:
        model: that is asked.
        embedding: of the image.
        drafts: (H, W) of the image each. True: about where the object is.
    """
    from PIL import Image

    (rows, columns), stride = embedding.input_size, model.sam.mask_stride
    frame = model.sam.mask_input_size
    height, width = max(1, -(-rows // stride)), max(1, -(-columns // stride))
    logits = np.full((len(drafts), *frame), -CERTAIN, np.float32)
    for place, draft in zip(logits, drafts, strict=True):
        soft = Image.fromarray(draft.astype(np.float32)).resize(
            (min(width, frame[1]), min(height, frame[0])), Image.Resampling.BILINEAR
        )
        place[:height, :width] = CERTAIN * (2 * np.asarray(soft) - 1)
    return logits


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


def resized(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> Tensor:
    """Pixels (H, W, 3) at another size: (1, 3, h, w) uint8, antialiased."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    if shape == pixels.shape[:2]:
        return tensor
    return F.interpolate(tensor, shape, mode="bilinear", align_corners=False, antialias=True)


def _tensor(values: NDArray[Any] | None, device: torch.device) -> Tensor | None:
    return None if values is None else torch.from_numpy(values).to(device)

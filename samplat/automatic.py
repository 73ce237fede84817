"""Masks of everything in an image, from a grid of points (paper, section 4 and appendix B)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplat.checkpoints import Model
from samplat.embedding import Embedding
from samplat.errors import InputError
from samplat.grid import GridParameters, crop_boxes
from samplat.masks import (
    MaskSet,
    box_nms,
    concatenate,
    decode_rle,
    encode_rle,
    mask_box,
    remove_small_regions,
)
from samplat.model.published_order import has_published_order
from samplat.pixels import as_uint8
from samplat.prediction import (
    Drafts,
    draft_confident,
    embed,
    embed_in_published_order,
    finish_confident,
)
from samplat.prompts import Prompts
from samplat.selection import (
    ROUNDING,
    Candidates,
    ExactLook,
    QuickLook,
    chosen,
    exactly_stable,
    roughly_stable,
)
from samplat.upscaling import Upscaling

CROP_EDGE_TOLERANCE = 20
"""A mask whose box comes this close, in pixels, to a crop's inner edge is taken as cut off."""

NMS_ROWS = 256
"""Masks compared with all others at once: bounds memory."""


def generate_masks(
    model: Model,
    image: Embedding | NDArray[Any],
    params: GridParameters | None = None,
    **changes: Any,
) -> MaskSet:
    """All masks that a grid of points finds, in order of crop and predicted IoU.

    Args:
        model: from `load_model`.
        image: an embedding, or the image itself, which layers of crops need.
        params: parameters; the model's own defaults when None.
        **changes: single fields of `GridParameters` to change.

    Raises:
        InputError: unknown or unusable parameters, or crops of an embedding without its image.
    """
    params = _parameters(model, params, changes)
    if params.exact and model.precision != "fp32":
        model = replace(model, precision="fp32")
    if isinstance(image, Embedding):
        if params.crop_n_layers:
            raise InputError("layers of crops need the image: pass it instead of its embedding")
        found = _masks_of_embedding(model, image, params, layer=0)
    else:
        found = _masks_of_crops(model, as_uint8(image), params)
    if params.min_mask_region_area:
        found = _without_small_regions(found, params)
    return found


def _parameters(
    model: Model, params: GridParameters | None, changes: dict[str, Any]
) -> GridParameters:
    try:
        defaults: Mapping[str, Any] = model.grid_defaults
        return replace(params or GridParameters(**defaults), **changes)
    except TypeError as error:
        known = ", ".join(GridParameters.__dataclass_fields__)
        raise InputError(f"{error}; parameters are {known}") from error


def _masks_of_crops(model: Model, pixels: NDArray[np.uint8], params: GridParameters) -> MaskSet:
    size = (pixels.shape[0], pixels.shape[1])
    as_published = params.exact and has_published_order(model.sam)
    encode = embed_in_published_order if as_published else embed
    parts = []
    for layer, box in crop_boxes(size, params.crop_n_layers, params.crop_overlap_ratio):
        x0, y0, x1, y1 = box
        embedding = encode(model, pixels[y0:y1, x0:x1])
        part = _masks_of_embedding(model, embedding, params, layer)
        parts.append(_uncrop(part, box, size))
    found = concatenate(parts)
    if len(parts) == 1:
        return found
    return found.select(box_nms(_inclusive(found), 1 / _crop_areas(found), params.crop_nms_thresh))


def _masks_of_embedding(
    model: Model, embedding: Embedding, params: GridParameters, layer: int
) -> MaskSet:
    height, width = embedding.original_size
    points = params.grid(layer) * np.array([width, height], np.float32)
    upscaling = Upscaling.of(model, embedding)
    parts = []
    for some, given in _batches_of_drafts(model, embedding, points, params):
        found = _candidates(model, embedding, some, given, params).within(upscaling)
        parts.append(found if params.exact else roughly_stable(found, upscaling, params))
    found = Candidates.joined(parts)
    quick = QuickLook(found, upscaling, params.stability_score_offset)
    if not (params.exact and has_published_order(model.sam)):
        return chosen(found, quick, upscaling, params)
    found = exactly_stable(found, quick, params.stability_score_thresh)
    exact = ExactLook(model, embedding, found, params.stability_score_offset)
    return chosen(found, exact, upscaling, params)


def _candidates(
    model: Model,
    embedding: Embedding,
    drafts: Drafts,
    sources: NDArray[np.float32],
    params: GridParameters,
) -> Candidates:
    """Those confident enough of the drafts of points `sources[drafts.rows]`."""
    limit = params.pred_iou_thresh - (ROUNDING if params.exact else 0.0)
    logits, iou, rows, numbers = finish_confident(model, embedding, drafts, limit)
    return Candidates(
        logits=logits,
        predicted_iou=iou.cpu().numpy(),
        points=sources[rows.cpu().numpy()],
        numbers=numbers.cpu().numpy(),
    )


def _batches_of_drafts(
    model: Model, embedding: Embedding, points: NDArray[np.float32], params: GridParameters
) -> Iterator[tuple[Drafts, NDArray[np.float32]]]:
    """Drafts that may be good enough, and the points (N, 2) that their rows number."""
    step = params.points_per_batch
    threshold = params.pred_iou_thresh - (ROUNDING if params.exact else 0.0)
    if model.sam.mask_refiner is None or params.draft_nms_thresh == 1:
        for i in range(0, len(points), step):
            some = points[i : i + step]
            yield draft_confident(model, embedding, Prompts(points=some[:, None]), threshold), some
        return
    drafts = draft_confident(model, embedding, Prompts(points=points[:, None]), threshold)
    masks, iou = drafts.draft.logits[:, 0] > 0, drafts.draft.iou[:, 0]
    drafts = drafts.select(distinct_masks(masks, iou, params.draft_nms_thresh))
    for i in range(0, max(1, len(drafts)), step):
        yield drafts.select(slice(i, i + step)), points


def distinct_masks(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression of masks: indices kept, best score first, ties by index.

    Args:
        masks: (N, h, w) bool.
        scores: (N,).
        iou_threshold: a mask is dropped when its IoU with a kept better one is above this.
    """
    order = torch.argsort(-scores.float(), stable=True)
    flat = masks[order].flatten(1).float()
    area = flat.sum(dim=1)
    alike = []
    for i in range(0, len(flat), NMS_ROWS):
        shared = flat[i : i + NMS_ROWS] @ flat.T
        union = area[i : i + NMS_ROWS, None] + area - shared
        alike.append((shared > iou_threshold * union).cpu().numpy())
    alive = np.ones(len(flat), dtype=bool)
    for i, row in enumerate(row for rows in alike for row in rows):
        if alive[i]:
            alive[i + 1 :] &= ~row[i + 1 :]
    return order[torch.from_numpy(alive).to(order.device)]


def _mask_set(
    masks: NDArray[np.bool_],
    iou: NDArray[np.float32],
    stability: NDArray[np.float32],
    points: NDArray[np.float32],
) -> MaskSet:
    n, height, width = masks.shape
    return MaskSet(
        size=(height, width),
        rles=tuple(encode_rle(m) for m in masks),
        boxes=np.array([mask_box(m) for m in masks], np.float32).reshape(n, 4),
        areas=masks.sum(axis=(1, 2), dtype=np.int64),
        predicted_iou=iou,
        stability=stability.astype(np.float32),
        points=points.astype(np.float32).reshape(n, 2),
        crop_boxes=np.tile(np.array([0, 0, width, height], np.int32), (n, 1)),
    )


def _uncrop(found: MaskSet, box: tuple[int, int, int, int], size: tuple[int, int]) -> MaskSet:
    """Masks of a crop in the frame of the image, but for those that its inner edge cuts."""
    x0, y0, _, _ = box
    shift = np.array([x0, y0, x0, y0], np.float32)
    kept = found.select(~_near_crop_edge(_inclusive(found) + shift, box, size))
    masks = [_placed(decode_rle(rle, kept.size), box, size) for rle in kept.rles]
    return replace(
        kept,
        size=size,
        rles=tuple(encode_rle(m) for m in masks),
        boxes=kept.boxes + shift,
        points=kept.points + shift[:2],
        crop_boxes=np.tile(np.array(box, np.int32), (len(kept), 1)),
    )


def _placed(
    mask: NDArray[np.bool_], box: tuple[int, int, int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    whole = np.zeros(size, dtype=bool)
    x0, y0, x1, y1 = box
    whole[y0:y1, x0:x1] = mask
    return whole


def _near_crop_edge(
    boxes: NDArray[np.float32], crop: tuple[int, int, int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    image = np.array([0, 0, size[1], size[0]], np.float32)
    near_crop = np.abs(boxes - np.array(crop, np.float32)) <= CROP_EDGE_TOLERANCE
    near_image = np.abs(boxes - image) <= CROP_EDGE_TOLERANCE
    near: NDArray[np.bool_] = (near_crop & ~near_image).any(axis=1)
    return near


def _inclusive(found: MaskSet) -> NDArray[np.float32]:
    """Boxes whose x1, y1 are the last pixel, as the reference measures them for NMS."""
    return found.boxes - np.array([0, 0, 1, 1], np.float32)


def _crop_areas(found: MaskSet) -> NDArray[np.float64]:
    x0, y0, x1, y1 = found.crop_boxes.astype(np.float64).T
    areas: NDArray[np.float64] = (x1 - x0) * (y1 - y0)
    return areas


def _without_small_regions(found: MaskSet, params: GridParameters) -> MaskSet:
    """Holes and islands removed; of the duplicates that arise, masks that needed no change stay."""
    if not len(found):
        return found
    masks, unchanged = [], []
    area = params.min_mask_region_area
    for rle in found.rles:
        filled, a = remove_small_regions(decode_rle(rle, found.size), area, "holes")
        cleaned, b = remove_small_regions(filled, area, "islands")
        masks.append(cleaned)
        unchanged.append(not (a or b))
    clean = _mask_set(np.stack(masks), found.predicted_iou, found.stability, found.points)
    clean = replace(clean, crop_boxes=found.crop_boxes)
    threshold = max(params.box_nms_thresh, params.crop_nms_thresh)
    return clean.select(box_nms(_inclusive(clean), np.array(unchanged, np.float32), threshold))

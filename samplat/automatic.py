"""Masks of everything in an image, from a grid of points (paper, section 4 and appendix B)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplat.checkpoints import Model
from samplat.embedding import Embedding
from samplat.errors import InputError
from samplat.masks import (
    MaskSet,
    box_nms,
    concatenate,
    decode_rle,
    encode_rle,
    encode_runs,
    mask_box,
    remove_small_regions,
)
from samplat.pixels import as_uint8
from samplat.prediction import (
    CPU_CHUNK,
    Drafts,
    draft_confident,
    embed,
    finish_confident,
    upscale_logits,
)
from samplat.prompts import Prompts
from samplat.upscaling import Outlined, Upscaling, boxes_above

CROP_EDGE_TOLERANCE = 20
"""A mask whose box comes this close, in pixels, to a crop's inner edge is taken as cut off."""

NMS_ROWS = 256
"""Masks compared with all others at once: bounds memory."""

CELL_MARGIN, CELL_NOISE = 0.02, 2.0
"""How far a stability score at low resolution may be off: the second, divided by the area to
the power of 3/4, is what counting whole cells, or larger pixels, along the edge does."""


@dataclass(frozen=True, kw_only=True)
class GridParameters:
    """Parameters of `generate_masks`; the names and defaults of the reference generator.

    Raises:
        InputError: a value out of its range.
    """

    points_per_side: int | None = 32
    """Points along each side of the image; None when `point_grids` is given."""
    points_per_batch: int = 64
    """Points decoded and filtered together: bounds memory, does not change the masks."""
    pred_iou_thresh: float = 0.88
    """Masks of a lower predicted IoU are dropped; in 0..1, or any finite number: -1 keeps all."""
    stability_score_thresh: float = 0.95
    """Masks of a lower stability score are dropped; in 0..1, or any finite number likewise."""
    stability_score_offset: float = 1.0
    """Shift of the threshold, in logits, for the stability score."""
    box_nms_thresh: float = 0.7
    """IoU of boxes, 0..1, above which the less confident mask is dropped, within a crop."""
    draft_nms_thresh: float = 1.0
    """IoU of masks, 0..1, above which the less confident draft is not looked at again, if the model
    looks at its masks twice: most points of a grid mean the same few masks. 1 looks at all."""
    crop_n_layers: int = 0
    """Layers of crops to search besides the whole image; layer i has (2^i)² crops."""
    crop_nms_thresh: float = 0.7
    """IoU of boxes, 0..1, above which the mask from the larger crop is dropped."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of the first layer's crops, as a share of the image's short side: 0..1, not 1."""
    crop_n_points_downscale_factor: int = 1
    """Points per side of layer i are divided by this to the power of i."""
    point_grids: Sequence[NDArray[Any]] | None = None
    """Own points instead of `points_per_side`: (N, 2) x, y in 0..1 for each crop layer."""
    min_mask_region_area: int = 0
    """Holes and islands of fewer pixels are removed; 0 leaves them."""
    exact: bool = False
    """Filters look at every mask at the image's resolution, as in the reference generator. Without
    it low resolution is enough where it leaves no doubt, and only what stays is upscaled."""

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise InputError("give either points_per_side or point_grids, the other one None")
        positive = ("points_per_batch", "crop_n_points_downscale_factor", "points_per_side")
        for name in positive:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be >= 1, got {value}")
        if self.crop_n_layers < 0 or self.min_mask_region_area < 0:
            raise InputError("crop_n_layers and min_mask_region_area must be >= 0")
        self._check_thresholds()
        self._check_grids()

    def _check_thresholds(self) -> None:
        for name in ("pred_iou_thresh", "stability_score_thresh", "stability_score_offset"):
            if not math.isfinite(value := getattr(self, name)):
                raise InputError(f"{name} must be a finite number, got {value}")
        for name in ("box_nms_thresh", "crop_nms_thresh", "draft_nms_thresh"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"{name} must be in 0..1, got {value}")
        if not 0 <= self.crop_overlap_ratio < 1:
            raise InputError(
                f"crop_overlap_ratio must be >= 0 and < 1, got {self.crop_overlap_ratio}"
            )

    def _check_grids(self) -> None:
        if self.point_grids is None:
            return
        if len(self.point_grids) != self.crop_n_layers + 1:
            raise InputError(f"expected {self.crop_n_layers + 1} point grids, one per crop layer")
        for grid in map(np.asarray, self.point_grids):
            if grid.ndim != 2 or grid.shape[1] != 2 or not len(grid):
                raise InputError(f"expected point grids of shape (N, 2), got {grid.shape}")
            if not ((grid >= 0) & (grid <= 1)).all():
                raise InputError(
                    "expected point grids of x, y in 0..1, as shares of the crop's sides, got "
                    f"{grid.min():g} to {grid.max():g}"
                )

    def grid(self, layer: int) -> NDArray[np.float32]:
        """(N, 2) points x, y in 0..1 of a crop layer."""
        if self.point_grids is not None:
            return np.asarray(self.point_grids[layer], np.float32)
        side = int((self.points_per_side or 1) / self.crop_n_points_downscale_factor**layer)
        return point_grid(max(1, side))


def point_grid(side: int) -> NDArray[np.float32]:
    """(side², 2) centres of a regular grid of cells over the unit square, row by row."""
    centres = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=1)


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
    parts = []
    for layer, box in crop_boxes(size, params.crop_n_layers, params.crop_overlap_ratio):
        x0, y0, x1, y1 = box
        embedding = embed(model, pixels[y0:y1, x0:x1])
        part = _masks_of_embedding(model, embedding, params, layer)
        parts.append(_uncrop(part, box, size))
    found = concatenate(parts)
    if len(parts) == 1:
        return found
    return found.select(box_nms(_inclusive(found), 1 / _crop_areas(found), params.crop_nms_thresh))


def crop_boxes(
    size: tuple[int, int], layers: int, overlap_ratio: float
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Crops of an image (H, W): layer and x0, y0, x1, y1, the whole image first.

    Layer i has 2^i crops a side, overlapping by `overlap_ratio` of the short side at layer 1 and
    by half as much at each further one (paper, appendix B).
    """
    height, width = size
    yield 0, (0, 0, width, height)
    for layer in range(1, layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / n))
        crop_h, crop_w = (-(-(overlap * (n - 1) + extent) // n) for extent in size)
        for x0 in (int((crop_w - overlap) * i) for i in range(n)):
            for y0 in (int((crop_h - overlap) * i) for i in range(n)):
                yield layer, (x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height))


def _masks_of_embedding(
    model: Model, embedding: Embedding, params: GridParameters, layer: int
) -> MaskSet:
    height, width = embedding.original_size
    points = params.grid(layer) * np.array([width, height], np.float32)
    drafts = _batches_of_drafts(model, embedding, points, params)
    if params.exact:
        parts = [_masks_of_drafts(model, embedding, *each, params) for each in drafts]
        found = concatenate(parts)
        return found.select(box_nms(_inclusive(found), found.predicted_iou, params.box_nms_thresh))
    upscaling, limit = Upscaling.of(model, embedding), params.pred_iou_thresh
    candidates = [
        _candidates(*finish_confident(model, embedding, some, limit), given, upscaling, params)
        for some, given in drafts
    ]
    return _chosen(Candidates.joined(candidates), upscaling, params)


def _batches_of_drafts(
    model: Model, embedding: Embedding, points: NDArray[np.float32], params: GridParameters
) -> Iterator[tuple[Drafts, NDArray[np.float32]]]:
    """Drafts that may be good enough, and the points (N, 2) that their rows number."""
    step, threshold = params.points_per_batch, params.pred_iou_thresh
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


def _masks_of_drafts(
    model: Model,
    embedding: Embedding,
    drafts: Drafts,
    sources: NDArray[np.float32],
    params: GridParameters,
) -> MaskSet:
    logits, iou, rows = finish_confident(model, embedding, drafts, params.pred_iou_thresh)
    parts = []
    for i in range(0, len(logits), CPU_CHUNK):
        full = upscale_logits(model, embedding, logits[i : i + CPU_CHUNK, None])[:, 0]
        parts.append((full > 0, stability_score(full, params.stability_score_offset)))
    size = embedding.original_size
    masks = torch.cat([m for m, _ in parts]) if parts else torch.zeros(0, *size, dtype=torch.bool)
    stability = torch.cat([s for _, s in parts]) if parts else torch.zeros(0)
    kept = (stability >= params.stability_score_thresh) & masks.any(dim=2).any(dim=1)
    index = kept.cpu().numpy()
    points = sources[rows.cpu().numpy()]
    return _mask_set(
        masks[kept].cpu().numpy(),
        iou.cpu().numpy()[index],
        stability[kept].cpu().numpy(),
        points[index],
    )


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """N masks at the model's resolution that may pass all filters."""

    logits: Tensor
    """(N, h, w) on the image."""
    predicted_iou: NDArray[np.float32]
    """(N,)."""
    points: NDArray[np.float32]
    """(N, 2) where they come from."""

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of them, in order."""
        arrays = ("predicted_iou", "points")
        rest = {name: np.concatenate([getattr(p, name) for p in parts]) for name in arrays}
        return cls(logits=torch.cat([p.logits for p in parts]), **rest)


def _candidates(
    logits: Tensor,
    iou: Tensor,
    rows: Tensor,
    sources: NDArray[np.float32],
    upscaling: Upscaling,
    params: GridParameters,
) -> Candidates:
    """Of masks (n, h, w) from points `sources[rows]` those that may be stable enough."""
    low = logits[:, : upscaling.cells[0], : upscaling.cells[1]]
    stability = stability_score(low, params.stability_score_offset).double().cpu().numpy()
    area = (low > -params.stability_score_offset).sum(dim=(1, 2)).cpu().numpy()
    counted = area * min(1.0, upscaling.rows.scale * upscaling.columns.scale)
    margin = CELL_MARGIN + CELL_NOISE * np.maximum(counted, 1) ** -0.75
    kept = np.flatnonzero(stability >= params.stability_score_thresh - margin)
    index = torch.from_numpy(kept).to(low.device)
    return Candidates(
        logits=low[index],
        predicted_iou=iou[index].cpu().numpy(),
        points=sources[rows[index].cpu().numpy()],
    )


def _chosen(found: Candidates, upscaling: Upscaling, params: GridParameters) -> MaskSet:
    """Masks of the candidates that pass the filters, in order of predicted IoU.

    A mask that is looked at in full and passes suppresses others, as in the reference. Where boxes
    at low resolution show that beyond doubt, these others need not be looked at.
    """
    offset, limit = params.stability_score_offset, params.box_nms_thresh
    boxes = upscaling.pixels(boxes_above(found.logits, 0.0))
    cell = np.array([upscaling.columns.scale, upscaling.rows.scale])
    doubt = (cell / np.maximum(boxes[:, 2:] - boxes[:, :2], 1)).sum(axis=1)
    logits, alive = found.logits.float().cpu().numpy(), np.ones(len(boxes), dtype=bool)
    kept: list[int] = []
    masks: list[Outlined] = []
    for i in np.argsort(-found.predicted_iou, kind="stable"):
        if not alive[i]:
            continue
        mask = upscaling.outlined(logits[i], offset)
        before = np.array([m.box for m in masks], np.int64).reshape(-1, 4)
        stable = mask.stability >= params.stability_score_thresh and mask.area > 0
        if stable and not (_overlaps(mask.box, before) > limit).any():
            kept.append(int(i))
            masks.append(mask)
            alive &= ~(_overlaps(mask.box, boxes) > limit + doubt)
    size = (len(upscaling.rows.first), len(upscaling.columns.first))
    return _set_of_outlined(masks, size, found.predicted_iou[kept], found.points[kept])


def _overlaps(box: tuple[int, int, int, int], others: NDArray[np.int64]) -> NDArray[np.float32]:
    """IoU of a box with others (N, 4), measured to the last pixel; NaN of two single pixels."""
    last = np.array([0, 0, 1, 1])
    one, others = np.array(box) - last, others - last
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1).astype(np.float32)
    union = np.prod(one[2:] - one[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    with np.errstate(invalid="ignore"):
        overlaps: NDArray[np.float32] = shared / union
    return overlaps


def _set_of_outlined(
    masks: Sequence[Outlined],
    size: tuple[int, int],
    predicted_iou: NDArray[np.float32],
    points: NDArray[np.float32],
) -> MaskSet:
    whole = np.array([0, 0, size[1], size[0]], np.int32)
    return MaskSet(
        size=size,
        rles=encode_runs([m.counts for m in masks], size),
        boxes=np.array([m.box for m in masks], np.float32).reshape(-1, 4),
        areas=np.array([m.area for m in masks], np.int64),
        predicted_iou=predicted_iou,
        stability=np.array([m.stability for m in masks], np.float32),
        points=points.astype(np.float32),
        crop_boxes=np.tile(whole, (len(masks), 1)),
    )


def stability_score(logits: Tensor, offset: float) -> Tensor:
    """IoU of the masks cut at +offset and at -offset (paper, appendix B): (N, H, W) to (N,)."""
    strict = (logits > offset).sum(dim=(-2, -1), dtype=torch.int64)
    lenient = (logits > -offset).sum(dim=(-2, -1), dtype=torch.int64)
    return strict / lenient.clamp_min(1)


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

"""Sets of masks, run-length encoded, and what can be said about them without a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.label_loops import (
    CODE_BYTES,
    Codes,
    filled,
    find_runs,
    joined,
    measure,
    paint_runs,
    write_runs,
)

Overlaps = Literal["best", "small", "large"]


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """N masks of one image, tile or crop. All arrays share the first axis N."""

    size: tuple[int, int]
    """Height and width of the image that the masks lie in."""
    rles: tuple[bytes, ...]
    """COCO compressed run-length counts, column-major, as pycocotools writes them."""
    boxes: NDArray[np.float32]
    """(N, 4) tight boxes x0, y0, x1, y1 in pixels, half-open: x1 - x0 is the width."""
    areas: NDArray[np.int64]
    """(N,) number of pixels."""
    predicted_iou: NDArray[np.float32]
    """(N,) the model's own estimate of the mask's IoU with the true object, 0..1 or a bit above."""
    stability: NDArray[np.float32]
    """(N,) stability score: IoU of the mask cut at a high and at a low logit threshold."""
    points: NDArray[np.float32]
    """(N, 2) the prompt point x, y that gave the mask; NaN where it did not come from one."""
    crop_boxes: NDArray[np.int32]
    """(N, 4) the crop x0, y0, x1, y1 in which the mask was found; the whole image without crops."""

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, f.name)) for f in fields(self) if f.name != "size"}
        if len(lengths) != 1:
            raise InputError(f"fields of a MaskSet differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.rles)

    def select(self, keep: Any) -> MaskSet:
        """The masks at these indices, or where a boolean array is True, in that order."""
        index = np.asarray(keep)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        chosen: dict[str, Any] = {"size": self.size, "rles": tuple(self.rles[i] for i in index)}
        for f in fields(self):
            if f.name not in chosen:
                chosen[f.name] = getattr(self, f.name)[index]
        return MaskSet(**chosen)

    def to_arrays(self) -> NDArray[np.bool_]:
        """The masks as (N, H, W). True: the pixel belongs to the object."""
        if not len(self):
            return np.zeros((0, *self.size), dtype=bool)
        return np.stack([decode_rle(rle, self.size) for rle in self.rles])

    def to_labels(
        self, overlaps: Overlaps = "best", *, least_visible: float = 0.0
    ) -> NDArray[np.uint32]:
        """One flat partition (H, W): 0 is background, i + 1 is mask i. See `paint_order`.

        Args:
            overlaps: which mask has the pixels that several cover.
            least_visible: a mask of which a smaller share would show is left out, 0..1. The ground
                between objects, for one, is mostly hidden by them.
        """
        if not 0 <= least_visible <= 1:
            raise InputError(f"least_visible must be in 0..1, got {least_visible}")
        order = paint_order(self, overlaps)[::-1]
        return _painted(self.rles, self.size, order=order, least_visible=least_visible)

    def to_coco(self) -> list[dict[str, Any]]:
        """Records as in the reference generator and SA-1B: JSON-ready but for the image fields."""
        return [self._coco_record(i) for i in range(len(self))]

    def _coco_record(self, i: int) -> dict[str, Any]:
        x0, y0, x1, y1 = (float(v) for v in self.boxes[i])
        cx0, cy0, cx1, cy1 = (int(v) for v in self.crop_boxes[i])
        return {
            "segmentation": {"size": list(self.size), "counts": self.rles[i].decode("ascii")},
            "area": int(self.areas[i]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "predicted_iou": float(self.predicted_iou[i]),
            "point_coords": [[float(v) for v in self.points[i]]],
            "stability_score": float(self.stability[i]),
            "crop_box": [cx0, cy0, cx1 - cx0, cy1 - cy0],
        }


def mask_set(
    masks: NDArray[np.bool_],
    *,
    predicted_iou: NDArray[Any] | None = None,
    stability: NDArray[Any] | None = None,
    points: NDArray[Any] | None = None,
) -> MaskSet:
    """A MaskSet of boolean masks (N, H, W); scores that are not given are 1."""
    n, height, width = masks.shape
    ones = np.ones(n, np.float32)
    whole = np.tile(np.array([0, 0, width, height], np.int32), (n, 1))
    boxes = [mask_box(m) for m in masks]
    return MaskSet(
        size=(height, width),
        rles=tuple(encode_rle(m) for m in masks),
        boxes=np.array(boxes, np.float32).reshape(n, 4),
        areas=masks.sum(axis=(1, 2), dtype=np.int64),
        predicted_iou=ones if predicted_iou is None else np.asarray(predicted_iou, np.float32),
        stability=ones if stability is None else np.asarray(stability, np.float32),
        points=np.full((n, 2), np.nan, np.float32)
        if points is None
        else np.asarray(points, np.float32),
        crop_boxes=whole,
    )


def masks_of_labels(labels: NDArray[np.integer[Any]], count: int) -> MaskSet:
    """The masks `labels == 1` ... `labels == count` of a label image (H, W); all scores are 1."""
    image = np.ascontiguousarray(labels, np.uint32)
    areas, boxes = np.zeros(count + 1, np.int64), np.zeros((count + 1, 6), np.int64)
    measure()(image[None], areas, boxes)
    whole = np.array([0, 0, image.shape[1], image.shape[0]], np.int32)
    return MaskSet(
        size=(image.shape[0], image.shape[1]),
        rles=encode_labels(image, count),
        boxes=boxes[1:, [2, 1, 5, 4]].astype(np.float32),
        areas=areas[1:],
        predicted_iou=np.ones(count, np.float32),
        stability=np.ones(count, np.float32),
        points=np.full((count, 2), np.nan, np.float32),
        crop_boxes=np.tile(whole, (count, 1)),
    )


def concatenate(sets: Sequence[MaskSet]) -> MaskSet:
    """All masks of several sets of one image, in order.

    Raises:
        InputError: no set is given, or their sizes differ.
    """
    if len({s.size for s in sets}) != 1:
        raise InputError(f"expected mask sets of one size, got {[s.size for s in sets]}")
    joined: dict[str, Any] = {"size": sets[0].size}
    joined["rles"] = tuple(rle for s in sets for rle in s.rles)
    for f in fields(MaskSet):
        if f.name not in joined:
            joined[f.name] = np.concatenate([getattr(s, f.name) for s in sets])
    return MaskSet(**joined)


def encode_rle(mask: NDArray[np.bool_]) -> bytes:
    """COCO compressed run-length counts of one mask (H, W)."""
    from pycocotools import mask as coco

    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def encode_runs(counts: Sequence[NDArray[np.int64]], size: tuple[int, int]) -> tuple[bytes, ...]:
    """Run-length counts of masks of one size (H, W), given as lengths of runs down the columns."""
    from pycocotools import mask as coco

    if not counts:
        return ()
    records = [{"size": list(size), "counts": each} for each in counts]
    return tuple(record["counts"] for record in coco.frPyObjects(records, *size))


def decode_rle(rle: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of COCO compressed run-length counts."""
    from pycocotools import mask as coco

    decoded: NDArray[np.uint8] = coco.decode({"size": list(size), "counts": rle})
    return decoded.astype(bool)


def encode_labels(labels: NDArray[np.integer[Any]], count: int) -> tuple[bytes, ...]:
    """Run-length counts of the masks `labels == 1` ... `labels == count`, in one pass.

    Args:
        labels: (H, W), 0 is background.
        count: number of masks.
    """
    image = np.ascontiguousarray(labels, np.uint32)
    if not image.size or not count:
        return (b"",) * count
    find = functools.partial(find_runs(), image)
    names, begins, ends = filled(find, 3, 4096 + image.size // 16)
    data = np.empty(CODE_BYTES * (2 * len(names) + count), np.uint8)
    bounds = np.empty(count + 1, np.int64)
    write_runs()(names, begins, ends, image.size, data, bounds)
    whole = data[: bounds[-1]].tobytes()
    return tuple(whole[a:b] for a, b in pairwise(bounds.tolist()))


def decode_labels(
    rles: Sequence[bytes] | Codes,
    size: tuple[int, int],
    *,
    part: tuple[slice, slice] | None = None,
    chosen: NDArray[np.int64] | None = None,
) -> NDArray[np.uint32]:
    """Labels (H, W) of disjoint masks: i + 1 where mask i is, in one pass over all runs.

    Args:
        rles: run-length counts, joined if they are decoded again and again.
        size: (H, W) of the image that they lie in.
        part: rows and columns to decode; the whole image if not given.
        chosen: indices of the masks to decode; all if not given.
    """
    return _painted(rles, size, order=chosen, part=part)


def _painted(
    rles: Sequence[bytes] | Codes,
    size: tuple[int, int],
    *,
    order: NDArray[np.int64] | None = None,
    part: tuple[slice, slice] | None = None,
    least_visible: float = 0.0,
) -> NDArray[np.uint32]:
    rows, columns = part or (slice(0, size[0]), slice(0, size[1]))
    labels = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint32)
    data, bounds = rles if isinstance(rles, Codes) else joined(rles)
    count = len(bounds) - 1
    order = np.arange(count) if order is None else np.ascontiguousarray(order, np.int64)
    if not len(order) or not labels.size:
        return labels
    names = np.arange(1, count + 1, dtype=np.uint32)
    place = (size[0], size[0] * size[1], rows.start, columns.start)
    paint_runs()(data, bounds, order, names, *place, float(least_visible), labels)
    return labels


def mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Tight half-open box x0, y0, x1, y1 of one mask; zeros when it is empty."""
    ys = np.flatnonzero(mask.any(axis=1))
    if ys.size == 0:
        return (0, 0, 0, 0)
    xs = np.flatnonzero(mask[ys[0] : ys[-1] + 1].any(axis=0))
    return (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)


def paint_order(masks: MaskSet, overlaps: Overlaps) -> NDArray[np.int64]:
    """The order in which masks are painted over each other; the last one wins a shared pixel.

    "best": higher predicted IoU times stability wins; "small": the smaller mask wins, so that
    nested objects show; "large": the larger one wins. Ties go to the earlier mask.
    """
    score: dict[str, Callable[[], NDArray[Any]]] = {
        "best": lambda: masks.predicted_iou.astype(np.float64) * masks.stability,
        "small": lambda: -masks.areas,
        "large": lambda: masks.areas,
    }
    if overlaps not in score:
        raise InputError(f"overlaps must be one of {', '.join(score)}; got {overlaps!r}")
    index = np.arange(len(masks))
    return np.lexsort((-index, score[overlaps]()))


def box_nms(boxes: NDArray[Any], scores: NDArray[Any], iou_threshold: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: indices kept, best score first, ties by index.

    Args:
        boxes: (N, 4) x0, y0, x1, y1; area is (x1 - x0) * (y1 - y0).
        scores: (N,).
        iou_threshold: a box is dropped when its IoU with a kept better one is above this.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    x0, y0, x1, y1 = np.asarray(boxes, np.float32)[order].T
    area = (x1 - x0) * (y1 - y0)
    alive = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if not alive[i]:
            continue
        rest = i + 1 + np.flatnonzero(alive[i + 1 :])
        w = np.minimum(x1[i], x1[rest]) - np.maximum(x0[i], x0[rest])
        h = np.minimum(y1[i], y1[rest]) - np.maximum(y0[i], y0[rest])
        shared = np.maximum(w, 0) * np.maximum(h, 0)
        union = area[i] + area[rest] - shared
        alive[rest[shared > iou_threshold * union]] = False
    kept: NDArray[np.int64] = order[alive].astype(np.int64)
    return kept


def mask_nms(masks: MaskSet, scores: NDArray[Any], iou_threshold: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression by the masks themselves: indices kept, in order.

    Args:
        masks: N masks.
        scores: (N,); of equal ones the earlier mask stays.
        iou_threshold: a mask is dropped when its IoU with a kept better one is above this.
    """
    from pycocotools import mask as coco

    if not len(masks):
        return np.zeros(0, np.int64)
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    records = [{"size": list(masks.size), "counts": masks.rles[i]} for i in order]
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        rest = i + 1 + np.flatnonzero(alive[i + 1 :])
        if alive[i] and len(rest):
            shared = coco.iou([records[j] for j in rest], [records[i]], [0])[:, 0]
            alive[rest[shared > iou_threshold]] = False
    kept: NDArray[np.int64] = np.sort(order[alive]).astype(np.int64)
    return kept


def remove_small_regions(
    mask: NDArray[np.bool_], area: float, mode: Literal["holes", "islands"]
) -> tuple[NDArray[np.bool_], bool]:
    """Fill holes or drop islands smaller than `area` pixels, 8-connected; the largest island stays.

    Returns:
        the mask, and whether anything changed.
    """
    from scipy import ndimage

    regions, n = ndimage.label(mask ^ (mode == "holes"), structure=np.ones((3, 3)))
    sizes = np.bincount(regions.ravel(), minlength=n + 1)[1:]
    small = np.flatnonzero(sizes < area) + 1
    if small.size == 0:
        return mask, False
    if mode == "holes":
        return mask | np.isin(regions, small), True
    keep = np.setdiff1d(np.arange(1, n + 1), small)
    keep = keep if keep.size else np.array([int(sizes.argmax()) + 1])
    return np.isin(regions, keep), True

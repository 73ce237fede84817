"""Sets of masks, run-length encoded, and what can be said about them without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError

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
        labels = np.zeros(self.size, np.uint32)
        for i in paint_order(self, overlaps)[::-1]:
            mask = decode_rle(self.rles[i], self.size)
            free = mask & (labels == 0)
            if free.sum() >= least_visible * mask.sum():
                labels[free] = i + 1
        return labels

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
        count: number of masks; each must have a pixel.
    """
    flat = labels.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    bounds = np.searchsorted(flat[starts][order], np.arange(1, count + 2))
    runs = []
    for a, b in pairwise(bounds.tolist()):
        edges = np.stack([starts[order[a:b]], ends[order[a:b]]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=flat.size)
        runs.append(counts[:-1] if counts[-1] == 0 else counts)
    return encode_runs(runs, (labels.shape[0], labels.shape[1]))


def decode_labels(rles: Sequence[bytes], size: tuple[int, int]) -> NDArray[np.uint32]:
    """Labels (H, W) of disjoint masks: i + 1 where mask i is, in one pass over all runs."""
    steps = np.zeros(size[0] * size[1] + 1, np.int64)
    if any(rles):
        owner, counts, first = _parse_counts(rles)
        ends = _running_sum(counts, first)
        place = np.arange(len(counts)) - first
        runs = (place % 2 == 1) & (counts > 0)
        np.add.at(steps, (ends - counts)[runs], owner[runs] + 1)
        np.subtract.at(steps, ends[runs], owner[runs] + 1)
    flat = np.cumsum(steps[:-1]).astype(np.uint32)
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def _parse_counts(
    rles: Sequence[bytes],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All counts of all strings: owner, count, and position of the owner's first count.

    A count is a little-endian sequence of 5-bit digits with a continuation bit, offset by 48; from
    the fourth one on it is the difference to the count two places before (COCO's maskApi.c).
    """
    data = np.frombuffer(b"".join(rles), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((data & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((data & 0x1F) << (5 * digits), starts)
    values -= np.where(data[ends] & 0x10, np.int64(1) << (5 * (digits[ends] + 1)), 0)
    string_ends = np.cumsum([len(rle) for rle in rles])
    owner = np.searchsorted(string_ends, starts, side="right")
    first = np.searchsorted(owner, owner)
    place = np.arange(len(values)) - first
    odd = _running_sum(np.where(place % 2 == 1, values, 0), first)
    even = _running_sum(np.where((place % 2 == 0) & (place > 0), values, 0), first)
    counts = np.where(place == 0, values, np.where(place % 2 == 1, odd, even))
    return owner, counts, first


def _running_sum(values: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cumulative sums that start anew wherever `first`, the index of a group's start, changes."""
    total = np.cumsum(values)
    result: NDArray[np.int64] = total - total[first] + values[first]
    return result


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

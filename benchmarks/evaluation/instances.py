"""Instances of a picture: from automatic masks, from a threshold, and how they match the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.evaluation.classical import grey
from samplat.masks import MaskSet

Labels = NDArray[np.integer[Any]]
LEAST_AREA = 25
"""Objects and predictions of fewer pixels are left out."""
MOST_SHARE = 0.25
"""Masks that cover more of the picture are taken for its background."""
LEAST_VISIBLE = 0.5
"""So are those that better masks hide by more than half."""
THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
OTSU_SIGMA, PEAK_SIGMA, PEAK_DISTANCE = 1.0, 1.5, 6
"""Smoothing before the threshold and of the distance, and pixels between two maxima."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """How the predictions of one picture match its objects."""

    objects: int
    """Objects of the truth."""
    predictions: int
    """Predicted ones."""
    matched: tuple[int, ...]
    """Pairs whose IoU is above each of THRESHOLDS."""


def painted(masks: MaskSet) -> Labels:
    """One partition of the masks that are not background, the best on top."""
    small = masks.areas <= MOST_SHARE * masks.size[0] * masks.size[1]
    return masks.select(small).to_labels("best", least_visible=LEAST_VISIBLE)


def otsu_watershed(image: NDArray[np.uint8]) -> Labels:
    """Otsu's threshold, then a watershed that parts what touches."""
    from skimage import feature, filters, segmentation

    smooth = ndimage.gaussian_filter(grey(image), OTSU_SIGMA)
    if np.ptp(smooth) == 0:
        return np.zeros(image.shape[:2], np.int32)
    threshold: Any = filters.threshold_otsu
    bright = smooth > threshold(smooth)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    objects = ndimage.binary_fill_holes(bright if border.mean() <= 0.5 else ~bright)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(objects), PEAK_SIGMA)
    peaks: Any = feature.peak_local_max
    regions, _ = ndimage.label(objects)
    markers = np.zeros(objects.shape, np.int32)
    places = peaks(depth, min_distance=PEAK_DISTANCE, labels=regions, exclude_border=False)
    markers[tuple(places.T)] = np.arange(1, len(places) + 1)
    flood: Any = segmentation.watershed
    labels: Labels = flood(-depth, markers, mask=objects)
    return labels


def match(truth: Labels, found: Labels) -> Matches:
    """Count the pairs of objects and predictions above each threshold of IoU."""
    truth, found = _compact(truth), _compact(found)
    objects, predictions = int(truth.max()), int(found.max())
    joint = np.zeros((objects + 1, predictions + 1), np.int64)
    np.add.at(joint, (truth.ravel(), found.ravel()), 1)
    areas, others = joint.sum(axis=1), joint.sum(axis=0)
    union = areas[1:, None] + others[None, 1:] - joint[1:, 1:]
    iou = joint[1:, 1:] / np.maximum(union, 1)
    return Matches(
        objects=objects,
        predictions=predictions,
        matched=tuple(int((iou > t).any(axis=1).sum()) for t in THRESHOLDS),
    )


def figures(matched: Sequence[Matches]) -> dict[str, float]:
    """The means over pictures, see the benchmark; a picture without either counts 1."""
    ap = np.array([[_share(m, k) for k in range(len(THRESHOLDS))] for m in matched])
    hits = sum(m.matched[0] for m in matched)
    objects, predictions = (sum(getattr(m, n) for m in matched) for n in ("objects", "predictions"))
    return {
        "pictures": len(matched),
        "objects": objects,
        "ap50": float(ap[:, 0].mean()),
        "ap75": float(ap[:, THRESHOLDS.index(0.75)].mean()),
        "score": float(ap.mean()),
        "precision": hits / max(1, predictions),
        "recall": hits / max(1, objects),
    }


def _share(m: Matches, k: int) -> float:
    total = m.objects + m.predictions - m.matched[k]
    return m.matched[k] / total if total else 1.0


def _compact(labels: Labels) -> Labels:
    """The labels of at least LEAST_AREA pixels as 1, 2, 3, ..."""
    ids, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = (ids != 0) & (counts >= LEAST_AREA)
    rank = np.where(kept, np.cumsum(kept), 0)
    compact: Labels = rank[inverse].reshape(labels.shape)
    return compact

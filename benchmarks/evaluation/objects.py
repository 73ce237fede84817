"""Which objects of a label image are asked for, with which prompts, and how masks are scored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samplat.masks import mask_box

MIN_AREA = 50
"""Objects of fewer pixels are left out."""
MOST_OBJECTS = 10
"""Objects asked for in one picture."""

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, half-open."""


def choose_objects(
    labels: NDArray[np.integer[Any]], *, min_area: int = MIN_AREA, most: int = MOST_OBJECTS
) -> list[Mask]:
    """At most `most` objects of a label image, evenly by rank of size.

    An object is all pixels of one label, in one piece or not. Those of at least `min_area` pixels
    are sorted by size, largest first and ties by label; then the first, the last, and others at
    even steps between them are taken.

    `labels` is (H, W), 0 is background. The masks are (H, W), the largest first.
    """
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    ids, areas = ids[areas >= min_area], areas[areas >= min_area]
    ranked = ids[np.argsort(-areas, kind="stable")]
    return [labels == ranked[i] for i in even_ranks(len(ranked), most)]


def even_ranks(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. count - 1, both ends included, at even steps."""
    return [round(float(i)) for i in np.linspace(0, count - 1, min(count, most))]


def tight_box(mask: Mask) -> Box:
    """The smallest box that holds every pixel of a mask."""
    return mask_box(mask)


def centre_point(mask: Mask) -> tuple[int, int]:
    """The pixel x, y of a non-empty mask farthest from its edge; the first in reading order.

    The picture's border counts as an edge.
    """
    x0, y0, x1, y1 = mask_box(mask)
    inside = np.pad(mask[y0:y1, x0:x1], 1)
    depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return x0 + int(x), y0 + int(y)


def next_click(predicted: Mask, truth: Mask) -> tuple[int, int, int] | None:
    """Where a person would correct a mask: x, y and 1 for missing object or 0 for surplus.

    The pixel farthest from the edge of the largest connected region of one kind of error; None
    where the mask is right.
    """
    missing, surplus = largest_region(truth & ~predicted), largest_region(predicted & ~truth)
    label = int(missing.sum() >= surplus.sum())
    region = missing if label else surplus
    return (*centre_point(region), label) if region.any() else None


def largest_region(mask: Mask) -> Mask:
    """The largest 4-connected piece of a mask; empty where the mask is."""
    x0, y0, x1, y1 = mask_box(mask)
    regions, count = ndimage.label(mask[y0:y1, x0:x1])
    largest = np.zeros_like(mask)
    if count:
        sizes = np.bincount(regions.ravel())[1:]
        largest[y0:y1, x0:x1] = regions == sizes.argmax() + 1
    return largest


def mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0

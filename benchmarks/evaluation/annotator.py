"""A person at a window who knows the truth: where they click next.

The usual protocol of interactive segmentation (Sofiiuk et al. 2021, "Reviving Iterative Training
with Mask Guidance"): the first click is the middle of the object, each further one the middle of
the largest patch that is wrong.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from benchmarks.evaluation.objects import Mask, centre_point

MOST_CLICKS = 10
"""After so many a person gives up."""
GOALS = (0.8, 0.9)
"""IoU that clicks are counted to."""


def iou(found: Mask, truth: Mask) -> float:
    """Of two masks (H, W); 1 if both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def next_click(found: Mask, truth: Mask) -> tuple[tuple[int, int], bool]:
    """The pixel (row, column) to click on, and whether it is on the object.

    The masks (H, W) differ.
    """
    missing, extra = _largest(truth & ~found), _largest(found & ~truth)
    positive = int(missing.sum()) >= int(extra.sum())
    patch = missing if positive else extra
    x, y = centre_point(patch)
    return (y, x), positive


def _largest(wrong: Mask) -> Mask:
    """The largest 4-connected patch; nothing if there is none."""
    named, count = ndimage.label(wrong)
    largest: Mask = named == 1 + int(np.argmax(np.bincount(named.ravel())[1:])) if count else wrong
    return largest


def needed(quality: list[float], goal: float) -> int | None:
    """How many clicks it took to reach an IoU; None if it was not reached.

    Args:
        quality: IoU after each click.
        goal: what is enough.
    """
    return next((n for n, value in enumerate(quality, start=1) if value >= goal), None)

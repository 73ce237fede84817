"""Masks of everything on the screen, from a grid of points: found once, chosen by sliders.

What may pass the lowest thresholds is kept, suppressed by nothing, so that other thresholds are a
choice among it and not another run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Block, block_of
from napari_sam.state import Plane
from napari_sam.views import View

if TYPE_CHECKING:
    from samplat import Embedding, MaskSet, Model

LEAST_IOU, LEAST_STABILITY = 0.5, 0.5
"""Masks of less are not kept for the sliders."""
TOGETHER = 32
"""Points that are asked between two looks at whether all of it is still wanted."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which masks are shown."""

    iou: float
    """Predicted IoU, at least."""
    stability: float
    """Likewise."""
    area: int
    """Pixels that the model sees, at least."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Masks that passed, as they are shown and become objects."""

    block: Block
    """Where they are: 1 for the first, ..."""
    scores: tuple[float, ...]
    """Predicted IoU of each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """All that may be chosen."""

    masks: MaskSet
    """Of the view, in order of predicted IoU."""
    plane: Plane
    """The slice."""
    view: View
    """The part of it."""

    def choose(self, choice: Choice) -> Chosen:
        """Those that pass, where they are."""
        masks = self.passing(choice)
        return Chosen(
            block=self.block(masks), scores=tuple(float(each) for each in masks.predicted_iou)
        )

    def passing(self, choice: Choice) -> MaskSet:
        """Those that pass, and that no better one suppresses."""
        from samplat import GridParameters, reselect

        params = GridParameters(pred_iou_thresh=choice.iou, stability_score_thresh=choice.stability)
        masks = reselect(self.masks, params)
        return masks.select(masks.areas >= choice.area)

    def block(self, masks: MaskSet) -> Block:
        """Where some of them are: 1 for the first, ... Of two the better has a pixel."""
        labels, view = masks.to_labels("best"), self.view
        if view.step > 1:
            height = view.rows.stop - view.rows.start
            width = view.columns.stop - view.columns.start
            labels = labels.repeat(view.step, 0).repeat(view.step, 1)[:height, :width]
        starts, sides = iter((view.rows.start, view.columns.start)), iter(labels.shape)
        start = [next(starts) if at is None else at for at in self.plane]
        shape = [next(sides) if at is None else 1 for at in self.plane]
        return block_of(labels.reshape(shape), start)


def batches(side: int) -> list[NDArray[np.float64]]:
    """A grid of `side` x `side` points in 0..1, some rows at a time."""
    at = (np.arange(side) + 0.5) / side
    rows = max(1, TOGETHER // side)
    return [
        np.stack(np.meshgrid(at, at[n : n + rows]), axis=-1).reshape(-1, 2)
        for n in range(0, side, rows)
    ]


def find(
    model: Model, embedding: Embedding, side: int, wanted: Callable[[], bool]
) -> MaskSet | None:
    """What a grid of points finds in an embedding.

    Args:
        model: asked.
        embedding: of the view.
        side: points along each side.
        wanted: called after each batch; False: no more, and None is returned.
    """
    from samplat import generate_masks

    parts = []
    for points in batches(side):
        parts.append(
            generate_masks(
                model,
                embedding,
                points_per_side=None,
                point_grids=[points],
                pred_iou_thresh=LEAST_IOU,
                stability_score_thresh=LEAST_STABILITY,
                box_nms_thresh=1.0,
            )
        )
        if not wanted():
            return None
    return joined(parts)


def joined(parts: list[MaskSet]) -> MaskSet:
    """All masks, in order of predicted IoU."""
    first = parts[0]
    arrays: dict[str, Any] = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in fields(first)
        if f.name not in ("size", "rles")
    }
    rles = tuple(rle for part in parts for rle in part.rles)
    order = np.argsort(-arrays["predicted_iou"], kind="stable")
    return type(first)(size=first.size, rles=rles, **arrays).select(order)

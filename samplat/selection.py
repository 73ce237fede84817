"""Which of a grid's masks stay: those that are stable and not like a better one.

Masks are looked at in order of predicted IoU, and those that a better one suppresses are not looked
at at all.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplat.checkpoints import Model
from samplat.embedding import Embedding
from samplat.grid import GridParameters
from samplat.masks import MaskSet, encode_runs
from samplat.prediction import draw_in_published_order, upscale_logits
from samplat.prompts import Prompts
from samplat.upscaling import Outlined, Upscaling, boxes_above

CELL_MARGIN, CELL_NOISE = 0.02, 2.0
"""How far a stability score at low resolution may be off: the second, divided by the area to
the power of 3/4, is what counting whole cells, or larger pixels, along the edge does."""
ROUNDING = 1e-4
"""How far scores may be off that were computed in another order than the published one."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """N masks at the model's resolution that may pass all filters."""

    logits: Tensor
    """(N, h, w) on the image."""
    predicted_iou: NDArray[np.float32]
    """(N,)."""
    points: NDArray[np.float32]
    """(N, 2) where they come from."""
    numbers: NDArray[np.int64]
    """(N,) which of a point's masks each is: 0, 1 or 2."""

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of them, in order."""
        arrays = ("predicted_iou", "points", "numbers")
        rest = {name: np.concatenate([getattr(p, name) for p in parts]) for name in arrays}
        return cls(logits=torch.cat([p.logits for p in parts]), **rest)

    def __len__(self) -> int:
        return len(self.points)

    def within(self, upscaling: Upscaling) -> Candidates:
        """Without the cells that do not lie on the image."""
        rows, columns = upscaling.cells
        return replace(self, logits=self.logits[:, :rows, :columns])

    def select(self, index: NDArray[np.int64]) -> Candidates:
        """Some of them."""
        return Candidates(
            logits=self.logits[torch.from_numpy(index).to(self.logits.device)],
            predicted_iou=self.predicted_iou[index],
            points=self.points[index],
            numbers=self.numbers[index],
        )


def roughly_stable(found: Candidates, upscaling: Upscaling, params: GridParameters) -> Candidates:
    """Those that low resolution does not show to be less stable than they have to be."""
    stability = stability_score(found.logits, params.stability_score_offset).double().cpu().numpy()
    area = (found.logits > -params.stability_score_offset).sum(dim=(1, 2)).cpu().numpy()
    counted = area * min(1.0, upscaling.rows.scale * upscaling.columns.scale)
    margin = CELL_MARGIN + CELL_NOISE * np.maximum(counted, 1) ** -0.75
    return found.select(np.flatnonzero(stability >= params.stability_score_thresh - margin))


class Looked(NamedTuple):
    """A candidate at the image's resolution."""

    predicted_iou: float
    outline: Outlined


class Looker(Protocol):
    """Looks at candidates, by number, at the image's resolution."""

    together: int
    """How many at once are the least work for each."""
    slack: float
    """How far the predicted IoU that it finds may be from that of the candidate."""

    def __call__(self, numbers: list[int]) -> list[Looked]:
        """What it sees of each."""
        ...


class QuickLook:
    """Upscales what the candidates are."""

    together, slack = 1, 0.0

    def __init__(self, found: Candidates, upscaling: Upscaling, offset: float) -> None:
        self._iou, self._upscaling, self._offset = found.predicted_iou, upscaling, offset
        self._logits = found.logits.float().cpu().numpy()

    def __call__(self, numbers: list[int]) -> list[Looked]:
        """See `Looker`."""
        return [Looked(float(self._iou[i]), self.outline(i)) for i in numbers]

    def outline(self, i: int) -> Outlined:
        """One mask at the image's resolution."""
        return self._upscaling.outlined(self._logits[i], self._offset)


class ExactLook:
    """Draws each candidate anew as the published code does, with the same rounding."""

    together, slack = 4, ROUNDING

    def __init__(
        self, model: Model, embedding: Embedding, found: Candidates, offset: float
    ) -> None:
        self._model, self._embedding, self._offset = model, embedding, offset
        self._points, self._numbers = found.points, found.numbers

    def __call__(self, numbers: list[int]) -> list[Looked]:
        """See `Looker`."""
        points, which = np.unique(self._points[numbers], axis=0, return_inverse=True)
        prompts = Prompts(points=points[:, None])
        logits, iou = draw_in_published_order(self._model, self._embedding, prompts)
        chosen = self._numbers[numbers]
        some = upscale_logits(self._model, self._embedding, logits[which, chosen][:, None])[:, 0]
        stability = stability_score(some, self._offset).tolist()
        masks = (some > 0).cpu().numpy()
        scores = iou[which, chosen].tolist()
        return [
            Looked(score, Outlined.of(mask, stable))
            for score, mask, stable in zip(scores, masks, stability, strict=True)
        ]


def exactly_stable(found: Candidates, quick: QuickLook, threshold: float) -> Candidates:
    """Those that are stable enough at the image's resolution, give or take rounding."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        scores = list(threads.map(lambda i: quick.outline(i).stability, range(len(found))))
    return found.select(np.flatnonzero(np.array(scores) >= threshold - ROUNDING))


def chosen(
    found: Candidates, look: Looker, upscaling: Upscaling, params: GridParameters
) -> MaskSet:
    """Masks of the candidates that pass the filters, in order of predicted IoU.

    A mask that is looked at and passes suppresses others, as in the published code. Where boxes
    at low resolution show that beyond doubt, these others need not be looked at.
    """
    limit, boxes = params.box_nms_thresh, upscaling.pixels(boxes_above(found.logits, 0.0))
    cell = np.array([upscaling.columns.scale, upscaling.rows.scale])
    doubt = 2 * (cell / np.maximum(boxes[:, 2:] - boxes[:, :2], 1)).sum(axis=1)
    waiting = list(np.argsort(-found.predicted_iou, kind="stable"))[::-1]
    alive = np.ones(len(found), dtype=bool)
    hand: list[tuple[float, int, Looked]] = []
    kept: list[tuple[int, Looked]] = []
    while waiting or hand:
        if waiting and not alive[waiting[-1]]:
            waiting.pop()
        elif waiting and (not hand or -hand[0][0] < found.predicted_iou[waiting[-1]] + look.slack):
            some = _next(waiting, alive, look.together)
            for i, looked in zip(some, look(some), strict=True):
                heapq.heappush(hand, (-looked.predicted_iou, i, looked))
        else:
            _, i, looked = heapq.heappop(hand)
            if _passes(looked, [k.outline.box for _, k in kept], params):
                kept.append((i, looked))
                alive &= ~(overlaps(looked.outline.box, boxes) > limit + doubt)
    size = (len(upscaling.rows.first), len(upscaling.columns.first))
    return _mask_set([k for _, k in kept], found.points[[i for i, _ in kept]], size)


def _next(waiting: list[int], alive: NDArray[np.bool_], count: int) -> list[int]:
    """The next so many that are still alive, taken from the end."""
    some: list[int] = []
    while waiting and len(some) < count:
        i = int(waiting.pop())
        if alive[i]:
            some.append(i)
    return some


def _passes(
    looked: Looked, before: list[tuple[int, int, int, int]], params: GridParameters
) -> bool:
    outline = looked.outline
    good = looked.predicted_iou > params.pred_iou_thresh
    stable = outline.stability >= params.stability_score_thresh and outline.area > 0
    if not (good and stable):
        return False
    boxes = np.array(before, np.int64).reshape(-1, 4)
    return not (overlaps(outline.box, boxes) > params.box_nms_thresh).any()


def overlaps(box: tuple[int, int, int, int], others: NDArray[np.int64]) -> NDArray[np.float32]:
    """IoU of a box with others (N, 4), measured to the last pixel; NaN of two single pixels."""
    last = np.array([0, 0, 1, 1])
    one, others = np.array(box) - last, others - last
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1).astype(np.float32)
    union = np.prod(one[2:] - one[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float32] = shared / union
    return found


def _mask_set(
    masks: Sequence[Looked], points: NDArray[np.float32], size: tuple[int, int]
) -> MaskSet:
    whole = np.array([0, 0, size[1], size[0]], np.int32)
    outlines = [m.outline for m in masks]
    return MaskSet(
        size=size,
        rles=encode_runs([o.counts for o in outlines], size),
        boxes=np.array([o.box for o in outlines], np.float32).reshape(-1, 4),
        areas=np.array([o.area for o in outlines], np.int64),
        predicted_iou=np.array([m.predicted_iou for m in masks], np.float32),
        stability=np.array([o.stability for o in outlines], np.float32),
        points=points.astype(np.float32).reshape(-1, 2),
        crop_boxes=np.tile(whole, (len(masks), 1)),
    )


def stability_score(logits: Tensor, offset: float) -> Tensor:
    """IoU of the masks cut at +offset and at -offset (paper, appendix B): (N, H, W) to (N,)."""
    strict = (logits > offset).sum(dim=(-2, -1), dtype=torch.int64)
    lenient = (logits > -offset).sum(dim=(-2, -1), dtype=torch.int64)
    return strict / lenient.clamp_min(1)

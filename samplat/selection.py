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
NO_RUNS = np.zeros(0, np.int64)
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
    """Of how many prompts at once candidates are the least work for each."""
    slack: float
    """How far the predicted IoU that it finds may be from that of the candidate."""

    def prompt_to_draw(self, number: int) -> int | None:
        """The prompt that has to be drawn for a candidate, if one has to."""
        ...

    def __call__(self, numbers: list[int]) -> list[Looked]:
        """What it sees of each."""
        ...


class QuickLook:
    """Upscales what the candidates are."""

    together, slack = 1, 0.0

    def __init__(self, found: Candidates, upscaling: Upscaling, offset: float) -> None:
        self._iou, self._upscaling, self._offset = found.predicted_iou, upscaling, offset
        self._logits = found.logits.float().cpu().numpy()

    def prompt_to_draw(self, number: int) -> int | None:
        """See `Looker`."""
        return number

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
        self._points, which = np.unique(found.points, axis=0, return_inverse=True)
        self._prompts, self._numbers = which.reshape(-1), found.numbers
        self._looked: dict[int, Looked] = {}

    def prompt_to_draw(self, number: int) -> int | None:
        """See `Looker`."""
        return None if number in self._looked else int(self._prompts[number])

    def __call__(self, numbers: list[int]) -> list[Looked]:
        """See `Looker`. All candidates of a prompt are looked at as soon as it is drawn."""
        drawn = sorted({p for i in numbers if (p := self.prompt_to_draw(i)) is not None})
        if drawn:
            self._draw(np.array(drawn))
        return [self._looked.pop(i) for i in numbers]

    def _draw(self, drawn: NDArray[np.int64]) -> None:
        prompts = Prompts(points=self._points[drawn][:, None])
        logits, iou = draw_in_published_order(self._model, self._embedding, prompts)
        some = np.flatnonzero(np.isin(self._prompts, drawn))
        which, masks = np.searchsorted(drawn, self._prompts[some]), self._numbers[some]
        for i, row, mask in zip(some.tolist(), which.tolist(), masks.tolist(), strict=True):
            low = logits[row, mask][None, None]
            full = upscale_logits(self._model, self._embedding, low)[0]
            stability = float(stability_score(full, self._offset)[0])
            outline = Outlined.of((full[0] > 0).cpu().numpy(), stability)
            self._looked[i] = Looked(float(iou[row, mask]), outline)


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
    size = (len(upscaling.rows.first), len(upscaling.columns.first))
    hand: list[tuple[float, int, Looked]] = []
    kept: list[int] = []
    masks: list[Looked] = []
    rles: list[bytes] = []
    while waiting or hand:
        if waiting and not alive[waiting[-1]]:
            waiting.pop()
        elif waiting and (not hand or -hand[0][0] < found.predicted_iou[waiting[-1]] + look.slack):
            some = _next(waiting, alive, look)
            for i, looked in zip(some, look(some), strict=True):
                heapq.heappush(hand, (-looked.predicted_iou, i, looked))
        else:
            _, i, looked = heapq.heappop(hand)
            if _passes(looked, [m.outline.box for m in masks], params):
                kept.append(i)
                # Encoded at once: runs as numbers can be a hundred times as large.
                rles += encode_runs([looked.outline.counts], size)
                masks.append(looked._replace(outline=replace(looked.outline, counts=NO_RUNS)))
                alive &= ~(overlaps(looked.outline.box, boxes) > limit + doubt)
    return _mask_set(masks, rles, found.points[kept], size)


def _next(waiting: list[int], alive: NDArray[np.bool_], look: Looker) -> list[int]:
    """The next that are still alive, taken from the end: as many as are best looked at together."""
    some: list[int] = []
    drawn: set[int | None] = set()
    while waiting and len(drawn) < look.together:
        i = int(waiting.pop())
        if alive[i]:
            some.append(i)
            drawn |= {look.prompt_to_draw(i)} - {None}
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


def reselect(found: MaskSet, params: GridParameters) -> MaskSet:
    """Of masks found with lower thresholds those that pass higher ones and are like no better one.

    Sliders take this: asked once with low thresholds and `box_nms_thresh=1`, so that nothing is
    suppressed, any higher thresholds are a matter of milliseconds. A model that looks at its masks
    twice drops drafts by the thresholds it is asked with; so another run may lack some of these.

    Args:
        found: of one crop.
        params: the thresholds; no lower than those it was found with.
    """
    good = (found.predicted_iou > params.pred_iou_thresh) & (found.areas > 0)
    stable = found.stability >= params.stability_score_thresh
    order = np.argsort(-found.predicted_iou, kind="stable")
    waiting = order[(good & stable)[order]]
    kept: list[int] = []
    boxes = found.boxes.astype(np.int64)
    while len(waiting):
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        x0, y0, x1, y1 = boxes[best].tolist()
        waiting = waiting[~(overlaps((x0, y0, x1, y1), boxes[waiting]) > params.box_nms_thresh)]
    return found.select(np.array(kept, np.int64))


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
    masks: Sequence[Looked],
    rles: Sequence[bytes],
    points: NDArray[np.float32],
    size: tuple[int, int],
) -> MaskSet:
    whole = np.array([0, 0, size[1], size[0]], np.int32)
    outlines = [m.outline for m in masks]
    return MaskSet(
        size=size,
        rles=tuple(rles),
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

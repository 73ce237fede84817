"""Accuracy figures of one picture: what a model answers to each prompt, against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.objects import Mask, centre_point, mask_iou, next_click, tight_box
from benchmarks.evaluation.segmenter import Segmenter
from benchmarks.evaluation.zoom import View, Zoom, box_view, point_view
from samplat.prompts import Prompts

CLICKS = (1, 3, 5)
"""Numbers of simulated clicks after which the mask is scored."""

Record = dict[str, float]
"""Figures of one object."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """M masks for each of P prompts, in the whole picture's frame."""

    masks: NDArray[np.bool_]
    """(P, M, H, W)."""
    predicted_iou: NDArray[np.float32]
    """(P, M)."""
    logits: NDArray[np.float32]
    """(P, M, h, w) at the model's low resolution, in the frame of the prompt's view."""

    def top(self) -> Answer:
        """The mask with the highest predicted IoU of each prompt: M is 1."""
        best = self.predicted_iou.argmax(axis=1)[:, None]
        rows = np.arange(len(best))[:, None]
        return Answer(
            masks=self.masks[rows, best],
            predicted_iou=self.predicted_iou[rows, best],
            logits=self.logits[rows, best],
        )


class Canvas:
    """A picture under a segmenter: each view of it is embedded once, when first needed."""

    def __init__(self, segmenter: Segmenter, image: NDArray[np.uint8]) -> None:
        self._segmenter = segmenter
        self._image = image
        self._embeddings: dict[View, Any] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self._image.shape[0], self._image.shape[1]

    def ask(self, prompts: Prompts, views: Sequence[View], *, multimask: bool) -> Answer:
        """Answers to P prompts, each seen through its own view; those of one view in one call."""
        masks: dict[int, Mask] = {}
        scores: dict[int, NDArray[np.float32]] = {}
        logits: dict[int, NDArray[np.float32]] = {}
        for view in dict.fromkeys(views):
            asked = [i for i, other in enumerate(views) if other == view]
            local = _take(prompts, asked).shifted(-view.x0, -view.y0)
            result = self._segmenter.predict(self._embedding(view), local, multimask=multimask)
            for row, i in enumerate(asked):
                masks[i] = self._pasted(result.masks[row], view)
                scores[i], logits[i] = result.predicted_iou[row], result.logits[row]
        order = range(len(views))
        return Answer(
            masks=np.stack([masks[i] for i in order]),
            predicted_iou=np.stack([scores[i] for i in order]),
            logits=np.stack([logits[i] for i in order]),
        )

    def _embedding(self, view: View) -> Any:
        if view not in self._embeddings:
            crop = np.ascontiguousarray(self._image[view.slices])
            self._embeddings[view] = self._segmenter.embed(crop)
        return self._embeddings[view]

    def _pasted(self, masks: NDArray[np.bool_], view: View) -> NDArray[np.bool_]:
        whole = np.zeros((len(masks), *self.size), bool)
        whole[:, *view.slices] = masks
        return whole


def measure_picture(
    segmenter: Segmenter,
    image: NDArray[np.uint8],
    objects: Sequence[Mask],
    *,
    zoom: Zoom = 1.0,
    points: bool = True,
    clicks: bool = True,
) -> list[Record]:
    """Figures of each object: see the functions below for what they mean.

    Args:
        segmenter: the model.
        image: (H, W, 3).
        objects: masks (H, W), none of them empty.
        zoom: which part of the picture the model sees.
        points: measure the centre point, too.
        clicks: and simulated clicks.
    """
    if not objects:
        return []
    canvas = Canvas(segmenter, image)
    parts = [box_records(canvas, objects, zoom)]
    if points:
        parts.append(point_records(canvas, objects, zoom))
    if points and clicks:
        parts.append(click_records(canvas, objects, zoom))
    return [_merge(records) for records in zip(*parts, strict=True)]


def box_records(canvas: Canvas, objects: Sequence[Mask], zoom: Zoom) -> list[Record]:
    """`box`: IoU of the single-mask output for the tight box.

    `iou_error_box`: |the model's estimate - IoU|.
    """
    boxes = [tight_box(truth) for truth in objects]
    views = [box_view(canvas.size, box, zoom) for box in boxes]
    answer = canvas.ask(Prompts(boxes=boxes), views, multimask=False)
    records = []
    for truth, masks, estimate in zip(objects, answer.masks, answer.predicted_iou, strict=True):
        iou = mask_iou(masks[0], truth)
        records.append({"box": iou, "iou_error_box": abs(float(estimate[0]) - iou)})
    return records


def point_records(canvas: Canvas, objects: Sequence[Mask], zoom: Zoom) -> list[Record]:
    """`point_top`, `point_best`: IoU of the top-scored mask and of the best of three.

    The prompt is the centre point. `iou_error_point`: mean |estimate - IoU| over the three masks.
    """
    places = [centre_point(truth) for truth in objects]
    views = [point_view(canvas.size, place, zoom) for place in places]
    answer = canvas.ask(_points([[p] for p in places]), views, multimask=True)
    records = []
    for truth, masks, estimates in zip(objects, answer.masks, answer.predicted_iou, strict=True):
        ious = np.array([mask_iou(mask, truth) for mask in masks])
        error = float(np.abs(estimates - ious).mean())
        top, best = float(ious[estimates.argmax()]), float(ious.max())
        records.append({"point_top": top, "point_best": best, "iou_error_point": error})
    return records


def click_records(canvas: Canvas, objects: Sequence[Mask], zoom: Zoom) -> list[Record]:
    """`clicks_K`: IoU after K simulated clicks.

    The first is the centre point and takes the top-scored of three masks. Each later one corrects
    the largest error inside the view, goes with all earlier ones and the last mask's logits, and
    takes the single-mask output. A mask without errors is kept as it is.
    """
    places = [[centre_point(truth)] for truth in objects]
    labels = [[1] for _ in objects]
    views = [point_view(canvas.size, place[0], zoom) for place in places]
    answer = canvas.ask(_points(places, labels), views, multimask=True).top()
    records: list[Record] = [{} for _ in objects]
    for count in range(1, max(CLICKS) + 1):
        if count > 1:
            open_ones = _add_clicks(places, labels, answer, objects, views)
            prompts = _points(places, labels, answer.logits[:, 0])
            fresh = canvas.ask(prompts, views, multimask=False)
            answer = _replace(answer, fresh, open_ones)
        if count in CLICKS:
            for record, truth, masks in zip(records, objects, answer.masks, strict=True):
                record[f"clicks_{count}"] = mask_iou(masks[0], truth)
    return records


def _add_clicks(
    places: list[list[tuple[int, int]]],
    labels: list[list[int]],
    answer: Answer,
    objects: Sequence[Mask],
    views: Sequence[View],
) -> NDArray[np.bool_]:
    """Append one click to every object's list; False where there was nothing to correct.

    There the first click is repeated, so that all lists stay of one length.
    """
    changed = []
    for i, (truth, view) in enumerate(zip(objects, views, strict=True)):
        click = next_click(answer.masks[i, 0][view.slices], truth[view.slices])
        changed.append(click is not None)
        place = (click[0] + view.x0, click[1] + view.y0) if click else places[i][0]
        places[i].append(place)
        labels[i].append(click[2] if click else labels[i][0])
    return np.array(changed)


def _replace(old: Answer, new: Answer, where: NDArray[np.bool_]) -> Answer:
    pick = where[:, None]
    return Answer(
        masks=np.where(pick[..., None, None], new.masks, old.masks),
        predicted_iou=np.where(pick, new.predicted_iou, old.predicted_iou),
        logits=np.where(pick[..., None, None], new.logits, old.logits),
    )


def _points(
    places: Sequence[Sequence[tuple[int, int]]],
    labels: Sequence[Sequence[int]] | None = None,
    logits: NDArray[np.float32] | None = None,
) -> Prompts:
    given = np.ones(np.shape(places)[:2], int) if labels is None else labels
    return Prompts(points=places, labels=given, masks=logits)


def _take(prompts: Prompts, index: Sequence[int]) -> Prompts:
    parts = {name: getattr(prompts, name) for name in ("points", "labels", "boxes", "masks")}
    return Prompts(**{n: None if v is None else v[list(index)] for n, v in parts.items()})


def _merge(records: Sequence[Record]) -> Record:
    return {name: value for record in records for name, value in record.items()}

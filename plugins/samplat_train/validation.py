"""How good a model is on labelled pictures: what a run is judged by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import samplat
from samplat_train.data.pictures import Picture, PictureSource

LEAST_AREA, MOST_OBJECTS = 25, 10
"""Objects asked for: of at least this many pixels, at most this many of a picture."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Mean IoU over the objects of some pictures."""

    objects: int
    """How many objects were asked for."""
    point: float
    """With one centre point: the mask that the model scores highest."""
    point_best: float
    """The same, the best of its three masks."""
    box: float
    """With the tight box: the single mask."""

    @property
    def score(self) -> float:
        """One number to compare models by: the mean of point and box."""
        return (self.point + self.box) / 2

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def as_model(sam: samplat.Sam, architecture: str) -> samplat.Model:
    """A network in training as a model that answers, in full precision."""
    return samplat.Model(
        sam=sam,
        name="in training",
        architecture=architecture,
        weights_sha256="",
        precision="fp32",
        device=next(sam.parameters()).device,
    )


def measure(model: samplat.Model, source: PictureSource, *, limit: int | None = None) -> Figures:
    """Ask a model for the objects of pictures, each with its centre point and its tight box.

    Args:
        model: the model.
        source: labelled pictures; those without an object of 25 pixels count nothing.
        limit: use the first pictures only.

    Raises:
        samplat.InputError: no picture has an object to ask for.
    """
    pictures = (source.read(i) for i in range(min(len(source), limit or len(source))))
    rows = [row for picture in pictures for row in _ask(model, picture)]
    if not rows:
        raise samplat.InputError(
            f"{source.name}: no object of at least {LEAST_AREA} pixels to measure with"
        )
    point, best, box = np.mean(rows, axis=0)
    return Figures(objects=len(rows), point=float(point), point_best=float(best), box=float(box))


def _ask(model: samplat.Model, picture: Picture) -> Iterator[tuple[float, float, float]]:
    """IoU of the top-scored, the best and the box's mask for each object."""
    objects = chosen_objects(picture.labels)
    if not objects:
        return
    embedding = samplat.embed(model, picture.image)
    points = samplat.Prompts(points=[[centre(m)] for m in objects])
    boxes = samplat.Prompts(boxes=[tight_box(m) for m in objects])
    by_point = samplat.predict(model, embedding, points)
    by_box = samplat.predict(model, embedding, boxes, multimask=False)
    for i, truth in enumerate(objects):
        ious = [iou(mask, truth) for mask in by_point.masks[i]]
        top = ious[int(by_point.predicted_iou[i].argmax())]
        yield top, max(ious), iou(by_box.masks[i, 0], truth)


def chosen_objects(labels: NDArray[np.integer]) -> list[NDArray[np.bool_]]:
    """Masks of at most ten objects of labels (L, H, W), evenly by size."""
    sized = [
        (int(count), level, int(i))
        for level, partition in enumerate(labels)
        for i, count in zip(*np.unique(partition, return_counts=True), strict=True)
        if i and count >= LEAST_AREA
    ]
    sized.sort(key=lambda item: (-item[0], *item[1:]))
    ranks = np.linspace(0, len(sized) - 1, min(len(sized), MOST_OBJECTS)).round().astype(int)
    return [labels[sized[r][1]] == sized[r][2] for r in ranks]


def centre(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel x, y farthest from the edge of a mask; the picture's border is an edge."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(x), int(y)


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The smallest box x0, y0, x1, y1, half-open, around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0

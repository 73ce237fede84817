"""Prompts: what a person or a detector points at. The only module in which xy and yx meet.

Coordinates are x, y in pixels of the image, x to the right, y down; the centre of the first pixel
is (0, 0) as in the paper's code, which adds 0.5 itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError

FOREGROUND, BACKGROUND, PADDING = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """P prompts of one image. Anything array-like is accepted and normalised to the shapes below.

    A single prompt may be given without its leading axis: `points=[(x, y)], labels=[1]`.

    Raises:
        InputError: shapes that do not fit, labels other than 1, 0, -1, boxes with x1 <= x0.
    """

    points: Any = None
    """(P, K, 2) float32 x, y; or None."""
    labels: Any = None
    """(P, K) int32: 1 object, 0 background, -1 padding; None means all 1."""
    boxes: Any = None
    """(P, 4) float32 x0, y0, x1, y1, half-open; or None."""
    masks: Any = None
    """(P, h, w) float32 logits at the model's low resolution, from an earlier answer; or None."""

    def __post_init__(self) -> None:
        points, labels = _points_and_labels(self.points, self.labels)
        for name, value in (
            ("points", points),
            ("labels", labels),
            ("boxes", _boxes(self.boxes)),
            ("masks", _array(self.masks, 3, "masks", "(P, h, w)")),
        ):
            object.__setattr__(self, name, value)
        self._check_counts()

    def __len__(self) -> int:
        return next(len(v) for v in (self.points, self.boxes, self.masks) if v is not None)

    def _check_counts(self) -> None:
        given = {n: getattr(self, n) for n in ("points", "boxes", "masks")}
        counts = {n: len(v) for n, v in given.items() if v is not None}
        if not counts:
            raise InputError("a prompt needs points, boxes or masks; none was given")
        if len(set(counts.values())) > 1:
            raise InputError(f"expected one entry per prompt everywhere, got {counts}")

    def select(self, index: slice | NDArray[np.int64]) -> Prompts:
        """Some of the prompts, by range or number."""
        parts = {n: getattr(self, n) for n in ("points", "labels", "boxes", "masks")}
        return Prompts(**{n: None if v is None else v[index] for n, v in parts.items()})

    def scaled(self, x: float, y: float) -> Prompts:
        """The same prompts on an image resized by these factors; masks stay as they are."""
        factor = np.array([x, y], np.float32)
        return self._mapped(lambda p: p * factor)

    def shifted(self, x: float, y: float) -> Prompts:
        """The same prompts in a frame whose origin lies at (-x, -y) of this one."""
        offset = np.array([x, y], np.float32)
        return self._mapped(lambda p: p + offset)

    def _mapped(self, change: Any) -> Prompts:
        boxes = self.boxes
        if boxes is not None:
            boxes = change(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        points = None if self.points is None else change(self.points)
        return replace(self, points=points, boxes=boxes)

    def check_inside(self, size: tuple[int, int]) -> None:
        """Refuse prompts outside of an image of `size` (H, W).

        Raises:
            InputError: names the first point or box that does not touch the image.
        """
        height, width = size
        if self.points is not None:
            x, y = np.moveaxis(self.points, -1, 0)
            outside = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
            self._refuse_first(self.points, outside & (self.labels != PADDING), "point", size)
        if self.boxes is not None:
            x0, y0, x1, y1 = self.boxes.T
            self._refuse_first(
                self.boxes, (x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height), "box", size
            )

    @staticmethod
    def _refuse_first(
        values: NDArray[Any], outside: NDArray[np.bool_], what: str, size: tuple[int, int]
    ) -> None:
        if outside.any():
            place = ", ".join(f"{v:g}" for v in values[outside][0])
            raise InputError(
                f"{what} ({place}) lies outside of the image of {size[1]} x {size[0]} pixels "
                "(width x height); coordinates are x, y"
            )


def _points_and_labels(points: Any, labels: Any) -> tuple[Any, Any]:
    if points is None:
        if labels is not None:
            raise InputError("labels were given without points")
        return None, None
    placed = _array(points, 3, "points", "(P, K, 2) or (K, 2)")
    if placed.shape[2] != 2:
        raise InputError(f"expected points (P, K, 2) or (K, 2), got {np.shape(points)}")
    given = np.ones(placed.shape[:2]) if labels is None else np.asarray(labels)
    given = given[None] if given.ndim == 1 and np.ndim(points) == 2 else given
    if given.shape != placed.shape[:2]:
        raise InputError(f"expected labels of shape {placed.shape[:2]}, got {np.shape(labels)}")
    if not np.isin(given, (FOREGROUND, BACKGROUND, PADDING)).all():
        raise InputError("labels must be 1 (object), 0 (background) or -1 (padding)")
    return placed, given.astype(np.int32)


def _boxes(boxes: Any) -> Any:
    placed = _array(boxes, 2, "boxes", "(P, 4) or (4,)")
    if placed is None:
        return None
    if placed.shape[1] != 4:
        raise InputError(f"expected boxes (P, 4) or (4,), got {np.shape(boxes)}")
    if bad := [tuple(map(float, b)) for b in placed if b[2] <= b[0] or b[3] <= b[1]]:
        raise InputError(f"expected boxes x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {bad[0]}")
    return placed


def _array(value: Any, axes: int, name: str, shape: str) -> Any:
    if value is None:
        return None
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected {name} as numbers of shape {shape}: {error}") from error
    array = array[None] if array.ndim == axes - 1 else array
    if array.ndim != axes or array.size == 0:
        raise InputError(f"expected {name} of shape {shape}, got {np.shape(value)}")
    if not np.isfinite(array).all():
        raise InputError(f"expected finite {name}, got NaN or infinity")
    return array

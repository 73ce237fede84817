"""What points at single objects of a whole image: points, boxes, and what they are called.

Coordinates are x, y in pixels of the image, with pixel (0, 0) as the unit square: an object is
pointed at on the ground, before it is known which pixels anything will see of it. `Prompts` counts
from the centre of the first pixel instead; `ObjectPrompt.as_prompts` is where the two meet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.prompts import BACKGROUND, FOREGROUND, Prompts

if TYPE_CHECKING:
    import pyarrow as pa

GRAIN = 256
"""Coordinates are rounded to this part of a pixel, so that a point that came through another CRS
is still the same point."""
LEAST = 0.5
"""A box of which less than this many pixels, across or down, lie in the image is outside."""
NAMED = 5
"""So many prompts are named in a message; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """Where prompts come from, picklable: what a job holds."""

    path: str
    """A file, as the user gave it."""
    prompter: str = "vector"
    """Name of the registered `Prompter` that reads it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword options, JSON values only."""
    window: int | None = None
    """Side of what is seen of the image around a prompt, in pixels; None: what the model sees at
    its own size. Answers depend on it, and not on the tiles."""


@dataclass(frozen=True, kw_only=True)
class ObjectPrompt:
    """What points at one object, in the frame of an image or of a view of it."""

    points: NDArray[np.float64]
    """(K, 2) x, y."""
    labels: NDArray[np.int32]
    """(K,) 1: on the object; 0: not on it."""
    box: NDArray[np.float64] | None = None
    """(4,) x0, y0, x1, y1; or None."""
    draft: NDArray[np.bool_] | None = None
    """(H, W) of the view, True: about where the object is; or None."""

    @property
    def extent(self) -> NDArray[np.float64]:
        """(4,) box around its box and the points on the object."""
        on = self.points[self.labels == FOREGROUND]
        corners = on if self.box is None else np.concatenate([on, self.box.reshape(2, 2)])
        return np.concatenate([corners.min(axis=0), corners.max(axis=0)])

    @property
    def first_point(self) -> NDArray[np.float64]:
        """(2,) the first point on the object; NaN without one."""
        on = self.points[self.labels == FOREGROUND]
        return on[0] if len(on) else np.full(2, np.nan)

    def seen_from(self, x: float, y: float, zoom: float) -> ObjectPrompt:
        """The same in a view that starts at x, y and has `zoom` pixels per pixel."""
        origin = np.array([x, y], np.float64)
        box = None if self.box is None else (self.box - np.tile(origin, 2)) * zoom
        return replace(self, points=(self.points - origin) * zoom, box=box)

    def within(self, width: int, height: int) -> ObjectPrompt:
        """Without the points outside of a view, its box cut to it."""
        size = np.array([width, height])
        inside = ((self.points >= 0) & (self.points <= size)).all(axis=1)
        box = None if self.box is None else np.clip(self.box, 0, np.tile(size, 2))
        return replace(self, points=self.points[inside], labels=self.labels[inside], box=box)

    @staticmethod
    def as_prompts(asked: Sequence[ObjectPrompt], masks: Any = None) -> Prompts:
        """Several of one kind, as many points each and all or none with a box, for `predict`."""
        points = np.stack([each.points for each in asked]) - 0.5
        boxes = None if asked[0].box is None else np.array([each.box for each in asked])
        return Prompts(
            points=points if points.size else None,
            labels=np.stack([each.labels for each in asked]) if points.size else None,
            boxes=boxes,
            masks=masks,
        )


@dataclass(frozen=True, kw_only=True)
class FeaturePrompt:
    """One feature of a file of prompts, in the frame of the image, whether or not inside of it."""

    points: NDArray[np.float64]
    """(K, 2) x, y; K is 0 for a box."""
    box: NDArray[np.float64] | None = None
    """(4,) x0, y0, x1, y1; or None for points."""
    positive: bool = True
    """False: its points are not on the object."""
    object: Hashable = None
    """What features of one object have in common; None: it is an object of its own."""


@dataclass(frozen=True, kw_only=True)
class ScenePrompts:
    """P objects of an image that something points at, in order of their first feature."""

    boxes: NDArray[np.float64]
    """(P, 4) x0, y0, x1, y1 inside of the image; NaN where there is none."""
    points: NDArray[np.float64]
    """(M, 2) x, y inside of the image, by owner."""
    labels: NDArray[np.int32]
    """(M,) 1: on the object; 0: not on it."""
    owners: NDArray[np.int64]
    """(M,) object of each point, ascending."""
    attributes: pa.Table
    """P rows: `prompt_id`, and what else is known of each object."""
    features: pa.Table
    """One row per feature: `feature`, from 1; `prompt_id`; `object`, null for one that is not used;
    `fate`: used, clipped, merged or outside."""

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> ObjectPrompt:
        own = slice(*np.searchsorted(self.owners, [index, index + 1]))
        box = None if np.isnan(self.boxes[index, 0]) else self.boxes[index]
        return ObjectPrompt(points=self.points[own], labels=self.labels[own], box=box)

    def extents(self) -> NDArray[np.float64]:
        """(P, 4) box around each one's box and points on the object."""
        low, high = self.boxes[:, :2].copy(), self.boxes[:, 2:].copy()
        on = self.labels == FOREGROUND
        low[np.isnan(low)], high[np.isnan(high)] = np.inf, -np.inf
        np.minimum.at(low, self.owners[on], self.points[on])
        np.maximum.at(high, self.owners[on], self.points[on])
        return np.concatenate([low, high], axis=1)

    def names(self, objects: Sequence[int] | NDArray[np.int64]) -> str:
        """The first of some objects by their `prompt_id`, for messages."""
        return names_of(self.attributes, objects)

    def digest(self) -> str:
        """SHA-256 of all of it."""
        arrays = (self.boxes, self.points, self.labels, self.owners)
        content = [a.tobytes() for a in arrays]
        content += [table_bytes(self.attributes), table_bytes(self.features)]
        return hashlib.sha256(b"".join(content)).hexdigest()


def names_of(attributes: pa.Table, objects: Sequence[int] | NDArray[np.int64]) -> str:
    """The first of some objects by their `prompt_id`, for messages."""
    known = attributes["prompt_id"]
    ids = [str(known[int(number)].as_py()) for number in objects[:NAMED]]
    return ", ".join(ids) + (" ..." if len(objects) > NAMED else "")


def table_bytes(table: pa.Table) -> bytes:
    """The content of a table, whatever its chunks, for digests."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_table(plain)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def gather_prompts(
    features: Sequence[FeaturePrompt], attributes: pa.Table, shape: tuple[int, ...]
) -> ScenePrompts:
    """The objects that features point at: cut to the image, and joined by their `object`.

    Those of which all features are outside are no objects; `features` tells of them.

    Args:
        features: one per row of the file.
        attributes: their rows, `prompt_id` among the columns; an object has the first value of its
            features that is not null.
        shape: (z, y, x) of the image.

    Raises:
        InputError: an object has nothing but points that are not on it.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, feature in enumerate(features):
        # a tuple, so that no name of an object is taken for the number of a row
        key = ("row", row) if feature.object is None else ("object", feature.object)
        groups.setdefault(key, []).append(row)
    size = np.array([shape[2], shape[1]], np.float64)
    parts = [_clipped(feature, size) for feature in features]
    gathered = _Gathered(fates=[part[2] for part in parts])
    for rows in groups.values():
        _check_positive(features, rows, attributes)
        gathered.add(features, parts, rows)
    return gathered.finish(attributes)


Clipped = tuple[NDArray[np.float64], "NDArray[np.float64] | None", str]


def _clipped(feature: FeaturePrompt, size: NDArray[np.float64]) -> Clipped:
    """Points and box inside of the image, and what became of the feature."""
    points = _rounded(feature.points)
    points = points[((points >= 0) & (points <= size)).all(axis=1)]
    if feature.box is None:
        fate = "used" if len(points) == len(feature.points) else "clipped"
        return points, None, fate if len(points) else "outside"
    whole = _at_least_a_pixel(_rounded(feature.box))
    box = np.clip(whole, 0, np.tile(size, 2))
    least = np.minimum(LEAST, whole[2:] - whole[:2])
    if (box[2:] - box[:2] < least).any():
        return points, None, "outside"
    return points, _at_least_a_pixel(box), "used" if np.array_equal(box, whole) else "clipped"


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = np.round(np.asarray(values, np.float64) * GRAIN) / GRAIN
    return rounded


def _at_least_a_pixel(box: NDArray[np.float64]) -> NDArray[np.float64]:
    missing = np.maximum(0, 1 - (box[2:] - box[:2])) / 2
    return np.concatenate([box[:2] - missing, box[2:] + missing])


def _check_positive(
    features: Sequence[FeaturePrompt], rows: Sequence[int], attributes: pa.Table
) -> None:
    if not any(features[row].positive for row in rows):
        name = attributes["prompt_id"][rows[0]].as_py()
        raise InputError(
            f"prompt {name} has only negative points; give it a box or a point on the object, and "
            "the same value in the column that names objects"
        )


@dataclass(kw_only=True)
class _Gathered:
    fates: list[str]
    rows: list[list[int]] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)
    points: list[NDArray[np.float64]] = field(default_factory=list)
    labels: list[NDArray[np.int32]] = field(default_factory=list)
    owner_of: dict[int, int] = field(default_factory=dict)

    def add(
        self, features: Sequence[FeaturePrompt], parts: Sequence[Clipped], rows: list[int]
    ) -> None:
        used = [row for row in rows if self.fates[row] != "outside"]
        if not any(features[row].positive for row in used):
            for row in used:  # what it is not helps nobody when the object is outside
                self.fates[row] = "outside"
            return
        boxes = [box for _, box, _ in (parts[row] for row in used) if box is not None]
        joined = np.full(4, np.nan)
        if boxes:
            joined[:2], joined[2:] = np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]
        kinds = [FOREGROUND if features[row].positive else BACKGROUND for row in used]
        self.boxes.append(joined)
        self.points.append(np.concatenate([parts[row][0].reshape(-1, 2) for row in used]))
        counts = [len(parts[row][0]) for row in used]
        self.labels.append(np.repeat(np.array(kinds, np.int32), counts))
        for row in used[1:]:
            self.fates[row] = "merged" if self.fates[row] == "used" else self.fates[row]
        self.owner_of.update(dict.fromkeys(used, len(self.rows)))
        self.rows.append(rows)

    def finish(self, attributes: pa.Table) -> ScenePrompts:
        import pyarrow as pa

        owners = [self.owner_of.get(row) for row in range(len(self.fates))]
        return ScenePrompts(
            boxes=np.concatenate([np.zeros((0, 4)), *(box[None] for box in self.boxes)]),
            points=np.concatenate([np.zeros((0, 2)), *self.points]),
            labels=np.concatenate([np.zeros(0, np.int32), *self.labels]),
            owners=np.repeat(np.arange(len(self.rows)), [len(p) for p in self.points]),
            attributes=_first_known(attributes, self.rows),
            features=pa.table(
                {
                    "feature": pa.array(range(1, len(owners) + 1), pa.int64()),
                    "prompt_id": attributes["prompt_id"],
                    "object": pa.array(owners, pa.int64()),
                    "fate": pa.array(self.fates, pa.string()),
                }
            ),
        )


def _first_known(attributes: pa.Table, groups: Sequence[Sequence[int]]) -> pa.Table:
    """One row per group: of each column the first value that is not null."""
    import pyarrow as pa

    first = attributes.take(pa.array([rows[0] for rows in groups], pa.int64()))
    if all(len(rows) == 1 for rows in groups):
        return first
    columns = {}
    for name, kind in zip(attributes.column_names, attributes.schema.types, strict=True):
        values = attributes[name].to_pylist()
        known = (next((values[r] for r in rows if values[r] is not None), None) for rows in groups)
        columns[name] = pa.array(list(known), kind)
    return pa.table(columns)

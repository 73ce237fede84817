"""Files of points, boxes and label images as the prompts of a job over a volume.

What `propagate` refuses because it lies outside of the volume is told of at the end instead: a job
of a thousand objects should not fail for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from samplat import (
    ImageSource,
    InputError,
    ObjectPrompt,
    Plan,
    SliceMark,
    StackPrompts,
    StackView,
)
from samplat_volume.coarse import Outline, outlines
from samplat_volume.geometry import Geometry
from samplat_volume.mark_files import is_label_image, listed, object_number, row_marks
from samplat_volume.marks import Mark, chosen_slices, gathered
from samplat_volume.planes import INDEX_PLANES, Plane, plane_of
from samplat_volume.slices import SlicePrompt
from samplat_volume.space import Frame, OutsideError

if TYPE_CHECKING:
    import pyarrow as pa

LOOKED_AT = 64
"""Slices with prompts that are looked at before work begins; the others when their turn comes."""
As = Literal["draft", "box", "mask"]
"""What is asked of an object of a label image: its box and mask; its box; or its mask is taken."""


@dataclass(frozen=True, kw_only=True)
class VolumePrompter:
    """Reads them."""

    name: str = "volume"

    def prompts(
        self,
        source: ImageSource,
        path: str,
        *,
        axis: int = 0,
        space: Frame | None = None,
        shown: As = "draft",
        chosen: str = "all",
    ) -> StackPrompts:
        """The objects that a file points at.

        Args:
            source: the volume.
            path: .csv, .json, or a label image on the volume's grid.
            axis: of (z, y, x) that slices are across.
            space: what coordinates are in.
            shown: of a label image: what is asked.
            chosen: of a label image: on which slices, see `label_marks`.

        Raises:
            InputError: the file is unusable.
        """
        plane = plane_of(Geometry.of_info(source.info), INDEX_PLANES[axis])
        if is_label_image(Path(path)):
            return _refined(outlines(path, plane), plane, path, shown, chosen)
        return _pointed_at(Path(path), plane, space)


@dataclass(kw_only=True)
class _Features:
    """Rows of the table of what was given."""

    numbers: list[int] = field(default_factory=list)
    fates: list[str] = field(default_factory=list)

    def add(self, number: int, fate: str) -> None:
        self.numbers.append(number)
        self.fates.append(fate)

    def table(self, known: Sequence[int]) -> pa.Table:
        """With the place of each object among those that are known."""
        import pyarrow as pa

        places = {number: place for place, number in enumerate(known)}
        told = zip(self.numbers, self.fates, strict=True)
        fates = [fate if number in places else "outside" for number, fate in told]
        told = zip(self.numbers, fates, strict=True)
        used = [None if fate == "outside" else places[number] for number, fate in told]
        return pa.table(
            {
                "feature": pa.array(range(1, len(fates) + 1), pa.int64()),
                "prompt_id": pa.array(self.numbers, pa.int64()),
                "object": pa.array(used, pa.int64()),
                "fate": pa.array(fates, pa.string()),
            }
        )


def _pointed_at(path: Path, plane: Plane, space: Frame | None) -> StackPrompts:
    features, marks = _Features(), dict[int, list[Mark]]()
    for told, row in listed(path):
        number = object_number(row, told)
        try:
            said = row_marks(row, plane, space, told)
        except OutsideError:
            features.add(number, "outside")
            continue
        fate = "merged" if number in marks else "used"
        features.add(number, "clipped" if any(mark.clipped for mark in said) else fate)
        marks.setdefault(number, []).extend(said)
    lost = {n for n, f in zip(features.numbers, features.fates, strict=True) if f == "outside"}
    # where all that it is lies outside, what it is not helps nobody
    kept = [
        mark
        for number, said in marks.items()
        if number not in lost or any(mark.positive for mark in said)
        for mark in said
    ]
    by_object = gathered(kept, plane)
    return _prompts(
        {number: {k: _mark_of(p) for k, p in each.items()} for number, each in by_object.items()},
        plane,
        features,
    )


def _mark_of(prompt: SlicePrompt) -> SliceMark:
    """The same in the frame in which the first pixel is the unit square."""
    none = prompt.points is None
    return SliceMark(
        prompt=ObjectPrompt(
            points=np.zeros((0, 2)) if none else prompt.points + 0.5,
            labels=np.zeros(0, np.int32) if none else prompt.labels.astype(np.int32),
            box=prompt.box,
        )
    )


def _refined(
    found: Mapping[int, Mapping[int, Outline]], plane: Plane, path: str, shown: As, chosen: str
) -> StackPrompts:
    features, marks = _Features(), dict[int, dict[int, SliceMark]]()
    for number, by_slice in found.items():
        wanted = chosen_slices({k: each.pixels for k, each in by_slice.items()}, chosen)
        if not wanted:
            raise InputError(
                f"object {number} of {path} lies on slices {min(by_slice)} to {max(by_slice)} "
                f"across {plane}, on none of {chosen}; choose slices that meet every object"
            )
        features.add(number, "used")
        marks[number] = {k: _mark_of_outline(by_slice[k], shown) for k in wanted}
    return _prompts(marks, plane, features)


def _mark_of_outline(outline: Outline, shown: As) -> SliceMark:
    nothing = np.zeros((0, 2)), np.zeros(0, np.int32)
    return SliceMark(
        prompt=ObjectPrompt(
            points=nothing[0], labels=nothing[1], box=np.array(outline.box, np.float64)
        ),
        draft=b"" if shown == "box" else outline.code,
        certain=shown == "mask",
    )


def _prompts(
    marks: Mapping[int, Mapping[int, SliceMark]], plane: Plane, features: _Features
) -> StackPrompts:
    import pyarrow as pa

    numbers = sorted(marks)
    return StackPrompts(
        axis=plane.axis,
        ids=np.array(numbers, np.int64),
        marks=tuple(marks[number] for number in numbers),
        attributes=pa.table({"prompt_id": pa.array(numbers, pa.int64())}),
        features=features.table(numbers),
    )


def check_seen(planned: Plan, source: ImageSource) -> tuple[str, ...]:
    """What should be known, before any work, of prompts on slices that show nothing.

    Args:
        planned: a job with prompts on slices.
        source: its volume, open.

    Returns:
        a line on objects of which some slice is empty, among the first `LOOKED_AT` slices.

    Raises:
        InputError: no prompt lies on a slice that shows anything.
    """
    prompts = planned.prompts
    assert isinstance(prompts, StackPrompts)  # noqa: S101 its callers see to it
    places = [
        (unit, k)
        for unit in planned.units
        for k, mark in prompts.marks[unit.prompts[0]].items()
        if not mark.stops and not mark.certain
    ]
    looked_at = places[:LOOKED_AT]
    empty = [(unit.prompts[0], k) for unit, k in looked_at if not _shows(planned, source, unit, k)]
    if not empty:
        return ()
    names, first = prompts.names(sorted({n for n, _ in empty})), empty[0][1]
    if len(empty) == len(places):
        raise InputError(
            f"all prompts lie on slices that show nothing, the first on slice {first}: choose "
            "other grey values, or other slices"
        )
    return (f"slices with prompts of object {names} show nothing, the first is slice {first}",)


def _shows(planned: Plan, source: ImageSource, unit: Any, k: int) -> bool:
    stacking = planned.job.stacking
    assert stacking is not None  # noqa: S101 `plan` sees to it
    spacing = planned.info.spacing
    view = StackView(source, planned.stretch, unit.window, stacking.axes, spacing)
    pixels, valid = view(k)
    return bool(valid.any() and pixels.min() != pixels.max())

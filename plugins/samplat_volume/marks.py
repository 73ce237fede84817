"""What somebody says of objects, put on the slices of a volume.

::

    points, boxes in voxels, LPS or RAS ──┐
    lines of a CSV or JSON file ──────────┼──▶ marks ──▶ prompts by object and slice
    objects of a label image ─────────────┘
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat import ImageSource, InputError, Stretch
from samplat_volume.planes import Plane
from samplat_volume.propagation import check_prompts
from samplat_volume.shapes import mask_box
from samplat_volume.slices import Mask, SlicePrompt
from samplat_volume.space import Frame, OutsideError, boxes_inside, points_inside, sticks_out

MOST_OBJECTS = 2**32 - 2
"""The largest number that an object may have."""
NEAR = 1e-6
"""Voxels by which millimetres may miss a slice's centre: they are rounded."""
Box = tuple[float, float, float, float]
ByObject = Mapping[int, Mapping[int, SlicePrompt]]
"""Prompts by the number of the object and by slice, both ascending."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mark:
    """One thing said of one object in one slice."""

    number: int
    """The object's, from 1 on."""
    index: int
    """The slice."""
    told: str
    """Where it was said, for messages: "line 7 of prompts.csv"."""
    point: tuple[float, float] | None = None
    """x, y; the centre of a pixel is a whole number."""
    positive: bool = True
    """Of a point: whether the object is there."""
    box: Box | None = None
    """x0, y0, x1, y1, half-open."""
    drawn: Mask | None = None
    """(H, W) the mask itself."""
    implied: bool = False
    """True: it follows from something said of another slice, and gives way to what is said."""
    clipped: bool = False
    """Whether a part of what was said lies outside of the volume."""


def point_mark(
    plane: Plane, number: int, point: Sequence[float], frame: Frame, told: str, *, positive: bool
) -> Mark:
    """A point x, y, z of a frame, on the slice that it is nearest to.

    Raises:
        InputError: it lies outside of the volume.
    """
    with _named(told):
        index = points_inside(plane.geometry, np.asarray([point], np.float64), frame)
    (k,), ((x, y),) = plane.to_slice(index)
    spot = (float(x) - 0.5, float(y) - 0.5)
    return Mark(number=number, index=int(k), told=told, point=spot, positive=positive)


def slice_point_mark(
    plane: Plane, number: int, k: float, point: Sequence[float], told: str, *, positive: bool
) -> Mark:
    """A point x, y in voxels of slice k.

    Raises:
        InputError: there is no such slice, or the point lies outside of it.
    """
    where = plane.to_index(_slice_number(plane, k, told), np.asarray([point], np.float64) + 0.5)
    return point_mark(plane, number, where[0, ::-1].tolist(), "voxel", told, positive=positive)


def box_marks(
    plane: Plane, number: int, box: Sequence[float], frame: Frame, told: str
) -> list[Mark]:
    """A box x0, y0, z0, x1, y1, z1 of a frame: voxels from the first to the last, or millimetres.

    One that is flat lies on one slice. One that is thick says as well where the object ends: it is
    drawn on the slice in its middle, and the slices before and behind it are stops.

    Raises:
        InputError: it lies outside of the volume, or is flat along another axis than the slices.
    """
    ends = np.asarray([box], np.float64)
    flat = bool((ends[0, :3] == ends[0, 3:]).any())
    if frame == "voxel":  # from the outer edge of the first voxel to that of the last
        flat = bool(ends[0, 2 - plane.axis] == ends[0, 5 - plane.axis])
        ends = ends + np.repeat((-0.5, 0.5), 3)
    with _named(told):
        ((*low, z1, y1, x1),) = boxes_inside(plane.geometry, ends, frame).tolist()
        clipped = sticks_out(plane.geometry, ends[0], frame)
    high = [z1, y1, x1]
    rows, columns = plane.axes
    flat_box = (low[columns] + 0.5, low[rows] + 0.5, high[columns] + 0.5, high[rows] + 0.5)
    if flat_box[0] >= flat_box[2] or flat_box[1] >= flat_box[3]:
        raise InputError(
            f"{told}: the box has no area on slices across {plane}; choose the plane in which it "
            "lies"
        )
    middle, first, last = _slices_of(low[plane.axis], high[plane.axis], plane.count)
    marks = [Mark(number=number, index=middle, told=told, box=flat_box, clipped=clipped)]
    if not flat:
        marks += _ends(plane, marks[0], (first - 1, last + 1))
    return marks


def slice_box_mark(plane: Plane, number: int, k: float, box: Sequence[float], told: str) -> Mark:
    """A box x0, y0, x1, y1 on slice k, from the first to the last voxel.

    Raises:
        InputError: there is no such slice, or the box lies outside of it.
    """
    at = _slice_number(plane, k, told)
    corners = plane.to_index(at, np.asarray(box, np.float64).reshape(2, 2) + 0.5)
    return box_marks(plane, number, corners[:, ::-1].ravel().tolist(), "voxel", told)[0]


def _slice_number(plane: Plane, k: float, told: str) -> int:
    kind = InputError if k != int(k) else OutsideError
    if k != int(k) or not 0 <= k < plane.count:
        raise kind(
            f"{told}: there is no slice {k:g} across {plane}; the slices are 0 to {plane.count - 1}"
        )
    return int(k)


def _slices_of(low: float, high: float, count: int) -> tuple[int, int, int]:
    """The slice in the middle of an extent, and the first and last whose centres lie in it."""
    first, last = int(np.ceil(low - NEAR)), int(np.floor(high + NEAR))
    if first > last:  # between two slices: the nearer one
        first = last = int(np.clip(np.floor((low + high) / 2 + 0.5), 0, count - 1))
    return (first + last) // 2, first, last


def _ends(plane: Plane, mark: Mark, slices: Sequence[int]) -> list[Mark]:
    """Stops on slices, where there are such: the object is not in them."""
    assert mark.box is not None  # noqa: S101 its callers made it
    x0, y0, x1, y1 = mark.box
    spot = ((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2)
    return [
        Mark(number=mark.number, index=k, told=mark.told, point=spot, positive=False, implied=True)
        for k in slices
        if 0 <= k < plane.count
    ]


def label_marks(
    plane: Plane, labels: NDArray[np.uint32], told: str, *, drawn: bool, chosen: str
) -> list[Mark]:
    """The objects of a label image (z, y, x), to be followed anew from some of their slices.

    Args:
        plane: the slices.
        labels: on the volume's grid.
        told: the file.
        drawn: take their masks as they are; otherwise their boxes are asked.
        chosen: "middle" (the slice that halves the voxels), "all", "every:N", or numbers "3,17".

    Raises:
        InputError: there is no object, or one is on none of the chosen slices.
    """
    stack = plane.stacked(labels)
    areas = _areas(stack)
    if not areas:
        raise InputError(f"{told} holds no label above 0; expected objects to follow")
    marks = []
    for number, by_slice in sorted(areas.items()):
        wanted = chosen_slices(by_slice, chosen)
        if not wanted:
            inside = f"{min(by_slice)} to {max(by_slice)}"
            raise InputError(
                f"object {number} of {told} lies on slices {inside} across {plane}, on none of "
                f"{chosen}; choose slices that meet every object"
            )
        for k in wanted:
            mask = stack[k] == number
            box = None if drawn else mask_box(mask)
            marks.append(
                Mark(number=number, index=k, told=told, box=box, drawn=mask if drawn else None)
            )
    return marks


def _areas(stack: NDArray[np.uint32]) -> dict[int, dict[int, int]]:
    """Pixels of each object in each slice that it is in."""
    areas: dict[int, dict[int, int]] = defaultdict(dict)
    for k, labels in enumerate(stack):
        for number, count in zip(*np.unique(labels, return_counts=True), strict=True):
            if number:
                areas[int(number)][k] = int(count)
    return areas


def chosen_slices(by_slice: Mapping[int, int], chosen: str) -> list[int]:
    """Those of an object's slices that are taken; `by_slice` has its pixels on each, in order."""
    slices = list(by_slice)
    if chosen == "all":
        return slices
    if chosen == "middle":
        counts = np.cumsum(list(by_slice.values()))
        return [slices[int(np.searchsorted(counts, counts[-1] / 2))]]
    if chosen.startswith("every:"):
        step = int(chosen.removeprefix("every:"))
        return slices[len(slices) % step // 2 :: step] or [slices[len(slices) // 2]]
    return [k for k in slices if k in {int(part) for part in chosen.split(",")}]


def gathered(marks: Iterable[Mark], plane: Plane) -> ByObject:
    """Prompts by object and slice.

    Raises:
        InputError: two boxes or masks of one object lie on one slice, or no propagation can begin.
    """
    found: dict[int, dict[int, list[Mark]]] = defaultdict(lambda: defaultdict(list))
    for mark in marks:
        found[mark.number][mark.index].append(mark)
    prompts = {
        number: {k: _prompt(by_slice[k]) for k in sorted(by_slice)}
        for number, by_slice in sorted(found.items())
    }
    for number, by_slice in prompts.items():
        with _named(f"object {number}"):
            check_prompts(by_slice, (plane.count, *plane.shape))
    return prompts


def _prompt(marks: Sequence[Mark]) -> SlicePrompt:
    """All that is said of one object in one slice."""
    said = [m for m in marks if not m.implied] or list(marks)
    points = [m for m in said if m.point is not None]
    shapes = [m for m in said if m.point is None]
    if len(shapes) > 1 or (points and any(m.drawn is not None for m in shapes)):
        raise InputError(
            f"object {said[0].number} has {_listed(said)} on slice {said[0].index}; expected one "
            "box, and points if need be, or one mask"
        )
    return SlicePrompt(
        points=[m.point for m in points] or None,
        labels=[int(m.positive) for m in points] or None,
        box=shapes[0].box if shapes else None,
        drawn=shapes[0].drawn if shapes else None,
    )


def _listed(marks: Sequence[Mark]) -> str:
    kinds = ["a mask" if m.drawn is not None else "a box" if m.box else "a point" for m in marks]
    return " and ".join(f"{kind} ({m.told})" for kind, m in zip(kinds, marks, strict=True))


def check_shown(prompts: ByObject, plane: Plane, source: ImageSource, stretch: Stretch) -> None:
    """Refuse prompts on slices that show nothing; stops may lie there.

    Raises:
        InputError: names the object and the slice.
    """
    for number, by_slice in prompts.items():
        for k, prompt in by_slice.items():
            if not prompt.stops:
                with _named(f"object {number}"):
                    plane.check_visible(source, k, stretch)


@contextmanager
def _named(told: str) -> Iterator[None]:
    """Puts who said it before a message."""
    try:
        yield
    except OutsideError as error:
        raise OutsideError(f"{told}: {error}") from error
    except InputError as error:
        raise InputError(f"{told}: {error}") from error

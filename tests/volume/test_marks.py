"""Boxes and points of every frame on the slices of every plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplat import InputError
from samplat_volume.geometry import Geometry
from samplat_volume.marks import Mark, box_marks, gathered, point_mark
from samplat_volume.planes import plane_of
from samplat_volume.space import from_index
from volume.labelled import grid

UPRIGHT = [np.eye(3), np.diag([-1.0, -1.0, 1.0]), np.eye(3)[[2, 0, 1]], np.diag([1.0, -1.0, -1.0])]


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Geometry, list[list[int]]]:
    """A grid along the patient's axes, and the first and last voxels z, y, x of a box."""
    shape = [draw(st.integers(3, 12)) for _ in range(3)]
    geometry = grid(tuple(shape), direction=draw(st.sampled_from(UPRIGHT)))
    ends = [sorted(draw(st.tuples(*[st.integers(0, n - 1)] * 2))) for n in shape]
    return geometry, [[e[0] for e in ends], [e[1] for e in ends]]


def told(marks: list[Mark]) -> list[Any]:
    return [
        (m.index, m.positive, m.implied, *np.round(m.box or m.point or (), 6).tolist())
        for m in marks
    ]


@settings(max_examples=60, deadline=None)
@given(boxes(), st.sampled_from("zyx"), st.sampled_from(["lps", "ras"]))
def test_a_box_in_mm_around_voxels_is_that_of_their_numbers(
    box: tuple[Geometry, list[list[int]]], name: str, frame: Any
) -> None:
    geometry, (first, last) = box
    plane = plane_of(geometry, name)
    numbers = [*first[::-1], *last[::-1]]
    marks = box_marks(plane, 1, numbers, "voxel", "here")
    edges = from_index(geometry, np.add([first, last], [[-0.5], [0.5]]), frame)
    in_mm = [*edges.min(axis=0), *edges.max(axis=0)]
    again = box_marks(plane, 1, in_mm, frame, "here")
    if first[plane.axis] == last[plane.axis]:
        # in mm a box as thick as one slice is thick, and ends there
        assert told(again)[:1] == told(marks)
    else:
        assert told(again) == told(marks)
    rows, columns = plane.axes
    assert marks[0].box == (first[columns], first[rows], last[columns] + 1, last[rows] + 1)
    assert first[plane.axis] <= marks[0].index <= last[plane.axis]
    stops = {m.index for m in marks[1:]}
    outside = {first[plane.axis] - 1, last[plane.axis] + 1} & set(range(plane.count))
    assert stops == (outside if first[plane.axis] < last[plane.axis] else set())
    assert list(gathered(marks, plane)) == [1]


def test_a_flat_box_in_mm_lies_on_the_nearest_slice() -> None:
    geometry = grid((6, 20, 20), direction=np.eye(3))
    plane = plane_of(geometry, "axial")
    low, high = geometry.to_physical(np.array([[3.3, 2, 4], [3.3, 9, 12]]))
    (mark,) = box_marks(plane, 5, [*low, *high], "lps", "here")
    assert (mark.number, mark.index) == (5, 3)
    np.testing.assert_allclose(mark.box, (4.5, 2.5, 12.5, 9.5))
    with pytest.raises(InputError, match="no area on slices across y"):
        box_marks(plane_of(geometry, "coronal"), 5, [*low, *high], "lps", "here")


def test_what_is_said_of_a_slice_comes_before_what_a_thick_box_implies() -> None:
    plane = plane_of(grid((9, 20, 20)), "z")
    marks = box_marks(plane, 1, [2, 2, 3, 12, 12, 5], "voxel", "box")
    assert [m.index for m in marks] == [4, 2, 6]
    marks.append(point_mark(plane, 1, [7, 8, 6], "voxel", "point", positive=True))
    prompts = gathered(marks, plane)[1]
    assert list(prompts) == [2, 4, 6]
    assert prompts[2].stops
    assert prompts[6].points.tolist() == [[7, 8]]
    assert prompts[6].labels.tolist() == [1]

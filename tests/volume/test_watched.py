"""Objects that are followed while somebody looks on: told slice by slice, corrected, cancelled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samplat import InputError, ObjectPrompt, SliceFound, SliceMark, StackView, Stretch, Window
from samplat_volume.propagated import SeenStack, prompt_of
from samplat_volume.propagation import Settings, propagate
from samplat_volume.slices import SlicePrompt
from samplat_volume.triplanar import triplanar
from samplat_volume.watched import Watcher, nowhere
from volume.followers import PatchSlices

SPACING = (2.0, 1.0, 0.5)


def ball() -> Any:
    z, y, x = np.ogrid[:14, :30, :48]
    return (2 * (z - 6)) ** 2 + (y - 14) ** 2 + (0.5 * (x - 22)) ** 2 < 9.5**2


def views(*axes: int) -> dict[int, StackView]:
    pixels = np.where(ball(), 200, 20).astype(np.uint8)[..., None]
    source: Any = SimpleNamespace(
        info=SimpleNamespace(bands=1),
        read=lambda window: pixels[window.slices],
        valid=lambda window: np.ones(window.shape, bool),
    )
    whole = Window(start=(0, 0, 0), stop=ball().shape)
    stretch = Stretch(low=(0.0,), high=(255.0,))
    order = {0: (0, 1, 2), 1: (1, 0, 2), 2: (2, 0, 1)}
    return {a: StackView(source, stretch, whole, order[a], SPACING) for a in axes}


def mark(*points: tuple[float, float, int]) -> SliceMark:
    """x, y in pixels counted from the first one's centre, and whether the object is there."""
    told = np.array(points, float)
    return SliceMark(
        prompt=ObjectPrompt(points=told[:, :2] + 0.5, labels=told[:, 2].astype(np.int32))
    )


class Watching:
    """A watcher of bright patches that remembers which slices were asked, by axis."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.told: list[tuple[int, int]] = []

    def __call__(self, seen: Any, axis: int, marks: Any, **options: Any) -> Any:
        self.told.clear()
        return Watcher(slices=self._slices)(seen, axis, marks, **{"told": self._told, **options})

    def _slices(self, stack: Any) -> PatchSlices:
        made = PatchSlices(stack)
        self.asked.append(made.asked)
        return made

    def _told(self, axis: int, index: int, found: SliceFound) -> None:
        assert found.mask.any()
        self.told.append((axis, index))


def volume_of(found: Any, axis: int) -> Any:
    volume = np.zeros(ball().shape, bool)
    for k, each in found.slices.items():
        np.moveaxis(volume, axis, 0)[k] = each.mask
    return volume


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_told_is_what_propagation_finds(axis: int) -> None:
    seen, watching = views(axis), Watching()
    middle = (6, 14, 22)
    x, y = reversed([m for a, m in enumerate(middle) if a != axis])
    found = watching(seen, axis, {middle[axis]: mark((x, y, 1))})
    stack = SeenStack(seen[axis])
    plain = propagate(
        PatchSlices(stack),
        {middle[axis]: SlicePrompt(points=[(x, y)])},
        settings=Settings(steps=stack.steps),
        pixels=stack,
    )
    np.testing.assert_array_equal(volume_of(found, axis), np.moveaxis(plain.mask(), 0, axis))
    np.testing.assert_array_equal(found.confidences[axis], plain.confidences())
    assert watching.told[0] == (axis, middle[axis])
    assert {k for _, k in watching.told} >= set(found.slices)
    assert found.marked == {middle[axis]}
    assert not found.cancelled


def test_a_correction_asks_only_what_it_touches() -> None:
    seen, watching = views(0), Watching()
    marks = {6: mark((22, 14, 1))}
    first = watching(seen, 0, marks)
    stop = {**marks, 9: mark((22, 14, 0))}
    second = watching(seen, 0, stop, earlier=first.memory)
    assert watching.asked[1] == []  # the object merely ends earlier
    assert max(second.slices) == 8
    third = watching(seen, 0, {**stop, 4: mark((22, 13, 1))}, earlier=second.memory)
    assert set(watching.asked[2]) <= {0, 1, 2, 3, 4, 5}
    fresh = watching(seen, 0, {**stop, 4: mark((22, 13, 1))})
    np.testing.assert_array_equal(volume_of(third, 0), volume_of(fresh, 0))


def test_voxels_of_others_are_not_taken_and_freed_ones_are_looked_at_again() -> None:
    seen, watching = views(0), Watching()
    taken = np.zeros(ball().shape, bool)
    taken[:, :, 22:] = True
    marks = {6: mark((12, 14, 1))}
    half = watching(seen, 0, marks, taken=taken)
    assert not volume_of(half, 0)[taken].any()
    assert volume_of(half, 0).sum() > 0.3 * ball().sum()
    whole = watching(seen, 0, marks, taken=np.zeros_like(taken), earlier=half.memory)
    fresh = watching(seen, 0, marks)
    np.testing.assert_array_equal(volume_of(whole, 0), volume_of(fresh, 0))
    less = watching(seen, 0, marks, taken=taken, earlier=fresh.memory)
    np.testing.assert_array_equal(volume_of(less, 0), volume_of(half, 0))


def test_all_three_axes_agree_and_each_says_how_sure_it_is() -> None:
    seen, watching = views(0, 1, 2), Watching()
    marks = {6: mark((22, 14, 1))}
    found = watching(seen, 0, marks)

    class Planes:
        def segmenter(self, axis: int) -> PatchSlices:
            return PatchSlices(SeenStack(seen[axis]))

        def reader(self, axis: int) -> SeenStack:
            return SeenStack(seen[axis])

    plain = triplanar(Planes(), 0, {6: SlicePrompt(points=[(22, 14)])}, spacing=SPACING)
    np.testing.assert_array_equal(volume_of(found, 0), plain.mask)
    assert sorted(found.confidences) == [0, 1, 2]
    assert {axis for axis, _ in watching.told} == {0, 1, 2}
    again = watching(seen, 0, marks, earlier=found.memory)
    np.testing.assert_array_equal(volume_of(again, 0), plain.mask)
    assert watching.asked[-3] == []  # of the slices along the marks' axis


def test_all_three_axes_keep_out_of_what_stops_shut_off() -> None:
    marks = {2: mark((0, 0, 0)), 6: mark((22, 14, 1)), 8: mark((0, 0, 0))}
    found = Watching()(views(0, 1, 2), 0, marks)
    assert set(found.slices) == {3, 4, 5, 6, 7}
    prompts = {k: prompt_of(each, (30, 48)) for k, each in marks.items()}
    assert nowhere(prompts, 14) == [0, 1, 2, 8, 9, 10, 11, 12, 13]
    assert nowhere({k: prompts[k] for k in (6,)}, 14) == []
    between = {2: prompts[2], 6: prompts[2], 8: prompts[6]}
    assert nowhere(between, 14) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("axes", "after"), [((0,), 2), ((0, 1, 2), 20)])
def test_it_ends_when_nobody_wants_more_and_goes_on_from_there(axes: Any, after: int) -> None:
    seen, watching = views(*axes), Watching()
    count = 0

    def told(axis: int, index: int, found: SliceFound) -> bool:
        nonlocal count
        count += 1
        return count < after

    marks = {6: mark((22, 14, 1))}
    part = watching(seen, 0, marks, told=told)
    assert part.cancelled
    assert count == after
    whole, fresh = watching(seen, 0, marks, earlier=part.memory), watching(seen, 0, marks)
    np.testing.assert_array_equal(volume_of(whole, 0), volume_of(fresh, 0))


def test_another_axis_is_begun_anew_and_nothing_to_follow_is_an_error() -> None:
    seen, watching = views(0, 1), Watching()
    first = watching({0: seen[0]}, 0, {6: mark((22, 14, 1))})
    other = watching({1: seen[1]}, 1, {14: mark((22, 6, 1))}, earlier=first.memory)
    assert other.marked == {14}
    with pytest.raises(InputError, match="negative points alone"):
        watching({0: seen[0]}, 0, {6: mark((22, 14, 0))})
    with pytest.raises(InputError, match="finds nothing"):
        watching({0: seen[0]}, 0, {6: mark((1, 1, 1))})

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import mask_set
from samplat.objects import TileObjects, labelled_objects, tile_objects
from samplat.seams import Beside, SeamRules, contingency, meet, same_objects
from samplat.tiles import TileGrid

GRID = TileGrid(shape=(1, 20, 40), tile_shape=(1, 20, 20), halo=(0, 6, 6))
"""Two tiles side by side; the strip that both see is x = 14..26."""


def seen(tile: int, labels: NDArray[Any], grid: TileGrid = GRID) -> TileObjects:
    """What a perfect tile finds in a label image (y, x), in order of label."""
    window = grid[tile].read
    part = labels[window.slices[1:]]
    names = np.unique(part[part > 0])
    return tile_objects(
        mask_set(part[None] == names[:, None, None]),
        tile=grid[tile],
        valid=np.ones(window.shape, bool),
        bounds=grid.bounds,
        overlaps="best",
    )


def same(left: TileObjects, *others: TileObjects, **rules: Any) -> list[list[int]]:
    beside = Beside.of(others)
    pairs = same_objects(left, beside, meet(left, beside), SeamRules(**rules))
    return sorted(pairs.tolist())


def links(left: TileObjects, right: TileObjects, **rules: Any) -> list[list[int]]:
    found = same(left, right, **rules)
    flipped = [pair[::-1] for pair in same(right, left, **rules)]
    assert found == sorted(flipped), "it matters which tile is asked first"
    return found


def box(*boxes: tuple[int, int, int, int]) -> NDArray[np.int64]:
    labels = np.zeros(GRID.shape[1:], np.int64)
    for name, (y0, x0, y1, x1) in enumerate(boxes, start=1):
        labels[y0:y1, x0:x1] = name
    return labels


def test_contingency_counts_pairs() -> None:
    table = contingency(np.array([[1, 1, 2, 0]], np.uint32), np.array([[3, 0, 3, 3]], np.uint32))
    assert table.first.tolist() == [1, 2]
    assert table.second.tolist() == [3, 3]
    assert table.shared.tolist() == [1, 1]
    assert table.first_size.tolist() == [2, 1]
    assert table.second_size.tolist() == [3, 3]


small = arrays.arrays(np.uint32, (7, 9), elements=st.integers(0, 4))


@given(small, small)
def test_contingency_is_the_counted_one(
    first: NDArray[np.uint32], second: NDArray[np.uint32]
) -> None:
    table = contingency(first, second)
    keys = first.astype(np.int64) << 32 | second
    pairs, shared = np.unique(keys[(first > 0) & (second > 0)], return_counts=True)
    assert np.array_equal(table.first << 32 | table.second, pairs)
    assert np.array_equal(table.shared, shared)
    assert table.first_size.tolist() == [(first == i).sum() for i in table.first]
    assert table.second_size.tolist() == [(second == i).sum() for i in table.second]


def test_contingency_of_as_many_runs_as_pixels() -> None:
    noise = (np.arange(40_000, dtype=np.uint32) % 7 + 1).reshape(200, 200)
    assert contingency(noise, noise).shared.sum() == noise.size


def test_touching_objects_stay_apart_and_one_seen_twice_is_one() -> None:
    labels = box((0, 0, 10, 40), (10, 0, 20, 40))
    assert links(seen(0, labels), seen(1, labels)) == [[0, 0], [1, 1]]


def test_one_pixel_in_the_strip_is_enough() -> None:
    labels = box((3, 2, 4, 15))
    assert links(seen(0, labels), seen(1, labels)) == [[0, 0]]


def test_containment_counts_only_where_an_object_is_cut() -> None:
    whole, fragment = box((4, 16, 16, 24)), box((4, 16, 8, 24))
    assert links(seen(0, whole), seen(1, fragment)) == []
    whole, fragment = box((4, 10, 16, 30)), box((4, 10, 8, 30))
    assert links(seen(0, whole), seen(1, fragment)) == [[0, 0]]


def test_a_sliver_of_a_cut_object_proves_nothing() -> None:
    whole, sliver = box((4, 10, 16, 30)), box((4, 10, 5, 24))
    assert links(seen(0, whole), seen(1, sliver)) == []
    assert links(seen(0, whole), seen(1, sliver), min_shared=1) == [[0, 0]]


def test_thresholds_that_could_match_two_neighbours_are_refused() -> None:
    with pytest.raises(InputError, match="iou"):
        SeamRules(iou=0.3)


def test_cut_sides_and_boxes() -> None:
    left = seen(0, box((5, 22, 9, 30), (0, 0, 3, 3)))
    assert left.truncated.tolist() == [True, False]
    assert left.cut.tolist() == [1 << 5, 0]
    assert left.boxes.tolist() == [[0, 5, 22, 1, 9, 26], [0, 0, 0, 1, 3, 3]]
    assert left.owned_areas.tolist() == [0, 9]
    assert left.owned_boxes[0].tolist() == [0] * 6
    assert seen(1, box((5, 22, 9, 30))).ids.tolist() == [1 << 32]


scenes = arrays.arrays(np.int64, (3, 12, 14), elements=st.integers(0, 6))


@given(scenes, scenes, st.tuples(*[st.integers(1, 4)] * 3))
def test_meetings_are_the_counted_ones(
    ours: NDArray[np.int64], theirs: NDArray[np.int64], halo: tuple[int, int, int]
) -> None:
    """Of all neighbours at once, also in a stack, as pixel by pixel in the label images."""
    grid = TileGrid(shape=ours.shape, tile_shape=(2, 5, 6), halo=halo)
    mine = tile_of(ours, grid, 1)
    others = [
        tile_of(theirs, grid, t.index) for t in grid.overlapping(mine.tile.read) if t.index != 1
    ]
    beside = Beside.of(others)
    meetings, write = meet(mine, beside), mine.tile.write
    counted, sizes, reach, free = {}, {}, [], []
    for start, other in zip(beside.starts.tolist(), others, strict=False):
        strip = mine.tile.read.intersection(other.tile.read)
        here, there = mine.labels(strip), other.labels(strip)
        for a, b in zip(*np.unique(np.stack([here.ravel(), there.ravel()]), axis=1), strict=True):
            if a and b:
                key = int(a), start + int(b)
                counted[key] = int(((here == a) & (there == b)).sum())
                sizes[key] = int((here == a).sum()), int((there == b).sum())
        part = write.intersection(other.tile.read)
        here, there = mine.labels(part), other.labels(part)
        reach += [int((there == k + 1).sum()) for k in range(len(other))]
        free += [int(((there == k + 1) & (here == 0)).sum()) for k in range(len(other))]
    table = meetings.table
    keys = list(zip(table.first.tolist(), table.second.tolist(), strict=True))
    assert dict(zip(keys, table.shared.tolist(), strict=True)) == counted
    both = zip(table.first_size.tolist(), table.second_size.tolist(), strict=True)
    assert dict(zip(keys, both, strict=True)) == sizes
    assert (meetings.reach.tolist(), meetings.free.tolist()) == (reach, free)
    places = np.arange(len(beside.cut))
    assert np.array_equal(beside.ids(places), np.concatenate([each.ids for each in others]))


def tile_of(labels: NDArray[np.int64], grid: TileGrid, index: int) -> TileObjects:
    """The objects of a tile that sees a volume of labels as they are."""
    tile = grid[index]
    names, place = np.unique(labels[tile.read.slices], return_inverse=True)
    seen_here = (place.reshape(tile.read.shape) + (names[0] > 0)).astype(np.uint32)
    count = int(seen_here.max())
    ones = np.ones(count, np.float32)
    return labelled_objects(
        seen_here,
        count,
        tile=tile,
        bounds=grid.bounds,
        reach=(1, 1, 1),
        predicted_iou=ones,
        stability=ones,
    )

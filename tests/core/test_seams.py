from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from samplat.errors import InputError, JobError
from samplat.masks import mask_set
from samplat.objects import TileObjects, tile_objects
from samplat.seams import (
    OBJECT_COLUMNS,
    SeamRules,
    as_parts,
    contingency,
    final_ids,
    find_roots,
    join_parts,
    match_strip,
    object_table,
)
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


def links(left: TileObjects, right: TileObjects, **rules: Any) -> list[list[int]]:
    found = match_strip(left, right, left.labels(), right.labels(), SeamRules(**rules))
    return [[int(a), int(b) - (1 << 32)] for a, b in found]


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


def naive_roots(ids: list[int], pairs: list[tuple[int, int]]) -> list[int]:
    root = {i: i for i in ids}
    for _ in ids:
        for a, b in pairs:
            root[a] = root[b] = min(root[a], root[b])
    return [root[i] for i in ids]


@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=12, unique=True),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12),
    st.randoms(),
)
def test_roots_are_the_smallest_of_each_group_in_any_order(
    ids: list[int], places: list[tuple[int, int]], random: Any
) -> None:
    ids = sorted(ids)
    pairs = [(ids[a % len(ids)], ids[b % len(ids)]) for a, b in places]
    expected = naive_roots(ids, pairs)
    random.shuffle(pairs)
    given_links = np.array(pairs, np.uint64).reshape(-1, 2)
    assert find_roots(np.array(ids, np.uint64), given_links).tolist() == expected


def test_a_link_to_nowhere_is_an_error() -> None:
    with pytest.raises(JobError, match="no tile holds"):
        find_roots(np.array([1, 2], np.uint64), np.array([[1, 3]], np.uint64))


def merged(labels: NDArray[Any], min_area: int = 1, lost: int | None = None) -> Any:
    left, right = seen(0, labels), seen(1, labels)
    found = match_strip(left, right, left.labels(), right.labels(), SeamRules())
    tiles = [t for t in (left, right) if t.tile.index != lost]
    parts = join_parts([as_parts(t) for t in tiles])
    edges = found if lost is None else found[:0]
    ids = final_ids(parts, find_roots(parts.ids, edges), min_area)
    return ids, object_table(parts, ids, GRID, np.zeros(len(ids), bool))


def test_final_objects() -> None:
    ids, table = merged(box((5, 2, 9, 30), (0, 0, 3, 3), (12, 30, 14, 33)))
    assert ids.tolist() == [1, 2, 1, 3]
    assert table.column_names == list(OBJECT_COLUMNS)
    rows = table.to_pylist()
    assert [r["area_px"] for r in rows] == [112, 9, 6]
    assert [rows[0][n] for n in OBJECT_COLUMNS[1:7]] == [0, 5, 2, 1, 9, 30]
    assert [r["tiles"] for r in rows] == [[0, 1], [0], [1]]
    assert not any(r["truncated"] for r in rows)


def test_small_objects_vanish_and_ids_stay_dense() -> None:
    ids, table = merged(box((0, 0, 3, 3), (5, 2, 9, 30), (12, 30, 14, 33)), min_area=7)
    assert ids.tolist() == [1, 2, 2, 0]
    assert table["id"].to_pylist() == [1, 2]


def test_truncated_means_that_no_neighbour_completed_it() -> None:
    crossing = box((5, 2, 9, 30))
    assert merged(crossing)[1]["truncated"].to_pylist() == [False]
    assert merged(crossing, lost=1)[1]["truncated"].to_pylist() == [True]


def test_no_objects_at_all() -> None:
    ids, table = merged(box())
    assert len(ids) == table.num_rows == 0

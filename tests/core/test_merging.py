from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.test_seams import GRID, box, seen
from samplat.claims import NO_CLAIMS, Claims
from samplat.errors import JobError
from samplat.merging import (
    OBJECT_COLUMNS,
    Groups,
    Parts,
    final_ids,
    group_objects,
    object_batches,
    tally,
)
from samplat.objects import TileObjects
from samplat.seams import Beside, SeamRules, meet, same_objects
from samplat.tiles import TileGrid


def naive_groups(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    root = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            root[a] = root[b] = min(root[a], root[b])
    return [sorted(set(root)).index(r) for r in root]


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=12),
    st.randoms(),
)
def test_groups_are_numbered_by_their_smallest_member_in_any_order(
    counts: list[int], picks: list[tuple[int, int]], random: Any
) -> None:
    ids = [(tile << 32) | rank for tile, n in enumerate(counts) for rank in range(n)]
    pairs = [(a % len(ids), b % len(ids)) for a, b in picks] if ids else []
    expected = naive_groups(len(ids), pairs)
    random.shuffle(pairs)
    links = [np.array([[ids[a], ids[b]]], np.uint64) for a, b in pairs]
    groups = group_objects(np.array(counts), links)
    assert groups.group.tolist() == expected
    assert groups.count == len(set(expected))
    assert groups.of(np.array(ids, np.uint64)).tolist() == expected
    for tile, n in enumerate(counts):
        assert len(groups.of_tile(tile)) == n


@pytest.mark.parametrize("nowhere", [1, 2 << 32, (1 << 32) + 3])
def test_a_link_to_nowhere_is_an_error(nowhere: int) -> None:
    with pytest.raises(JobError, match="no tile holds"):
        group_objects(np.array([1, 3]), [np.array([[0, nowhere]], np.uint64)])


def parts_of(objects: TileObjects) -> Parts:
    numbers = ("predicted_iou", "stability", "points", "cut", "prompts")
    names = ("owned_areas", "owned_boxes", *numbers)
    return Parts(index=objects.tile.index, **{n: getattr(objects, n) for n in names})


def merged(
    labels: NDArray[Any], min_area: int = 1, lost: int | None = None, hole: int = 2**32 - 1
) -> tuple[list[int], pa.Table]:
    """Final ids of all objects of both tiles, and the table."""
    left, right = seen(0, labels), seen(1, labels)
    beside = Beside.of([right])
    pairs = same_objects(left, beside, meet(left, beside), SeamRules())
    links = np.stack([left.ids[pairs[:, 0]], right.ids[pairs[:, 1]]], axis=1)
    tiles = [t for t in (left, right) if t.tile.index != lost]
    counts = np.array([0 if t.tile.index == lost else len(t) for t in (left, right)])
    groups = group_objects(counts, [links[:0] if lost is not None else links])
    given = [(parts_of(t), NO_CLAIMS) for t in tiles]
    return named(groups, given, GRID, min_area, hole)


def named(
    groups: Groups,
    tiles: Sequence[tuple[Parts, Claims]],
    grid: TileGrid,
    min_area: int = 1,
    hole: int = 2**32 - 1,
) -> tuple[list[int], pa.Table]:
    found = tally(groups, tiles, grid, np.zeros(0, np.uint64), np.ones(len(grid)))
    final = final_ids(found.areas, found.sizes, min_area, hole=hole)
    return final[groups.group].tolist(), pa.Table.from_batches(object_batches(found, final))


def test_final_objects() -> None:
    ids, table = merged(box((5, 2, 9, 30), (0, 0, 3, 3), (12, 30, 14, 33)))
    assert ids == [1, 2, 1, 3]
    assert table.column_names == list(OBJECT_COLUMNS)
    rows = table.to_pylist()
    assert [r["area_px"] for r in rows] == [112, 9, 6]
    assert [rows[0][n] for n in OBJECT_COLUMNS[1:7]] == [0, 5, 2, 1, 9, 30]
    assert [r["tiles"] for r in rows] == [[0, 1], [0], [1]]
    assert not any(r["truncated"] for r in rows)
    kinds = {name: str(table.schema.field(name).type) for name in ("id", "z0", "area_px", "tiles")}
    assert kinds["id"] == "uint32"
    assert kinds["z0"] == kinds["area_px"] == "int64"
    assert kinds["tiles"] == "list<item: int32>"


def test_small_objects_vanish_and_ids_stay_dense() -> None:
    ids, table = merged(box((0, 0, 3, 3), (5, 2, 9, 30), (12, 30, 14, 33)), min_area=7)
    assert ids == [1, 2, 2, 0]
    assert table["id"].to_pylist() == [1, 2]


def test_truncated_means_that_no_neighbour_completed_it() -> None:
    crossing = box((5, 2, 9, 30))
    assert merged(crossing)[1]["truncated"].to_pylist() == [False]
    assert merged(crossing, lost=1)[1]["truncated"].to_pylist() == [True]


def test_no_objects_at_all() -> None:
    ids, table = merged(box())
    assert len(ids) == table.num_rows == 0
    assert table.column_names == list(OBJECT_COLUMNS)


def test_more_objects_than_uint32_holds_get_uint64_and_leave_out_the_hole() -> None:
    areas = np.array([3, 0, 3, 3, 3], np.int64)
    assert final_ids(areas, areas, 1, hole=5).tolist() == [1, 0, 2, 3, 4]
    assert final_ids(areas, areas, 1, hole=5).dtype == np.uint32
    for hole, ids in ((4, [1, 0, 2, 3, 5]), (3, [1, 0, 2, 4, 5]), (1, [2, 0, 3, 4, 5])):
        assert final_ids(areas, areas, 1, hole=hole).tolist() == ids
        assert final_ids(areas, areas, 1, hole=hole).dtype == np.uint64
    _, table = merged(box((5, 2, 9, 30), (0, 0, 3, 3), (12, 30, 14, 33)), hole=2)
    assert table["id"].to_pylist() == [1, 3, 4]
    assert str(table.schema.field("id").type) == "uint64"


def crafted(index: int, areas: list[int], score: float = 1.0) -> Parts:
    count = len(areas)
    return Parts(
        index=index,
        owned_areas=np.array(areas, np.int64),
        owned_boxes=np.tile(np.array([0, index, index, 1, index + 1, index + 1]), (count, 1)),
        predicted_iou=np.full(count, score, np.float32),
        stability=np.full(count, score / 2, np.float32),
        points=np.full((count, 2), index, np.float32),
        cut=np.zeros(count, np.uint8),
        prompts=np.full(count, -1),
    )


def test_scores_are_weighted_and_the_point_is_the_largest_parts() -> None:
    grid = TileGrid(shape=(1, 1, 3), tile_shape=(1, 1, 1), halo=(0, 0, 0))
    groups = group_objects(
        np.array([1, 1, 1]), [np.array([[0, 1 << 32], [1 << 32, 2 << 32]], np.uint64)]
    )
    tiles = [crafted(0, [10], 0.5), crafted(1, [30], 0.9), crafted(2, [30], 0.7)]
    _, table = named(groups, [(p, NO_CLAIMS) for p in tiles], grid)
    (row,) = table.to_pylist()
    assert row["predicted_iou"] == pytest.approx((5 + 27 + 21) / 70)
    assert row["stability"] == pytest.approx((5 + 27 + 21) / 140)
    assert (row["point_x"], row["point_y"]) == (1, 1)
    assert [row[n] for n in OBJECT_COLUMNS[1:7]] == [0, 0, 0, 1, 3, 3]


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_the_table_is_the_same_in_parts_of_any_size(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = box((5, 2, 9, 30), (0, 0, 3, 3), (12, 30, 14, 33), (15, 18, 19, 22))
    whole = merged(labels)[1]
    monkeypatch.setattr("samplat.merging.ROWS", rows)
    assert str(merged(labels)[1].to_pylist()) == str(whole.to_pylist())

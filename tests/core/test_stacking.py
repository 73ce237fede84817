"""Masks of slices become objects of a volume."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage

from core.oracle import oracle_job
from core.test_pipeline import Shuffled, fingerprint, same_partition
from core.test_seams import tile_of
from core.volumes import ellipsoids, stacked, tools_of, volume_of
from samplat.claims import find_claims
from samplat.errors import InputError
from samplat.executors import Executor, OverlappingExecutor, ThreadsExecutor
from samplat.finished import open_result
from samplat.job import plan
from samplat.pipeline import run_job
from samplat.seams import Beside, SeamRules, meet
from samplat.shapes import between_masks
from samplat.stacking import StackRules, stack_slices
from samplat.tiles import TileGrid, Window

ANY = StackRules(iou=0, taper=0)
Volume = NDArray[np.int64]


def slice_masks(labels: Volume) -> NDArray[np.uint32]:
    """Labels of a volume, renamed 1..n on each slice."""
    renamed = np.zeros(labels.shape, np.uint32)
    for k, plane in enumerate(labels):
        names, place = np.unique(plane, return_inverse=True)
        renamed[k] = place.reshape(plane.shape) + (names[0] > 0)
    return renamed


def tube(shape: tuple[int, int, int], **missing: Any) -> Volume:
    """A square tube along z."""
    labels = np.zeros(shape, np.int64)
    labels[:, 4:9, 5:10] = 1
    return labels


@pytest.mark.parametrize("seed", range(8))
def test_what_lies_apart_is_found_as_components_of_the_volume(seed: int) -> None:
    labels = ellipsoids(np.random.default_rng(seed), (20, 34, 30), 14, apart=True)
    found = np.stack([ndimage.label(plane)[0] for plane in labels > 0]).astype(np.uint32)
    stack_slices(found, ANY)
    assert same_partition(found, ndimage.label(labels > 0)[0])


@given(arrays.arrays(np.int64, (5, 4, 6), elements=st.integers(0, 3)))
def test_objects_are_chains_that_cover_what_the_masks_cover(labels: Volume) -> None:
    found = slice_masks(labels)
    objects = stack_slices(found, StackRules())
    assert ((found > 0) == (labels > 0)).all()
    assert np.array_equal(np.unique(found[found > 0]), np.arange(1, objects.max(initial=-1) + 2))
    for here, masks in zip(found, slice_masks(labels), strict=True):
        assert same_partition(here, masks), "two masks of a slice are never one object"


@given(arrays.arrays(np.int64, (5, 4, 6), elements=st.integers(0, 3)), st.integers(0, 2))
def test_nothing_depends_on_the_direction_of_the_slices(labels: Volume, missing: int) -> None:
    # shapes that are bridged may meet, and the first one wins: so only names are compared
    up, down = slice_masks(labels), slice_masks(labels[::-1])
    counts = [int(plane.max()) for plane in up]
    places = np.concatenate([[0], np.cumsum(counts)])
    one = stack_slices(up, StackRules(iou=0.31, taper=0.07), missing=missing)
    other = stack_slices(down, StackRules(iou=0.31, taper=0.07), missing=missing)
    turned = [other[other.size - b : other.size - a] for a, b in pairwise(places)]
    ties = any_ties(slice_masks(labels))
    assert ties or same_partition(one + 1, np.concatenate([*turned, np.zeros(0, int)]) + 1)


def any_ties(masks: NDArray[np.uint32]) -> bool:
    """Whether a mask has two best matches somewhere: then the first one counts."""
    for a in range(len(masks)):
        for b in range(a + 1, len(masks)):
            for near, far in ((masks[a], masks[b]), (masks[b], masks[a])):
                for name in range(1, int(near.max()) + 1):
                    mine = near == name
                    ious = [
                        (mine & (far == other)).sum() / (mine | (far == other)).sum()
                        for other in np.unique(far[mine & (far > 0)])
                    ]
                    if len(ious) > 1 and sorted(ious)[-1] == sorted(ious)[-2]:
                        return True
    return False


def test_only_the_best_match_goes_on() -> None:
    labels = np.zeros((3, 12, 20), np.uint32)
    labels[0, 2:10, 1:9], labels[0, 2:10, 10:15] = 1, 2
    labels[1, 2:10, 1:15] = 1  # covers both
    labels[2, 2:10, 1:9], labels[2, 2:10, 10:15] = 1, 2
    stack_slices(labels, ANY)
    large = labels[:, 4, 2]
    assert len(set(large.tolist())) == 1
    assert labels[0, 4, 12] != labels[2, 4, 12] != large[0]


@pytest.mark.parametrize(
    ("side", "one"), [(10, True), (6, True), (4, True), (2, False), (1, False)]
)
def test_what_goes_on_may_be_smaller_but_not_by_any_amount(side: int, one: bool) -> None:
    labels = np.zeros((3, 14, 14), np.uint32)
    labels[0, 2:12, 2:12], labels[1:, 2 : 2 + side, 2 : 2 + side] = 1, 1
    assert (stack_slices(labels, StackRules()).max() == 0) == one
    assert (stack_slices(slice_masks((labels[::-1] > 0) * 1), StackRules()).max() == 0) == one


def test_a_tip_may_be_as_small_as_it_likes() -> None:
    labels = np.zeros((4, 24, 24), np.uint32)
    labels[1:3, 2:22, 2:22] = 1
    labels[0, 9, 9], labels[3, 20, 3] = 1, 1
    assert stack_slices(labels.copy(), StackRules()).max() == 0
    between = labels[[1, 3, 2]]  # a speck between two larger ones is the tip of neither
    assert stack_slices(between, StackRules()).tolist() == [0, 1, 2]
    labels[3, 20, 3], labels[3, 23, 3] = 0, 1  # outside
    assert stack_slices(labels, StackRules()).tolist() == [0, 0, 0, 1]


def test_what_only_touches_is_not_linked() -> None:
    labels = np.zeros((2, 10, 20), np.uint32)
    labels[0, :, :10], labels[1, :, 8:18] = 1, 1  # IoU 2 / 18
    assert stack_slices(labels, StackRules()).tolist() == [0, 1]
    labels[1], labels[1, :, 4:14] = 0, 1  # IoU 6 / 14
    assert stack_slices(labels, StackRules()).tolist() == [0, 0]


@given(
    thickness=st.floats(0.3, 8),
    missing=st.integers(1, 5),
    share=st.floats(0.0, 2.0).filter(lambda s: abs(s - 1) > 1e-3),
)
def test_a_gap_is_closed_if_and_only_if_it_is_short_in_mm(
    thickness: float, missing: int, share: float
) -> None:
    spacing, rules = (thickness, 0.5, 0.7), StackRules(gap=missing * thickness * share)
    labels = tube((missing + 4, 14, 16))
    seen = labels.copy()
    seen[2 : 2 + missing] = 0
    found = slice_masks(seen)
    objects = stack_slices(found, rules, missing=rules.missing(spacing), steps=spacing[1:])
    closed = missing * thickness <= rules.gap
    assert (objects.max() == 0) == closed
    assert np.array_equal(found > 0, labels > 0 if closed else seen > 0)


def test_what_is_missing_gets_a_shape_in_between() -> None:
    z, y, x = np.ogrid[:9, :50, :60]
    cone = ((y - 24) ** 2 + (x - 20 - 2 * z) ** 2 < (8 + z) ** 2).astype(np.int64)
    seen = cone.copy()
    seen[3:6] = 0
    found = slice_masks(seen)
    assert stack_slices(found, StackRules(), missing=3).max() == 0
    for k in (3, 4, 5):
        assert (found[k] & cone[k]).sum() / (found[k] | cone[k]).sum() > 0.93


def test_shapes_in_between_know_the_spacing() -> None:
    near, far = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    near[8:22, 4:26], far[12:18, 4:26] = True, True
    assert between_masks(near, far, 0.5, (1.0, 4.0))[:, 15].sum() == 10


def test_nothing_is_bridged_where_something_else_was_seen() -> None:
    labels = tube((5, 30, 30))
    labels[2] = 0
    assert stack_slices(slice_masks(labels), StackRules(), missing=1).tolist() == [0, 0, 0, 0]
    labels[2, :, :7] = 2  # two fifths of it
    assert stack_slices(slice_masks(labels), StackRules(), missing=1).tolist() == [0, 0, 1, 0, 0]
    labels[2] = 2
    assert stack_slices(slice_masks(labels), StackRules(), missing=1).tolist() == [0, 0, 1, 2, 2]


def test_invalid_voxels_are_not_painted_over(tmp_path: Path) -> None:
    labels = tube((5, 14, 16))
    labels[2] = 0
    mask = np.ones(labels.shape, bool)
    mask[2, :, :7] = False
    job = oracle_job(tmp_path / "job", stacking=StackRules(gap=1.0))
    result = run_job(job, tools=tools_of(labels, mask=mask))
    found = volume_of(result)
    assert result.objects.num_rows == 1
    assert not found[2, :, :7].any()
    assert found[2, 4:9, 7:10].all()


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_slices_are_as_one_block_whatever_the_masks(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (13, 5, 6)), np.ones((1, 3, 3), np.int64))
    labels[rng.random(13) < 0.3] = 0
    gap, axis = float(rng.integers(0, 4)), int(rng.integers(0, 3))
    labels, spacing = np.moveaxis(labels, 0, axis), tuple(np.roll([1.0, 2.0, 3.0], axis).tolist())
    limits = {"tile_size": 99, "halo": 0, "seams": SeamRules(min_shared=1)}
    one = stacked(
        tmp_path / "one", labels, StackRules(axis=axis, gap=gap, block=99), spacing, **limits
    )
    for block in (1, 2, 3, 5):
        rules = StackRules(axis=axis, gap=gap, block=block)
        many = stacked(tmp_path / str(block), labels, rules, spacing, **limits)
        assert len(many.grid) == -(-13 // block)
        case = f"blocks of {block}, axis {axis}, gap {gap}"
        assert same_partition(volume_of(many), volume_of(one)), case
        assert not any(many.objects["truncated"].to_pylist()), case


@pytest.mark.parametrize("axis", range(3))
def test_tiled_equals_untiled(axis: int, tmp_path: Path) -> None:
    labels = ellipsoids(np.random.default_rng(axis), (30, 34, 32), 40, apart=False)
    limits = {"tile_size": 99, "halo": 0}
    one = stacked(tmp_path / "one", labels, StackRules(axis=axis, block=99), **limits)
    # objects are up to ten voxels long, so that those that touch what is written are seen whole
    many = stacked(tmp_path / "many", labels, StackRules(axis=axis, block=8), tile_size=15, halo=20)
    assert len(many.grid) > 9
    assert same_partition(volume_of(many), volume_of(one))


def test_what_is_longer_than_tiles_and_their_halos_comes_out_whole(tmp_path: Path) -> None:
    labels = np.zeros((30, 42, 40), np.int64)
    labels[1:29, 3:8, 3:9] = 1
    labels[5:10, 1:41, 20:26] = 2
    labels[20:26, 20:25, 2:39] = 3
    found = volume_of(stacked(tmp_path / "job", labels, StackRules(block=8), tile_size=14, halo=3))
    assert same_partition(found, labels)


@pytest.mark.parametrize("seed", range(2))
def test_a_threshold_finds_the_same_along_every_axis(seed: int, tmp_path: Path) -> None:
    labels = ellipsoids(np.random.default_rng(seed), (17, 22, 20), 8, apart=True)
    bright = np.where(labels > 0, 0xFFFFFF, 0)
    for axis in range(3):
        job = oracle_job(
            tmp_path / str(axis), stacking=StackRules(axis=axis, block=4, iou=0, taper=0), halo=10
        )
        job = type(job)(**{**vars(job), "segmenter": "threshold"})
        found = volume_of(run_job(job, tools=tools_of(bright)))
        assert same_partition(found, ndimage.label(bright)[0])


EXECUTORS: list[Executor] = [
    Shuffled(1),
    Shuffled(2),
    OverlappingExecutor(),
    ThreadsExecutor(workers=3),
]


@pytest.fixture(scope="module")
def touching() -> Volume:
    return ellipsoids(np.random.default_rng(5), (12, 30, 26), 20, apart=False)


@pytest.mark.parametrize("executor", EXECUTORS, ids=str)
def test_neither_order_nor_workers_change_a_byte(
    executor: Executor, touching: Volume, tmp_path: Path
) -> None:
    rules = StackRules(block=4, gap=1.0)
    straight = stacked(tmp_path / "a", touching, rules, tile_size=14)
    job = oracle_job(tmp_path / "b", stacking=rules, tile_size=14)
    other = run_job(job, tools=tools_of(touching), executor=executor)
    assert fingerprint(straight) == fingerprint(other)


def test_table_describes_the_objects(touching: Volume, tmp_path: Path) -> None:
    result = stacked(tmp_path / "job", touching, StackRules(block=4), tile_size=14)
    labels, rows = volume_of(result), result.objects.to_pylist()
    assert [r["area_px"] for r in rows] == np.bincount(labels.ravel())[1:].tolist()
    for row, place in zip(rows, ndimage.find_objects(labels.astype(int)), strict=True):
        assert [row[n] for n in ("z0", "y0", "x0")] == [p.start for p in place]
        assert [row[n] for n in ("z1", "y1", "x1")] == [p.stop for p in place]
        assert row["predicted_iou"] == row["stability"] == 1
        assert np.isnan(row["point_x"])
    with open_result(tmp_path / "job") as again:
        assert again.job == result.job
        assert np.array_equal(volume_of(again), labels)


def test_a_tile_that_fails_is_a_hole_and_is_tried_again(touching: Volume, tmp_path: Path) -> None:
    rules, named = StackRules(block=4), int(np.unique(touching[:4])[1])
    job = oracle_job(tmp_path / "job", stacking=rules, segmenter_options={"poison": named})
    broken = run_job(job, tools=tools_of(touching))
    assert broken.quarantined
    assert not broken.complete
    fine = oracle_job(tmp_path / "other", stacking=rules)
    whole = run_job(fine, tools=tools_of(touching))
    hole = broken.grid[broken.quarantined[0].index].write
    assert (broken.labels(hole) == 2**32 - 1).all()
    assert whole.complete


def test_slivers_are_dropped_by_volume_and_by_extent(tmp_path: Path) -> None:
    labels = np.zeros((8, 20, 20), np.int64)
    labels[1:7, 2:6, 2:6] = 1  # 6 x 2 x 2 mm
    labels[2, 10:18, 10:18] = 2  # 1 x 4 x 4 mm
    labels[1:7, 12:13, 2:3] = 3  # 6 x 0.5 x 0.5 mm
    spacing = (1.0, 0.5, 0.5)
    voxel = ((0.25, 0.25), (0.25, 0.25))

    def kept(name: str, **limits: Any) -> list[int]:
        found = stacked(
            tmp_path / name, labels, StackRules(block=3), spacing, pixel_areas=voxel, **limits
        )
        return sorted(set(labels[volume_of(found) > 0].tolist()))

    assert kept("all") == [1, 2, 3]
    assert kept("volume", min_area=2) == [1, 2]
    assert kept("extent", min_extent=1.5) == [1]
    assert kept("both", min_area=20, min_extent=0.5) == [1]


@given(
    arrays.arrays(np.uint32, (3, 5, 4), elements=st.integers(0, 3)),
    st.tuples(*[st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in (3, 5, 4)]),
)
def test_any_part_of_a_tile_is_decoded_alike(
    labels: NDArray[np.uint32], ends: tuple[tuple[int, int], ...]
) -> None:
    objects = tile_of(labels, TileGrid(shape=(3, 5, 4), tile_shape=(3, 5, 4), halo=(0, 0, 0)), 0)
    part = Window(start=tuple(a for a, _ in ends), stop=tuple(max(a + 1, b) for a, b in ends))
    names = np.concatenate([[0], np.unique(labels[labels > 0])])
    assert np.array_equal(names[objects.labels()], labels)
    assert np.array_equal(names[objects.labels(part)], labels[part.slices])
    for rank, name in enumerate(names[1:]):
        places = np.argwhere(labels == name)
        assert objects.areas[rank] == len(places)
        assert objects.boxes[rank].tolist() == [*places.min(axis=0), *(places.max(axis=0) + 1)]


def test_what_the_neighbour_does_not_see_is_painted_on() -> None:
    grid = TileGrid(shape=(4, 10, 32), tile_shape=(4, 10, 16), halo=(0, 0, 8))
    labels = np.zeros(grid.shape, np.int64)
    labels[1:3, 3:7, 10:20] = 1
    mine, theirs = tile_of(np.zeros_like(labels), grid, 1), tile_of(labels, grid, 0)
    beside = Beside.of([theirs])
    claims = find_claims(mine, beside, meet(mine, beside), np.zeros(0, np.int64))
    assert claims.areas.tolist() == [2 * 4 * 4]
    assert claims.boxes.tolist() == [[1, 3, 16, 3, 7, 20]]
    assert np.array_equal(claims.labels(mine.tile.write) > 0, labels[:, :, 16:] > 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"axis": 3}, "an axis of 0, 1 and 2"),
        ({"block": 0}, "blocks of at least 1"),
        ({"iou": 0.1, "taper": 0.2}, "taper <= iou"),
        ({"gap": float("nan")}, "gap must be at least 0"),
        ({"gap": -1.0}, "gap must be at least 0"),
    ],
)
def test_impossible_rules_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        StackRules(**given)


@pytest.mark.parametrize("given", [{"nested": True}, {"fill_holes": 3}, {"drop_islands": 3}])
def test_what_is_for_flat_objects_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    job = oracle_job(tmp_path, stacking=StackRules(), **given)
    with pytest.raises(InputError, match="for flat objects"):
        plan(job, tools_of(np.ones((2, 2, 2), np.int64)))

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import (
    box_nms,
    concatenate,
    decode_labels,
    decode_rle,
    encode_labels,
    encode_rle,
    encode_runs,
    mask_box,
    mask_nms,
    mask_set,
    remove_small_regions,
)

sides = st.integers(1, 17)
masks = arrays.arrays(bool, st.tuples(sides, sides))
label_images = arrays.arrays(np.uint32, st.tuples(sides, sides), elements=st.integers(0, 5))


def dense(labels: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], int]:
    names = np.unique(labels[labels > 0])
    ranks = np.where(labels > 0, np.searchsorted(names, labels) + 1, 0)
    return ranks.astype(np.uint32), len(names)


@given(label_images, st.integers(0, 9))
def test_mask_nms_keeps_the_better_of_masks_that_are_alike(
    labels: NDArray[np.uint32], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    several = rng.random((6, *labels.shape)) < 0.7
    several[3:] = several[:3] & (rng.random(labels.shape) < 0.9)
    scores = rng.integers(0, 3, 6)
    kept = mask_nms(mask_set(several), scores, 0.5).tolist()

    def iou(i: int, j: int) -> float:
        return float((several[i] & several[j]).sum() / max(1, (several[i] | several[j]).sum()))

    def better(i: int, j: int) -> bool:
        return (-scores[i], i) < (-scores[j], j)

    for j in range(6):
        worse_than = [i for i in kept if better(i, j) and iou(i, j) > 0.5]
        assert bool(worse_than) == (j not in kept)


@given(masks)
def test_rle_round_trip(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(decode_rle(encode_rle(mask), mask.shape), mask)


@given(label_images)
def test_labels_encode_like_their_masks_one_by_one(labels: NDArray[np.uint32]) -> None:
    labels, count = dense(labels)
    assert encode_labels(labels, count) == tuple(encode_rle(labels == i + 1) for i in range(count))


@given(label_images)
def test_labels_round_trip(labels: NDArray[np.uint32]) -> None:
    labels, count = dense(labels)
    assert np.array_equal(decode_labels(encode_labels(labels, count), labels.shape), labels)


def test_labels_round_trip_where_counts_need_many_digits() -> None:
    labels = np.zeros((3000, 40), np.uint32)
    labels[5:2990:700, 3], labels[100:2000, 7:30], labels[-1, -1] = 1, 2, 3
    assert np.array_equal(decode_labels(encode_labels(labels, 3), labels.shape), labels)


@given(masks)
def test_box_is_tight(mask: NDArray[np.bool_]) -> None:
    x0, y0, x1, y1 = mask_box(mask)
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    if mask.any():
        assert mask[y0].any()
        assert mask[y1 - 1].any()
        assert mask[:, x0].any()
        assert mask[:, x1 - 1].any()


def naive_nms(boxes: NDArray[Any], scores: NDArray[Any], threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return float(w * h / union)


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_nms_is_the_naive_one(count: int, seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 12, (count, 2))], axis=1)
    scores = rng.integers(0, 5, count) / 4
    assert box_nms(boxes, scores, threshold).tolist() == naive_nms(boxes, scores, threshold)


@given(
    arrays.arrays(bool, st.tuples(st.integers(0, 6), sides, sides)),
    st.sampled_from(["best", "small", "large"]),
)
def test_a_partition_covers_the_union_and_nothing_else(
    stack: NDArray[np.bool_], overlaps: Literal["best", "small", "large"]
) -> None:
    labels = mask_set(stack).to_labels(overlaps)
    assert np.array_equal(labels > 0, stack.any(axis=0))
    for i, mask in enumerate(stack):
        assert mask[labels == i + 1].all()


def nested() -> NDArray[np.bool_]:
    stack = np.zeros((2, 6, 6), bool)
    stack[0, :, :], stack[1, 2:4, 2:4] = True, True
    return stack


def test_who_wins_a_shared_pixel() -> None:
    scores = np.array([0.9, 0.5])
    given_masks = mask_set(nested(), predicted_iou=scores)
    assert given_masks.to_labels("best")[2, 2] == 1
    assert given_masks.to_labels("large")[2, 2] == 1
    assert given_masks.to_labels("small")[2, 2] == 2


def test_ties_go_to_the_earlier_mask() -> None:
    twice = mask_set(np.ones((2, 2, 2), bool))
    for overlaps in ("best", "small", "large"):
        assert (twice.to_labels(overlaps) == 1).all()


@given(
    arrays.arrays(bool, st.tuples(st.integers(0, 6), sides, sides)),
    st.sampled_from(["best", "small", "large"]),
    st.floats(0, 1),
)
def test_every_mask_of_a_partition_shows_enough_or_not_at_all(
    stack: NDArray[np.bool_], overlaps: Literal["best", "small", "large"], least: float
) -> None:
    labels = mask_set(stack).to_labels(overlaps, least_visible=least)
    for i, mask in enumerate(stack):
        shown = labels == i + 1
        assert mask[shown].all()
        assert not shown.any() or shown.sum() >= least * mask.sum()


def test_what_is_mostly_hidden_is_left_out() -> None:
    stack = np.zeros((3, 10, 10), bool)
    stack[0, 2:8, :], stack[1, :8, :], stack[2, 6:10, :] = True, True, True
    masks = mask_set(stack, predicted_iou=np.array([0.9, 0.8, 0.7]))
    assert np.unique(masks.to_labels()).tolist() == [0, 1, 2, 3][1:]
    labels = masks.to_labels(least_visible=0.5)
    assert np.unique(labels).tolist() == [0, 1, 3]
    assert (labels[8:] == 3).all(), "half of the third shows"
    with pytest.raises(InputError, match=r"least_visible must be in 0\.\.1"):
        masks.to_labels(least_visible=1.5)


def test_unknown_overlap_rule_is_refused() -> None:
    with pytest.raises(InputError, match="best, small, large"):
        mask_set(nested()).to_labels("first")  # type: ignore[arg-type]


def test_select_and_concatenate_keep_order() -> None:
    two = mask_set(nested(), predicted_iou=np.array([0.25, 0.75]))
    back = concatenate([two.select([1]), two.select(np.array([True, False]))])
    assert back.predicted_iou.tolist() == [0.75, 0.25]
    assert back.rles == two.rles[::-1]
    assert np.array_equal(back.to_arrays(), nested()[::-1])


def test_small_regions() -> None:
    mask = np.ones((9, 9), bool)
    mask[4, 4] = False
    filled, changed = remove_small_regions(mask, 4, "holes")
    assert changed
    assert filled.all()
    islands = np.zeros((9, 9), bool)
    islands[:4, :4], islands[8, 8] = True, True
    kept, changed = remove_small_regions(islands, 4, "islands")
    assert changed
    assert kept.sum() == 16
    assert not remove_small_regions(islands[:6], 4, "islands")[1]


@given(st.lists(masks, max_size=4))
def test_runs_are_encoded_as_masks(many: list[NDArray[np.bool_]]) -> None:
    for mask in many:
        flat = mask.T.ravel().astype(np.int8)
        edges = np.flatnonzero(np.diff(flat, prepend=0))
        runs = np.diff(edges, prepend=0, append=flat.size)
        if runs[-1] == 0:
            runs = runs[:-1]
        assert encode_runs([runs, runs], mask.shape) == (encode_rle(mask),) * 2
    assert encode_runs([], (3, 4)) == ()


@pytest.mark.parametrize(
    "rle", [b"", b"0", b"oooo", b"0oooooooo", b"_" * 40, b"00o0ooo", bytes(range(256))]
)
def test_codes_that_claim_too_much_stay_inside_of_the_image(rle: bytes) -> None:
    labels = decode_labels([encode_rle(np.eye(5, dtype=bool)), rle], (5, 5))
    assert labels.shape == (5, 5)
    assert np.array_equal(labels == 1, np.eye(5, dtype=bool))


@given(label_images, st.data())
def test_a_part_decodes_like_the_whole(labels: NDArray[np.uint32], data: st.DataObject) -> None:
    ranks, count = dense(labels)
    height, width = labels.shape
    y = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    x = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    part = (slice(*y), slice(*x))
    chosen = np.array(data.draw(st.lists(st.integers(0, count - 1))) if count else [], np.int64)
    found = decode_labels(encode_labels(ranks, count), labels.shape, part=part, chosen=chosen)
    assert np.array_equal(found, np.where(np.isin(ranks, chosen + 1), ranks, 0)[part])


def test_runs_that_need_more_room_than_expected() -> None:
    ranks = (np.arange(300 * 300, dtype=np.uint32) % 5 + 1).reshape(300, 300)
    rles = encode_labels(ranks, 5)
    assert rles == tuple(encode_rle(ranks == i) for i in range(1, 6))

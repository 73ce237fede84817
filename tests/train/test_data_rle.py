"""Masks of annotations: pycocotools is the oracle, and damage never passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from samplat import InputError
from samplat_train.data.rle import check_ids, decode_mask

masks = hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def compressed(mask):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def runs(mask):
    flat = np.concatenate([[False], mask.T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, mask.size]).tolist()}


@settings(deadline=None)
@given(masks)
def test_run_lengths_give_the_mask_back(mask):
    for segmentation in (compressed(mask), runs(mask)):
        assert np.array_equal(decode_mask(segmentation, mask.shape, "a"), mask)


@pytest.mark.parametrize("size", [(3000, 2000), (1, 2**20)])
def test_long_runs(size):
    mask = np.zeros(size, bool)
    mask.ravel()[[0, -1]] = True
    assert np.array_equal(decode_mask(compressed(mask), size, "a"), mask)


@settings(deadline=None, max_examples=300)
@given(masks, st.data())
def test_damage_is_refused_or_leaves_a_whole_mask(mask, data):
    """Any change of the string is noticed, unless it is another mask's valid string."""
    segmentation = compressed(mask)
    text = list(segmentation["counts"])
    i = data.draw(st.integers(0, len(text) - 1))
    how = data.draw(st.sampled_from(["cut", "change", "add"]))
    letter = data.draw(st.characters(codec="utf-8"))
    text[i:] = {"cut": [], "change": [letter, *text[i + 1 :]], "add": [letter, *text[i:]]}[how]
    damaged = {**segmentation, "counts": "".join(text)}
    found, refusal = None, ""
    try:
        found = decode_mask(damaged, mask.shape, "a")
    except InputError as error:
        refusal = str(error)
    if found is None:
        assert refusal.startswith("a: corrupt run lengths")
    else:
        assert np.array_equal(found, coco.decode(damaged).astype(bool))
        # cut shorter, a string cannot be another mask of the size
        assert how != "cut"


@settings(deadline=None)
@given(masks, st.integers(1, 5))
def test_runs_that_end_early_are_refused(mask, less):
    """pycocotools decodes those, with what happened to be in memory."""
    counts = runs(mask)["counts"]
    for wrong in ([*counts, less], counts[:-1] or [0], [0] * len(counts)):
        with pytest.raises(InputError, match="corrupt run lengths: .* pixels for an image of"):
            decode_mask({"size": list(mask.shape), "counts": wrong}, mask.shape, "a")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "expected polygons, or a run-length encoding .* got None"),
        ({"counts": [20]}, "expected polygons, or a run-length encoding"),
        ({"size": [5, 4], "counts": [20]}, r"a mask of \[5, 4\] for an image of \[4, 5\]"),
        ({"size": [4, 5], "counts": 7}, "counts must be a list or a string, got 7"),
        ({"size": [4, 5], "counts": [10, -5, 15]}, "expected counts >= 0"),
        ({"size": [4, 5], "counts": [10.0, 10.0]}, "expected counts >= 0"),
        ({"size": [4, 5], "counts": [2**40]}, "expected counts >= 0"),
        ({"size": [4, 5], "counts": ""}, "cannot be decoded"),
        ({"size": [4, 5], "counts": "\ud800"}, "cannot be decoded"),
        ({"size": [4, 5], "counts": "o" * 30}, "cannot be decoded"),
        ([], "no mask: the list of polygons is empty"),
        ([[0, 0, 4, 4]], "at least three points"),
        ([[0, 0, 4, 4, 1, 2, 3]], "at least three points"),
        (["abc"], "at least three points"),
        ([[0, 0, 4, "4", 1, 2]], "at least three points"),
        ([[0, 0, 4, float("nan"), 1, 2]], "not finite"),
        ([[9, 0, 12, 0, 12, 3]], r"from x, y = \[9.0, 0.0\] .* outside the image of 5 x 4"),
        ([[-9, 0, -2, 0, -2, 3]], "outside the image"),
        ([[0, 6, 4, 6, 4, 9]], "outside the image"),
    ],
)
def test_what_is_no_mask(segmentation, message):
    with pytest.raises(InputError, match=f"a: .*{message}"):
        decode_mask(segmentation, (4, 5), "a")


coordinates = st.tuples(st.floats(-5, 25), st.floats(-5, 25))


@settings(deadline=None)
@given(st.lists(st.lists(coordinates, min_size=3, max_size=7), min_size=1, max_size=3))
def test_polygons_are_pycocotools(parts):
    size = (20, 18)
    polygons = [[v for point in part for v in point] for part in parts]
    arrays = [np.array(part) for part in parts]
    outside = any((p.max(0) < 0).any() or (p.min(0) > size[::-1]).any() for p in arrays)
    if outside:
        with pytest.raises(InputError, match="outside the image"):
            decode_mask(polygons, size, "a")
        return
    expected = coco.decode(coco.frPyObjects(polygons, *size)).any(axis=2)
    assert np.array_equal(decode_mask(polygons, size, "a"), expected)


def test_a_polygon_is_where_it_says():
    mask = decode_mask([[2, 1, 6, 1, 6, 4, 2, 4]], (8, 8), "a")
    expected = np.zeros((8, 8), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([{"id": 1}, {"id": 2}, {"id": 1}], "two entries have the id 1"),
        ([{"id": 1}, {}], "expected entries with an id"),
        ([7], "expected entries with an id, got 7"),
    ],
)
def test_ids(annotations, message):
    with pytest.raises(InputError, match=f"f: {message}"):
        check_ids(annotations, "f")
    check_ids([{"id": 1}, {"id": "b"}], "f")

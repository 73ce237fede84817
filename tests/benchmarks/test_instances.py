"""Matching of instances, on answers that are known."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import instances
from benchmarks.evaluation.instances import THRESHOLDS, figures, match, otsu_watershed, painted
from benchmarks.evaluation.objects import mask_iou
from samplat.masks import mask_set

SIZE = (60, 80)


def squares(*corners, side=10):
    labels = np.zeros(SIZE, np.int32)
    for i, (y, x) in enumerate(corners, start=1):
        labels[y : y + side, x : x + side] = i
    return labels


def discs(*centres, radius=9):
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    labels = np.zeros(SIZE, np.int32)
    for i, (cy, cx) in enumerate(centres, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = i
    return labels


def test_a_match_counts_where_the_iou_is_above_the_threshold():
    truth = squares((5, 5), (5, 40), (40, 5))
    found = squares((5, 6), (5, 44), (45, 60))
    # 1 column off: 90 / 110 = 0.818; 4 off: 60 / 140 = 0.43; the third finds nothing.
    result = match(truth, found)
    assert (result.objects, result.predictions) == (3, 3)
    expected = [int(t < 90 / 110) for t in THRESHOLDS]
    assert list(result.matched) == expected
    values = figures([result])
    assert values["ap50"] == pytest.approx(1 / 5)
    assert values["ap75"] == pytest.approx(1 / 5)
    assert values["score"] == pytest.approx(np.mean([e / (6 - e) for e in expected]))
    assert values["precision"] == values["recall"] == pytest.approx(1 / 3)


def test_specks_count_neither_as_objects_nor_as_predictions():
    truth, found = squares((5, 5)), squares((5, 5))
    truth[50:52, 50:52] = 7
    found[30:33, 30:33] = 9
    result = match(truth, found)
    assert (result.objects, result.predictions, result.matched[0]) == (1, 1, 1)


def test_empty_pictures():
    nothing = np.zeros(SIZE, np.int32)
    assert figures([match(nothing, nothing)])["ap50"] == 1
    assert figures([match(squares((5, 5)), nothing)])["ap50"] == 0
    assert figures([match(nothing, squares((5, 5)))])["ap50"] == 0


@given(st.integers(0, 2**32 - 1))
def test_matches_are_those_of_every_pair_compared(seed):
    rng = np.random.default_rng(seed)
    truth, found = (
        squares(*rng.integers(0, (50, 70), (5, 2)), side=int(rng.integers(6, 14))) for _ in "ab"
    )
    pairs = [
        mask_iou(truth == i, found == j)
        for i in np.unique(truth[truth > 0])
        for j in np.unique(found[found > 0])
        if (truth == i).sum() >= 25 and (found == j).sum() >= 25
    ]
    specks = [(labels == i).sum() < 25 for labels in (truth, found) for i in np.unique(labels)]
    if any(specks):
        return
    assert list(match(truth, found).matched) == [sum(p > t for p in pairs) for t in THRESHOLDS]


@pytest.mark.parametrize("bright", [True, False])
def test_the_threshold_finds_discs_and_the_watershed_parts_two_that_touch(bright):
    truth = discs((15, 15), (40, 50), (40, 66))
    grey = np.where((truth > 0) == bright, 200, 60).astype(np.uint8)
    found = otsu_watershed(np.repeat(grey[..., None], 3, axis=2))
    assert figures([match(truth, found)])["ap75"] == 1


def test_masks_that_cover_the_picture_are_background():
    masks = np.stack([np.ones(SIZE, bool), discs((20, 20)) > 0, discs((20, 22)) > 0])
    labels = painted(mask_set(masks, predicted_iou=np.array([0.99, 0.9, 0.8])))
    assert (labels > 0).mean() < 0.2
    assert (labels[discs((20, 20)) > 0] == 1).all()


def test_the_command_prints_and_writes_both_methods(tmp_path, capsys):
    folder = tmp_path / "bio_dsb2018"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    truth = discs((15, 15), (40, 60))
    Image.fromarray(np.where(truth > 0, 200, 40).astype(np.uint8)).save(folder / "images/a.png")
    Image.fromarray(truth.astype(np.uint16)).save(folder / "labels/a.png")
    out = tmp_path / "out.json"
    assert instances.main([str(tmp_path), "--points-per-side", "4", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert results["Otsu + watershed"]["ap50"] == 1
    assert set(results) == {"Otsu + watershed", "samplat-tiny"}
    assert "ap50" in capsys.readouterr().out

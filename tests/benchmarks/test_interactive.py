"""The simulated annotator, and what it annotates; the window itself is tested in `clicks`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from benchmarks.evaluation.annotator import iou, needed, next_click
from benchmarks.evaluation.places import default_root
from benchmarks.evaluation.scenes import SCENES, ponds, scenes
from samplat.errors import InputError

masks = arrays(bool, (9, 11))


@given(masks, masks)
@settings(max_examples=60, deadline=None)
def test_a_click_lies_where_the_mask_is_wrong_and_says_how(found, truth):
    if (found == truth).all():
        return
    (row, column), positive = next_click(found, truth)
    assert found[row, column] != truth[row, column]
    assert positive == truth[row, column]


def test_the_largest_patch_is_clicked_on_in_its_middle():
    truth, found = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    truth[5:16, 5:16] = True  # missing altogether
    found[30:33, 30:33] = True  # too much
    assert next_click(found, truth) == ((10, 10), True)
    found[5:16, 5:16] = True
    assert next_click(found, truth) == ((31, 31), False)


def test_patches_are_judged_one_by_one():
    """Many small errors do not add up to one worth a click."""
    truth, found = np.zeros((20, 60), bool), np.zeros((20, 60), bool)
    truth[::2, ::2] = True
    found[5:10, 20:25] = True
    (row, column), positive = next_click(found, truth)
    assert not positive or truth[row, column]
    truth[12:17, 40:46] = True
    assert next_click(found, truth)[1]


@pytest.mark.parametrize(("goal", "clicks"), [(0.5, 1), (0.8, 2), (0.9, 4), (0.99, None)])
def test_clicks_are_counted_to_the_first_time_that_it_is_good_enough(goal, clicks):
    assert needed([0.6, 0.85, 0.7, 0.95], goal) == clicks


def test_iou_of_nothing_with_nothing_is_one():
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1
    assert iou(np.eye(2, dtype=bool), np.ones((2, 2), bool)) == 0.5


def test_missing_data_are_named(tmp_path):
    with pytest.raises(InputError, match="bio_dsb2018"):
        next(scenes(tmp_path))


def test_scenes_of_real_data():
    """Each has objects of some size; ponds are darker than the meadow around them."""
    evaluation_data = default_root()
    for name, (folder, read) in SCENES.items():
        if not (evaluation_data / folder).is_dir():
            pytest.skip(f"no {folder}")
        scene = read(evaluation_data)
        assert scene.name == name
        assert scene.objects
        assert all(mask.sum() >= 50 for _, mask in scene.objects)
    water = ponds(evaluation_data)
    from scipy.ndimage import binary_dilation

    grey = water.pixels.mean(axis=-1)
    for _, mask in water.objects:
        around = binary_dilation(mask, iterations=8) & ~binary_dilation(mask, iterations=3)
        assert grey[mask].mean() < grey[around].mean() - 10

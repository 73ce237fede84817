"""Drawn spines: the cord and its grey matter."""

import numpy as np
import pytest

from samplat_train.scenes import spine
from samplat_train.scenes.canvas import blank_canvas, dense_levels
from samplat_train.scenes.medical import _coarse

SIZE = 256


@pytest.mark.parametrize("seed", range(8))
def test_grey_matter_lies_in_the_cord_as_a_butterfly(seed):
    canvas = blank_canvas(np.full((SIZE, SIZE, 3), 0.3, np.float32))
    spine._across(np.random.default_rng(seed), canvas)
    whole, parts = dense_levels(canvas)[:2]
    matter = parts > 0
    cord = whole == whole[matter][0]
    assert matter.any()
    assert (cord | ~matter).all()
    rows, columns = np.nonzero(matter)
    box = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert 0.15 < matter.sum() / np.prod(box) < 0.75


@pytest.mark.parametrize("seed", range(8))
def test_a_slice_along_the_spine_has_a_cord_and_vertebrae(seed):
    canvas = blank_canvas(np.full((SIZE, SIZE, 3), 0.3, np.float32))
    spine._along(np.random.default_rng(seed), canvas)
    whole = dense_levels(canvas)[0]
    assert len(np.unique(whole)) > 4


def test_a_coarse_slice_keeps_its_size_and_mean_and_loses_detail():
    field = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    coarse = _coarse(field, 4.0)
    assert coarse.shape == field.shape
    assert abs(coarse.mean() - field.mean()) < 0.02
    assert coarse.std() < 0.4 * field.std()

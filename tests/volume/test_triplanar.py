"""Three planes, with segmenters that know the object."""

import numpy as np
import pytest

from samplat import InputError
from samplat_volume.slices import SlicePrompt, reordered
from samplat_volume.triplanar import triplanar
from volume.grown import Oracle, box_on, dice, grown, middle


class OraclePlanes:
    """A perfect segmenter across every axis but those that are spoiled."""

    def __init__(self, truth, spoil=None):
        spoil = spoil or {}
        self.oracles = [
            Oracle(np.moveaxis(truth, a, 0), **({"spoil": spoil[a]} if a in spoil else {}))
            for a in range(3)
        ]

    def segmenter(self, axis):
        return self.oracles[axis]

    def reader(self, axis):
        return None


def asked(planes, truth, axis, **arguments):
    stack = np.moveaxis(truth, axis, 0)
    return triplanar(planes, axis, {middle(stack): box_on(stack, middle(stack))}, **arguments)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ratio", [1, 8])
def test_a_perfect_segmenter_gives_the_object_back_in_any_plane(axis, ratio):
    stack = grown(axis, ratio)
    truth = np.moveaxis(stack, 0, axis)
    spacing = tuple(float(ratio) if a == axis else 1.0 for a in range(3))
    seen = asked(OraclePlanes(truth), truth, axis, spacing=spacing)
    assert dice(seen.mask, truth) >= 0.99
    assert [p.axis for p in seen.planes] == [0, 1, 2]
    assert all(p.dice >= 0.97 for p in seen.planes)
    assert seen.first.shape == reordered(truth.shape, axis)


def test_two_planes_outvote_a_third_and_the_report_says_which():
    truth = grown(0, 1)

    def cut_off(index, mask):
        mask[:, : int(np.argwhere(mask)[:, 1].mean())] = False
        return mask

    seen = asked(OraclePlanes(truth, {1: cut_off}), truth, 0)
    assert dice(seen.planes[1].mask, truth) < 0.8
    assert dice(seen.mask, truth) >= 0.99
    assert seen.planes[1].dice < min(seen.planes[0].dice, seen.planes[2].dice)
    assert seen.planes[1].confidence < min(seen.planes[0].confidence, seen.planes[2].confidence)


def test_other_planes_correct_an_end_that_the_first_one_missed():
    """Its propagation runs on through a copy of the last slice; across, the end can be seen."""
    truth = np.zeros((30, 40, 40), bool)
    truth[8:20, 12:28, 12:28] = True

    def run_on(index, mask):
        return mask

    planes = OraclePlanes(truth, {0: run_on})
    too_long = truth.copy()
    too_long[20:24] = truth[19]
    planes.oracles[0] = Oracle(too_long)
    seen = asked(planes, truth, 0)
    assert dice(seen.first.mask(), truth) < 0.9
    assert dice(seen.mask, truth) >= 0.96  # votes are smoothed, and this object is all corners
    assert not seen.mask[21:].any()


def test_what_is_taken_stays_taken():
    truth = grown(0, 1)
    taken = np.zeros_like(truth)
    taken[:, :30] = True
    seen = asked(OraclePlanes(truth), truth, 0, taken=taken)
    assert not (seen.mask & taken).any()
    assert dice(seen.mask, truth & ~taken) >= 0.97


def test_an_axis_that_is_none():
    with pytest.raises(InputError, match="axis 0, 1 or 2"):
        triplanar(OraclePlanes(grown(0, 4)), 3, {0: SlicePrompt(box=(0, 0, 1, 1))})

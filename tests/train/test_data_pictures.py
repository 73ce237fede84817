"""Levels keep every mask, splits keep every promise, and pictures that are none are refused."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samplat import InputError
from samplat_train.data.pictures import Picture, as_image, as_labels, levels_of, split

SIZE = (7, 9)
masks = st.lists(hnp.arrays(bool, SIZE), max_size=8)


@settings(deadline=None)
@given(masks)
def test_every_mask_is_on_one_level_whole(some):
    levels = levels_of(iter(some), SIZE)
    for i, mask in enumerate(some, 1):
        homes = [level for level in levels if (level == i).any()]
        assert len(homes) == int(mask.any())
        assert not homes or np.array_equal(homes[0] == i, mask)
    assert set(np.unique(levels)) <= set(range(len(some) + 1))
    assert levels.any(axis=(1, 2))[1:].all(), "only the first level may be empty"


@settings(deadline=None)
@given(masks)
def test_a_mask_goes_down_only_where_larger_ones_lie(some):
    levels = levels_of(some, SIZE)
    areas = np.array([0, *(m.sum() for m in some)])
    for depth, level in enumerate(levels[1:], 1):
        for i in np.unique(level[level > 0]):
            for above in levels[:depth]:
                others = np.unique(above[(level == i) & (above > 0)])
                assert others.size
                assert areas[others].max() >= areas[i]


def test_many_masks_need_wider_ids():
    one = np.zeros((1, 3), bool)
    one[0, 0] = True
    none = np.zeros((1, 3), bool)
    levels = levels_of([*[none] * (2**16), one], (1, 3))
    assert levels.dtype == np.uint32
    assert levels.max() == 2**16 + 1


def test_masks_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"mask 2 is of \(3, 3\), the picture of \(7, 9\)"):
        levels_of([np.ones(SIZE, bool), np.ones((3, 3), bool)], SIZE)


@dataclass(frozen=True)
class Named:
    """A source of which only the names matter."""

    keys: tuple[str, ...]
    name: str = "names"

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, i: int) -> str:
        return self.keys[i]

    def read(self, i: int) -> Picture:
        label = np.full((1, 1, 1), i, np.int32)
        return Picture(name=self.keys[i], image=np.zeros((1, 1, 3), np.uint8), labels=label)


names = st.lists(st.text("abc123/", min_size=1, max_size=6), min_size=2, max_size=30, unique=True)
shares = st.floats(0.05, 0.95)


@settings(deadline=None)
@given(names, shares, st.integers(0, 9))
def test_a_split_is_a_partition_with_a_picture_on_each_side(keys, share, seed):
    source = Named(tuple(keys))
    parts = split(source, share=share, seed=seed)
    found = [{part.key(i) for i in range(len(part))} for part in parts]
    assert all(found)
    assert found[0] | found[1] == set(keys)
    assert len(parts[0]) + len(parts[1]) == len(keys)
    assert all(part.read(i).name == part.key(i) for part in parts for i in range(len(part)))
    assert split(source, share=share, seed=seed) == parts
    assert pickle.loads(pickle.dumps(parts)) == parts  # noqa: S301 our own bytes


def held(keys, share, seed):
    part = split(Named(tuple(keys)), share=share, seed=seed)[1]
    return {part.key(i) for i in range(len(part))}


@settings(deadline=None)
@given(names, names, shares, st.randoms())
def test_a_picture_keeps_its_side_whatever_else_there_is(keys, more, share, random):
    both = list(dict.fromkeys([*keys, *more]))
    first = held(keys, share, 0)
    random.shuffle(both)
    second = held(both, share, 0)
    # a side that would be empty borrows one picture: those cases depend on the others
    assume(1 < len(first) < len(keys) - 1)
    assume(1 < len(second) < len(both) - 1)
    assert second & set(keys) == first


def test_about_the_share_is_held_out_and_seeds_differ():
    keys = [f"picture {i}" for i in range(2000)]
    assert abs(len(held(keys, 0.2, 0)) / 2000 - 0.2) < 0.03
    assert held(keys, 0.2, 0) != held(keys, 0.2, 1)


@pytest.mark.parametrize("seed", range(20))
def test_parts_of_a_file_stay_together_unless_there_is_one_file(seed):
    many = [f"v{v}.nii#{z}" for v in range(5) for z in range(10)]
    files = [{k.partition("#")[0] for k in part} for part in (held(many, 0.4, seed),)]
    rest = {k.partition("#")[0] for k in set(many) - held(many, 0.4, seed)}
    assert files[0].isdisjoint(rest)
    one = [f"v.nii#{z}" for z in range(10)]
    assert 0 < len(held(one, 0.4, seed)) < 10


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_shares_outside_are_refused(share):
    with pytest.raises(InputError, match="between 0 and 1"):
        split(Named(("a", "b")), share=share)


def test_one_picture_cannot_be_split():
    with pytest.raises(InputError, match="names: cannot hold out a part of 1 picture"):
        split(Named(("a",)), share=0.5)


IMAGE = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((1, 5, 4), int), r"p: labels of \(5, 4\) for an image of \(4, 5\)"),
        (np.zeros((4, 5), int), r"p: expected labels \(H, W\) or \(L, H, W\), got \(4, 5\)"),
        (np.zeros((0, 4, 5), int), "p: labels of"),
        (np.zeros((1, 4, 5), float), "p: labels must be integers, 0 for nothing, got float64"),
        (np.full((1, 4, 5), -3), "p: labels must be >= 0, got -3"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises(InputError, match=message):
        Picture(name="p", image=IMAGE, labels=labels)


@pytest.mark.parametrize("image", [IMAGE[..., 0], IMAGE.astype(float), IMAGE[:0]])
def test_images_that_are_none(image):
    with pytest.raises(InputError, match=r"p: expected an image \(H, W, 3\) of uint8"):
        Picture(name="p", image=image, labels=np.zeros((1, 4, 5), int))


def test_objects_are_counted_on_all_levels():
    labels = np.zeros((2, 4, 5), np.uint8)
    assert Picture(name="p", image=IMAGE, labels=labels).objects == 0
    labels[0, 0], labels[0, 1], labels[1, 2] = 3, 7, 3
    assert Picture(name="p", image=IMAGE, labels=labels).objects == 3


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 2, st.sampled_from([1, 2, 3, 4]))))
def test_bytes_are_kept_and_alpha_is_dropped(array):
    image = as_image(array, "p")
    colours = 3 if array.shape[2] >= 3 else 1
    assert image.shape == (*array.shape[:2], 3)
    assert np.array_equal(image, np.broadcast_to(array[..., :colours], image.shape))
    assert np.array_equal(as_image(array[..., 0], "p")[..., 1], array[..., 0])


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, (5, 6), elements=st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([np.float32, np.float64, np.int32]),
)
def test_other_numbers_are_stretched_in_order(array, dtype):
    values = array.astype(dtype)
    image = as_image(values, "p")[..., 0]
    order = np.argsort(values, axis=None)
    assert (np.diff(image.ravel()[order].astype(int)) >= 0).all()


def test_the_stretch_leaves_out_half_a_percent_at_each_end():
    ramp = np.arange(1001, dtype=np.uint16).reshape(7, 143)
    image = as_image(ramp, "p")[..., 0].ravel()
    expected = np.rint(np.clip((np.arange(1001) - 5) * 255 / 990, 0, 255))
    assert np.array_equal(image, expected)


def test_nan_is_black_and_nothing_but_nan_is_refused():
    array = np.array([[0.0, 1.0, np.nan, np.inf]])
    assert as_image(array, "p")[0, :, 0].tolist() == [0, 255, 0, 0]
    with pytest.raises(InputError, match="p: not a single finite intensity"):
        as_image(np.full((2, 2), np.nan), "p")


@pytest.mark.parametrize("shape", [(3,), (4, 4, 5), (0, 4), (2, 3, 4, 3)])
def test_shapes_that_are_no_picture(shape):
    with pytest.raises(InputError, match=r"p: expected a picture \(H, W\)"):
        as_image(np.zeros(shape, np.uint8), "p")


def test_complex_numbers_are_no_intensities():
    with pytest.raises(InputError, match="p: expected integer or float intensities, got complex64"):
        as_image(np.zeros((2, 2), np.complex64), "p")


def test_masks_are_labels_too():
    labels = as_labels(np.array([[True, False]]), (1, 2), "p")
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[[1, 0]]]

"""Crops of any source: the same for the same step, in bounded memory, and never without end."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samplat import InputError
from samplat_train.data.pictures import Picture, split
from samplat_train.recipe import Recipe
from samplat_train.samples import CropBatches, PictureCache, Share, with_small_ids

RECIPE = Recipe(steps=4, images=3, prompts=2, crop=64, image_size=64, bf16=False)


def picture(name="p", tone=0, ids=(1, 2), size=80):
    labels = np.zeros((1, size, size), np.uint32)
    labels[0, 5:40, 5:40], labels[0, 45:75, 10:70] = ids
    image = np.full((size, size, 3), tone, np.uint8)
    return Picture(name=name, image=image, labels=labels)


@dataclass(frozen=True)
class Made:
    """Pictures of memory; remembers which were read."""

    pictures: tuple[Picture, ...]
    name: str = "made"
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pictures)

    def key(self, i: int) -> str:
        return self.pictures[i].name

    def read(self, i: int) -> Picture:
        self.reads.append(i)
        return self.pictures[i]


def several(count=6):
    return Made(tuple(picture(f"p{k}", 20 * k) for k in range(count)))


def same(first, second):
    return all(torch.equal(getattr(first, n), getattr(second, n)) for n in vars(first))


def test_a_batch_depends_on_its_number_alone():
    shares = [Share(source=several()), Share(source=several(2), weight=2.0)]
    ahead = CropBatches(shares, RECIPE)[2]
    data = CropBatches(shares, RECIPE, cache_bytes=1)
    _ = data[0], data[1]
    assert same(data[2], ahead)
    assert not same(data[3], ahead)
    assert same(pickle.loads(pickle.dumps(data))[2], ahead)  # noqa: S301 our own bytes


def test_weights_are_shares_of_the_crops():
    first, second = several(1), several(1)
    shares = [Share(source=first), Share(source=second, weight=3.0)]
    data = CropBatches(shares, Recipe(**{**vars(RECIPE), "images": 16}), cache_bytes=0)
    read = []
    data.cache.get = lambda key, load: read.append(key) or load()
    for step in range(20):
        _ = data[step]
    from_second = sum(number == 1 for number, _ in read)
    assert abs(from_second / len(read) - 0.75) < 0.08


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_none(weight):
    with pytest.raises(InputError, match="made: the weight must be > 0"):
        Share(source=several(1), weight=weight)


def test_a_part_held_out_is_never_read():
    source = several(12)
    rest, _ = split(source, share=0.3)
    data = CropBatches([Share(source=rest)], RECIPE)
    for step in range(4):
        _ = data[step]
    assert source.reads
    assert set(source.reads) <= set(rest.chosen)


def test_sources_without_objects_end_with_an_error():
    blank = Picture(
        name="b", image=np.zeros((80, 80, 3), np.uint8), labels=np.zeros((1, 80, 80), int)
    )
    with pytest.raises(InputError, match="blank: no object to learn from in 1000 crops"):
        _ = CropBatches([Share(source=Made((blank,), "blank"))], RECIPE)[0]


def test_errors_of_a_picture_reach_the_caller():
    @dataclass(frozen=True)
    class Broken(Made):
        def read(self, i: int) -> Picture:
            raise InputError("a.png: labels of another size")

    with pytest.raises(InputError, match=r"a\.png: labels of another size"):
        _ = CropBatches([Share(source=Broken((picture(),)))], RECIPE)[0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 12))
def test_the_cache_keeps_the_last_ones_that_fit(asked, limit):
    """Against a list of all keys asked for, the latest last."""
    unit = picture().image.nbytes + picture().labels.nbytes
    cache, loads, order = PictureCache(limit * unit), [], []
    room = max(1, limit)
    for key in asked:
        before = len(loads)
        found = cache.get(key, lambda k=key: loads.append(k) or picture(f"p{k}"))
        assert found.name == f"p{key}"
        assert (len(loads) == before) == (key in order[-room:])
        order = [*(k for k in order if k != key), key]
        assert len(cache) == min(room, len(order))
        assert cache.bytes == len(cache) * unit


def test_the_cache_is_bounded_by_bytes_and_forgets_the_oldest():
    size = picture().image.nbytes + picture().labels.nbytes
    cache, loads = PictureCache(2 * size), []

    def ask(key):
        cache.get(key, lambda: loads.append(key) or picture(key))

    for key in "abacab":
        ask(key)
    assert loads == ["a", "b", "c", "b"]
    assert (len(cache), cache.bytes) == (2, 2 * size)
    tiny = PictureCache(1)
    for key in "aab":
        tiny.get(key, lambda: loads.append("t") or picture())
    assert loads[4:] == ["t", "t"], "one picture is kept even if it does not fit"
    assert len(pickle.loads(pickle.dumps(cache))) == 0  # noqa: S301 our own bytes


@settings(deadline=None)
@given(
    hnp.arrays(np.uint32, (2, 6, 7), elements=st.sampled_from([0, 1, 5, 2**16, 2**31, 2**32 - 1]))
)
def test_small_ids_are_the_same_objects(labels):
    before = Picture(name="p", image=np.zeros((6, 7, 3), np.uint8), labels=labels)
    after = with_small_ids(before)
    assert after.labels.max() < 2**16
    assert after.objects == before.objects
    for old, new in zip(before.labels, after.labels, strict=True):
        assert np.array_equal(old == 0, new == 0)
        pairs = np.unique(np.stack([old.ravel(), new.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_large_ids_give_the_same_crops():
    small, large = (Made((picture(ids=ids),)) for ids in ((1, 2), (7, 2**32 - 1)))
    first, second = (CropBatches([Share(source=s)], RECIPE)[0] for s in (small, large))
    assert same(first, second)


def ramp(size=96):
    """Columns get lighter to the right and rows redder to the bottom; one object in the middle."""
    y, x = np.mgrid[:size, :size] * 2
    labels = np.zeros((1, size, size), np.uint16)
    labels[0, 20:70, 20:70] = 1
    image = np.stack([y, x, x], -1).astype(np.uint8)
    return Made((Picture(name="ramp", image=image, labels=labels),))


@pytest.mark.parametrize("upright", [True, False])
def test_upright_crops_are_mirrored_but_never_turned(upright, monkeypatch):
    monkeypatch.setattr("samplat_train.samples.recoloured", lambda image, rng: image)
    batches = CropBatches([Share(source=ramp(), upright=upright)], replace(RECIPE, images=12))
    images = torch.cat([batches[step].images for step in range(4)]).float()
    down = images[:, 0, 16:].mean((1, 2)) - images[:, 0, :-16].mean((1, 2))
    right = images[:, 1, :, 16:].mean((1, 2)) - images[:, 1, :, :-16].mean((1, 2))
    assert (right < -0.5).any()
    assert (right > 0.5).any()
    assert bool((down > 0.5).all()) == upright
    other = CropBatches([Share(source=ramp(), upright=not upright)], RECIPE)
    assert batches.digest != other.digest  # a run does not go on with the other


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 1.8), st.sampled_from([64, 128, 256]), st.integers(0, 999))
def test_crops_of_any_aspect_keep_their_area_and_their_labels(aspect, crop, seed):
    recipe = replace(RECIPE, crop=crop, image_size=512, aspect=aspect, images=1, seed=seed)
    rows, columns = recipe.crop_shape
    assert rows % 32 == columns % 32 == 0
    assert rows * columns == pytest.approx(crop**2, rel=0.6)
    batch = CropBatches([Share(source=ramp())], recipe)[0]
    assert batch.images.shape == (1, 3, rows, columns)
    assert batch.masks.shape == (1, 2, rows, columns)
    assert batch.labels.shape == (1, rows // 4, columns // 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aspect": 3.0}, "aspect must lie between 0.5 and 2"),
        ({"aspect": 1.5, "architecture": "vit_b", "crop": 512}, "be 1 but for conv"),
        ({"aspect": 2.0, "crop": 512}, "expected crops within the model's 704 x 704 pixels"),
    ],
)
def test_aspects_that_no_model_sees_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(RECIPE, image_size=512, **change)

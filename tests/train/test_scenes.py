"""Drawn scenes keep the promises that training relies on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplat_train.scenes import KINDS, Scene, draw_scene

SIZE = 192
MIN_VISIBLE = 30


def _draw(seed: int, kind: str | None = None, size: int = SIZE) -> Scene:
    return draw_scene(np.random.default_rng(seed), size=size, kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_draws_the_same_scene(kind: str) -> None:
    first, second = _draw(5, kind), _draw(5, kind)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_draw_other_scenes(kind: str) -> None:
    assert not np.array_equal(_draw(1, kind).image, _draw(2, kind).image)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from([*KINDS, None]))
def test_arrays_are_what_the_scene_promises(seed: int, kind: str | None) -> None:
    scene = _draw(seed, kind)
    assert scene.kind in KINDS
    assert kind in (None, scene.kind)
    assert scene.image.dtype == np.uint8
    assert scene.image.shape == (SIZE, SIZE, 3)
    assert scene.labels.dtype == np.uint16
    assert scene.labels.shape[1:] == (SIZE, SIZE)
    assert 1 <= len(scene.labels) <= 2
    for level in scene.labels:
        _assert_dense_and_visible(level)


def _assert_dense_and_visible(level: np.ndarray) -> None:
    counts = np.bincount(level.ravel())[1:]
    assert (counts >= MIN_VISIBLE).all(), "ids are dense and none is too small to see"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_objects_and_contrast(kind: str) -> None:
    scenes = [_draw(seed, kind, 256) for seed in range(4)]
    assert sum(int(scene.labels[0].max()) for scene in scenes) >= 4
    assert np.median([scene.image.std() for scene in scenes]) > 8


@pytest.mark.parametrize("kind", KINDS)
def test_parts_lie_on_objects(kind: str) -> None:
    nested = [s for s in (_draw(seed, kind, 256) for seed in range(6)) if len(s.labels) == 2]
    assert nested, "each kind draws parts now and then"
    on_objects = np.mean([(s.labels[0] > 0)[s.labels[1] > 0].mean() for s in nested])
    assert on_objects > 0.95


def test_every_kind_is_drawn_without_asking() -> None:
    assert {_draw(seed, size=64).kind for seed in range(50)} == set(KINDS)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="'etching'"):
        _draw(0, "etching")

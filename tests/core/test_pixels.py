from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.oracle import ArraySource
from samplat.errors import InputError
from samplat.pixels import (
    IdentityRescaler,
    ImageSource,
    PercentileRescaler,
    RangeRescaler,
    Stretch,
    as_uint8,
    to_rgb,
)


def test_stretch_maps_its_ends_and_clips() -> None:
    pixels = np.array([[[-5.0], [0.0], [50.0], [100.0], [np.inf], [np.nan]]])
    out = Stretch(low=(0.0,), high=(100.0,))(pixels, np.ones((1, 6), bool))
    assert out[..., 0].tolist() == [[0, 0, 128, 255, 255, 0]]


def test_stretch_blackens_invalid_pixels() -> None:
    out = Stretch(low=(0.0,), high=(1.0,))(np.ones((1, 2, 1)), np.array([[True, False]]))
    assert out[..., 0].tolist() == [[255, 0]]


def test_stretch_of_a_constant_image_is_finite() -> None:
    assert (
        Stretch(low=(3.0,), high=(3.0,))(np.full((1, 1, 1), 3.0), np.ones((1, 1), bool)).max() == 0
    )


def test_stretch_refuses_another_number_of_bands() -> None:
    with pytest.raises(InputError, match="1 bands, image of 2"):
        Stretch(low=(0.0,), high=(1.0,))(np.ones((1, 2)), np.ones(1, bool))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_percentiles_ignore_nodata(dtype: str) -> None:
    values = np.arange(1000, dtype=dtype).reshape(10, 100, 1)
    mask = np.ones((10, 100), bool)
    values[0], mask[0] = -1 if dtype != "uint16" else 65535, False
    stretch = PercentileRescaler().fit(ArraySource(values, mask), low=0, high=100)
    assert stretch == Stretch(low=(100.0,), high=(999.0,))


def test_percentiles_leave_uint8_alone_and_survive_emptiness() -> None:
    grey = np.zeros((2, 2, 1), np.uint8)
    assert PercentileRescaler().fit(ArraySource(grey)) == IdentityRescaler().fit(ArraySource(grey))
    nothing = ArraySource(np.ones((2, 2, 1)), np.zeros((2, 2), bool))
    assert PercentileRescaler().fit(nothing).low == (0.0,)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_ranges_are_taken_as_they_are(dtype: str) -> None:
    image = np.array([[[20, 40], [30, 60]]], dtype)
    for ranges in ([[20, 30]], [[20, 30], [40, 80]]):
        stretch = RangeRescaler().fit(ArraySource(image), ranges=ranges)
        out = stretch(image[None], np.ones((1, 1, 2), bool))[0, 0]
        assert out[:, 0].tolist() == [0, 255]
        assert out[:, 1].tolist() == ([255, 255] if len(ranges) == 1 else [0, 128])


@pytest.mark.parametrize("ranges", [[[5, 5]], [[0, 1]] * 3, [], [[0, np.nan]], [[9, 2], [0, 1]]])
def test_ranges_that_cannot_be_are_refused(ranges: list[list[float]]) -> None:
    with pytest.raises(InputError, match="expected"):
        RangeRescaler().fit(ArraySource(np.zeros((2, 2, 2))), ranges=ranges)


@pytest.mark.parametrize(
    ("dtype", "start"), [("int32", 2_000_000_000), ("float64", 1e12), ("uint32", 2**32 - 256)]
)
def test_small_differences_of_large_values_are_seen(dtype: str, start: float) -> None:
    ramp = (np.arange(256) + start).astype(dtype).reshape(1, 1, 256, 1)
    stretch = Stretch(low=(start,), high=(start + 255,))
    assert stretch(ramp, np.ones((1, 1, 256), bool)).ravel().tolist() == list(range(256))


def test_percentiles_must_be_in_order() -> None:
    with pytest.raises(InputError, match="low < high"):
        PercentileRescaler().fit(ArraySource(np.ones((2, 2, 1))), low=98, high=2)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 8])
def test_any_number_of_bands_becomes_three(bands: int) -> None:
    assert to_rgb(np.zeros((4, 5, bands), np.uint8)).shape == (4, 5, 3)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)])
def test_images_of_any_real_type_become_rgb(dtype: str, shape: tuple[int, ...]) -> None:
    out = as_uint8(np.ones(shape, dtype))
    assert out.shape == (*shape[:2], 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize(
    "image",
    [np.ones((2, 2), complex), np.ones(3), np.ones((0, 4)), np.ones((2, 2, 9)), np.array([["a"]])],
)
def test_other_arrays_are_refused(image: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        as_uint8(image)


def test_the_test_source_is_an_image_source() -> None:
    assert isinstance(ArraySource(np.ones((2, 2, 1))), ImageSource)

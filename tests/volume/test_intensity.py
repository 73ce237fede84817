from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samplat import InputError, Stretch
from samplat.pixels import PercentileRescaler, as_uint8
from samplat.prediction import embedding_key
from samplat_volume.intensity import PRESETS, WindowRescaler, parse_window
from samplat_volume.planes import plane_of
from samplat_volume.source import VolumeSource
from volume.scans import image_of, noise, write, write_series


@pytest.fixture
def scan(tmp_path: Path) -> VolumeSource:
    return VolumeSource(str(write(tmp_path / "a.nii", image_of(noise("int16", (12, 20, 17))))))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_centre_their_level(scan: VolumeSource, name: str) -> None:
    width, level = PRESETS[name]
    stretch = WindowRescaler().fit(scan, window=name)
    shown = np.array([level - width, level - width / 2, level, level + width / 2, level + width])
    grey = stretch(shown[None, None, :, None], np.ones((1, 1, 5), bool))[0, 0, :, 0]
    assert grey.tolist() == [0, 0, 128, 255, 255]


def test_numbers_instead_of_a_name(scan: VolumeSource) -> None:
    assert WindowRescaler().fit(scan, window="400,40") == Stretch(low=(-160.0,), high=(240.0,))
    assert parse_window("1500, -600") == PRESETS["lung"]


@pytest.mark.parametrize(
    "window", ["", "tissue", "400", "0,40", "-5,40", "nan,4", "1,2,3", "4,inf"]
)
def test_other_windows_are_refused(window: str) -> None:
    with pytest.raises(InputError, match="soft-tissue, lung, bone, brain, liver or W,L"):
        parse_window(window)


def test_a_window_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    values = noise("uint16") // 2 + 5000
    source = VolumeSource(str(write(tmp_path / "a.nii", image_of(values))))
    with pytest.raises(InputError, match="all would be black or white; windows are for CT"):
        WindowRescaler().fit(source)


@pytest.mark.parametrize("rescaler", [WindowRescaler(), PercentileRescaler()])
def test_a_voxel_looks_the_same_in_every_plane(
    scan: VolumeSource, rescaler: WindowRescaler | PercentileRescaler
) -> None:
    stretch = rescaler.fit(scan)
    views = []
    for name in ("z", "y", "x"):
        plane = plane_of(scan.geometry, name)
        slices = [plane.pixels(scan, k, stretch) for k in range(plane.count)]
        views.append(plane.unstacked(np.stack(slices)[..., 0]))
    assert np.array_equal(views[0], views[1])
    assert np.array_equal(views[0], views[2])
    assert len(np.unique(views[0])) > 20


def test_the_stretch_does_not_depend_on_what_was_read_before(tmp_path: Path) -> None:
    """A series starts slice by slice and becomes a block; its percentiles stay."""
    write_series(tmp_path, noise(shape=(40, 16, 16)))
    first, second = VolumeSource(str(tmp_path)), VolumeSource(str(tmp_path))
    plane = plane_of(second.geometry, "y")
    plane.read(second, 3)
    assert PercentileRescaler().fit(first) == PercentileRescaler().fit(second)


def test_the_window_is_in_the_key_of_each_embedding(tmp_path: Path) -> None:
    """Through the pixels that the model sees: another window is a miss, in every plane."""
    values = noise("int16", (12, 20, 17)) // 4
    write(tmp_path / "a.nii", image_of(values))
    model = SimpleNamespace(weights_sha256="w", precision="fp32")
    keys: dict[Any, set[tuple[str, str]]] = {}
    for window in ("liver", "150,30", "soft-tissue", "400,41", "bone"):
        source = VolumeSource(str(tmp_path / "a.nii"))  # as another process would
        stretch = WindowRescaler().fit(source, window=window)
        for name in ("z", "y", "x"):
            pixels = as_uint8(plane_of(source.geometry, name).pixels(source, 5, stretch))
            key = embedding_key(model, pixels)  # type: ignore[arg-type]  # these two are asked for
            keys.setdefault(key, set()).add((window, name))
    assert len(keys) == 4 * 3  # "liver" is 150,30
    assert {("liver", "y"), ("150,30", "y")} in keys.values()

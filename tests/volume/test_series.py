"""DICOM series: one regular stack, or an error that names the slice."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from samplat import InputError, Window
from samplat_volume.dicom_slices import Slice, read_folder, read_slices
from samplat_volume.series import assemble, choose_series
from samplat_volume.source import VolumeSource
from volume.scans import ORIGIN, SPACING, noise, write_series

HERE = Path("series")


@pytest.fixture(scope="module")
def brain(eval_data: Path) -> Path:
    return eval_data / "med_dicom_t1_nogt"


@pytest.fixture(scope="module")
def headers(brain: Path) -> list[Slice]:
    return read_folder(brain)


def refusal(slices: list[Slice], **options: Any) -> str:
    with pytest.raises(InputError) as error:
        assemble(slices, path=HERE, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_real_series_is_one_stack(headers: list[Slice]) -> None:
    series = assemble(headers, path=HERE, count=80)
    assert series.geometry.shape == (80, 384, 274)
    assert series.geometry.spacing == pytest.approx((0.6666667, 0.6666667, 0.6999878), rel=1e-6)
    assert [s.number for s in series.volumes[0]] == list(range(151, 231))
    assert not series.warnings


@pytest.mark.parametrize("which", range(80))
def test_each_missing_duplicate_and_truncated_slice_is_named(
    headers: list[Slice], tmp_path: Path, which: int
) -> None:
    lost = headers[which]
    others = headers[:which] + headers[which + 1 :]
    told = refusal(others, count=80)
    if 0 < which < 79:
        assert f"1 slice is missing (image {lost.number}) between" in told
        assert headers[which - 1].name in told
        assert headers[which + 1].name in told
        assert refusal(others) == told  # inside, no count is needed
    else:
        beside = headers[1].name if which == 0 else headers[78].name
        assert beside in told
        assert "missing before" in told

    twice = replace(lost, path=lost.path.with_name("copy.dcm"))
    told = refusal([*headers, twice])
    assert "copy.dcm" in told
    assert lost.path.name in told

    data = lost.path.read_bytes()
    cut = tmp_path / lost.path.name
    cut.write_bytes(data[: int(len(data) * (0.2 + 0.01 * which)) - 1])
    (shortened,) = read_slices(cut)
    assert lost.path.name in refusal([*others, shortened])


def test_a_slice_missing_at_an_end_needs_the_count(headers: list[Slice]) -> None:
    assert assemble(headers[1:], path=HERE).geometry.shape[0] == 79
    assert "79 slices, expected 80" in refusal(headers[1:], count=80)
    assert "has 80 slices, expected 79" in refusal(headers, count=79)


def test_shuffled_file_names_give_the_same_volume(brain: Path, tmp_path: Path) -> None:
    files = sorted(brain.iterdir())
    order = np.random.default_rng(0).permutation(len(files))
    for folder, names in (("a", range(80)), ("b", order)):
        (tmp_path / folder).mkdir()
        for file, name in zip(files, names, strict=True):
            shutil.copyfile(file, tmp_path / folder / f"{int(name):03}.dcm")
    one, other = (VolumeSource(str(tmp_path / folder)) for folder in "ab")
    assert one.geometry == other.geometry
    whole = Window(start=(0, 0, 0), stop=one.info.shape)
    assert np.array_equal(one.read(whole), other.read(whole))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(f) for f in files])
    assert np.array_equal(one.read(whole)[..., 0], sitk.GetArrayFromImage(reader.Execute()))


def test_overrides_are_told(
    headers: list[Slice], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gap = headers[:40] + headers[41:]
    with caplog.at_level(logging.WARNING):
        series = assemble(gap, path=HERE, allow_gaps=True)
    assert series.geometry.shape[0] == 79
    assert "image 191" in series.warnings[0]
    assert series.warnings[0] in caplog.text
    twice = [*headers, replace(headers[7], path=Path("copy.dcm"))]
    series = assemble(twice, path=HERE, allow_duplicates=True)
    assert series.geometry.shape[0] == 80
    assert "copy.dcm" in series.warnings[0] or headers[7].name in series.warnings[0]
    cut = [*headers[:5], replace(headers[5], missing=10), *headers[6:]]
    assert "image 156" in refusal(cut, allow_truncated=True)  # now it is a gap
    series = assemble(cut, path=HERE, allow_truncated=True, allow_gaps=True)
    assert len(series.warnings) == 2


def test_overrides_are_part_of_the_digest(tmp_path: Path) -> None:
    paths = write_series(tmp_path, noise())
    plain = VolumeSource(str(tmp_path)).digest
    paths[2].unlink()
    with pytest.raises(InputError, match=r"1 slice is missing \(image 3\)"):
        VolumeSource(str(tmp_path))
    source = VolumeSource(str(tmp_path), allow_gaps=True)
    assert source.info.shape[0] == 5
    assert source.digest != plain


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        ("Rows", 99, "another size than the others"),
        ("PixelSpacing", [0.75, 0.9], "another spacing than the others"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, 1], "another orientation than the others"),
        ("SamplesPerPixel", 3, "another samples than the others"),
    ],
)
def test_a_slice_unlike_the_others_is_named(
    tmp_path: Path, tag: str, value: Any, told: str
) -> None:
    paths = write_series(tmp_path, noise())
    data = pydicom.dcmread(paths[3])
    setattr(data, tag, value)
    data.PixelData = bytes(data.Rows * data.Columns * 2 * data.SamplesPerPixel)
    data.save_as(paths[3])
    with pytest.raises(InputError, match=f"{paths[3].name}.* has {told}"):
        VolumeSource(str(tmp_path))


def test_several_series_are_listed_and_chosen(tmp_path: Path) -> None:
    write_series(tmp_path, noise(), uid="1.2.3.5", SeriesDescription="first")
    write_series(tmp_path, noise(seed=1, shape=(4, 8, 9)), uid="1.2.3.6", SeriesDescription="other")
    listed = "holds 2 series.*1: CT first, 6 images, 1.2.3.5; 2: CT other, 4 images, 1.2.3.6"
    with pytest.raises(InputError, match=listed):
        VolumeSource(str(tmp_path))
    assert VolumeSource(str(tmp_path), series=2).info.shape == (4, 8, 9)
    assert VolumeSource(str(tmp_path), series="1.2.3.5").info.shape[0] == 6
    with pytest.raises(InputError, match="has no series 3; it holds 1: CT first"):
        VolumeSource(str(tmp_path), series=3)


@pytest.mark.parametrize("tag", ["EchoNumbers", "TemporalPositionIdentifier", "AcquisitionNumber"])
def test_several_volumes_of_one_place_are_channels(tmp_path: Path, tag: str) -> None:
    values = noise(shape=(2, 4, 8, 9))
    for phase in (0, 1):
        tags = {tag: 10 - phase}
        for path in write_series(tmp_path / str(phase), values[phase], start=1 + 4 * phase, **tags):
            path.rename(tmp_path / path.name)
    for folder in ("0", "1"):
        (tmp_path / folder).rmdir()
    with pytest.raises(InputError, match="channel=0 to 1"):
        VolumeSource(str(tmp_path))
    source = VolumeSource(str(tmp_path), channel=0)
    whole = Window(start=(0, 0, 0), stop=source.info.shape)
    assert np.array_equal(source.read(whole)[..., 0], values[1])  # the lower number first


def test_three_slices_suffice_to_find_a_gap(headers: list[Slice]) -> None:
    assert "image 153" in refusal([headers[0], headers[1], headers[3]])


def test_colours_by_palette_are_refused(tmp_path: Path) -> None:
    palette = {
        f"{name}PaletteColorLookupTable{part}": value
        for name in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [256, 0, 8]), ("Data", bytes(range(256))))
    }
    write_series(tmp_path, noise("uint8"), PhotometricInterpretation="PALETTE COLOR", **palette)
    with pytest.raises(InputError, match=r"dcm is decoded as .* expected grey values or RGB"):
        VolumeSource(str(tmp_path))


def test_colour_slices(tmp_path: Path) -> None:
    values = noise("uint8", (4, 8, 9, 3))
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    write_series(tmp_path, values, **tags)
    with pytest.raises(InputError, match="for colours"):
        VolumeSource(str(tmp_path))
    source = VolumeSource(str(tmp_path), channel=[0, 1, 2])
    assert np.array_equal(source.read(Window(start=(0, 0, 0), stop=(4, 8, 9))), values)


def test_uneven_and_shifted_slices(tmp_path: Path) -> None:
    def bent(z: int) -> list[float]:
        return [ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * z + (0.6 if z == 4 else 0)]

    write_series(tmp_path / "a", noise(), ImagePositionPatient=bent)
    with pytest.raises(InputError, match=r"not evenly spaced: usually 2.5 mm, but not between"):
        VolumeSource(str(tmp_path / "a"))

    def tilted(z: int) -> list[float]:
        return [ORIGIN[0], ORIGIN[1] + 0.8 * z, ORIGIN[2] + SPACING[0] * z]

    write_series(tmp_path / "b", noise(), ImagePositionPatient=tilted)
    with pytest.raises(InputError, match="gantry was tilted"):
        VolumeSource(str(tmp_path / "b"))

    write_series(tmp_path / "c", noise(), ImagePositionPatient=[0, 0, 0])
    with pytest.raises(InputError, match=r"lies at the same place|lie at one place"):
        VolumeSource(str(tmp_path / "c"))


def test_files_beside_a_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, noise())
    for name in ("README.txt", ".hidden", "DICOMDIR", "notes.json"):
        (tmp_path / name).write_text("nothing")
    assert VolumeSource(str(tmp_path)).info.shape[0] == 6
    whole = paths[2].read_bytes()
    for cut in (0, 50, 131, 140, 300, 500, 700):
        paths[2].write_bytes(whole[:cut])
        with pytest.raises(InputError, match=paths[2].name):
            VolumeSource(str(tmp_path))


def test_a_compressed_slice_that_is_cut_off(tmp_path: Path) -> None:
    paths = write_series(tmp_path, noise("uint8"))
    for path in paths:
        data = pydicom.dcmread(path)
        data.compress(pydicom.uid.RLELossless)
        data.save_as(path)
    source = VolumeSource(str(tmp_path))
    whole = Window(start=(0, 0, 0), stop=source.info.shape)
    assert np.array_equal(source.read(whole)[..., 0], noise("uint8"))
    encoded = paths[4].read_bytes()
    for cut in range(1, 200, 9):
        paths[4].write_bytes(encoded[:-cut])
        with pytest.raises(InputError, match=f"{paths[4].name}.*cut off"):
            VolumeSource(str(tmp_path))


def test_images_without_a_place_and_of_many_frames(tmp_path: Path) -> None:
    paths = write_series(tmp_path, noise())
    data = pydicom.dcmread(paths[0])
    del data.ImagePositionPatient
    data.save_as(paths[0])
    with pytest.raises(InputError, match="has no ImagePositionPatient"):
        VolumeSource(str(tmp_path))
    data = pydicom.dcmread(paths[1])
    data.NumberOfFrames, data.PixelData = 2, data.PixelData * 2
    data.save_as(paths[0])
    with pytest.raises(InputError, match="holds 2 frames in one file"):
        VolumeSource(str(tmp_path))
    with pytest.raises(InputError, match="is one slice; expected the folder of its series"):
        VolumeSource(str(paths[1]))


@pytest.mark.parametrize("spacing", [[0, 0.5], [float("nan"), 0.5], [-1, 1]])
def test_impossible_spacing(tmp_path: Path, spacing: Any) -> None:
    write_series(tmp_path, noise(), PixelSpacing=["0.5", "0.5"])
    slices = [replace(s, spacing=tuple(spacing)) for s in read_folder(tmp_path)]
    assert "001.dcm has a spacing of" in refusal(slices)
    stated = assemble(slices, path=HERE, spacing=(2, 1, 1))
    assert stated.geometry.spacing == (2, 1, 1)


def test_choosing_among_one(headers: list[Slice]) -> None:
    assert len(choose_series(headers, None, HERE)) == 80


def test_stated_spacing_hides_no_gap(headers: list[Slice]) -> None:
    gap = headers[:40] + headers[41:]
    assert "image 191" in refusal(gap, spacing=(1, 1, 1))

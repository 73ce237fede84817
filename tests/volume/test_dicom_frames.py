"""Enhanced DICOM: the frames of one file are slices like those of many files."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEGLSLossless, RLELossless

from samplat import InputError, Window
from samplat_volume.dicom_slices import read_slices
from samplat_volume.series import assemble
from samplat_volume.source import VolumeFactory, VolumeSource
from volume.scans import ORIGIN, SHAPE, SPACING, noise, write_enhanced, write_series

FILE = "IM_0001"
WHOLE = Window(start=(0, 0, 0), stop=SHAPE)


def voxels(path: Path, **options: Any) -> Any:
    source = VolumeSource(str(path), **options)
    return source.read(Window(start=(0, 0, 0), stop=source.info.shape))[..., 0]


def place(z: float) -> list[float]:
    return [ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * z]


@pytest.mark.parametrize(
    ("dtype", "syntax"),
    [
        ("uint8", None),
        ("int16", None),
        ("uint8", RLELossless),
        ("int16", RLELossless),
        ("uint8", JPEGLSLossless),
        ("uint16", JPEGLSLossless),
    ],
)
def test_one_file_and_its_folder_equal_a_series_of_files(
    tmp_path: Path, dtype: str, syntax: str | None
) -> None:
    values = noise(dtype, (6, 19, 17))  # an odd number of bytes
    write_series(tmp_path / "files", values)
    (tmp_path / "one").mkdir()
    path = write_enhanced(tmp_path / "one" / FILE, values, syntax=syntax)
    files = VolumeSource(str(tmp_path / "files"))
    for opened in (path, path.parent):
        assert VolumeFactory().accepts(str(opened))
        source = VolumeSource(str(opened))
        assert source.geometry == files.geometry
        assert np.array_equal(voxels(opened), values)
        few = Window(start=(2, 1, 3), stop=(4, 9, 11))  # frame by frame
        assert np.array_equal(source.read(few), files.read(few))


def test_jpeg_lossless_which_only_gdcm_knows(tmp_path: Path) -> None:
    """Most enhanced files from scanners; fragments of single files are put together here."""
    values, fragments = noise("uint16"), []
    for path in write_series(tmp_path / "files", values):
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(path))
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.ReadImage(str(path)))
        single = pydicom.dcmread(path)
        fragments.append(get_frame(single.PixelData, 0, number_of_frames=1))
    path = write_enhanced(tmp_path / FILE, values)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = single.file_meta.TransferSyntaxUID
    assert "JPEG Lossless" in data.file_meta.TransferSyntaxUID.name
    data.PixelData = encapsulate(fragments)
    data.save_as(path)
    assert np.array_equal(voxels(path), values)


@given(order=st.permutations(range(6)))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_frames_lie_where_they_say(tmp_path: Path, order: list[int]) -> None:
    values = noise()
    path = write_enhanced(tmp_path / FILE, values[order], positions=[place(z) for z in order])
    assert np.array_equal(voxels(path), values)
    assert VolumeSource(str(path)).geometry.origin == ORIGIN


def test_every_frame_has_its_own_slope(tmp_path: Path) -> None:
    """As of a PET; and none of it is lost in the type of the first frame."""

    def pet(z: int, group: Any) -> None:
        group.PixelValueTransformationSequence[0].RescaleSlope = 1 + z / 4
        group.PixelValueTransformationSequence[0].RescaleIntercept = -z

    values, z = noise("uint16"), np.arange(6)[:, None, None]
    path = write_enhanced(tmp_path / FILE, values, own=pet)
    assert np.array_equal(voxels(path), values * (1 + z / 4) - z)

    def ct(z: int, group: Any) -> None:
        group.PixelValueTransformationSequence[0].RescaleIntercept = -1024

    path = write_enhanced(tmp_path / FILE, values, own=ct, BitsStored=12, HighBit=11)
    assert np.array_equal(voxels(path), values.astype(int) - 1024)
    assert VolumeSource(str(path)).info.dtype == "int16"


def test_times_in_one_file_are_channels(tmp_path: Path) -> None:
    def time(i: int, group: Any) -> None:
        group.FrameContentSequence[0].TemporalPositionIndex = 2 - i % 2

    values = noise(shape=(8, 9, 10))
    path = write_enhanced(
        tmp_path / FILE, values, positions=[place(i // 2) for i in range(8)], own=time
    )
    with pytest.raises(InputError, match="2 numbers per voxel.*channel=0 to 1"):
        VolumeSource(str(path))
    assert np.array_equal(voxels(path, channel=0), values[1::2])
    assert np.array_equal(voxels(path, channel=1), values[::2])


@pytest.mark.parametrize("which", range(1, 5))
def test_each_missing_and_duplicate_frame_is_named(tmp_path: Path, which: int) -> None:
    kept = [z for z in range(6) if z != which]
    path = write_enhanced(tmp_path / FILE, noise()[kept], positions=[place(z) for z in kept])
    named = rf"between {FILE} \(frame {which}\) and {FILE} \(frame {which + 1}\)"
    with pytest.raises(InputError, match=f"1 slice is missing {named}"):
        VolumeSource(str(path))
    assert np.array_equal(voxels(path, allow_gaps=True), noise()[kept])

    twice = [*range(6), which]
    path = write_enhanced(tmp_path / FILE, noise()[twice], positions=[place(z) for z in twice])
    with pytest.raises(InputError, match=rf"frame 7\) lies at the same place as .*{which + 1}\)"):
        VolumeSource(str(path))
    assert np.array_equal(voxels(path, allow_duplicates=True), noise())


@pytest.mark.parametrize("syntax", [None, RLELossless])
@pytest.mark.parametrize("which", range(6))
def test_frames_that_are_cut_off_are_named(tmp_path: Path, which: int, syntax: str | None) -> None:
    path = write_enhanced(tmp_path / FILE, noise(), syntax=syntax)
    data, header = path.read_bytes(), read_slices(path)[0]
    end = header.start + (which + 1) * 17 * 20 * 2 - 1
    if syntax is not None:
        starts = range(header.start, len(data))
        fragments = [i for i in starts if data.startswith(b"\xfe\xff\x00\xe0", i)]
        end = (*fragments, len(data) - 8)[which + 2] - 1
    path.write_bytes(data[:end])
    lost = [s.number for s in read_slices(path) if s.missing]
    assert lost == list(range(which + 1, 7))
    with pytest.raises(InputError, match=rf"{FILE} \(frame {which + 1}\).* cut off"):
        VolumeSource(str(path))
    if which >= 2:
        kept = voxels(path, allow_truncated=True)
        assert np.array_equal(kept, noise()[:which])


@pytest.mark.parametrize("kind", ["enhanced", "slice"])
def test_a_file_that_is_cut_anywhere_is_never_read(tmp_path: Path, kind: str) -> None:
    if kind == "enhanced":
        path = opened = write_enhanced(tmp_path / FILE, noise())
    else:
        path, opened = write_series(tmp_path, noise())[2], tmp_path
    whole = path.read_bytes()
    anywhere = np.linspace(0, len(whole) - 1, 100).astype(int).tolist()
    for cut in (*range(160, 330, 3), *anywhere):  # in UIDs, which pydicom takes for whole ones
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=path.name) as error:
            VolumeSource(str(opened))
        assert "\n" not in str(error.value)


def test_one_frame_or_slice_is_a_picture(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / FILE, noise(shape=(1, 9, 8)))
    for opened, told in ((path, "is one slice"), (tmp_path, "holds 1 whole slice")):
        with pytest.raises(InputError, match=told):
            VolumeSource(str(opened))


def test_frames_without_a_place_say_what_to_do(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "a.dcm", noise())
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence, data.SharedFunctionalGroupsSequence
    data.save_as(path)
    with pytest.raises(InputError, match=r"6 frames in one file and no place .*\.tif or \.nii"):
        VolumeSource(str(path))

    def nowhere(z: int, group: Any) -> None:
        if z == 3:
            del group.PlanePositionSequence

    path = write_enhanced(tmp_path / "a.dcm", noise(), own=nowhere)
    with pytest.raises(InputError, match="no place for each .ImagePositionPatient"):
        VolumeSource(str(path))
    path = write_enhanced(tmp_path / "a.dcm", noise(), NumberOfFrames=7)
    with pytest.raises(InputError, match="7 frames in one file and no place for each"):
        VolumeSource(str(path))
    path = write_enhanced(tmp_path / "a.dcm", noise(), Rows=12)
    with pytest.raises(InputError, match="bytes of pixels more than the 17 x 12 x 6"):
        VolumeSource(str(path))


def test_turned_frames_and_files_of_frames_in_one_series(tmp_path: Path) -> None:
    def turned(z: int, group: Any) -> None:
        if z == 2:
            item = pydicom.Dataset()
            item.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
            group.PlaneOrientationSequence = pydicom.Sequence([item])

    path = write_enhanced(tmp_path / "a.dcm", noise(), own=turned)
    with pytest.raises(InputError, match=r"a.dcm \(frame 3\) has another orientation"):
        VolumeSource(str(path))
    values = noise(shape=(10, 9, 8))
    for name, part in (("a.dcm", slice(5, 10)), ("b.dcm", slice(0, 5))):
        places = [place(z) for z in range(10)[part]]
        write_enhanced(tmp_path / name, values[part], positions=places)
    series = assemble([s for n in "ab" for s in read_slices(tmp_path / f"{n}.dcm")], path=tmp_path)
    assert [s.path.name[0] + str(s.number) for s in series.volumes[0]] == [
        *(f"b{i}" for i in range(1, 6)), *(f"a{i}" for i in range(1, 6)),
    ]  # fmt: skip
    assert np.array_equal(voxels(tmp_path), values)


@pytest.mark.parametrize("frames", [-1, 10**9, 2**31 - 1])
def test_absurd_numbers_of_frames_are_refused_at_once(tmp_path: Path, frames: int) -> None:
    path = write_enhanced(tmp_path / "a.dcm", noise(), NumberOfFrames=frames)
    tracemalloc.start()
    before = time.perf_counter()
    with pytest.raises(InputError, match=f"claims {frames} frames"):
        VolumeSource(str(path))
    assert time.perf_counter() - before < 1
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()

"""DICOM files as they come: every way of storing pixels, and what else lies in a folder."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from samplat import InputError, Window
from samplat_volume import dicom_pixels
from samplat_volume.dicom_seg import DicomSegWriter
from samplat_volume.dicom_slices import read_folder
from samplat_volume.source import VolumeSource
from samplat_volume.writing import write_labels
from volume.labelled import grid
from volume.labelled import write_series as write_patient
from volume.scans import SHAPE, noise, write_series
from volume.test_dicom_frames import voxels


def changed(path: Path, change: Callable[[Any], None], **how: Any) -> None:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path, enforce_file_format=True, **how)


def as_syntax(uid: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        changed(path, lambda data: setattr(data.file_meta, "TransferSyntaxUID", uid))

    return apply


def big_endian(path: Path) -> None:
    data = pydicom.dcmread(path)
    data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(path, data, little_endian=False, implicit_vr=False, force_encoding=True)


def compressed(uid: str) -> Callable[[Path], None]:
    return lambda path: changed(path, lambda data: data.compress(uid))


def by_gdcm(compressor: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(path))
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(sitk.ReadImage(str(path)))

    return apply


SYNTAXES: dict[str, Callable[[Path], None]] = {
    "implicit": as_syntax(ImplicitVRLittleEndian),
    "deflated": as_syntax(DeflatedExplicitVRLittleEndian),
    "big-endian": big_endian,
    "rle": compressed(RLELossless),
    "jpeg-ls": compressed(JPEGLSLossless),
    "jpeg-lossless": by_gdcm("JPEG"),
    "jpeg-2000": by_gdcm("JPEG2000"),
}


@pytest.mark.parametrize("name", SYNTAXES)
def test_every_transfer_syntax_gives_the_same_voxels(tmp_path: Path, name: str) -> None:
    values = noise("uint16")
    paths = write_series(tmp_path, values)
    for path in paths[1::2]:  # beside plain ones: each file has its own
        SYNTAXES[name](path)
    before = pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID
    assert pydicom.dcmread(paths[1]).file_meta.TransferSyntaxUID != before
    assert np.array_equal(voxels(tmp_path), values)


def test_an_unknown_compression_is_an_error_before_any_work(tmp_path: Path) -> None:
    paths = write_series(tmp_path, noise())
    changed(paths[0], lambda data: data.compress(RLELossless))
    as_syntax(HTJ2KLossless)(paths[0])
    told = f"{paths[0].name} cannot be decoded from High-Throughput JPEG 2000.*gdcmconv --raw"
    with pytest.raises(InputError, match=told):
        VolumeSource(str(tmp_path))


@pytest.mark.parametrize("name", ["plain", "rle", "jpeg-lossless"])
def test_numbers_stay_what_they_measure_where_small_ones_are_bright(
    tmp_path: Path, name: str
) -> None:
    """GDCM turns MONOCHROME1 round, and Hounsfield units with it."""
    values = noise("uint16") % 2000
    tags = {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": -1024}
    paths = write_series(tmp_path, values, BitsStored=12, HighBit=11, **tags)
    for path in paths:
        if name == "rle":
            SYNTAXES[name](path)
        elif name == "jpeg-lossless":
            keep = pydicom.dcmread(path)
            keep.PhotometricInterpretation, keep.RescaleIntercept = "MONOCHROME2", 0
            keep.save_as(path)
            SYNTAXES[name](path)
            changed(path, lambda data: [setattr(data, k, v) for k, v in tags.items()])
    assert np.array_equal(voxels(tmp_path), values.astype(int) - 1024)
    changed(paths[2], lambda data: setattr(data, "PhotometricInterpretation", "MONOCHROME2"))
    with pytest.raises(InputError, match=f"{paths[2].name} .*another interpretation.*MONOCHROME2"):
        VolumeSource(str(tmp_path))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_signed_and_unsigned_pixels(tmp_path: Path, dtype: str) -> None:
    write_series(tmp_path, noise(dtype))
    assert np.array_equal(voxels(tmp_path), noise(dtype))
    assert VolumeSource(str(tmp_path)).info.dtype == dtype


def test_bits_beside_the_stored_ones_mean_nothing(tmp_path: Path) -> None:
    values = noise("uint16") % 4096
    write_series(tmp_path, values | 0xA000, BitsStored=12, HighBit=11)
    assert np.array_equal(voxels(tmp_path), values)


def test_a_slope_for_each_slice_does_not_decode_each_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = [], dicom_pixels.read_pixels
    monkeypatch.setattr(dicom_pixels, "read_pixels", lambda s: (opened.append(s), real(s))[1])
    values = noise("uint16")
    write_series(tmp_path, values, RescaleSlope=lambda z: f"{1 + z / 8}")
    source = VolumeSource(str(tmp_path))
    assert len(opened) <= 2  # whole numbers, and the others
    slopes = 1 + np.arange(SHAPE[0])[:, None, None] / 8
    assert np.array_equal(voxels(tmp_path), values * slopes)
    assert source.info.dtype == "float64"


def test_more_pixels_than_declared(tmp_path: Path) -> None:
    paths = write_series(tmp_path, noise())
    changed(paths[3], lambda data: setattr(data, "Rows", 12))
    with pytest.raises(InputError, match=f"{paths[3].name} holds 272 bytes .* more than the 17 x"):
        VolumeSource(str(tmp_path))


def test_images_without_a_place_are_left_aside_if_no_slice_is_among_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sheets of doses, screenshots, segmentations: beside a series, they are not of it."""
    geometry = grid(SHAPE)
    write_patient(tmp_path, geometry, values=noise("uint16"))
    (sheet,) = write_series(tmp_path, noise("uint8", (1, 9, 8)), uid="9.9")

    def forget(data: Any) -> None:
        data.SOPClassUID = SecondaryCaptureImageStorage
        del data.ImagePositionPatient, data.ImageOrientationPatient

    changed(sheet, forget)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 3:7, 4:9] = 1
    for kind in ("binary", "labelmap"):
        writer = DicomSegWriter(kind=kind)  # type: ignore[arg-type]  # one of its words
        path = tmp_path / f"{kind}.dcm"
        write_labels(path, labels, geometry, source=str(tmp_path), writer=writer)
    with caplog.at_level(logging.WARNING):
        source = VolumeSource(str(tmp_path))
    assert source.info.shape == SHAPE
    assert "9.9-001.dcm has no ImagePositionPatient" in caplog.text
    assert "binary.dcm is a segmentation" in caplog.text
    assert "labelmap.dcm is a segmentation" in caplog.text
    with pytest.raises(InputError, match="9.9-001.dcm has no ImagePositionPatient"):
        VolumeSource(str(tmp_path), series="9.9")
    with pytest.raises(InputError, match="is a segmentation or a mask"):
        VolumeSource(str(tmp_path / "binary.dcm"))
    changed(sheet, lambda data: setattr(data, "SeriesInstanceUID", "1.2.3.4"))
    with pytest.raises(InputError, match="9.9-001.dcm has no ImagePositionPatient"):
        VolumeSource(str(tmp_path))


def test_files_that_hold_no_image_are_passed_over(tmp_path: Path) -> None:
    """Reports, presentation states, contours; unless they are cut off, when nobody knows."""
    (report,) = write_series(tmp_path, noise(shape=(1, 9, 8)), uid="9.9")
    write_series(tmp_path, noise())
    data = pydicom.dcmread(report)
    del data.PixelData
    data.SOPClassUID = EnhancedSRStorage
    data.save_as(report)
    pydicom.dcmwrite(report, data, enforce_file_format=True)
    assert np.array_equal(voxels(tmp_path), noise())
    whole = report.read_bytes()
    at = whole.rindex(EnhancedSRStorage.encode())
    for cut in range(at - 4, at + len(EnhancedSRStorage), 3):
        report.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="9.9-001.dcm is cut off"):
            VolumeSource(str(tmp_path))


def test_scouts_are_another_series_or_named(tmp_path: Path) -> None:
    write_series(tmp_path, noise())
    scout = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "SeriesDescription": "scout"}
    (path,) = write_series(tmp_path, noise(shape=(1, 30, 31)), uid="5.5", **scout)
    with pytest.raises(InputError, match="2: CT scout, 1 images, 5.5"):
        VolumeSource(str(tmp_path))
    assert VolumeSource(str(tmp_path), series=1).info.shape == SHAPE
    changed(path, lambda data: setattr(data, "SeriesInstanceUID", "1.2.3.4"))
    with pytest.raises(InputError, match=f"{path.name} .* has another size than the others"):
        VolumeSource(str(tmp_path))


def test_axes_of_a_slice_that_are_not_at_right_angles(tmp_path: Path) -> None:
    write_series(tmp_path, noise(), ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0])
    with pytest.raises(InputError, match="axes that are not at right angles"):
        VolumeSource(str(tmp_path))


def test_a_slice_that_disappears(tmp_path: Path) -> None:
    paths = write_series(tmp_path, noise())
    source = VolumeSource(str(tmp_path))
    paths[4].unlink()
    with pytest.raises(InputError, match=f"{paths[4].name} has disappeared"):
        source.read(Window(start=(0, 0, 0), stop=SHAPE))


def test_files_before_dicom_part_10_say_so(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, noise(shape=(1, 9, 8)))
    data = pydicom.dcmread(path)
    data.file_meta, data.preamble = pydicom.dataset.FileMetaDataset(), None
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, implicit_vr=True, little_endian=True)
    path.write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="no DICOM file .*DICM"):
        read_folder(tmp_path)

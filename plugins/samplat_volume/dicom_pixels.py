"""Pixels of DICOM slices, decoded by GDCM, in the numbers that were measured."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError
from samplat_volume.dicom_slices import Slice
from samplat_volume.integrity import one_line, simpleitk
from samplat_volume.series import Series
from samplat_volume.stacks import Stack

INVERTED = "MONOCHROME1"
"""Small numbers are bright. GDCM turns such pixels round, whatever they measure."""

INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64)
"""Types of rescaled values: the first that holds what all stored numbers would become."""


def dicom_stack(series: Series, path: str) -> Stack:
    """The voxels of a series, slice by slice.

    Raises:
        InputError: it has several times of colours, or its compression is unknown here.
    """
    volumes = series.volumes
    samples = volumes[0][0].encoding.samples
    if len(volumes) > 1 and samples > 1:
        raise InputError(f"{path} has both colours and several times; expected one of them")
    dtype = _dtype(series)

    def plane(z: int) -> NDArray[Any]:
        parts = [read_pixels(volume[z]) for volume in volumes]
        return np.concatenate(parts, axis=-1).astype(dtype, copy=False)

    def every() -> Iterator[NDArray[Any]]:
        return (plane(z) for z in range(series.geometry.shape[0]))

    def key() -> str:
        stats = [(s.uid, s.frame, s.path.stat()) for volume in volumes for s in volume]
        told = repr([(uid, frame, s.st_size, s.st_mtime_ns) for uid, frame, s in stats])
        return hashlib.sha256(f"dicom {dtype} {told}".encode()).hexdigest()

    return Stack(
        name=path,
        key=key,
        shape=(len(volumes) if len(volumes) > 1 else samples, *series.geometry.shape),
        dtype=dtype,
        planes=every,
        plane=plane,
    )


def _dtype(series: Series) -> np.dtype[Any]:
    """A type that holds the values of all slices, whatever each one's slope.

    One slice of each way of storing is decoded, so that a compression that is unknown here is an
    error now; but not every slice of a PET, each of which has a slope of its own.
    """
    slices = [s for volume in series.volumes for s in volume]
    kinds = {(s.encoding, s.scale if _whole(s) else None, s.frames > 1): s for s in slices}
    return np.result_type(*(read_pixels(s).dtype for s in kinds.values()))


def _whole(one: Slice) -> bool:
    return all(number.is_integer() for number in one.scale)


def read_pixels(one: Slice) -> NDArray[Any]:
    """The rescaled values (y, x, component) of a slice.

    Raises:
        InputError: they cannot be decoded.
    """
    if one.frames == 1 and one.encoding.photometric != INVERTED:
        values = _decoded(one, one.path)
    else:
        values = _rescaled(_stored(one), one)
    if values.size != one.encoding.samples * one.size[0] * one.size[1]:
        raise InputError(
            f"{one.path} is decoded as {values.shape} values, its header tells {one.size} of "
            f"{one.encoding.samples}; expected grey values or RGB: convert it first"
        )
    return values.reshape(*one.size, one.encoding.samples)


def _decoded(one: Slice, path: Path) -> NDArray[Any]:
    itk = simpleitk()
    try:
        image = itk.ReadImage(str(path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        if not one.path.is_file():
            raise InputError(f"{one.path} has disappeared; put it back") from error
        raise InputError(
            f"{one.path} cannot be decoded{_syntax(one)}: {one_line(error)}"
        ) from error
    values: NDArray[Any] = itk.GetArrayFromImage(image)
    return values


def _syntax(one: Slice) -> str:
    """What to do about a compression, in brackets."""
    from pydicom.uid import UID

    syntax = UID(one.encoding.syntax)
    if not syntax.is_transfer_syntax or not syntax.is_compressed:
        return ""
    return (
        f" from {syntax.name}; expected JPEG, JPEG-LS, JPEG 2000 or RLE of whole images: decompress"
        " it with gdcmconv --raw or dcmdjpeg"
    )


def _stored(one: Slice) -> NDArray[Any]:
    """Numbers as stored: through a file of one frame that says nothing of rescaling."""
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder) / "frame.dcm"
        try:
            _write_single(one, single)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{one.path}: {one.name} cannot be read: {error}") from error
        return _decoded(one, single)


def _write_single(one: Slice, path: Path) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    encoding = one.encoding
    meta = FileMetaDataset()
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "2.25.1"
    data.Rows, data.Columns = one.size
    data.BitsAllocated, data.BitsStored, data.HighBit = encoding.bits
    data.PixelRepresentation, data.SamplesPerPixel = int(encoding.signed), encoding.samples
    data.PhotometricInterpretation = encoding.photometric.replace(INVERTED, "MONOCHROME2")
    if encoding.samples > 1:
        data.PlanarConfiguration = encoding.planar
    pixels = _bytes(one)
    compressed = _is_compressed(one)
    meta.TransferSyntaxUID = encoding.syntax if compressed else ExplicitVRLittleEndian
    data.PixelData = encapsulate([pixels]) if compressed else pixels + bytes(len(pixels) % 2)
    data["PixelData"].VR = "OB" if compressed or encoding.bits[0] == 8 else "OW"
    data.save_as(path, enforce_file_format=True)


def _is_compressed(one: Slice) -> bool:
    from pydicom.uid import UID

    syntax = UID(one.encoding.syntax or "1.2.840.10008.1.2")
    return bool(syntax.is_encapsulated)


def _bytes(one: Slice) -> bytes:
    """One frame of a file: its bytes in little endian, or its part of the compressed stream."""
    from pydicom import dcmread
    from pydicom.encaps import get_frame
    from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

    length = one.size[0] * one.size[1] * one.encoding.samples * one.encoding.bits[0] // 8
    if one.encoding.syntax == DeflatedExplicitVRLittleEndian:
        whole: bytes = dcmread(one.path).PixelData
        return whole[one.frame * length : (one.frame + 1) * length]
    with one.path.open("rb") as file:
        if _is_compressed(one):
            file.seek(one.start)
            frame: bytes = get_frame(file, one.frame, number_of_frames=one.frames)
            return frame
        file.seek(one.start + one.frame * length)
        pixels = file.read(length)
    if len(pixels) < length:
        raise EOFError(f"{len(pixels)} of {length} bytes are there")
    swapped = UID(one.encoding.syntax or "1.2.840.10008.1.2") == ExplicitVRBigEndian
    width = one.encoding.bits[0] // 8
    return np.frombuffer(pixels, f">u{width}").astype(f"<u{width}").tobytes() if swapped else pixels


def _rescaled(stored: NDArray[Any], one: Slice) -> NDArray[Any]:
    """Values, in integers where slope and intercept are."""
    slope, intercept = one.scale
    if one.scale == (1.0, 0.0):
        return stored
    if not _whole(one):
        return stored * slope + intercept
    _, bits, _ = one.encoding.bits
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if one.encoding.signed else (0, 2**bits)
    ends = sorted(int(slope) * end + int(intercept) for end in (low, high - 1))
    kind = next(k for k in INTEGERS if np.iinfo(k).min <= ends[0] and ends[1] <= np.iinfo(k).max)
    return (stored.astype(np.int64) * int(slope) + int(intercept)).astype(kind)

"""Small volumes, written in every format by the libraries of those formats."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

SHAPE = (6, 20, 17)
SPACING = (2.5, 0.75, 0.5)  # z, y, x
ORIGIN = (-10.25, 33.5, 7.125)


def noise(dtype: str = "int16", shape: tuple[int, ...] = SHAPE, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 300, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -2000), min(info.max, 3000), shape).astype(dtype)


def oblique(seed: int = 3) -> NDArray[np.float64]:
    """A rotation about no axis in particular."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def image_of(
    values: NDArray[Any], direction: NDArray[np.float64] | None = None, *, vector: bool = False
) -> sitk.Image:
    image = sitk.GetImageFromArray(values, isVector=vector)
    if image.GetDimension() == 3:
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin(ORIGIN)
        image.SetDirection((np.eye(3) if direction is None else direction).ravel().tolist())
    return image


def write(path: Path, image: sitk.Image, *, compress: bool = False) -> Path:
    if path.name.endswith(".gipl.gz"):
        plain = path.with_suffix("")
        sitk.WriteImage(image, str(plain))
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
        return path
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


def write_series(
    folder: Path, values: NDArray[Any], *, uid: str = "1.2.3.4", start: int = 1, **tags: Any
) -> list[Path]:
    """A series of CT slices (z, y, x), explicit little endian, one file each."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for z, plane in enumerate(values):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{uid}.{start + z}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, f"{uid}.{start + z}"
        data.SeriesInstanceUID, data.StudyInstanceUID = uid, "1.2.3"
        data.Modality, data.SeriesDescription = "CT", "synthetic"
        data.InstanceNumber = start + z
        data.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * z]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
        data.Rows, data.Columns = plane.shape[:2]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8 * values.dtype.itemsize
        data.HighBit = data.BitsStored - 1
        data.PixelRepresentation = int(values.dtype.kind == "i")
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        for name, value in tags.items():
            setattr(data, name, value(z) if callable(value) else value)
        data.PixelData = plane.tobytes()
        paths.append(folder / f"{uid}-{start + z:03}.dcm")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(
    path: Path,
    values: NDArray[Any],
    *,
    positions: Sequence[Sequence[float]] | None = None,
    own: Callable[[int, Any], None] = lambda z, group: None,
    syntax: str | None = None,
    **tags: Any,
) -> Path:
    """One file of a frame per plane (z, y, x): an enhanced CT, place and slope told by its groups.

    Args:
        path: of the file.
        values: stored numbers.
        positions: of the frames; otherwise from the first upwards.
        own: changes the group of a frame.
        syntax: lossless compression; otherwise none.
        tags: of the whole file.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.sequence import Sequence as Items
    from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

    def group(**inside: Any) -> Any:
        item = Dataset()
        for name, value in inside.items():
            setattr(item, name, value)
        return Items([item])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = EnhancedCTImageStorage, "1.2.9"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = EnhancedCTImageStorage, "1.2.9"
    data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = "1.2.8", "1.2.3", "CT"
    data.SeriesDescription, data.FrameOfReferenceUID = "enhanced", "1.2.7"
    data.NumberOfFrames, data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * values.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=list(SPACING[1:]), SliceThickness=SPACING[0])
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    data.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for z in range(len(values)):
        item = Dataset()
        upwards = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * z]
        place = positions[z] if positions is not None else upwards
        item.PlanePositionSequence = group(ImagePositionPatient=list(place))
        item.PixelValueTransformationSequence = group(RescaleSlope=1, RescaleIntercept=0)
        item.FrameContentSequence = group(TemporalPositionIndex=1)
        own(z, item)
        frames.append(item)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    data.PixelData = values.tobytes()
    if syntax is not None:
        data.compress(syntax, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return path

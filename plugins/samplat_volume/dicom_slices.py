"""Headers of DICOM files: what each slice says of itself, before any pixel is decoded.

A file is a slice, or holds many: the frames of an enhanced CT, MR or PET image (PS3.3, C.7.6.16)
are slices like others. What cannot be a slice of a volume says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samplat import InputError
from samplat_volume.dicom_bytes import PixelBytes, bytes_of_frame, frames_of, pixel_bytes

PADDING = 64
"""Bytes after the pixels that mean nothing; as many as a row has, and the header is wrong."""
OTHER_FILES = (".txt", ".md", ".json", ".xml", ".csv", ".tsv", ".pdf", ".html", ".nii", ".gz",
               ".nrrd", ".png", ".jpg", ".bval", ".bvec", ".zip", ".log", ".py", ".sh", ".yaml",
               ".yml", ".mha", ".mhd", ".raw")  # fmt: skip
"""What may lie in a folder beside a series; anything else has to be DICOM."""
PHASES: Mapping[str, tuple[str, str]] = {
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "EchoNumbers": ("MREchoSequence", "EffectiveEchoTime"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
}
"""Tags that tell the volumes of a series apart where it has several of one place, and what they are
called in the frames of an enhanced image: sequence, tag."""
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber",
    "Modality", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PhotometricInterpretation", "PlanarConfiguration",
    "RescaleSlope", "RescaleIntercept", *PHASES, *GROUPS,
)  # fmt: skip
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of segmentations, in bits and in numbers."""
PLACE: Mapping[str, str] = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}
"""What tells the place of a slice, and the sequence that holds it for a frame."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the pixels of a file are stored."""

    syntax: str = ""
    """UID of the transfer syntax; nothing for files that do not say."""
    bits: tuple[int, int, int] = (16, 16, 15)
    """Bits allocated, bits stored, highest bit."""
    signed: bool = False
    """True: two's complement."""
    samples: int = 1
    """Numbers per pixel; 3 for colours."""
    photometric: str = "MONOCHROME2"
    """What they mean; of MONOCHROME1 small numbers are bright."""
    planar: int = 0
    """1: colour by colour."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What a header says of one image: a file, or a frame of one."""

    path: Path
    """The file."""
    uid: str
    """Its SOPInstanceUID."""
    series: str
    """Its SeriesInstanceUID."""
    description: str
    """Modality and name of the series, for people."""
    number: int | None = None
    """Its InstanceNumber; of a frame, its number from 1."""
    position: tuple[float, ...] = ()
    """ImagePositionPatient: LPS mm of the centre of its first pixel."""
    orientation: tuple[float, ...] = ()
    """ImageOrientationPatient: directions along a row, then along a column."""
    spacing: tuple[float, float] = (1.0, 1.0)
    """PixelSpacing: mm between rows, between columns."""
    size: tuple[int, int] = (0, 0)
    """Rows and columns."""
    encoding: Encoding = Encoding()
    """How its pixels are stored."""
    scale: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept that turn a stored number into a value."""
    phase: tuple[str, ...] = ()
    """Values of `PHASES`."""
    missing: int = 0
    """Bytes of pixels that it ought to have and has not."""
    frame: int = 0
    """Index among the frames of the file."""
    frames: int = 1
    """Frames of the file."""
    start: int = 0
    """Byte of the file at which its pixels begin, those of all frames."""
    fault: str = ""
    """Why it is no slice of a volume, with the file's name; nothing if it may be one."""

    @property
    def name(self) -> str:
        """The file's name with its number."""
        kind = "image" if self.frames == 1 else "frame"
        number = "" if self.number is None else f" ({kind} {self.number})"
        return f"{self.path.name}{number}"


def read_folder(path: Path) -> list[Slice]:
    """The headers of all images of a folder, or of one file, in order of file name.

    Raises:
        InputError: a file is neither DICOM nor known to be something else, or there is none.
    """
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if _may_be_slice(p))
    slices = [one for file in files for one in read_slices(file)]
    if not slices:
        raise InputError(f"{path} holds no DICOM images; expected the files of a series")
    return slices


def _may_be_slice(path: Path) -> bool:
    name = path.name.lower()
    ours = not name.startswith(".") and name != "dicomdir" and not name.endswith(OTHER_FILES)
    return ours and path.is_file()


def read_slices(path: Path) -> list[Slice]:
    """What the header of a file says, frame by frame; nothing of a file that holds no image.

    Raises:
        InputError: it is cut off, or no DICOM.
        OSError: it is gone, or may not be read.
    """
    import pydicom

    # odd values of tags are no reason to talk; they are converted when they are asked for
    with pydicom.config.disable_value_validation():
        return _read(path)


def _read(path: Path) -> list[Slice]:
    import pydicom

    try:
        with path.open("rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
            pixels = pixel_bytes(file, header)
    except (FileNotFoundError, PermissionError):
        raise
    except (
        pydicom.errors.InvalidDicomError,
        AttributeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
    ) as error:
        raise InputError(
            f"{path} is cut off or no DICOM file ({error}); copy it again, or move it elsewhere"
        ) from error
    if pixels is None:
        if _has_pixels(header):
            raise InputError(f"{path} is cut off before its pixels; copy it again")
        return []
    try:
        return list(_slices(path, header, pixels))
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path} has an unusable header: {error}; export it again") from error


def _has_pixels(header: Any) -> bool:
    """Whether a file ought to; also where it is cut off before it says what it is.

    pydicom takes the beginning of a UID for a UID, so those that are told twice have to agree.
    """
    meta = header.file_meta
    told = (header.get("SOPClassUID"), header.get("SOPInstanceUID"))
    twice = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
    return told[0] is None or told != twice or "Image Storage" in told[0].name


def _slices(path: Path, header: Any, pixels: PixelBytes) -> Iterator[Slice]:
    common = _common(path, header, pixels)
    if fault := _fault(path, header, pixels):
        yield replace(common, fault=fault)
    elif frames_of(header) == 1 and not header.get(GROUPS[1]):
        yield _only(common, header, pixels)
    else:
        yield from _frames(common, header, pixels)


def _common(path: Path, header: Any, pixels: PixelBytes) -> Slice:
    """What all frames of a file share."""
    texts = (header.get("Modality", "?"), header.get("SeriesDescription", "without description"))
    return Slice(
        path=path,
        uid=str(header.get("SOPInstanceUID", "")),
        series=str(header.get("SeriesInstanceUID", "")),
        description=" ".join(map(str, texts)),
        size=(int(header.Rows), int(header.Columns)),
        encoding=_encoding(header),
        frames=frames_of(header),
        start=pixels.start,
    )


def _encoding(header: Any) -> Encoding:
    allocated = int(header.BitsAllocated)
    stored = int(header.get("BitsStored") or allocated)
    return Encoding(
        syntax=str(header.file_meta.get("TransferSyntaxUID", "")),
        bits=(allocated, stored, int(header.get("HighBit") or stored - 1)),
        signed=bool(header.get("PixelRepresentation", 0)),
        samples=int(header.get("SamplesPerPixel", 1)),
        photometric=str(header.get("PhotometricInterpretation", "MONOCHROME2")),
        planar=int(header.get("PlanarConfiguration") or 0),
    )


def _fault(path: Path, header: Any, pixels: PixelBytes) -> str:
    """Why an image cannot be of a volume."""
    frames = frames_of(header)
    if header.get("SOPClassUID") in SEGMENTATIONS or int(header.BitsAllocated) < 8:
        return f"{path} is a segmentation or a mask; expected the image it is of"
    if (lost := _placeless(header)) and frames > 1:
        return (
            f"{path} holds {frames} frames in one file and no place for each ({lost}); expected "
            "enhanced CT, MR or PET: write it as .tif or .nii with another program, and state its "
            "spacing"
        )
    if lost:
        return (
            f"{path} has no {lost}, so its place is unknown; expected slices of CT, MR or PET: "
            "move it elsewhere"
        )
    row = bytes_of_frame(header) // max(1, int(header.Rows))
    if pixels.surplus >= max(PADDING, row):
        return (
            f"{path} holds {pixels.surplus} bytes of pixels more than the {header.Columns} x "
            f"{header.Rows} x {frames} that its header declares; export it again"
        )
    return ""


def _placeless(header: Any) -> str:
    """The first of `PLACE` that is not told of every frame."""
    frames = header.get(GROUPS[1]) or ()
    if not frames and frames_of(header) == 1:
        return next((tag for tag in PLACE if not header.get(tag)), "")
    groups = [dict(zip(PLACE, _places(own, header), strict=True)) for own in frames]
    if len(groups) != frames_of(header):
        return GROUPS[1]
    return next((tag for tag in PLACE if not all(group[tag] for group in groups)), "")


def _places(own: Any, header: Any) -> list[Any]:
    return [_of_frame(own, header, sequence, tag) for tag, sequence in PLACE.items()]


def _of_frame(own: Any, header: Any, sequence: str, tag: str) -> Any:
    """A value of one frame: its own, or the one that all share; None if it is told nowhere."""
    for groups in (own, *(header.get(GROUPS[0]) or ())):
        for item in groups.get(sequence) or ():
            if item.get(tag) is not None:
                return item.get(tag)
    return None


def _only(common: Slice, header: Any, pixels: PixelBytes) -> Slice:
    return replace(
        _placed(common, *(header.get(tag) for tag in PLACE)),
        number=_number(header),
        scale=_scale(header.get("RescaleSlope"), header.get("RescaleIntercept")),
        phase=tuple(str(header.get(tag, "")) for tag in PHASES),
        missing=pixels.missing[0],
    )


def _number(header: Any) -> int | None:
    number = header.get("InstanceNumber")
    return None if number is None else int(number)


def _frames(common: Slice, header: Any, pixels: PixelBytes) -> Iterator[Slice]:
    for index, own in enumerate(header.get(GROUPS[1])):
        slope, intercept = (
            _of_frame(own, header, "PixelValueTransformationSequence", tag)
            for tag in ("RescaleSlope", "RescaleIntercept")
        )
        phase = (_of_frame(own, header, *place) for place in PHASES.values())
        yield replace(
            _placed(common, *_places(own, header)),
            number=_number(header) if common.frames == 1 else index + 1,
            scale=_scale(slope, intercept),
            phase=tuple("" if value is None else str(value) for value in phase),
            missing=pixels.missing[index],
            frame=index,
        )


def _placed(one: Slice, position: Any, orientation: Any, spacing: Any) -> Slice:
    rows, columns = map(float, spacing)
    return replace(
        one,
        position=tuple(map(float, position)),
        orientation=tuple(map(float, orientation)),
        spacing=(rows, columns),
    )


def _scale(slope: Any, intercept: Any) -> tuple[float, float]:
    return (
        1.0 if slope in (None, "") else float(slope),
        0.0 if intercept in (None, "") else float(intercept),
    )

"""The images that a DICOM Segmentation is of: found by their place, checked before any work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samplat import InputError, SourceSpec
from samplat_volume.dicom_slices import Slice, read_folder
from samplat_volume.geometry import Geometry
from samplat_volume.series import choose_series

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TOLERANCE = 0.02
"""How far a slice may lie from where the labels have it, in slice distances."""

MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
)
"""Attributes that every image has to have, if only without a value; anonymisers remove some."""

NEEDED = ("StudyInstanceUID", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID")
"""Attributes without which an image cannot be referenced."""

INSTEAD = "choose .nii.gz, .nrrd or .mha"


def check_series(source: SourceSpec | None) -> None:
    """Refuse what DICOM SEG could not reference, from headers alone.

    Raises:
        InputError: no DICOM series, several enhanced files, or an image without an attribute that
            a reference needs.
    """
    slices = _read(source)
    chosen = None if source is None else source.options.get("series")
    series = choose_series(slices, chosen, slices[0].path.parent)
    for header in _headers(series, only_needed=True):
        _check_needed(header)


def source_slices(source: SourceSpec | None, geometry: Geometry) -> list[Slice]:
    """The slices of the series that a volume was read from, in the volume's order.

    They are told by their positions: neither names nor instance numbers decide.

    Args:
        source: its path is the folder of the series, and maybe of others, or an enhanced file; one
            of its options may be a UID, which decides where several series lie in one place.
        geometry: of the volume.

    Raises:
        InputError: no series has its slices where the volume has them, or several have.
    """
    series: dict[str, list[Slice]] = defaultdict(list)
    slices = _read(source)
    for one in slices:
        if not one.fault:
            series[one.series].append(one)
    fitting = {uid: found for uid, all_ in series.items() if (found := _matched(all_, geometry))}
    chosen = set(map(str, source.options.values())) if source else set[str]()
    uids = fitting.keys() & chosen or fitting.keys()
    if len(uids) != 1:
        raise InputError(
            f"expected one series in {slices[0].path.parent} with its slices where the labels "
            f"have them, got {len(uids)} of {len(series)}; choose one series by its UID"
        )
    return fitting[next(iter(uids))]


def referenced(slices: Sequence[Slice], geometry: Geometry) -> list[Dataset]:
    """Whole headers of the files of slices, with what a reference to them takes.

    Raises:
        InputError: something is missing that cannot be made up.
    """
    headers = _headers(slices)
    for header in headers:
        _check_needed(header)
        _complete(header, geometry)
    return headers


def _read(source: SourceSpec | None) -> list[Slice]:
    path = None if source is None else Path(source.path)
    try:
        if path is not None and path.exists():
            slices = read_folder(path)
            alone = path.is_file() and len(slices) == 1
            return read_folder(path.parent) if alone else slices
    except InputError as error:
        raise InputError(f"{_no_series(path)} ({error})") from error
    raise InputError(_no_series(path))


def _no_series(path: Path | None) -> str:
    return (
        "DICOM SEG references the series that it was made from, and "
        f"{path or 'an array'} is no DICOM series; {INSTEAD}"
    )


def _headers(slices: Sequence[Slice], *, only_needed: bool = False) -> list[Dataset]:
    import pydicom

    tags = list(NEEDED) if only_needed else None
    files = list(dict.fromkeys(one.path for one in slices))
    if len(files) > 1 and slices[0].frames > 1:
        raise InputError(
            f"{files[0].parent} holds {len(files)} files of many frames; DICOM SEG references one "
            f"such file, or files of one slice each: {INSTEAD}"
        )
    return [pydicom.dcmread(f, stop_before_pixels=True, specific_tags=tags) for f in files]


def _check_needed(header: Dataset) -> None:
    for name in NEEDED:
        if not header.get(name):
            raise InputError(
                f"{header.filename} has no {name}, by which DICOM SEG would reference it; {INSTEAD}"
            )


def _complete(header: Dataset, geometry: Geometry) -> None:
    """Give a header what a reference to it takes; the file is left as it is."""
    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if "SliceThickness" not in header:
        header.SliceThickness = f"{geometry.spacing[0]:.10g}"
    own = header.get("PerFrameFunctionalGroupsSequence")
    if not own:
        return
    (shared,) = header.get("SharedFunctionalGroupsSequence") or _shared(header)
    # every frame lies alike, or it would be no volume; some files say so in each
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            shared[name] = own[0][name]
    if "SliceThickness" not in shared.PixelMeasuresSequence[0]:
        shared.PixelMeasuresSequence[0].SliceThickness = f"{geometry.spacing[0]:.10g}"


def _shared(header: Dataset) -> Any:
    from pydicom.dataset import Dataset

    header.SharedFunctionalGroupsSequence = [Dataset()]
    return header.SharedFunctionalGroupsSequence


def _matched(slices: Sequence[Slice], geometry: Geometry) -> list[Slice] | None:
    """One slice per plane; None where a plane has none, or the slices are others."""
    lying = [s for s in slices if _lies_alike(s, geometry)]
    if len(lying) < geometry.shape[0]:
        return None
    positions = np.array([s.position for s in lying], np.float64)
    first = np.zeros((geometry.shape[0], 3))
    first[:, 0] = np.arange(geometry.shape[0])
    away = np.linalg.norm(geometry.to_physical(first)[:, None] - positions, axis=2)
    nearest = away.argmin(axis=1)
    if away.min(axis=1).max() > TOLERANCE * geometry.spacing[0]:
        return None
    return [lying[i] for i in nearest]


def _lies_alike(one: Slice, geometry: Geometry) -> bool:
    axes = np.concatenate([geometry.direction[:, 0], geometry.direction[:, 1]])
    return (
        one.size == geometry.shape[1:]
        and np.allclose(one.orientation, axes, atol=1e-4)
        and np.allclose(one.spacing, geometry.spacing[1:], rtol=1e-3)
    )


def frames_of(slices: Iterable[Slice]) -> list[Any] | None:
    """Positions of slices that are frames of one file; None where each is a file of its own."""
    from highdicom import PlanePositionSequence

    planes = list(slices)
    if planes[0].frames == 1:
        return None
    return [PlanePositionSequence("PATIENT", one.position) for one in planes]

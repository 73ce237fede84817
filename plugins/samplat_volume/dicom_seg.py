"""DICOM Segmentation objects that reference the series they were made from."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from samplat import HOLE, InputError, JobResult, SourceSpec, check_file, replacing
from samplat_volume.geometry import Geometry
from samplat_volume.labels import LabelVolume, of_result

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MOST_SEGMENTS = 65_535
"""Segment numbers are 16 bits wide."""

MOST_BINARY_FRAMES = 4096
"""Beyond that, `auto` writes a label map: of every object, each slice it is in is a frame."""

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

SegmentationKind = Literal["auto", "binary", "labelmap"]
Coded = tuple[str, str, str]
"""Code value, coding scheme, meaning: ("10200004", "SCT", "Liver")."""

TISSUE: Coded = ("85756007", "SCT", "Tissue")
HOLE_CODE: Coded = ("hole", "99SAMPLAT", "Not segmented")


@dataclass(frozen=True, kw_only=True)
class DicomSegWriter:
    """One segment per object, labelled and tracked by its id; opens in readers of DICOM SEG.

    Tiles that failed are a last segment "not segmented": there is no other word for them.
    """

    name: str = "dicom-seg"
    suffixes: tuple[str, ...] = (".dcm",)
    kind: SegmentationKind = "auto"
    """binary: a frame of bits per object and slice; labelmap: one frame of numbers per slice, of
    DICOM 2024, which older readers do not know; auto: binary unless it has too many frames."""
    category: Coded = TISSUE
    """What kind of thing the objects are."""
    property_type: Coded = TISSUE
    """What they are."""
    algorithm_type: Literal["AUTOMATIC", "SEMIAUTOMATIC"] = "SEMIAUTOMATIC"
    """Whether a person had a hand in it."""

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def check_source(self, source: SourceSpec | None) -> None:
        """Refuse, before any long work, an image that is no DICOM series.

        Raises:
            InputError: that.
        """
        _series_folder(source)

    def export(self, result: JobResult, output: Path) -> None:
        """Write the labels of a job."""
        self.write(of_result(result), output)

    def write(self, volume: LabelVolume, output: Path) -> None:
        """Write labels.

        Raises:
            InputError: the source is no DICOM series, or not that of these labels; or there are
                more objects than the format can number.
        """
        folder = _series_folder(volume.source)
        if not len(volume.ids) + volume.has_holes <= MOST_SEGMENTS:
            raise InputError(
                f"DICOM SEG numbers at most {MOST_SEGMENTS} objects, got {len(volume.ids)}; "
                "choose .nii.gz, .nrrd or .mha"
            )
        if not len(volume.ids) and not volume.has_holes:
            raise InputError("DICOM SEG needs at least one object, and there is none")
        chosen = volume.source.options.values() if volume.source else ()
        slices = source_slices(folder, volume.geometry, chosen)
        for one in slices:
            _complete(one, volume.geometry)
        with replacing(output) as written, warnings.catch_warnings():
            # the patient's name is copied as it is
            warnings.filterwarnings("ignore", message=".*intended person name.*")
            self._dataset(volume, slices).save_as(written)

    def _dataset(self, volume: LabelVolume, slices: Sequence[Dataset]) -> Any:
        import highdicom
        from pydicom.uid import ExplicitVRLittleEndian, RLELossless

        numbers = _numbers(volume)
        kind = self._kind(numbers)
        return highdicom.seg.Segmentation(
            source_images=slices,
            pixel_array=numbers,
            segmentation_type=kind,
            # a label map with all its slices says by itself where the volume ends
            omit_empty_frames=kind == "BINARY",
            transfer_syntax_uid=ExplicitVRLittleEndian if kind == "BINARY" else RLELossless,
            segment_descriptions=list(self._descriptions(volume)),
            series_instance_uid=highdicom.UID(),
            series_number=_series_number(slices[0]),
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="samplat",
            manufacturer_model_name="samplat",
            software_versions=version("samplat"),
            device_serial_number="0",
            content_description="Objects found by samplat",
            content_label="SEGMENTATION",
            series_description=f"samplat: {volume.made_by}"[:64],
        )

    def _kind(self, numbers: NDArray[np.uint16]) -> str:
        if self.kind != "auto":
            return self.kind.upper()
        frames = sum(len(np.unique(plane[plane > 0])) for plane in numbers)
        return "BINARY" if frames <= MOST_BINARY_FRAMES else "LABELMAP"

    def _descriptions(self, volume: LabelVolume) -> Iterator[Any]:
        for number, label in enumerate(volume.ids.tolist(), start=1):
            codes = (self.category, self.property_type)
            yield self._description(number, f"object {label}", str(label), codes, volume.made_by)
        if volume.has_holes:
            number, codes = len(volume.ids) + 1, (HOLE_CODE, HOLE_CODE)
            yield self._description(number, "not segmented", "hole", codes, volume.made_by)

    def _description(
        self, number: int, name: str, tracking: str, codes: tuple[Coded, Coded], made_by: str
    ) -> Any:
        import highdicom
        from pydicom.sr.codedict import codes as known

        category, property_type = (highdicom.sr.CodedConcept(*code) for code in codes)
        return highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=category,
            segmented_property_type=property_type,
            algorithm_type=self.algorithm_type,
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                name=made_by[:64],
                family=known.DCM.ArtificialIntelligence,
                version=version("samplat"),
                source="samplat",
            ),
            tracking_uid=highdicom.UID(),
            tracking_id=tracking,
        )


def _complete(header: Dataset, geometry: Geometry) -> None:
    """Give a header what a reference to it takes; the file is left as it is.

    Raises:
        InputError: what is missing cannot be made up.
    """
    for name in NEEDED:
        if not header.get(name):
            raise InputError(
                f"{header.filename} has no {name}, by which DICOM SEG would reference it; "
                "choose .nii.gz, .nrrd or .mha"
            )
    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if "SliceThickness" not in header:
        header.SliceThickness = f"{geometry.spacing[0]:.10g}"


def _numbers(volume: LabelVolume) -> NDArray[np.uint16]:
    """Segment numbers (z, y, x): ids without gaps, in their order; holes come last."""
    numbers = np.empty(volume.geometry.shape, np.uint16)
    for window, labels in volume.slabs():
        place = np.searchsorted(volume.ids, labels) + 1
        place[labels == 0] = 0
        place[labels == HOLE] = len(volume.ids) + 1
        numbers[window.slices] = place
    return numbers


def _series_number(source: Dataset) -> int:
    """A number of its own, that is next to the source's in lists."""
    return int(source.get("SeriesNumber") or 0) % 10_000 * 100 + 1


def _series_folder(source: SourceSpec | None) -> Path:
    path = None if source is None else Path(source.path)
    folder = path if path is None or path.is_dir() else path.parent
    if folder is None or not any(_headers(folder)):
        raise InputError(
            "DICOM SEG references the series that it was made from, and "
            f"{path or 'an array'} is no DICOM series; choose .nii.gz, .nrrd or .mha"
        )
    return folder


def source_slices(folder: Path, geometry: Geometry, chosen: Iterable[Any] = ()) -> list[Dataset]:
    """The slices of the series that a volume was read from, in the volume's order.

    They are told by their positions: neither names nor instance numbers decide.

    Args:
        folder: of the series, and maybe of others.
        geometry: of the volume.
        chosen: UIDs, one of which decides where several series lie in one place.

    Raises:
        InputError: no series has its slices where the volume has them, or several have.
    """
    series: dict[str, list[Dataset]] = defaultdict(list)
    for dataset in _headers(folder):
        series[str(dataset.SeriesInstanceUID)].append(dataset)
    fitting = {uid: found for uid, all_ in series.items() if (found := _matched(all_, geometry))}
    uids = fitting.keys() & set(map(str, chosen)) or fitting.keys()
    if len(uids) != 1:
        raise InputError(
            f"expected one series in {folder} with its slices where the labels have them, "
            f"got {len(uids)} of {len(series)}; choose one series by its UID"
        )
    return fitting[next(iter(uids))]


def _headers(folder: Path) -> Iterator[Dataset]:
    """Images in a folder that have a place in the patient, by file name."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    found = folder.iterdir() if folder.is_dir() else ()
    for path in sorted(p for p in found if p.is_file()):
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, EOFError):
            continue
        if "ImagePositionPatient" in dataset and "SeriesInstanceUID" in dataset:
            yield dataset


def _matched(datasets: Sequence[Dataset], geometry: Geometry) -> list[Dataset] | None:
    """One dataset per slice; None where a slice has none, or the slices are others."""
    lying = [d for d in datasets if _lies_alike(d, geometry)]
    if len(lying) < geometry.shape[0]:
        return None
    positions = np.array([d.ImagePositionPatient for d in lying], np.float64)
    first = np.zeros((geometry.shape[0], 3))
    first[:, 0] = np.arange(geometry.shape[0])
    away = np.linalg.norm(geometry.to_physical(first)[:, None] - positions, axis=2)
    nearest = away.argmin(axis=1)
    if away.min(axis=1).max() > TOLERANCE * geometry.spacing[0]:
        return None
    return [lying[i] for i in nearest]


def _lies_alike(dataset: Dataset, geometry: Geometry) -> bool:
    _, height, width = geometry.shape
    rows_and_columns = np.asarray(dataset.ImageOrientationPatient, np.float64)
    axes = np.concatenate([geometry.direction[:, 0], geometry.direction[:, 1]])
    return (
        (int(dataset.Rows), int(dataset.Columns)) == (height, width)
        and np.allclose(rows_and_columns, axes, atol=1e-4)
        and np.allclose(
            np.asarray(dataset.PixelSpacing, np.float64), geometry.spacing[1:], rtol=1e-3
        )
    )


DICOM_SEG = DicomSegWriter()

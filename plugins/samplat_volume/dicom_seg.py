"""DICOM Segmentation objects that reference the series they were made from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from samplat import HOLE, InputError, JobResult, SourceSpec, check_file, replacing
from samplat_volume.dicom_references import (
    check_series,
    frames_of,
    referenced,
    source_slices,
)
from samplat_volume.dicom_slices import Slice
from samplat_volume.labels import LabelVolume, of_result

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MOST_SEGMENTS = 65_535
"""Segment numbers are 16 bits wide."""

MOST_BINARY_FRAMES = 4096
"""Beyond that, `auto` writes a label map: of every object, each slice it is in is a frame."""

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
        """Refuse, before any long work, an image that could not be referenced.

        Raises:
            InputError: no DICOM series, or one whose images lack what references need.
        """
        check_series(source)

    def export(self, result: JobResult, output: Path) -> None:
        """Write the labels of a job."""
        self.write(of_result(result), output)

    def write(self, volume: LabelVolume, output: Path) -> None:
        """Write labels.

        Raises:
            InputError: the source is no DICOM series, or not that of these labels; or there are
                more objects than the format can number.
        """
        slices = source_slices(volume.source, volume.geometry)
        if not len(volume.ids) + volume.has_holes <= MOST_SEGMENTS:
            raise InputError(
                f"DICOM SEG numbers at most {MOST_SEGMENTS} objects, got {len(volume.ids)}; "
                "choose .nii.gz, .nrrd or .mha"
            )
        if not len(volume.ids) and not volume.has_holes:
            raise InputError("DICOM SEG needs at least one object, and there is none")
        with replacing(output) as written, warnings.catch_warnings():
            # the patient's name is copied as it is
            warnings.filterwarnings("ignore", message=".*intended person name.*")
            self._dataset(volume, slices).save_as(written)

    def _dataset(self, volume: LabelVolume, slices: Sequence[Slice]) -> Any:
        import highdicom
        from pydicom.uid import ExplicitVRLittleEndian, RLELossless

        images = referenced(slices, volume.geometry)
        numbers = _numbers(volume)
        kind = self._kind(numbers)
        return highdicom.seg.Segmentation(
            source_images=images,
            plane_positions=frames_of(slices),
            pixel_array=numbers,
            segmentation_type=kind,
            # a label map with all its slices says by itself where the volume ends
            omit_empty_frames=kind == "BINARY",
            transfer_syntax_uid=ExplicitVRLittleEndian if kind == "BINARY" else RLELossless,
            segment_descriptions=list(self._descriptions(volume)),
            series_instance_uid=highdicom.UID(),
            series_number=_series_number(images[0]),
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


DICOM_SEG = DicomSegWriter()

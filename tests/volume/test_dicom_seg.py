"""DICOM SEG, read back by pydicom and highdicom."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from samplat import HOLE, InputError, SourceSpec
from samplat_volume import dicom_seg
from samplat_volume.dicom_references import MAY_BE_EMPTY, source_slices
from samplat_volume.dicom_seg import DICOM_SEG, DicomSegWriter
from samplat_volume.geometry import Geometry
from samplat_volume.labels import of_array
from samplat_volume.source import VolumeSource
from samplat_volume.writing import write_labels
from volume.labelled import EMPTY, OBLIQUE, balls, grid, write_series
from volume.scans import ORIGIN, SHAPE, SPACING, noise, write_enhanced
from volume.test_read_back import from_frames

LIVER = ("10200004", "SCT", "Liver")


def spec(path: Path, **options: Any) -> SourceSpec:
    return SourceSpec(path=str(path), factory="volume", options=options)


def read_back(path: Path, folder: Path, geometry: Geometry) -> NDArray[Any]:
    """Tracking ids (z, y, x), slice by slice through the referenced instances."""
    seg = highdicom.seg.segread(path)
    slices = source_slices(spec(folder), geometry)
    numbers = seg.get_pixels_by_source_instance(
        [d.uid for d in slices],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    names = {n: seg.get_segment_description(n).tracking_id for n in seg.segment_numbers if n}
    table = np.array([0, *(HOLE if name == "hole" else int(name) for name in names.values())])
    return table[np.asarray(numbers)]


def same_place(seg: Any, geometry: Geometry) -> bool:
    """Whether the file's own grid, which may leave out empty slices, is that of the labels."""
    found = seg.get_volume_geometry()
    voxels = geometry.to_index(found.map_indices_to_reference(np.argwhere(np.ones((2, 2, 2)))))
    return bool(np.abs(voxels - np.rint(voxels)).max() < 1e-5)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_real_oblique_series_gets_its_labels_back(
    eval_data: Path, tmp_path: Path, kind: Any
) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    files = sorted((eval_data / "med_dicom_t1_nogt").glob("*.dcm"))
    for file, number in zip(files, np.random.default_rng(1).permutation(80), strict=True):
        shutil.copy(file, folder / f"{number:02d}")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(files[0].parent)))
    geometry = Geometry.of_image(reader.Execute())
    labels = np.zeros(geometry.shape, np.uint32)
    labels[5:70:4, 100:300, 50:200] = balls((17, 200, 150), 5) * 20_000
    path = tmp_path / "seg.dcm"
    writer = DicomSegWriter(kind=kind, property_type=LIVER, algorithm_type="AUTOMATIC")
    write_labels(path, labels, geometry, source=str(folder), writer=writer, made_by="some model")
    assert np.array_equal(read_back(path, folder, geometry), labels)
    check_header(path, files[0], kind)
    seg = highdicom.seg.segread(path)
    assert same_place(seg, geometry)
    assert seg.get_segment_description(1).segmented_property_type.meaning == "Liver"


def check_header(path: Path, source: Path, kind: str) -> None:
    seg, image = pydicom.dcmread(path), pydicom.dcmread(source)
    assert seg.SegmentationType == kind.upper()
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == image.SeriesInstanceUID != seg.SeriesInstanceUID
    assert len(referenced.ReferencedInstanceSequence) == 80
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert seg[name].value == image[name].value
    segment = seg.SegmentSequence[-1]
    assert segment.SegmentAlgorithmName == "some model"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.TrackingID == "100000"
    assert segment.SegmentLabel == "object 100000"
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Tissue"


def test_holes_are_a_segment_and_never_background(tmp_path: Path) -> None:
    geometry = grid((4, 6, 5))
    write_series(tmp_path / "scan", geometry)
    labels = np.zeros(geometry.shape, np.uint32)
    labels[1, 2:4, 1:3], labels[3] = 12, HOLE
    write_labels(tmp_path / "a.dcm", labels, geometry, source=str(tmp_path / "scan"))
    assert np.array_equal(read_back(tmp_path / "a.dcm", tmp_path / "scan", geometry), labels)
    last = pydicom.dcmread(tmp_path / "a.dcm").SegmentSequence[-1]
    assert (last.SegmentLabel, last.TrackingID) == ("not segmented", "hole")


def test_too_many_frames_become_a_label_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = grid((4, 6, 5))
    write_series(tmp_path / "scan", geometry)
    labels = np.ones(geometry.shape, np.uint8)
    labels[:, 3:] = 2
    for most, kind in ((8, "BINARY"), (7, "LABELMAP")):
        monkeypatch.setattr(dicom_seg, "MOST_BINARY_FRAMES", most)
        write_labels(tmp_path / "a.dcm", labels, geometry, source=str(tmp_path / "scan"))
        assert pydicom.dcmread(tmp_path / "a.dcm").SegmentationType == kind
        assert np.array_equal(read_back(tmp_path / "a.dcm", tmp_path / "scan", geometry), labels)


def test_of_several_series_the_one_with_the_labels_place_is_referenced(tmp_path: Path) -> None:
    scan, other = grid((4, 6, 5)), grid((4, 6, 5), origin=(-101.25, 33.1, 17.75))
    write_series(tmp_path / "both", scan, "1.1")
    write_series(tmp_path / "both", other, "1.2")
    (tmp_path / "both" / "notes.txt").write_text("no DICOM")
    both = tmp_path / "both"
    assert {s.series for s in source_slices(spec(both), scan)} == {"1.1"}
    assert {s.series for s in source_slices(spec(both), other)} == {"1.2"}


def test_series_of_one_place_have_to_be_told_apart(tmp_path: Path) -> None:
    geometry = grid((4, 6, 5))
    for uid in ("1.1", "1.2"):
        write_series(tmp_path / "both", geometry, uid)
    both = tmp_path / "both"
    with pytest.raises(InputError, match="got 2 of 2; choose one series by its UID"):
        source_slices(spec(both), geometry)
    found = source_slices(spec(both, series="1.2"), geometry)
    assert {s.series for s in found} == {"1.2"}
    positions = [s.position for s in found]
    np.testing.assert_allclose(geometry.to_index(np.array(positions, float))[:, 0], range(4))


@pytest.mark.parametrize(
    "other",
    [
        grid((5, 6, 5)),
        grid((4, 6, 5), spacing=(2.6, 0.7, 0.8)),
        grid((4, 6, 5), spacing=(2.5, 0.7, 0.7)),
        grid((4, 6, 5), direction=OBLIQUE @ np.diag([1, 1, -1])),
        grid((4, 6, 5), direction=np.eye(3)),
    ],
)
def test_labels_of_another_grid_are_refused(tmp_path: Path, other: Geometry) -> None:
    write_series(tmp_path / "scan", grid((4, 6, 5)))
    with pytest.raises(InputError, match="where the labels have them, got 0 of 1"):
        write_labels(
            tmp_path / "a.dcm", np.ones(other.shape, bool), other, source=str(tmp_path / "scan")
        )
    assert not (tmp_path / "a.dcm").exists()


def test_what_is_no_series_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(b"no DICOM")
    labels, geometry = np.ones((2, 3, 4), bool), grid((2, 3, 4))
    for source in (None, str(tmp_path / "scan.nii"), str(tmp_path / "nowhere" / "scan")):
        with pytest.raises(InputError, match=r"is no DICOM series; choose \.nii\.gz"):
            write_labels(tmp_path / "a.dcm", labels, geometry, source=source)
    with pytest.raises(InputError, match="is no DICOM series"):
        DICOM_SEG.check_source(SourceSpec(path=str(tmp_path), factory="volume"))


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    geometry = grid((2, 200, 200))
    write_series(tmp_path / "scan", geometry)
    many = np.arange(80_000).reshape(2, 200, 200)
    for labels, message in (
        (many, "at most 65535 objects, got 79999"),
        (np.zeros_like(many), "at least one object"),
    ):
        with pytest.raises(InputError, match=message):
            write_labels(tmp_path / "a.dcm", labels, geometry, source=str(tmp_path / "scan"))
    assert of_array(many, geometry).largest == 79_999


def without(folder: Path, *names: str) -> None:
    """Remove attributes from all images."""
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        for name in names:
            delattr(image, name)
        image.save_as(file)


def test_images_may_lack_what_anonymisers_remove(tmp_path: Path) -> None:
    geometry, labels = grid((4, 6, 5)), np.ones((4, 6, 5), bool)
    write_series(tmp_path / "scan", geometry)
    without(tmp_path / "scan", *MAY_BE_EMPTY, "SliceThickness")
    write_labels(tmp_path / "a.dcm", labels, geometry, source=str(tmp_path / "scan"))
    assert np.array_equal(read_back(tmp_path / "a.dcm", tmp_path / "scan", geometry), labels)
    before = (tmp_path / "a.dcm").read_bytes()
    without(tmp_path / "scan", "FrameOfReferenceUID")
    with pytest.raises(InputError, match="has no FrameOfReferenceUID"):
        write_labels(tmp_path / "a.dcm", labels, geometry, source=str(tmp_path / "scan"))
    assert (tmp_path / "a.dcm").read_bytes() == before


@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_what_a_reference_needs_is_asked_for_before_any_work(tmp_path: Path, name: str) -> None:
    geometry = grid((4, 6, 5))
    write_series(tmp_path / "scan", geometry)
    DICOM_SEG.check_source(spec(tmp_path / "scan"))
    one = sorted((tmp_path / "scan").iterdir())[2]
    image = pydicom.dcmread(one)
    delattr(image, name)
    image.save_as(one)
    with pytest.raises(InputError, match=rf"{one.name} has no {name}.*choose \.nii\.gz"):
        DICOM_SEG.check_source(spec(tmp_path / "scan"))
    write_series(tmp_path / "scan", geometry, "1.9")  # another series is no worse for it
    DICOM_SEG.check_source(spec(tmp_path / "scan", series="1.9"))


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("shared", [True, False])
def test_labels_of_an_enhanced_file_reference_its_frames(
    tmp_path: Path, kind: Any, shared: bool
) -> None:
    order, labels = [3, 0, 5, 1, 4, 2], balls(SHAPE, 3, seed=4)
    path = tmp_path / "scan"
    places = [[ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * z] for z in order]
    write_enhanced(path, noise()[order], positions=places, **dict.fromkeys(EMPTY, ""))
    image = pydicom.dcmread(path)
    if not shared:
        (common,) = image.SharedFunctionalGroupsSequence
        for own in image.PerFrameFunctionalGroupsSequence:
            own.update(common)
        del image.SharedFunctionalGroupsSequence
        image.save_as(path)
    geometry = VolumeSource(str(path)).geometry
    DICOM_SEG.check_source(spec(path))
    out, writer = tmp_path / "a.dcm", DicomSegWriter(kind=kind)
    write_labels(out, labels, geometry, source=str(path), writer=writer)
    seg = highdicom.seg.segread(out)
    numbers = seg.get_pixels_by_source_frame(
        "1.2.9",
        [order.index(z) + 1 for z in range(SHAPE[0])],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    _, ranks = np.unique(labels, return_inverse=True)
    assert np.array_equal(numbers, ranks.reshape(SHAPE))
    np.testing.assert_array_equal(from_frames(pydicom.dcmread(out), geometry), labels)


def test_several_enhanced_files_cannot_be_referenced(tmp_path: Path) -> None:
    for z, name in ((0, "a"), (3, "b")):
        places = [[ORIGIN[0], ORIGIN[1], ORIGIN[2] + SPACING[0] * (z + i)] for i in range(3)]
        write_enhanced(tmp_path / name, noise(shape=(3, 8, 9)), positions=places)
    with pytest.raises(InputError, match="2 files of many frames.*choose"):
        DICOM_SEG.check_source(spec(tmp_path))

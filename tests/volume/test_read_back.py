"""What every writer wrote, placed by others' libraries: oblique, mirrored and anisotropic grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, assume, given, settings
from numpy.typing import NDArray
from ome_zarr.io import parse_url
from ome_zarr.reader import Multiscales, Reader

from samplat import Window
from samplat_volume.dicom_seg import DicomSegWriter
from samplat_volume.geometry import Geometry
from samplat_volume.source import VolumeSource
from samplat_volume.writing import WRITERS, write_labels
from volume.labelled import OBLIQUE, balls, geometries, grid, write_series

GRIDS = {
    "oblique": grid((7, 9, 8), spacing=(4.0, 0.5, 0.75)),
    "thin": grid((7, 9, 8), spacing=(0.4, 0.7, 1.9)),
    "mirrored": grid((7, 9, 8), direction=OBLIQUE @ np.diag([1.0, 1.0, -1.0])),
    "sagittal": grid((7, 9, 8), direction=np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])),
}
LABELS = balls((7, 9, 8), 3, seed=4)
READ_HERE = {".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".ome.zarr", ".csv"}


def test_all_suffixes_are_read_back_here() -> None:
    assert {suffix for writer in WRITERS for suffix in writer.suffixes} == READ_HERE


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("name", sorted(set(GRIDS) - {"mirrored"}))
def test_frames_of_dicom_seg_say_where_their_pixels_lie(
    tmp_path: Path, name: str, kind: Any
) -> None:
    """By pydicom alone: position, orientation and spacing of each frame, and its pixels."""
    geometry = GRIDS[name]
    write_series(tmp_path / "scan", geometry)
    path = tmp_path / "a.dcm"
    write_labels(
        path, LABELS, geometry, source=str(tmp_path / "scan"), writer=DicomSegWriter(kind=kind)
    )
    np.testing.assert_array_equal(from_frames(pydicom.dcmread(path), geometry), LABELS)


def from_frames(seg: Any, geometry: Geometry) -> NDArray[np.uint32]:
    """Labels (z, y, x), each pixel of each frame put where the file says."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    labels = np.zeros(geometry.shape, np.uint32)
    names = {int(s.SegmentNumber): s.get("TrackingID") for s in seg.SegmentSequence}
    rows, columns = np.indices((seg.Rows, seg.Columns)).reshape(2, -1)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for frame, own in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        place = next(g for g in (own, shared) if "PlanePositionSequence" in g)
        turn = next(g for g in (own, shared) if "PlaneOrientationSequence" in g)
        size = next(g for g in (own, shared) if "PixelMeasuresSequence" in g)
        orientation = np.array(turn.PlaneOrientationSequence[0].ImageOrientationPatient, float)
        spacing = np.array(size.PixelMeasuresSequence[0].PixelSpacing, float)
        assert float(size.PixelMeasuresSequence[0].SliceThickness) == geometry.spacing[0]
        corner = np.array(place.PlanePositionSequence[0].ImagePositionPatient, float)
        points = corner + np.outer(columns * spacing[1], orientation[:3])
        points += np.outer(rows * spacing[0], orientation[3:])
        index = geometry.to_index(points)
        at = np.rint(index).astype(int)
        np.testing.assert_allclose(index, at, atol=1e-5)
        values = frame.ravel().astype(np.uint32)
        if "SegmentIdentificationSequence" in own:
            number = int(own.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            values = values * int(names[number] or 0)
        else:
            values = np.array([int(names.get(v) or 0) if v else 0 for v in values.tolist()])
        labels[tuple(at[values > 0].T)] = values[values > 0]
    return labels


@pytest.mark.parametrize("name", GRIDS)
def test_the_ome_zarr_reader_places_voxels_along_the_volumes_axes(
    tmp_path: Path, name: str
) -> None:
    """The reader behind napari's plugin: what it hands on is where the voxels are."""
    geometry = GRIDS[name]
    path = tmp_path / "a.ome.zarr"
    write_labels(path, LABELS, geometry)
    location = parse_url(path, mode="r")
    assert location is not None
    (node,) = Reader(location)()
    assert node.load(Multiscales)
    assert np.array_equal(node.data[0].compute(), LABELS)
    told = {t["type"]: t[t["type"]] for t in node.metadata["coordinateTransformations"][0]}
    np.testing.assert_allclose(told["scale"], geometry.spacing, rtol=1e-12)
    own = geometry.direction.T @ np.array(geometry.origin)
    np.testing.assert_allclose(told["translation"][::-1], own, atol=1e-9)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(geometry=geometries())
def test_sources_open_what_writers_wrote(tmp_path: Path, geometry: Geometry) -> None:
    """Round trip through our own reader, which checks more than others' do."""
    assume(min(geometry.shape) > 1)  # two-dimensional files are refused
    labels = balls(geometry.shape, 2, seed=1)
    for suffix in (".nii", ".nrrd", ".mha"):
        path = tmp_path / f"a{suffix}"
        write_labels(path, labels, geometry)
        source = VolumeSource(str(path))
        found = source.geometry
        whole = Window(start=(0, 0, 0), stop=geometry.shape)
        assert np.array_equal(source.read(whole)[..., 0], labels)
        scale = max(1.0, float(np.abs(geometry.index_to_world).max()))
        tolerance = 2e-6 * scale if suffix == ".nii" else 1e-9 * scale
        np.testing.assert_allclose(
            found.index_to_world, geometry.index_to_world, atol=tolerance, rtol=0
        )
        source.close()


@pytest.mark.parametrize("name", GRIDS)
def test_every_reader_gives_one_place(tmp_path: Path, name: str) -> None:
    """SimpleITK of three formats and nibabel of NIfTI, whose frame is RAS, agree on each voxel."""
    geometry = GRIDS[name]
    index = np.argwhere(LABELS > 0)
    expected = geometry.to_physical(index)
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        path = tmp_path / suffix[1:] / f"a{suffix}"
        path.parent.mkdir()
        write_labels(path, LABELS, geometry)
        image = sitk.ReadImage(str(path))
        places = [image.TransformIndexToPhysicalPoint(i[::-1].tolist()) for i in index]
        np.testing.assert_allclose(places, expected, atol=1e-4 if ".nii" in suffix else 1e-9)
        assert np.array_equal(sitk.GetArrayFromImage(image), LABELS)
        if ".nii" in suffix:
            affine = nibabel.load(path).affine
            ras = nibabel.affines.apply_affine(affine, index[:, ::-1])
            np.testing.assert_allclose(ras * [-1, -1, 1], expected, atol=1e-4)

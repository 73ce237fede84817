"""Spacing, origin and oblique direction through every writer and reader that can hold them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation

from samplat_volume.dicom_seg import DicomSegWriter
from samplat_volume.geometry import Geometry
from samplat_volume.source import VolumeSource
from samplat_volume.writing import write_labels
from volume import scans
from volume.labelled import EMPTY, geometries
from volume.scans import noise

EXACT = 1e-9
FEW = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
VOLUMES = geometries().filter(lambda g: min(g.shape) > 1)
RIGHT_HANDED = VOLUMES.filter(lambda g: np.linalg.det(g.direction) > 0)


def same(found: Geometry, expected: Geometry, tolerance: float = EXACT) -> None:
    """Absolute: of millimetres, and of direction cosines."""
    assert found.shape == expected.shape
    for name in ("spacing", "origin", "direction", "index_to_world"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), atol=tolerance, rtol=0, err_msg=name
        )


def opened(path: Path) -> Geometry:
    source = VolumeSource(str(path))
    source.close()
    return source.geometry


@FEW
@given(geometry=VOLUMES)
@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".ome.zarr"])
def test_what_we_write_we_and_itk_read(tmp_path: Path, suffix: str, geometry: Geometry) -> None:
    path = tmp_path / f"a{suffix}"
    write_labels(path, np.ones(geometry.shape, np.uint8), geometry)
    same(opened(path), geometry)
    if suffix != ".ome.zarr":
        same(Geometry.of_image(sitk.ReadImage(str(path))), geometry)


@FEW
@given(geometry=VOLUMES)
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_what_itk_writes_we_read(tmp_path: Path, name: str, geometry: Geometry) -> None:
    image = sitk.GetImageFromArray(np.ones(geometry.shape, np.uint8))
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / name))
    # ITK writes 16 digits of a number
    same(opened(tmp_path / name), geometry)


def dicom_values(geometry: Geometry) -> dict[str, Any]:
    """Decimals of 16 characters, which is what the format has."""

    def decimals(numbers: NDArray[Any]) -> list[str]:
        return [format_number_as_ds(float(n)) for n in np.ravel(numbers)]

    return {
        "ImagePositionPatient": lambda z: decimals(geometry.to_physical(np.array([[z, 0, 0]]))),
        "ImageOrientationPatient": decimals(geometry.direction[:, :2].T),
        "PixelSpacing": decimals(np.array(geometry.spacing[1:])),
        "SliceThickness": decimals(np.array(geometry.spacing[:1]))[0],
    }


@FEW
@given(geometry=RIGHT_HANDED)
def test_series_and_enhanced_files(tmp_path: Path, geometry: Geometry) -> None:
    assume(geometry.spacing[0] > 0.1)  # finer slices are not told apart by decimals of 1000 mm
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    values, told = np.zeros(geometry.shape, np.uint16), dicom_values(geometry)
    scans.write_series(tmp_path / "a", values, **told)
    same(opened(tmp_path / "a"), geometry)

    def own(z: int, group: Any) -> None:
        group.PlanePositionSequence[0].ImagePositionPatient = told["ImagePositionPatient"](z)
        items = [pydicom.Dataset(), pydicom.Dataset()]
        items[0].ImageOrientationPatient = told["ImageOrientationPatient"]
        items[1].PixelSpacing = told["PixelSpacing"]
        group.PlaneOrientationSequence = pydicom.Sequence(items[:1])
        group.PixelMeasuresSequence = pydicom.Sequence(items[1:])

    scans.write_enhanced(tmp_path / "b.dcm", values, own=own)
    same(opened(tmp_path / "b.dcm"), geometry)


def labels_of_series(folder: Path, geometry: Geometry, kind: Any) -> Path:
    shutil.rmtree(folder / "a", ignore_errors=True)
    tags = dicom_values(geometry) | {"FrameOfReferenceUID": "1.2.3.5"} | dict.fromkeys(EMPTY, "")
    scans.write_series(folder / "a", np.zeros(geometry.shape, np.uint16), **tags)
    path, writer = folder / "seg.dcm", DicomSegWriter(kind=kind)
    write_labels(path, corner(geometry), geometry, source=str(folder / "a"), writer=writer)
    return path


@settings(FEW, max_examples=6)
@given(geometry=RIGHT_HANDED, kind=st.sampled_from(["binary", "labelmap"]))
def test_dicom_seg_lies_where_its_series_does(
    tmp_path: Path, geometry: Geometry, kind: Any
) -> None:
    assume(geometry.spacing[0] > 0.1)
    seg = highdicom.seg.segread(labels_of_series(tmp_path, geometry, kind))
    found = seg.get_volume_geometry()
    np.testing.assert_allclose(found.spacing, geometry.spacing, atol=EXACT)
    # highdicom's first axis goes against the normal, or with it
    ends = [[0, 0, 0], [geometry.shape[0] - 1, 0, 0]]
    places = found.map_indices_to_reference(np.array(ends))
    expected = geometry.to_physical(np.array(ends))
    nearer = min((places, places[::-1]), key=lambda p: float(np.abs(p - expected).max()))
    np.testing.assert_allclose(nearer, expected, atol=EXACT)


@settings(FEW, max_examples=6)
@given(geometry=RIGHT_HANDED)
def test_itk_opens_a_segmentation_in_the_place_of_its_series(
    tmp_path: Path, geometry: Geometry
) -> None:
    """One object, as GDCM knows neither segments nor label maps; frames of whole bytes."""
    assume(geometry.spacing[0] > 0.1)
    geometry = replace(geometry, shape=(geometry.shape[0], 4, 6))
    path = labels_of_series(tmp_path, geometry, "binary")
    image = sitk.ReadImage(str(path))
    found = sitk.GetArrayFromImage(image) > 0
    assert found.shape == geometry.shape
    at = np.argwhere(found)  # the slices go the other way
    places = [image.TransformIndexToPhysicalPoint(i[::-1].tolist()) for i in at]
    index = geometry.to_index(np.array(places))
    np.testing.assert_allclose(geometry.to_physical(np.rint(index)), places, atol=EXACT)
    back = np.zeros(geometry.shape, np.uint8)
    back[tuple(np.rint(index).astype(int).T)] = 1
    assert np.array_equal(back, corner(geometry))


def corner(geometry: Geometry) -> NDArray[np.uint8]:
    """Labels on every slice, fewer on later ones."""
    z, y, x = np.indices(geometry.shape)
    return ((y + x == 0) | (z + y + x < min(geometry.shape))).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_the_float32_of_nifti_holds(tmp_path: Path, suffix: str) -> None:
    """The numbers of docs/volumes.md; volumes of 512 voxels a side, up to 500 mm away."""
    rng, path = np.random.default_rng(0), tmp_path / f"a{suffix}"
    ends = 511 * np.argwhere(np.ones((2, 2, 2))).astype(float)
    for seed in range(40):
        geometry = Geometry(
            shape=(2, 2, 2),
            spacing=tuple(rng.uniform(0.3, 5, 3)),  # type: ignore[arg-type]  # three
            origin=tuple(rng.uniform(-500, 500, 3)),  # type: ignore[arg-type]
            direction=Rotation.random(random_state=seed).as_matrix(),
        )
        write_labels(path, np.ones((2, 2, 2), np.uint8), geometry)
        expected = geometry.to_physical(ends)
        image = Geometry.of_image(sitk.ReadImage(str(path)))
        for found in (opened(path), image):
            assert np.abs(found.to_physical(ends) - expected).max() < 3e-4
            np.testing.assert_allclose(found.spacing, geometry.spacing, rtol=1e-7)
            np.testing.assert_allclose(found.direction, geometry.direction, atol=1e-7)
        affine = np.diag([-1, -1, 1, 1]) @ nibabel.load(path).affine
        ras = ends[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
        assert np.abs(ras - expected).max() < 3e-4


@FEW
@given(spacing=st.tuples(*[st.floats(1e-3, 1e3)] * 3))
def test_spacing_of_ome_tiff(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    told = {f"PhysicalSize{axis}": s for axis, s in zip("ZYX", spacing, strict=True)}
    options: dict[str, Any] = {"ome": True, "metadata": {"axes": "ZYX"} | told}
    tifffile.imwrite(tmp_path / "a.tif", noise("uint8"), **options)
    np.testing.assert_allclose(
        opened(tmp_path / "a.tif").spacing, np.multiply(spacing, 1e-3), rtol=EXACT
    )

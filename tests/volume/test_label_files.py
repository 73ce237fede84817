"""NIfTI, NRRD and MetaImage, read back by SimpleITK and nibabel."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from samplat import HOLE, InputError
from samplat_volume import labels as labels_module
from samplat_volume.geometry import Geometry
from samplat_volume.writing import write_labels
from volume.labelled import geometries, grid, some_labels

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def stored(labels: NDArray[np.uint32], largest: int) -> NDArray[np.unsignedinteger]:
    """What a file is to hold: the smallest type, with its largest value where holes are."""
    kind = np.uint8 if largest < 255 else np.uint16 if largest < 65535 else np.uint32
    return np.where(labels == HOLE, np.iinfo(kind).max, labels).astype(kind)


def near(found: NDArray[Any], expected: NDArray[Any], nifti: bool) -> bool:
    """Equal to 1e-9, or to what the float32 of a NIfTI header can tell."""
    scale = max(1.0, float(np.abs(expected).max()))
    return bool(np.abs(found - expected).max() <= (2e-6 if nifti else 1e-9) * scale)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    geometry=geometries(),
    largest=st.sampled_from([1, 254, 255, 65534, 65535, 70_000, 2**32 - 2]),
    suffix=st.sampled_from(SUFFIXES),
)
def test_files_hold_the_labels_and_their_place(
    tmp_path: Path, geometry: Geometry, largest: int, suffix: str
) -> None:
    labels = some_labels(geometry.shape, largest)
    path = tmp_path / suffix[1:] / f"labels{suffix}"
    path.parent.mkdir(exist_ok=True)
    write_labels(path, labels, geometry)
    image = sitk.ReadImage(str(path))
    expected = stored(labels, largest)
    assert sitk.GetArrayFromImage(image).dtype == expected.dtype
    assert np.array_equal(sitk.GetArrayFromImage(image), expected)
    found, nifti = Geometry.of_image(image), ".nii" in suffix
    assert near(found.index_to_world, geometry.index_to_world, nifti)
    assert near(np.array(found.spacing), np.array(geometry.spacing), nifti)
    if nifti:
        check_with_nibabel(path, expected, geometry)


def check_with_nibabel(
    path: Path, expected: NDArray[np.unsignedinteger], geometry: Geometry
) -> None:
    image = nibabel.load(path)
    assert image.get_data_dtype() == expected.dtype
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), expected)
    affine = LPS_TO_RAS @ geometry.index_to_world
    assert near(image.get_sform(), affine, True)
    assert near(image.get_qform(), affine, True)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_intent()[0] == "label"
    assert np.allclose(image.header.get_zooms(), geometry.spacing[::-1], rtol=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_depend_on_the_labels_alone(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = grid((11, 9, 8))
    labels = some_labels(geometry.shape, 300)
    paths = [tmp_path / f"{name}{suffix}" for name in ("whole", "sliced")]
    write_labels(paths[0], labels, geometry)
    monkeypatch.setattr(labels_module, "SLAB_VOXELS", 2 * 9 * 8)
    write_labels(paths[1], labels, geometry)
    unpack = gzip.decompress if suffix == ".nii.gz" else bytes
    assert unpack(paths[0].read_bytes()) == unpack(paths[1].read_bytes())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_is_that_of_some_slices(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slices:
        shape, dtype = (512, 128, 128), np.dtype(np.uint32)

        def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.uint32]:
            depth = index[0].stop - index[0].start
            return np.full((depth, 128, 128), 70_000 + index[0].start, np.uint32)

    monkeypatch.setattr(labels_module, "SLAB_VOXELS", 4 * 128 * 128)
    tracemalloc.start()
    try:
        write_labels(tmp_path / f"large{suffix}", Slices(), grid(Slices.shape))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**20  # the volume has 32 MB, a slab 256 kB


def test_headers_say_what_background_and_holes_are(tmp_path: Path) -> None:
    labels = some_labels((2, 3, 4), 9)
    for suffix, key in ((".nrrd", "hole"), (".mha", "Hole")):
        write_labels(tmp_path / f"a{suffix}", labels, grid(labels.shape))
        assert sitk.ReadImage(str(tmp_path / f"a{suffix}")).GetMetaData(key) == "255"
    write_labels(tmp_path / "a.nii", labels, grid(labels.shape))
    described = nibabel.load(tmp_path / "a.nii").header["descrip"].item()
    assert described == b"samplat labels; background 0; hole 255"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 3, 4), np.float32), "expected integer labels, got float32"),
        (np.full((2, 3, 4), -1, np.int16), "expected ids from 0 on, got -1"),
        (np.full((2, 3, 4), 2**33, np.int64), "expected ids below 4294967295, got 8589934592"),
        (np.zeros((2, 3, 5), np.uint8), r"expected labels of shape \(2, 3, 4\)"),
    ],
)
def test_what_is_no_label_volume_is_refused(
    tmp_path: Path, labels: NDArray[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_labels(tmp_path / "a.nii", labels, grid((2, 3, 4)))
    assert list(tmp_path.iterdir()) == []


def test_a_compressed_file_is_not_put_beside_one_that_itk_reads_instead(tmp_path: Path) -> None:
    old, new = (np.full((2, 2, 2), value) for value in (1, 2))
    write_labels(tmp_path / "a.nii.gz", new, grid(new.shape))
    write_labels(tmp_path / "a.nii", old, grid(old.shape))
    misread = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert np.array_equal(misread, old)  # once this is no longer so, nothing needs to be refused
    with pytest.raises(InputError, match=r"a\.nii lies beside it"):
        write_labels(tmp_path / "a.nii.gz", new, grid(new.shape))


def test_nifti_says_that_it_cannot_hold_long_sides(tmp_path: Path) -> None:
    labels = np.zeros((1, 1, 2**15), np.uint8)
    with pytest.raises(InputError, match=r"at most 32767 voxels a side.*write \.nrrd or \.mha"):
        write_labels(tmp_path / "a.nii", labels, grid(labels.shape))
    write_labels(tmp_path / "a.mha", labels, grid(labels.shape))
    assert sitk.ReadImage(str(tmp_path / "a.mha")).GetSize() == (2**15, 1, 1)

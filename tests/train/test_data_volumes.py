"""Volumes become slices: the right ones, the right way round, in the right window."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from samplat import InputError
from samplat_train.data.volumes import VolumeFolder

sitk = pytest.importorskip("SimpleITK")

SHAPE = (6, 10, 14)


def labels_array():
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 3:8, 4:9] = 1
    labels[3, 1:3, 10:13] = 2
    return labels


def write(folder, image, labels, name="v", suffix=".nii.gz", spacing=(1, 1, 3), origin=None):
    for part, array in (("images", image), ("labels", labels)):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(spacing)
        if origin and part == "labels":
            volume.SetOrigin(origin)
        (folder / part).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(volume, str(folder / part / f"{name}{suffix}"))


def magnetic():
    return np.random.default_rng(0).gamma(3, 200, SHAPE).astype(np.float32)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_slices_with_objects_and_only_they(tmp_path, suffix):
    write(tmp_path, magnetic(), labels_array(), suffix=suffix)
    source = VolumeFolder.open(tmp_path)
    assert [source.key(i) for i in range(len(source))] == [f"v{suffix}#{z}" for z in (2, 3, 4)]
    for i, z in enumerate((2, 3, 4)):
        picture = source.read(i)
        assert np.array_equal(picture.labels, labels_array()[None, z])
        assert picture.objects == (2 if z == 3 else 1)
        assert picture.image.shape == (10, 14, 3)


@pytest.mark.parametrize(("axis", "spacing"), [(0, (1, 1, 3)), (1, (1, 3, 1)), (2, (3, 1, 1))])
def test_slices_lie_across_the_coarsest_spacing(tmp_path, axis, spacing):
    write(tmp_path, magnetic(), labels_array(), spacing=spacing)
    source = VolumeFolder.open(tmp_path)
    full = np.moveaxis(labels_array(), axis, 0)
    places = np.flatnonzero(full.any(axis=(1, 2)))
    assert [int(source.key(i).partition("#")[2]) for i in range(len(source))] == places.tolist()
    numbers = np.moveaxis(magnetic(), axis, 0)
    for i, place in enumerate(places):
        picture = source.read(i)
        assert np.array_equal(picture.labels[0], full[place])
        order = np.argsort(numbers[place], axis=None)
        assert (np.diff(picture.image[..., 0].ravel()[order].astype(int)) >= 0).all()


def test_the_window_is_of_the_whole_volume(tmp_path):
    image = magnetic()
    write(tmp_path, image, labels_array())
    source = VolumeFolder.open(tmp_path)
    low, high = np.percentile(image.astype(float), [0.5, 99.5])
    expected = np.clip((image[3].astype(float) - low) * 255 / (high - low), 0, 255)
    assert np.abs(source.read(1).image[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_computed_tomography_has_a_window_of_its_own(tmp_path, dtype):
    image = np.linspace(-1000, 1000, np.prod(SHAPE)).reshape(SHAPE).astype(dtype)
    write(tmp_path, image, labels_array())
    shown = VolumeFolder.open(tmp_path).read(1).image[..., 1]
    expected = np.clip((image[3].astype(float) + 160) * 255 / 400, 0, 255)
    assert np.abs(shown - expected).max() <= 0.51
    assert {0, 255} & set(np.unique(VolumeFolder.open(tmp_path).read(0).image).tolist())


def test_whole_numbers_in_floats_are_labels_and_fractions_are_not(tmp_path):
    write(tmp_path, magnetic(), labels_array().astype(np.float32))
    picture = VolumeFolder.open(tmp_path).read(0)
    assert np.array_equal(picture.labels[0], labels_array()[2])
    for bad in (labels_array() * np.float32(0.5), labels_array() * np.float32(np.nan)):
        write(tmp_path / "bad", magnetic(), bad, suffix=".mha")  # ITK turns NIfTI's NaN to 0
        with pytest.raises(InputError, match=r"labels/v\.mha: labels must be whole numbers"):
            VolumeFolder.open(tmp_path / "bad")


def test_faults_of_labels(tmp_path):
    write(tmp_path, magnetic(), -labels_array().astype(np.int16))
    with pytest.raises(InputError, match=r"labels/v\.nii\.gz: labels must be >= 0, got -2"):
        VolumeFolder.open(tmp_path)
    write(tmp_path, magnetic(), labels_array() * 0)
    with pytest.raises(InputError, match="not a single object in 1 label volumes"):
        VolumeFolder.open(tmp_path)


def test_labels_of_another_size_or_place(tmp_path):
    write(tmp_path, magnetic()[:, :9], labels_array())
    with pytest.raises(InputError, match=r"v\.nii\.gz: labels of \(14, 10, 6\) for a volume of"):
        VolumeFolder.open(tmp_path).read(0)
    write(tmp_path, magnetic(), labels_array(), name="w", origin=(0.0, 0.0, 30.0))
    source = VolumeFolder.open(tmp_path)
    with pytest.raises(InputError, match=r"w\.nii\.gz: lies elsewhere than w\.nii\.gz"):
        source.read(3)


def test_an_image_without_numbers(tmp_path):
    write(tmp_path, magnetic() * np.nan, labels_array(), suffix=".mha")
    with pytest.raises(InputError, match=r"images/v\.mha: not a single finite number"):
        VolumeFolder.open(tmp_path).read(0)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.95])
def test_files_that_were_cut_off(tmp_path, suffix, part, kept):
    """ITK itself reads half a NIfTI file without a word."""
    noise = np.random.default_rng(1).integers(1, 200, SHAPE, dtype=np.uint8)
    write(tmp_path, magnetic(), noise, suffix=suffix)
    path = tmp_path / part / f"v{suffix}"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(InputError, match=rf"{part}/v{suffix}: (cut off|cannot be read)"):
        VolumeFolder.open(tmp_path).read(0)


def test_a_gzip_of_half_a_file(tmp_path):
    write(tmp_path, magnetic(), labels_array(), suffix=".nii")
    path = tmp_path / "images" / "v.nii"
    whole = path.read_bytes()
    (tmp_path / "images" / "v.nii.gz").write_bytes(gzip.compress(whole[: len(whole) // 2]))
    path.unlink()
    source = VolumeFolder.open(tmp_path)
    with pytest.raises(InputError, match=r"v\.nii\.gz: cut off: 1856 of 3712 bytes"):
        source.read(0)


def test_what_is_no_volume(tmp_path):
    write(tmp_path, magnetic(), labels_array())
    sitk.WriteImage(sitk.GetImageFromArray(labels_array()[0]), str(tmp_path / "labels/v.nii.gz"))
    with pytest.raises(InputError, match=r"expected a volume of three axes .* got 14x10 of 1"):
        VolumeFolder.open(tmp_path)
    (tmp_path / "labels/v.nii.gz").write_text("?")
    with pytest.raises(InputError, match=r"labels/v\.nii\.gz: cannot be read as a volume"):
        VolumeFolder.open(tmp_path)

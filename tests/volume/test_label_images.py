from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samplat import InputError
from samplat_volume.geometry import Geometry
from samplat_volume.label_images import as_labels, read_labels
from volume.scans import SHAPE, image_of, noise, oblique, write
from volume.test_files import MAKERS


def labels() -> Any:
    return np.random.default_rng(0).integers(0, 5, SHAPE)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_whole_numbers_of_any_type_are_labels(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "a.nii.gz", image_of(labels().astype(dtype)), compress=True)
    found = read_labels(str(path))
    assert found.dtype == np.uint32
    assert np.array_equal(found, labels())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (-1.0, "holds -1, at voxel 4,3,2; expected labels, whole numbers from 0"),
        (0.5, "holds 0.5, at voxel 4,3,2; .*threshold it first"),
        (float("nan"), "holds nan, at voxel 4,3,2"),
        (float("inf"), "holds inf"),
        (2.0**33, "at most 4294967294"),
    ],
)
def test_other_numbers_are_refused(tmp_path: Path, value: float, told: str) -> None:
    values = labels().astype("float64")
    values[2, 3, 4] = value
    path = write(tmp_path / "a.mha", image_of(values))
    with pytest.raises(InputError, match=told):
        read_labels(str(path))


def test_negative_integers_are_refused() -> None:
    with pytest.raises(InputError, match="holds -3, at voxel"):
        as_labels(np.where(labels() == 2, -3, labels()), "a")


def test_labels_of_another_grid_are_refused(tmp_path: Path) -> None:
    frame = oblique()
    path = str(write(tmp_path / "a.nii", image_of(labels().astype("uint8"), frame)))
    volume = Geometry.of_image(image_of(noise(), frame))
    assert read_labels(path, volume).shape == SHAPE
    with pytest.raises(InputError, match="17 x 20 x 6 voxels, the volume 17 x 20 x 7"):
        read_labels(path, Geometry.of_image(image_of(noise(shape=(7, 20, 17)), frame)))
    with pytest.raises(InputError, match="mm beside the volume"):
        read_labels(path, Geometry.of_image(image_of(noise())))


def test_real_labels_lie_on_their_images(eval_data: Path) -> None:
    from samplat_volume.source import VolumeSource

    folder = eval_data / "med_ct_spleen_msd"
    volume = VolumeSource(str(folder / "spleen2_ct.nii.gz"))
    assert set(np.unique(read_labels(str(folder / "spleen2_label.nii.gz"), volume.geometry))) == {
        0,
        1,
    }
    with pytest.raises(InputError, match="holds -"):
        read_labels(str(folder / "spleen2_ct.nii.gz"))


@pytest.mark.parametrize(
    "name",
    ["a.nii", "a.nii.gz", "b.nrrd", "a.mhd", "a.gipl", "a.vtk", "a.tif", "a.zarr", "b.zarr"],
)
def test_negative_and_fractional_labels_are_refused_in_every_format(
    tmp_path: Path, name: str
) -> None:
    for dtype, told in (("int16", "holds -"), ("float32", "is it an image or a probability")):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        MAKERS[name](tmp_path / name, noise(dtype))
        with pytest.raises(InputError, match=f"{name} .*at voxel .*{told}|{told}.*at voxel"):
            read_labels(str(tmp_path / name))

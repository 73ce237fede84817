"""What happens to files: odd names, forbidden, gone, shortened; and types of numbers in them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from samplat import InputError, Window
from samplat.pixels import PercentileRescaler
from samplat_volume.source import VolumeSource
from volume.scans import SHAPE, image_of, noise, write, write_enhanced, write_series
from volume.test_source import FORMATS, ome_zarr

WHOLE = Window(start=(0, 0, 0), stop=SHAPE)


def itk(compress: bool) -> Callable[[Path, NDArray[Any]], None]:
    def make(path: Path, values: NDArray[Any]) -> None:
        write(path, image_of(values), compress=compress)

    return make


def tiff(path: Path, values: NDArray[Any]) -> None:
    tifffile.imwrite(path, values, photometric="minisblack")


def zarr_04(path: Path, values: NDArray[Any]) -> None:
    ome_zarr(path, values, "0.4")


def zarr_05(path: Path, values: NDArray[Any]) -> None:
    ome_zarr(path, values, "0.5")


MAKERS: dict[str, Callable[[Path, NDArray[Any]], Any]] = {
    **{name: itk(compress) for name, compress in FORMATS.items()},
    "a.vtk": itk(False),
    "a.gipl": itk(False),
    "a.tif": tiff,
    "a.zarr": zarr_04,
    "b.zarr": zarr_05,
    "series": write_series,
    "IM_0001": write_enhanced,
}
"""Every format, as a path that ends so."""


@pytest.mark.parametrize("name", MAKERS)
def test_spaces_and_letters_of_any_alphabet_in_paths(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Größe ナ  of (1) scan"
    folder.mkdir()
    path = folder / f"Œil {folder.name} {name}"
    MAKERS[name](path, noise())
    assert np.array_equal(VolumeSource(str(path)).read(WHOLE)[..., 0], noise())


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"a.zarr", "b.zarr"}))
@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
def test_files_that_may_not_be_read_are_one_line(
    tmp_path: Path, name: str, error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, who may read anything."""
    path = tmp_path / name
    MAKERS[name](path, noise())
    victim = sorted(path.iterdir())[2] if path.is_dir() else path
    real = Path.open

    def forbidden(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == victim:
            raise error(13, "not for you", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(InputError, match=f"{victim.name} cannot be read: not for you; expected"):
        VolumeSource(str(path))


@pytest.mark.parametrize("name", ["a.nii", "a.mha", "a.mhd", "a.tif"])
def test_a_mapped_file_that_becomes_shorter_is_an_error_and_no_crash(
    tmp_path: Path, name: str
) -> None:
    """Without the check, reading what is gone ends the process with a signal."""
    path = tmp_path / name
    MAKERS[name](path, noise())
    source, data = VolumeSource(str(path)), path.with_name("a.raw" if name == "a.mhd" else name)
    assert np.array_equal(source.read(WHOLE)[..., 0], noise())
    os.truncate(data, 400)
    with pytest.raises(InputError, match=f"{data.name} has become shorter .* 400 bytes instead"):
        source.read(WHOLE)
    data.unlink()
    with pytest.raises(InputError, match="0 bytes instead"):
        source.read(WHOLE)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *itertools.product(
            ["a.nii", "b.nrrd", "a.mha", "a.tif", "a.zarr", "b.zarr"],
            ["int8", "uint32", "int64", "uint64"],
        ),
        *itertools.product(["a.tif", "a.zarr", "b.zarr"], ["float16", "bool"]),
    ],
)
def test_every_type_of_number(tmp_path: Path, name: str, dtype: str) -> None:
    """Also the ones that no scanner writes, where the format has them."""
    values = noise() > 0 if dtype == "bool" else noise(dtype)
    if dtype in ("int64", "uint64"):
        values = values * values.dtype.type(2**40 + 1)  # floats would round it
    MAKERS[name](tmp_path / name, values)
    source = VolumeSource(str(tmp_path / name))
    assert np.dtype(source.info.dtype) == values.dtype
    assert np.array_equal(source.read(WHOLE)[..., 0], values)
    stretch = PercentileRescaler().fit(source)
    assert stretch.low < stretch.high
    assert np.isfinite([*stretch.low, *stretch.high]).all()


@pytest.mark.parametrize("name", ["a.nii", "a.mhd", "a.nhdr", "a.tif", "a.zarr", "b.zarr"])
@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_big_endian_numbers(tmp_path: Path, name: str, dtype: str) -> None:
    values, path = noise(dtype), tmp_path / name
    swapped = values.astype(values.dtype.newbyteorder(">"))
    if name == "a.nii":
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(swapped.dtype)
        nibabel.save(nibabel.Nifti1Image(swapped.T, np.eye(4), header), path)
        assert path.read_bytes()[:4] == b"\0\0\1\x5c"
    elif name == "a.tif":
        tifffile.imwrite(path, swapped, byteorder=">", photometric="minisblack")
    elif name.endswith("zarr"):
        MAKERS[name](path, swapped)
    else:
        MAKERS[name](path, values)
        told = {"a.mhd": ("MSB = False", "MSB = True"), "a.nhdr": ("little", "big")}[name]
        path.write_text(path.read_text().replace(*told))
        swapped.tofile(tmp_path / "a.raw")
    source = VolumeSource(str(path))
    assert source.info.dtype == dtype
    assert np.array_equal(source.read(WHOLE)[..., 0], values)


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in ("series", "IM_0001")])
def test_numbers_that_are_none_are_masked_in_every_format(tmp_path: Path, name: str) -> None:
    values = noise("float32")
    values[2, 3, 4], values[1, 1, 1], values[0] = np.nan, -np.inf, np.inf
    MAKERS[name](tmp_path / name, values)
    source = VolumeSource(str(tmp_path / name))
    assert np.array_equal(source.valid(WHOLE), np.isfinite(values))
    stretch = PercentileRescaler().fit(source)
    assert np.isfinite([*stretch.low, *stretch.high]).all()

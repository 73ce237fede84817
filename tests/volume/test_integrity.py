"""Files that are cut off, lie, or do not know where they are: an error before any work."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile

from samplat import InputError, Window
from samplat_volume.source import VolumeSource
from volume.scans import SHAPE, image_of, noise, oblique, write, write_series
from volume.test_source import ome_zarr

FORMATS: dict[str, bool] = {
    "a.nii": False,
    "a.nii.gz": True,
    "a.vtk": False,
    "a.gipl": False,
    "a.gipl.gz": True,
    "a.mha": False,
    "b.mha": True,
    "a.nrrd": False,
    "b.nrrd": True,
    "a.mhd": False,
    "b.mhd": True,
    "a.nhdr": False,
    "b.nhdr": True,
    "a.tif": False,
    "b.tif": True,
}
DETACHED = {"a.mhd": "a.raw", "b.mhd": "b.zraw", "a.nhdr": "a.raw", "b.nhdr": "b.raw.gz"}
WHOLE = Window(start=(0, 0, 0), stop=SHAPE)


def make(folder: Path, name: str) -> Path:
    """The file that holds the voxels."""
    if name.endswith("tif"):
        options = {"compression": "zlib"} if FORMATS[name] else {"contiguous": False}
        tifffile.imwrite(folder / name, noise("uint16"), photometric="minisblack", **options)
        return folder / name
    write(folder / name, image_of(noise("uint16")), compress=FORMATS[name])
    return folder / DETACHED.get(name, name)


def open_or_refuse(path: Path) -> VolumeSource | None:
    """A source, or None where it was refused in one line."""
    message = ""
    try:
        return VolumeSource(str(path))
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    return None


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_is_read_and_a_cut_one_never(tmp_path: Path, name: str) -> None:
    data_file = make(tmp_path, name)
    values = VolumeSource(str(tmp_path / name)).read(WHOLE)
    assert np.array_equal(values[..., 0], noise("uint16"))
    data = data_file.read_bytes()
    cuts = np.random.default_rng(2).integers(0, len(data), 92).tolist()
    for cut in (*cuts, 0, 1, 4, 8, 16, len(data) // 2, len(data) - 1, len(data) - 2):
        data_file.write_bytes(data[:cut])
        opened = open_or_refuse(tmp_path / name)
        # the last byte of an uncompressed text format may be a line's end
        assert opened is None or np.array_equal(opened.read(WHOLE), values), cut


@pytest.mark.parametrize("name", DETACHED)
def test_a_header_without_its_voxels_says_where_they_should_be(tmp_path: Path, name: str) -> None:
    make(tmp_path, name).unlink()
    with pytest.raises(InputError, match=f"should be in .*{DETACHED[name]}, which is missing"):
        VolumeSource(str(tmp_path / name))


@pytest.mark.parametrize("name", DETACHED)
@pytest.mark.parametrize("elsewhere", ["/etc/passwd", "../a.raw", "sub/a.raw"])
def test_headers_cannot_name_files_elsewhere(tmp_path: Path, name: str, elsewhere: str) -> None:
    make(tmp_path, name)
    header = tmp_path / name
    text = header.read_text().replace(DETACHED[name], elsewhere)
    header.write_text(text)
    with pytest.raises(InputError, match="which is not beside it"):
        VolumeSource(str(header))


def test_a_link_beside_a_header_is_not_followed_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = make(tmp_path / "in", "a.mhd")
    data.rename(tmp_path / "secret.raw")
    data.symlink_to(tmp_path / "secret.raw")
    with pytest.raises(InputError, match="which is not beside it"):
        VolumeSource(str(tmp_path / "in" / "a.mhd"))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.vtk", "a.gipl", "a.mha", "b.nrrd"])
def test_more_voxels_than_declared_are_no_slip(tmp_path: Path, name: str) -> None:
    """The header's size is wrong, or that of another file."""
    data_file = make(tmp_path, name)
    data = data_file.read_bytes()
    if name.endswith("gz"):
        data_file.write_bytes(gzip.compress(gzip.decompress(data) + bytes(5000)))
    elif name == "b.nrrd":
        data_file.write_bytes(data.replace(b"sizes: 17 20 6", b"sizes: 17 20 5"))
    else:
        data_file.write_bytes(data + bytes(5000))
    with pytest.raises(InputError, match="more than the .* voxels that its header declares"):
        VolumeSource(str(tmp_path / name))


def nifti(path: Path, *changes: tuple[str, int, Any]) -> Path:
    nibabel.save(nibabel.Nifti1Image(noise().T, np.eye(4)), path.with_name("plain.nii"))
    data = bytearray(path.with_name("plain.nii").read_bytes())
    for kind, at, value in changes:
        struct.pack_into("<" + kind, data, at, value)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_impossible_spacing_of_nifti(tmp_path: Path, name: str, bad: float, axis: int) -> None:
    path = str(nifti(tmp_path / name, ("f", 76 + 4 * axis, bad), ("h", 254, 0)))
    with pytest.raises(InputError, match=r"spacing of .* say what it is with spacing=z,y,x"):
        VolumeSource(path)
    assert VolumeSource(path, spacing=(3, 2, 1)).info.spacing == (3, 2, 1)


def test_spacing_that_contradicts_itself(tmp_path: Path) -> None:
    path = str(nifti(tmp_path / "a.nii", ("f", 80, 0.5)))
    with pytest.raises(InputError, match=r"0.5 mm apart along x \(pixdim\) and 1 mm \(sform\)"):
        VolumeSource(path)
    assert VolumeSource(path, spacing=(1, 1, 1)).info.spacing == (1, 1, 1)


@pytest.mark.parametrize("bad", ["0", "nan", "-1", "inf"])
@pytest.mark.parametrize(
    ("name", "field"),
    [("a.mha", b"ElementSpacing = 0.5"), ("a.nrrd", b"(0.5,"), ("a.vtk", b"SPACING 0.5 ")],
)
def test_impossible_spacing_in_texts(tmp_path: Path, name: str, field: bytes, bad: str) -> None:
    path = write(tmp_path / name, image_of(noise()))
    data = path.read_bytes().replace(b"5.0000000000000000e-01", b"0.5")
    assert field in data
    path.write_bytes(data.replace(field, field.replace(b"0.5", bad.encode())))
    assert open_or_refuse(path) is None or (name, bad) == ("a.nrrd", "-1")  # mirrored


@pytest.mark.parametrize("bad", [0.0, float("nan"), -2.0])
def test_impossible_spacing_of_gipl(tmp_path: Path, bad: float) -> None:
    path = write(tmp_path / "a.gipl", image_of(noise()))
    data = bytearray(path.read_bytes())
    struct.pack_into(">f", data, 14, bad)
    path.write_bytes(data)
    with pytest.raises(InputError, match="expected positive numbers"):
        VolumeSource(str(path))


def test_axes_that_are_not_at_right_angles(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    image = nibabel.Nifti1Image(noise().T, affine)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(InputError, match="a.nii cannot be placed: .*orthonormal"):
        VolumeSource(str(tmp_path / "a.nii"))
    path = write(tmp_path / "a.mha", image_of(noise()))
    path.write_bytes(path.read_bytes().replace(b"= 1 0 0 0 1 0 0 0 1", b"= 1 0 0 1 1 0 0 0 1"))
    assert open_or_refuse(path) is None


@pytest.mark.parametrize("spacing", [(1, 2), (0, 1, 1), (1, float("nan"), 1), (-1, 1, 1)])
def test_overrides_have_to_make_sense(tmp_path: Path, spacing: Any) -> None:
    path = write(tmp_path / "a.nii", image_of(noise()))
    with pytest.raises(
        InputError, match=r"spacing must be three positive numbers of mm \(z, y, x\)"
    ):
        VolumeSource(str(path), spacing=spacing)


ABSURD: dict[str, tuple[tuple[str, int, Any], ...]] = {
    "no-x": (("h", 42, 0),),
    "no-z": (("h", 46, 0),),
    "negative": (("h", 44, -5),),
    "huge": (("h", 42, 32767), ("h", 44, 32767), ("h", 46, 32767)),
    "five": (("h", 40, 5), ("h", 48, 2), ("h", 50, 2)),
    "rank": (("h", 40, 9),),
    "rank-0": (("h", 40, 0),),
    "type": (("h", 70, 9999),),
    "offset": (("f", 108, 1e9),),
    "offset-nan": (("f", 108, float("nan")),),
    "offset-negative": (("f", 108, -352.0),),
}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_headers_are_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    path = nifti(tmp_path / name, *ABSURD[kind])
    before = time.perf_counter()
    assert open_or_refuse(path) is None
    assert time.perf_counter() - before < 1


def resized(folder: Path, name: str, sizes: tuple[int, int, int]) -> Path:
    """A file of which only the header says that it has other sizes (x, y, z)."""
    x, y, z = sizes
    if name == "a.zarr":
        path = ome_zarr(folder / name, noise("uint16"), "0.5")
        header = path / "0" / "zarr.json"
        header.write_text(json.dumps(json.loads(header.read_text()) | {"shape": [z, y, x]}))
        return path
    if name == "series":
        write_series(folder / name, noise(), Rows=max(0, y) % 65536, Columns=max(0, x) % 65536)
        return folder / name
    make(folder, name)
    path = folder / name
    data = bytearray(path.read_bytes())
    if name == "a.gipl":
        struct.pack_into(">3H", data, 0, *(max(0, n) % 65536 for n in sizes))
    elif name == "a.tif":
        tags = {256: x, 257: y}
        with tifffile.TiffFile(path) as tiff:
            places = [(p.tags[t].valueoffset, v) for p in tiff.pages for t, v in tags.items()]
        for place, value in places:
            struct.pack_into("<H", data, place, max(0, value) % 65536)
    else:
        old = next(old for old in (b"17 20 6",) if old in data)
        data = bytearray(bytes(data).replace(old, f"{x} {y} {z}".encode()))
    path.write_bytes(data)
    return path


SIZES = [(0, 20, 6), (17, 0, 6), (-1, 20, 6), (65535, 65535, 6), (2**40, 2**40, 2**40)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    "name",
    ["a.mha", "b.mha", "a.nrrd", "b.nrrd", "a.mhd", "a.nhdr", "a.vtk", "a.gipl", "a.tif", "series"],
)
def test_absurd_sizes_are_refused_at_once(
    tmp_path: Path, name: str, sizes: tuple[int, int, int]
) -> None:
    path = resized(tmp_path, name, sizes)
    tracemalloc.start()
    before = time.perf_counter()
    assert open_or_refuse(path) is None
    assert time.perf_counter() - before < 1
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("sizes", [(0, 20, 6), (2**40, 2**40, 2**40)])
def test_absurd_sizes_of_a_zarr(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    assert open_or_refuse(resized(tmp_path, "a.zarr", sizes)) is None


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "a.nrrd"])
def test_complex_numbers_are_refused(tmp_path: Path, name: str) -> None:
    values = noise("float32").astype("complex64")
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, values)
    elif name == "a.zarr":
        ome_zarr(tmp_path / name, values, "0.4")
    else:
        path = write(tmp_path / name, image_of(noise()))
        path.write_bytes(path.read_bytes().replace(b"type: short", b"type: block"))
    with pytest.raises(InputError, match="real numbers|integers or floats"):
        VolumeSource(str(tmp_path / name))


def test_a_bomb_is_not_swallowed(tmp_path: Path) -> None:
    """Few bytes that become many more than declared."""
    plain = nifti(tmp_path / "a.nii").read_bytes()
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(plain + bytes(200_000_000), compresslevel=1))
    tracemalloc.start()
    before = time.perf_counter()
    with pytest.raises(InputError, match="more than the"):
        VolumeSource(str(path))
    assert time.perf_counter() - before < 1
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_headers_are_one_line_errors_or_harmless(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    path = tmp_path / name
    data = path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(25):
        damaged = bytearray(data)
        for place in rng.integers(0, min(400, len(data)), 3):
            damaged[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(damaged))
        opened = open_or_refuse(path)
        if opened is not None and opened.info.shape == SHAPE:
            with contextlib.suppress(InputError):
                opened.read(WHOLE)


def test_bit_rot_of_a_compressed_file_is_noticed(tmp_path: Path) -> None:
    path = make(tmp_path, "a.nii.gz")
    data = path.read_bytes()
    for at in np.random.default_rng(0).integers(20, len(data), 60):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(at % 8)
        path.write_bytes(flipped)
        assert open_or_refuse(path) is None


def test_voxels_of_several_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mhd", image_of(noise()))
    path.write_text(path.read_text().replace("a.raw", "LIST"))
    with pytest.raises(InputError, match="several files; write it as one file"):
        VolumeSource(str(path))


def test_voxels_as_text_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.vtk", image_of(noise()))
    path.write_bytes(path.read_bytes().replace(b"BINARY", b"ASCII "))
    with pytest.raises(InputError, match="as text; write it as binary"):
        VolumeSource(str(path))


def test_oblique_grids_survive(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nrrd", "a.mha"):
        frame = oblique(5)
        path = write(tmp_path / name, image_of(noise(), frame))
        assert np.allclose(VolumeSource(str(path)).geometry.direction, frame, atol=1e-6)

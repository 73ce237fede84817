"""TIFF stacks that lie, and compressions that tifffile alone does not know."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from samplat import InputError, Window
from samplat_volume.source import VolumeSource
from volume.scans import SHAPE, noise

WIDTH, LENGTH = 256, 257


def voxels(path: Path) -> Any:
    return VolumeSource(str(path)).read(Window(start=(0, 0, 0), stop=SHAPE))[..., 0]


def stack(path: Path, **options: Any) -> Path:
    values = noise("uint16")
    tifffile.imwrite(path, values, photometric="minisblack", contiguous=False, **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("tag", "value", "options"),
    [
        (WIDTH, 10, {}),
        (WIDTH, 30, {}),
        (LENGTH, 10, {}),
        (LENGTH, 40, {}),
        (LENGTH, 10, {"rowsperstrip": 4}),
        (LENGTH, 40, {"rowsperstrip": 4}),
    ],
)
def test_sizes_that_are_not_those_of_the_bytes(
    tmp_path: Path, compression: str | None, tag: int, value: int, options: dict[str, Any]
) -> None:
    """tifffile would crop what is too long, and shear the picture."""
    path = stack(tmp_path / "a.tif", compression=compression, metadata=None, **options)
    with tifffile.TiffFile(path) as tiff:
        places = [page.tags[tag].valueoffset for page in tiff.pages]
    data = bytearray(path.read_bytes())
    for place in places:
        struct.pack_into("<H", data, place, value)
    path.write_bytes(data)
    with pytest.raises(InputError, match="page 0.*(header's size|header is damaged)"):
        VolumeSource(str(path))


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_stacks_whose_description_tells_their_size_are_not_cut_unnoticed(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise("uint16"), metadata={"axes": "ZYX"}, **{kind: True})
    whole = path.read_bytes()
    for cut in np.linspace(8, len(whole) - 4, 60).astype(int).tolist():
        path.write_bytes(whole[:cut])
        try:
            found = voxels(path)
        except InputError as error:
            assert "cut off" in str(error)  # noqa: PT017 the last bytes may be padding
        else:
            assert np.array_equal(found, noise("uint16"))
            assert cut > len(whole) - 8


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_impossible_spacing(tmp_path: Path, kind: str, value: float) -> None:
    told: dict[str, Any] = {"spacing": value, "unit": "um"}
    if kind == "ome":
        told = {f"PhysicalSize{axis}": v for axis, v in zip("ZYX", (value, 1, 1), strict=True)}
    options: dict[str, Any] = {kind: True, "metadata": {"axes": "ZYX"} | told}
    tifffile.imwrite(tmp_path / "a.tif", noise("uint16"), resolution=(2, 2), **options)
    with pytest.raises(InputError, match="say what it is with spacing=z,y,x"):
        VolumeSource(str(tmp_path / "a.tif"))
    stated = VolumeSource(str(tmp_path / "a.tif"), spacing=(3, 2, 1))
    assert stated.info.spacing == (3, 2, 1)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "zstd", "tiff_adobe_deflate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "rgb"])
def test_compressions_of_other_programs(tmp_path: Path, compression: str, dtype: str) -> None:
    values = noise("uint8", (*SHAPE, 3)) if dtype == "rgb" else noise(dtype)
    first, *others = map(Image.fromarray, values)
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=others, compression=compression)
    source = VolumeSource(str(path), channel=[0, 1, 2] if dtype == "rgb" else None)
    found = source.read(Window(start=(0, 0, 0), stop=SHAPE))
    assert np.array_equal(found if dtype == "rgb" else found[..., 0], values)
    assert np.array_equal(source.read(Window(start=(4, 0, 0), stop=(5, 20, 17))), found[4:5])
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        at, length = tiff.pages[3].dataoffsets[0], tiff.pages[3].databytecounts[0]
    if compression != "packbits":  # has nothing to check
        path.write_bytes(data[:at] + bytes(length) + data[at + length :])
        with pytest.raises(InputError, match="page 3 is damaged"):
            VolumeSource(str(path), channel=source._options["channel"]).read(
                Window(start=(0, 0, 0), stop=SHAPE)
            )


def test_a_compression_that_nobody_here_knows_is_told_when_it_is_opened(tmp_path: Path) -> None:
    path = stack(tmp_path / "a.tif", compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        places = [page.tags[259].valueoffset for page in tiff.pages]
    data = bytearray(path.read_bytes())
    for place in places:
        struct.pack_into("<H", data, place, 34887)  # LERC
    path.write_bytes(data)
    with pytest.raises(InputError, match="a.tif.*(compressed with LERC|page 0 is damaged)"):
        VolumeSource(str(path))

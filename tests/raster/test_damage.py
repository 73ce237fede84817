from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raster.crafted import UTM, write
from samplat import InputError, Window
from samplat_raster.source import RasterSource

FORMATS: dict[str, dict[str, Any]] = {
    "stripped.tif": {},
    "tiled.tif": {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
    "planes.tif": {"interleave": "band", "compress": "lzw"},
    "big.tif": {"bigtiff": "YES", "compress": "zstd", "tiled": True},
    "motorola.tif": {"endianness": "BIG"},
    "cloud.tif": {"driver": "COG", "blocksize": 128},
    "photo.jpg": {"driver": "JPEG"},
    "progressive.jpg": {"driver": "JPEG", "progressive": "ON"},
    "picture.png": {"driver": "PNG"},
    "satellite.jp2": {"driver": "JP2OpenJPEG"},
}


def noise() -> Any:
    return np.random.default_rng(0).integers(0, 255, (3, 200, 260)).astype(np.uint8)


def open_or_refuse(path: Path) -> RasterSource | None:
    """A source, or None where it was refused in one line."""
    message = ""
    try:
        return RasterSource(str(path))
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    return None


@pytest.mark.parametrize("name", FORMATS)
def test_row_12_a_whole_file_is_read_and_a_cut_one_never(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, noise(), **FORMATS[name])
    whole = Window(start=(0, 0, 0), stop=(1, 200, 260))
    pixels = RasterSource(str(path)).read(whole)
    data = path.read_bytes()
    cuts = np.random.default_rng(2).integers(0, len(data), 94)
    for cut in (*cuts.tolist(), 1, 4, 8, 16, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        opened = open_or_refuse(path)
        # a COG ends with four bytes that are no pixels
        assert opened is None or (
            name == "cloud.tif" and np.array_equal(opened.read(whole), pixels)
        )


def test_a_sparse_tiff_is_whole(tmp_path: Path) -> None:
    zeros = np.zeros((1, 600, 600), np.uint8)
    profile = {"tiled": True, "sparse_ok": True, **UTM}
    path = write(tmp_path / "a.tif", zeros, **profile)
    assert path.stat().st_size < 10_000
    RasterSource(str(path)).close()


@pytest.mark.parametrize("name", ["stripped.tif", "tiled.tif", "big.tif", "picture.png"])
def test_damaged_headers_are_one_line_errors_or_harmless(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, noise(), **FORMATS[name])
    data = path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(0, 400, 3):
            damaged[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(damaged))
        open_or_refuse(path)


OPENS = """
import resource, sys, time
from samplat import InputError
from samplat_raster.source import RasterSource

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

RasterSource(sys.argv[1]).close()  # libraries are loaded
for path in sys.argv[2:]:
    before, began = peak(), time.monotonic()
    try:
        RasterSource(path).close()
        told = "opened"
    except InputError as error:
        told = str(error)
    print(time.monotonic() - began, peak() - before, told, sep="\\t")
"""


def absurd(number: int) -> bytes:
    """A classic TIFF whose header claims what cannot be, of one kind or several."""
    rng = np.random.default_rng(number)
    sizes = [0, 1, 2**15, 2**31 - 1, 2**32 - 1]
    tags = {256: 5, 257: 5, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 5, 279: 25}
    if number % 2:
        tags = {**tags, 322: 16, 323: 16, 324: 8, 325: 256}
    claimed = (256, 257) if number % 3 == 0 else rng.choice(list(tags), 3, replace=False)
    for tag in claimed:
        tags[int(tag)] = int(rng.choice(sizes if tag in (256, 257) else [0, *sizes[2:]]))
    fields = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items())]
    directory = struct.pack("<H", len(fields)) + b"".join(fields) + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(600)


def test_row_15_absurd_headers_take_neither_time_nor_memory(tmp_path: Path) -> None:
    good, paths = write(tmp_path / "good.tif", noise(), **UTM), []
    for number in range(50):
        paths.append(tmp_path / f"{number}.tif")
        paths[-1].write_bytes(absurd(number))
    command = [sys.executable, "-c", OPENS, str(good), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == 50
    for path, (seconds, megabytes, told) in zip(paths, lines, strict=True):
        assert float(seconds) < 1, path
        assert float(megabytes) < 200, path
        # what opens claims a size that can be, and fails at the latest when it is read
        assert told != "opened" or RasterSource(str(path)).info.shape[1] <= 2**31
    assert sum(told != "opened" for *_, told in lines) > 25


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (2_000_000_000, 2_000_000_000)])
def test_absurd_sizes_are_refused(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "a.tif"
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (277, 1)]
    entries += [(322, 2**30), (323, 2**30), (324, 0), (325, 0)]
    fields = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries]
    directory = struct.pack("<H", len(fields)) + b"".join(fields) + struct.pack("<I", 0)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + directory)
    with pytest.raises(InputError):
        RasterSource(str(path))

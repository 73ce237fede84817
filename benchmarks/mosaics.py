"""Rasters of any size in a moment: tiled TIFFs whose tiles are pictures, many at one place.

A TIFF says of each of its tiles where in the file it lies. Nothing forbids that a thousand of them
lie at one place; so a raster of 10 gigapixels of real texture is a file of a few megabytes, which
GDAL reads, decodes and hands out like any other. Tiles that lie nowhere are sparse, and read as 0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCK = 512
"""Side of a picture, in pixels."""
ZSTD = 50_000
"""TIFF's number of the compression."""
ASCII, SHORT, LONG8, DOUBLE = 2, 3, 16, 12
PLACE = (1000.0, 0.3, 4_000_000.0)
"""Left edge, size of a pixel and upper edge, metres."""


def textures() -> list[NDArray[np.uint8]]:
    """(BLOCK, BLOCK, 3) pictures, public domain: grass, gravel, brick and faces, each 8 ways."""
    from skimage import data

    grey = [data.grass(), data.gravel(), data.brick(), data.camera()]
    pictures = [np.repeat(g[..., None], 3, axis=-1) for g in grey] + [data.astronaut()]
    return [
        np.ascontiguousarray(np.rot90(flipped, turns))
        for picture in pictures
        for flipped in (picture, picture[:, ::-1])
        for turns in range(4)
    ]


def write_mosaic(
    path: Path, side: int, *, share: float = 1.0, seed: int = 0, blocks: Sequence[NDArray] = ()
) -> Path:
    """A BigTIFF of `side` x `side` RGB pixels in EPSG:32614, of pictures in random order.

    Args:
        path: of the file.
        side: in pixels.
        share: of squares of 4 x 4 pictures with pictures, 0..1; the others are sparse and nodata.
        seed: of the order.
        blocks: (B, B, 3) pictures, B a multiple of 16, instead of `textures`.
    """
    from numcodecs.zstd import Zstd

    pictures = list(blocks) or textures()
    block = len(pictures[0])
    rng, count = np.random.default_rng(seed), -(-side // block)
    packed = [Zstd(level=9).encode(p) for p in pictures]
    chosen = rng.integers(0, len(packed), (count, count))
    squares = rng.random((-(-count // 4),) * 2) < share
    present = squares.repeat(4, axis=0).repeat(4, axis=1)[:count, :count]
    sizes = np.array([len(p) for p in packed], np.uint64)
    starts = 16 + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.uint64)
    tables = [np.where(present, values[chosen], 0).astype("<u8") for values in (starts, sizes)]
    _write_tiff(path, side, block, packed, *tables)
    return path


def _write_tiff(
    path: Path, side: int, block: int, packed: list[bytes], starts: NDArray, sizes: NDArray
) -> None:
    left, pixel, top = PLACE
    tags: list[tuple[int, int, bytes]] = [
        (256, LONG8, struct.pack("<Q", side)),
        (257, LONG8, struct.pack("<Q", side)),
        (258, SHORT, struct.pack("<3H", 8, 8, 8)),
        (259, SHORT, struct.pack("<H", ZSTD)),
        (262, SHORT, struct.pack("<H", 2)),  # RGB
        (277, SHORT, struct.pack("<H", 3)),
        (284, SHORT, struct.pack("<H", 1)),
        (322, SHORT, struct.pack("<H", block)),
        (323, SHORT, struct.pack("<H", block)),
        (324, LONG8, starts.tobytes()),
        (325, LONG8, sizes.tobytes()),
        (33550, DOUBLE, struct.pack("<3d", pixel, pixel, 0)),
        (33922, DOUBLE, struct.pack("<6d", 0, 0, 0, left * 500, top, 0)),
        (34735, SHORT, struct.pack("<16H", *_geokeys(32614))),
        (42113, ASCII, b"0\x00"),  # nodata
    ]
    with path.open("wb") as file:
        directory = 16 + sum(map(len, packed))
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, directory))
        file.writelines(packed)
        file.write(_directory(tags, directory))


def _geokeys(epsg: int) -> tuple[int, ...]:
    projected, area, code = (1024, 0, 1, 1), (1025, 0, 1, 1), (3072, 0, 1, epsg)
    return (1, 1, 0, 3, *projected, *area, *code)


def _directory(tags: list[tuple[int, int, bytes]], at: int) -> bytes:
    size = {ASCII: 1, SHORT: 2, LONG8: 8, DOUBLE: 8}
    entries, beyond = [], b""
    room = at + 8 + 20 * len(tags) + 8
    for tag, kind, value in tags:
        field = value.ljust(8, b"\0") if len(value) <= 8 else struct.pack("<Q", room + len(beyond))
        if len(value) > 8:
            beyond += value
        entries.append(struct.pack("<HHQ", tag, kind, len(value) // size[kind]) + field)
    return struct.pack("<Q", len(tags)) + b"".join(entries) + struct.pack("<Q", 0) + beyond

"""Is the file whole? Decided from its own tables, before anything is computed.

GDAL opens a raster that was cut off half-way and fails only when it comes to the missing pixels,
which may be hours into a job. The formats say where their data lies, so that can be checked first.
Sources: TIFF 6.0 and its BigTIFF extension, PNG (ISO/IEC 15948), JPEG (ITU-T T.81, annex B),
JPEG 2000 (ITU-T T.800, annexes A and I).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

SIGNATURES = (
    (b"II*\0", "GTiff"),
    (b"MM\0*", "GTiff"),
    (b"II+\0", "GTiff"),
    (b"MM\0+", "GTiff"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2OpenJPEG"),
    (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
)
"""First bytes of a file, and the GDAL driver that reads it. No other driver is ever asked."""

TIFF_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
WIDTH, HEIGHT, SAMPLES, PLANAR = 256, 257, 277, 284
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_COUNTS = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325


class _CutOff(Exception):  # noqa: N818 never leaves this module
    """Something lies beyond the end of the file; the text says what."""


def sniff_driver(path: Path) -> str | None:
    """Name of the GDAL driver for a file by its first bytes; None for anything else."""
    with path.open("rb") as file:
        head = file.read(16)
    return next((driver for magic, driver in SIGNATURES if head.startswith(magic)), None)


def check_whole(path: Path, driver: str) -> None:
    """Refuse a file that ends before its data does. Missing (sparse) blocks of a TIFF are legal.

    Raises:
        InputError: the file is cut off.
    """
    checks = {"GTiff": _check_tiff, "PNG": _check_png, "JPEG": _check_jpeg}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            checks.get(driver, _check_jp2)(data)
        except (_CutOff, struct.error) as fault:
            told = str(fault) if isinstance(fault, _CutOff) else "its header is incomplete"
            raise InputError(
                f"{path} is cut off at {len(data)} bytes: {told}; copy or download it again"
            ) from None


@dataclass(frozen=True, kw_only=True)
class _Tiff:
    """A TIFF file and how its numbers are written."""

    data: mmap.mmap
    order: str
    """Byte order as in `struct`: "<" or ">"."""
    big: bool
    """True: BigTIFF, with offsets of 8 bytes."""

    def number(self, at: int, kind: str) -> int:
        """The number at a position."""
        return int(struct.unpack_from(self.order + kind, self.data, at)[0])

    def directories(self) -> Iterator[dict[int, tuple[int, int, int]]]:
        """Every directory of the chain: tag -> type, count, position of the value field."""
        at, seen = self.number(8 if self.big else 4, "Q" if self.big else "I"), set[int]()
        while at and at not in seen:
            seen.add(at)
            yield self._directory(at)
            after = at + (8 if self.big else 2) + self._count(at) * (20 if self.big else 12)
            at = self.number(after, "Q" if self.big else "I")
        if not seen:
            raise _CutOff("it has no image directory")

    def _count(self, at: int) -> int:
        return self.number(at, "Q" if self.big else "H")

    def _directory(self, at: int) -> dict[int, tuple[int, int, int]]:
        head, size, field = (8, 20, 12) if self.big else (2, 12, 8)
        if at + head > len(self.data) or at + head + self._count(at) * size > len(self.data):
            raise _CutOff(f"the image directory at byte {at} lies beyond its end")
        entries = range(at + head, at + head + self._count(at) * size, size)
        wide = "Q" if self.big else "I"
        return {
            self.number(e, "H"): (self.number(e + 2, "H"), self.number(e + 4, wide), e + field)
            for e in entries
        }

    def values(self, entry: tuple[int, int, int] | None) -> NDArray[np.uint64]:
        """All numbers of a tag; empty where the tag is missing or holds no integers."""
        if entry is None or entry[0] not in TIFF_NUMBERS:
            return np.zeros(0, np.uint64)
        kind, count, at = entry
        dtype = np.dtype(self.order + TIFF_NUMBERS[kind])
        if count * dtype.itemsize > (8 if self.big else 4):
            at = self.number(at, "Q" if self.big else "I")
        if at + count * dtype.itemsize > len(self.data):
            raise _CutOff("the table of its blocks lies beyond its end")
        return np.frombuffer(self.data[at : at + count * dtype.itemsize], dtype).astype(np.uint64)


def _check_tiff(data: mmap.mmap) -> None:
    tiff = _Tiff(data=data, order="<" if data[:2] == b"II" else ">", big=b"+" in data[2:4])
    for directory in tiff.directories():
        tags = {tag: tiff.values(entry) for tag, entry in directory.items() if tag in _BLOCK_TAGS}
        offsets = tags.get(TILE_OFFSETS, tags.get(STRIP_OFFSETS, np.zeros(0, np.uint64)))
        counts = tags.get(TILE_COUNTS, tags.get(STRIP_COUNTS, np.zeros(0, np.uint64)))
        _check_blocks(offsets, counts, _expected_blocks(tags), len(data))


_BLOCK_TAGS = {
    *(WIDTH, HEIGHT, SAMPLES, PLANAR, STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_COUNTS),
    *(TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS),
}


def _expected_blocks(tags: dict[int, NDArray[np.uint64]]) -> int:
    def first(tag: int, default: int) -> int:
        values = tags.get(tag)
        return max(1, int(values[0])) if values is not None and len(values) else default

    width, height = first(WIDTH, 1), first(HEIGHT, 1)
    block_width, block_height = first(TILE_WIDTH, width), first(TILE_HEIGHT, height)
    if TILE_OFFSETS not in tags:
        block_width, block_height = width, first(ROWS_PER_STRIP, height)
    planes = first(SAMPLES, 1) if first(PLANAR, 1) == 2 else 1
    return -(-width // block_width) * -(-height // block_height) * planes


def _check_blocks(
    offsets: NDArray[np.uint64], counts: NDArray[np.uint64], expected: int, size: int
) -> None:
    if len(offsets) < expected:
        raise _CutOff(f"it names {len(offsets)} of its {expected} blocks")
    if len(counts) != len(offsets):
        # no byte counts: legal for old uncompressed files, where only the start can be checked
        counts = np.minimum(offsets, 1)
    end, room = np.uint64(size), np.uint64(size) - np.minimum(offsets, np.uint64(size))
    lost = (counts > 0) & ((offsets >= end) | (counts > room))
    if lost.any():
        raise _CutOff(f"{int(lost.sum())} of its {len(offsets)} blocks lie beyond its end")


def _check_png(data: mmap.mmap) -> None:
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND" and at <= len(data):
            return
    raise _CutOff("it has no end marker (IEND)")


def _check_jpeg(data: mmap.mmap) -> None:
    at = 2
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFFDA:
            break
        at += 1 if marker == 0xFFFF else 2 + length
    # in entropy-coded data, FF is always followed by 00 or a restart marker
    if data.rfind(b"\xff\xd9", min(at, len(data))) < 0:
        raise _CutOff("it has no end marker (EOI)")


def _check_jp2(data: mmap.mmap) -> None:
    start, stop = _codestream(data) if data[:2] != b"\xff\x4f" else (0, len(data))
    if stop > len(data) or data[start:stop][-2:] != b"\xff\xd9":
        raise _CutOff("its codestream has no end marker (EOC)")


def _codestream(data: mmap.mmap) -> tuple[int, int]:
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        stop = at + int(length) if length else len(data)
        if kind == b"jp2c":
            return at + head, stop
        at = max(stop, at + head)
    raise _CutOff("it has no codestream")

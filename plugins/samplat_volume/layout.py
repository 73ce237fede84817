"""Where the voxels of a file are, and whether they are all there.

ITK reads a NIfTI, VTK or GIPL file that was cut off without an error. So headers are read here as
well (`headers`), and what they declare is compared with the bytes that are there before anything
else happens. The same facts let a window be read without the rest of an uncompressed file.
"""

from __future__ import annotations

import bz2
import functools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

MAX_VOXELS = 2**44
"""Larger volumes are taken for a damaged or hostile header."""
PIECE = 2**20
"""Bytes that are decompressed at a time."""
PADDING = 64
"""Bytes after the voxels that mean nothing; as many as a plane has, and the header is wrong."""
RATIO = {"deflate": 1032, "bzip2": 45_900_000}
"""No stream is longer than so many times its compressed bytes; larger claims are lies."""
SPACE = "zyx"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a header says of its voxels."""

    path: Path
    """The file that was named: the header."""
    data: Path
    """The file that holds the voxels; often the same."""
    start: int
    """Byte of `data` at which the voxels or their compressed stream begin."""
    codec: Literal["none", "deflate", "bzip2"] = "none"
    """How they are compressed; deflate: in gzip's or zlib's wrapping."""
    skip: int = 0
    """Bytes of the decompressed stream before the first voxel."""
    dtype: np.dtype[Any]
    """Type of a stored number, with its byte order."""
    shape: tuple[int, ...]
    """Extent along `axes`, slowest first, as in a C array."""
    axes: str
    """"zyx" with at most one "c" (time, channel, component) before or after it."""
    scale: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept that turn a stored number into a value."""
    spacing: tuple[float, ...] | None = None
    """Declared distances (z, y, x), as written; None where the header gives none."""
    columns: tuple[float, ...] | None = None
    """Distances (z, y, x) that the header tells a second time, in its affine; else None."""

    @property
    def channels(self) -> int:
        """Numbers per voxel."""
        return self.shape[self.axes.index("c")] if "c" in self.axes else 1

    @property
    def extent(self) -> tuple[int, int, int]:
        """Voxels (z, y, x)."""
        z, y, x = (self.shape[self.axes.index(a)] for a in SPACE)
        return z, y, x

    @property
    def bytes(self) -> int:
        """Bytes that the voxels take, decompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def plane(self) -> tuple[int, ...]:
        """Extent of what is stored together: (y, x), or (y, x, c) where "c" is fastest."""
        return self.shape[self.axes.index("y") :]

    @property
    def plane_bytes(self) -> int:
        """Bytes of that."""
        return math.prod(self.plane) * self.dtype.itemsize


def check_declared(layout: Layout) -> None:
    """Compare what a header declares with the size of its file; reads no voxels.

    Raises:
        InputError: no voxels, absurdly many, or more than the file can hold.
    """
    check_extent(layout.shape, layout.path)
    size = layout.data.stat().st_size
    if layout.codec == "none":
        _compare(layout, max(0, size - layout.start))
    elif layout.bytes > RATIO[layout.codec] * max(0, size - layout.start):
        raise InputError(
            f"{layout.data} is cut off or its header lies: {size} compressed bytes cannot hold "
            f"the {layout.bytes} that it declares; copy or download it again"
        )


def check_extent(shape: tuple[int, ...], path: Path | str) -> None:
    """Refuse extents that are nothing, or more than anybody has."""
    told = " x ".join(str(n) for n in reversed(shape))
    if min(shape) < 1:
        raise InputError(f"{path} has {told} voxels: there is nothing in it; write it again")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(
            f"{path} claims {told} voxels; at most {MAX_VOXELS} are taken: its header is damaged"
        )


def _compare(layout: Layout, found: int) -> None:
    if found < layout.bytes:
        raise InputError(
            f"{layout.data} is cut off: {_times(layout)} {layout.dtype.name} voxels take "
            f"{layout.bytes} bytes, it has {found}; copy or download it again"
        )
    if found >= layout.bytes + max(layout.plane_bytes, PADDING):
        raise InputError(
            f"{layout.data} holds {found - layout.bytes} bytes more than the {_times(layout)} "
            f"{layout.dtype.name} voxels that its header declares; mend the header's size"
        )


def _times(layout: Layout) -> str:
    return " x ".join(str(n) for n in reversed(layout.shape))


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """The numbers of a file, read when they are used.

    A file that has become shorter is an error; to touch what it had would end the process.
    """

    path: Path
    """The file."""
    dtype: np.dtype[Any]
    """Type of a number, with its byte order."""
    start: int
    """Byte of the first one."""
    shape: tuple[int, ...]
    """Extent, slowest first."""

    @functools.cached_property
    def _numbers(self) -> NDArray[Any]:
        return np.memmap(self.path, self.dtype, "r", offset=self.start, shape=self.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """A copy of a part, by numpy's basic indexing."""
        needed = self.start + self._numbers.nbytes
        found = self.path.stat().st_size if self.path.exists() else 0
        if found < needed:
            raise InputError(
                f"{self.path} has become shorter since it was opened: {found} bytes instead of "
                f"{needed}; copy it again"
            )
        return np.array(self._numbers[index])


def mapped(layout: Layout) -> Mapped:
    """The stored numbers of an uncompressed file, along `axes`."""
    return Mapped(path=layout.data, dtype=layout.dtype, start=layout.start, shape=layout.shape)


def planes(layout: Layout) -> Iterator[NDArray[Any]]:
    """The stored numbers of a compressed file, plane after plane, in its order.

    Raises:
        InputError: the stream is cut off or damaged, or longer or shorter than declared.
    """
    waiting, found, left, size = bytearray(), 0, layout.skip, layout.plane_bytes
    for piece in _decompressed(layout):
        drop = min(left, len(piece))
        left -= drop
        found += len(piece) - drop
        if found >= layout.bytes + max(size, PADDING):
            _compare(layout, found)
        waiting += memoryview(piece)[drop:]
        taken = 0
        while len(waiting) - taken >= size and found - len(waiting) + taken < layout.bytes:
            yield np.frombuffer(bytes(waiting[taken : taken + size]), layout.dtype).reshape(
                layout.plane
            )
            taken += size
        del waiting[:taken]
    _compare(layout, found)


def _decompressed(layout: Layout) -> Iterator[bytes]:
    try:
        with layout.data.open("rb") as file:
            file.seek(layout.start)
            yield from _members(file, layout)
    except (zlib.error, OSError, ValueError) as error:
        raise InputError(f"{layout.data} is damaged: {error}; copy or download it again") from error


def _members(file: Any, layout: Layout) -> Iterator[bytes]:
    """Decompress stream after stream: gzip and bzip2 files may consist of several."""
    data = file.read(PIECE)
    while data.strip(b"\0"):
        member: Any = _Bzip2() if layout.codec == "bzip2" else zlib.decompressobj(47)
        while not member.eof:
            if not data and not (data := file.read(PIECE)):
                raise InputError(
                    f"{layout.data} is cut off: its compressed data does not end; "
                    "copy or download it again"
                )
            yield member.decompress(data, PIECE)
            data = member.unconsumed_tail
        data = member.unused_data or file.read(PIECE)


class _Bzip2:
    """bzip2 with zlib's manners: input that was not needed yet is handed back."""

    def __init__(self) -> None:
        self._stream = bz2.BZ2Decompressor()
        self.unconsumed_tail = b""

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        parts = [self._stream.decompress(data, most)]
        while not (self._stream.needs_input or self._stream.eof):
            parts.append(self._stream.decompress(b"", most))
        return b"".join(parts)

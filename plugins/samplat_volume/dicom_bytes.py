"""Are the pixels of a DICOM file all there? From the file's size, before any is decoded.

Sources: PS3.5 for transfer syntaxes, section 8 for native and A.4 for encapsulated pixel data.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PIXELS = ((0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009))
"""Pixel data: integers, floats, doubles."""
MAX_FRAMES = 2**20
"""More images in one file are taken for a damaged or hostile header."""
UNDEFINED = 0xFFFFFFFF
"""Length of what consists of fragments."""


@dataclass(frozen=True, kw_only=True)
class PixelBytes:
    """Where the pixels of a file are."""

    start: int
    """Byte at which the first frame, or the offset table of fragments, begins."""
    missing: Sequence[int]
    """Of each frame, how many of its bytes are not there; 1 where it is a part of a stream."""
    surplus: int = 0
    """Bytes beyond those that rows, columns and frames account for."""


def pixel_bytes(file: Any, header: Any) -> PixelBytes | None:
    """What there is of the pixels; None if there are none. The file stands before them."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    frames = frames_of(header)
    if syntax is not None and syntax.is_deflated:
        return PixelBytes(start=0, missing=[0] * frames)  # pydicom decompressed it, it is whole
    order = ">" if syntax is not None and not syntax.is_little_endian else "<"
    at, size = int(file.tell()), os.fstat(file.fileno()).st_size
    head = file.read(12)
    if len(head) < 8 or struct.unpack_from(order + "2H", head) not in PIXELS:
        return None
    explicit = syntax is not None and not syntax.is_implicit_VR
    length = int(struct.unpack_from(order + "I", head, 8 if explicit else 4)[0])
    start = at + (12 if explicit else 8)
    if length == UNDEFINED:
        return PixelBytes(start=start, missing=_of_fragments(file, start, size, frames))
    frame, there = bytes_of_frame(header), min(length, size - start)
    missing = [min(frame, max(0, (i + 1) * frame - there)) for i in range(frames)]
    return PixelBytes(start=start, missing=missing, surplus=max(0, there - frames * frame))


def frames_of(header: Any) -> int:
    """How many images a file holds.

    Raises:
        ValueError: more than anybody has.
    """
    frames = int(header.get("NumberOfFrames") or 1)
    if not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"it claims {frames} frames")
    return frames


def bytes_of_frame(header: Any) -> int:
    """What one uncompressed image takes."""
    samples = int(header.get("SamplesPerPixel", 1))
    if header.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two of its three colours are kept for every other column
    return int(header.Rows) * int(header.Columns) * samples * int(header.BitsAllocated) // 8


def _of_fragments(file: Any, at: int, size: int, frames: int) -> list[int]:
    """Frames are whole if every fragment and the end marker are there (PS3.5, A.4).

    Of a cut stream it is told which frames are whole where each is one fragment, as nearly always.
    """
    fragments = 0
    while at + 8 <= size:
        file.seek(at)
        group, element, length = struct.unpack("<2HI", file.read(8))
        if (group, element) == (0xFFFE, 0xE0DD) or (group, element) != (0xFFFE, 0xE000):
            break
        if at + 8 + length > size:
            break
        at, fragments = at + 8 + length, fragments + 1
    ended = at + 8 <= size and (group, element) == (0xFFFE, 0xE0DD)
    whole = max(0, fragments - 1)  # the first is the offset table
    if ended and whole >= frames:
        return [0] * frames
    first_lost = min(whole, frames - 1)
    return [0] * first_lost + [1] * (frames - first_lost)

"""Is a TIFF whole, and do its sizes make up its bytes? tifffile takes a cut one for a shorter one.

Sources: TIFF 6.0 and BigTIFF.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

from samplat import InputError
from samplat_volume.layout import PADDING

SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of TIFF's types; the others take one."""
DEFLATE = (8, 32946)
"""TIFF's numbers for zlib's compression."""


def check_chain(path: Path) -> None:
    """Every page's directory lies in the file; readers take a cut chain for a shorter stack.

    So does what its entries point to: a description that is cut off would take the spacing along.

    Raises:
        InputError: it is cut off, or no TIFF.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:
            raise InputError(f"{path} is no TIFF; expected a file that starts with II or MM")
        big = struct.unpack_from(order + "H", head, 2)[0] == 43
        wide = "Q" if big else "I"
        try:
            at, seen = struct.unpack_from(order + wide, head, 8 if big else 4)[0], set[int]()
            while at and at not in seen:
                seen.add(at)
                file.seek(at)
                at = _check_directory(file, order, big, size)
        except (struct.error, OverflowError, OSError, EOFError):
            raise InputError(
                f"{path} is cut off at {size} bytes: page {len(seen)} lies beyond its end; copy or "
                "download it again"
            ) from None
    if not seen:
        raise InputError(f"{path} has no pages; it is cut off: copy or download it again")


def _check_directory(file: Any, order: str, big: bool, size: int) -> int:
    """Read the directory at which the file stands; returns where the next one is.

    Raises:
        EOFError: a value lies beyond the end.
    """
    count, entry, wide = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    (n,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
    length = struct.calcsize(order + entry)
    entries = file.read(n * length) if n * length <= size else b""
    for _, kind, values, place in struct.iter_unpack(order + entry, entries):
        taken = values * SIZES.get(kind, 1)
        if taken > struct.calcsize(order + wide) and place + taken > size:
            raise EOFError
    return int(struct.unpack(order + wide, file.read(struct.calcsize(order + wide)))[0])


def check_pages(series: Any, path: Path) -> None:
    """All blocks of all pages are there, and as long as rows and columns make them.

    Raises:
        InputError: a page is missing, cut off, or of another size than it says.
    """
    _check_blocks(series, path)
    _check_sizes(series, path)


def _check_blocks(series: Any, path: Path) -> None:
    size, first = path.stat().st_size, series.keyframe
    blocks, told = math.prod(first.chunked), first.tags.get(324) or first.tags.get(273)
    if told is not None and told.count != blocks:
        raise InputError(
            f"{path} names {told.count} blocks of page 0, whose size makes {blocks}; its header is "
            "damaged: write it again"
        )
    if series.dataoffset is not None and series.dataoffset + series.nbytes > size:
        raise InputError(
            f"{path} is cut off: its {series.shape} voxels take {series.nbytes} bytes, "
            f"{size - series.dataoffset} are there; copy or download it again"
        )
    for number, page in enumerate(series.pages):
        if page is None:
            raise InputError(f"{path} has no page {number} of {len(series.pages)}; write it again")
        if len(page.dataoffsets) != blocks:
            raise InputError(
                f"{path} names {len(page.dataoffsets)} blocks of page {number}, whose size makes "
                f"{blocks}; its header is damaged: write it again"
            )
        for at, length in zip(page.dataoffsets, page.databytecounts, strict=False):
            if at + length > size:
                raise InputError(
                    f"{path} is cut off: page {number} of {len(series.pages)} lies beyond its end; "
                    "copy or download it again"
                )


def _check_sizes(series: Any, path: Path) -> None:
    """Rows and columns make up the bytes that are stored: tifffile would crop, or pad."""
    first = series.keyframe
    if first.compression in DEFLATE:
        needed, stored = _block_bytes(first), [_inflated(series.pages[0], path)]
    else:
        needed, stored = _page_bytes(first), [sum(page.databytecounts) for page in series.pages]
    row = first.imagewidth * first.samplesperpixel * max(1, first.bitspersample // 8)
    for number, found in enumerate(stored):
        if needed is not None and found and not 0 <= found - needed < max(row, PADDING):
            raise InputError(
                f"{path} says that page {number} has {first.imagewidth} x {first.imagelength} "
                f"pixels, which take {needed} bytes, and has {found}; mend the header's size"
            )


def _is_plain(first: Any) -> bool:
    """Whether rows and columns tell the bytes: of tiles and subsampled colours they do not."""
    return not first.is_tiled and first.bitspersample % 8 == 0 and first.photometric not in (6, 8)


def _page_bytes(first: Any) -> int | None:
    """What a page takes that is not compressed."""
    if first.compression != 1 or not _is_plain(first):
        return None
    pixels = first.imagewidth * first.imagelength * first.imagedepth * first.samplesperpixel
    return int(pixels * first.bitspersample // 8)


def _block_bytes(first: Any) -> int | None:
    """What the first strip takes, decompressed."""
    if not _is_plain(first):
        return None
    samples = first.samplesperpixel if first.planarconfig == 1 else 1
    rows = min(first.rowsperstrip, first.imagelength)
    return int(rows * first.imagewidth * samples * first.bitspersample // 8)


def _inflated(page: Any, path: Path) -> int:
    """Bytes of the first strip of a page; 0 if it is damaged, which reading it tells."""
    with path.open("rb") as file:
        file.seek(page.dataoffsets[0])
        data = file.read(page.databytecounts[0])
    try:
        return len(zlib.decompress(data))
    except zlib.error:
        return 0

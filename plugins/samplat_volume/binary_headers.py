"""Headers in binary: NIfTI and GIPL.

Sources: the NIfTI-1 and NIfTI-2 headers (nifti1.h, nifti2.h), the header of the Guy's Image
Processing Lab.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samplat_volume.header_parts import Unusable, ordered, whole
from samplat_volume.layout import Layout

NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
NIFTI_COLOURS = {128: 3, 2304: 4}
NIFTI_COMPLEX = {32, 1792, 2048}


def read_nifti(path: Path, head: bytes) -> Layout:
    """NIfTI-1 and -2 in one file, of either byte order."""
    order, version = nifti_version(head)

    def read(kind: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + kind, head, at)

    if version == 1:
        dims, (code,), pixdim = read("8h", 40), read("h", 70), read("8f", 76)
        (at,), scale, form, rows = (
            read("f", 108),
            read("2f", 112),
            read("2h", 252),
            read("12f", 280),
        )
    else:
        dims, (code,), pixdim = read("8q", 16), read("h", 12), read("8d", 104)
        (at,), scale, form, rows = (
            read("q", 168),
            read("2d", 176),
            read("2i", 344),
            read("12d", 400),
        )
    if not math.isfinite(at) or at < 0:
        raise Unusable(f"its voxels begin at byte {at}; the header is damaged")
    dtype, components = _nifti_type(code)
    shape, axes = _nifti_shape(dims, components)
    slope, intercept = scale if all(map(math.isfinite, scale)) and scale[0] else (1.0, 0.0)
    return Layout(
        dtype=np.dtype(order + dtype) if components == 1 else np.dtype("u1"),
        shape=shape,
        axes=axes,
        scale=(float(slope), float(intercept)),
        spacing=tuple(map(float, pixdim[3:0:-1])),
        columns=tuple(math.hypot(*rows[i::4]) for i in (2, 1, 0)) if form[1] > 0 else None,
        **whole(path, int(at)),
    )


def nifti_version(head: bytes) -> tuple[str, int]:
    """Byte order, as `struct` has it, and version.

    Raises:
        Unusable: another format, or a file that has its voxels elsewhere.
    """
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", head)
        if size == 348 and head[344:348] == b"n+1\0":
            return order, 1
        if size == 540 and head[4:8] == b"n+2\0":
            return order, 2
    if head[344:348] in (b"ni1\0", b"\0\0\0\0"):
        raise Unusable("is one half of a pair .hdr and .img; write it as one .nii file")
    raise Unusable("is no NIfTI file; expected NIfTI-1 or NIfTI-2 in one file")


def _nifti_type(code: int) -> tuple[str, int]:
    if code in NIFTI_COMPLEX:
        raise Unusable("holds complex numbers; expected real ones: write its magnitude first")
    if code in NIFTI_COLOURS:
        return "u1", NIFTI_COLOURS[code]
    if code not in NIFTI_TYPES:
        raise Unusable(f"holds numbers of NIfTI's type {code}; expected integers or floats")
    return NIFTI_TYPES[code], 1


def _nifti_shape(dims: Sequence[int], components: int) -> tuple[tuple[int, ...], str]:
    rank = dims[0]
    if not 1 <= rank <= 7:
        raise Unusable(f"declares {rank} dimensions; expected 3 or 4")
    x, y, z, *others = (*dims[1 : rank + 1], 1, 1)[: max(rank, 3)]
    many = [n for n in others if n != 1]
    if len(many) > 1 or (many and components > 1):
        raise Unusable(
            f"has {len(many) + 3 + (components > 1)} dimensions {tuple(dims[1 : rank + 1])}; "
            "expected 3, or 4 of which one is chosen by channel: split it first"
        )
    if components > 1:
        return (z, y, x, components), "zyxc"
    return ((many[0], z, y, x), "czyx") if many else ((z, y, x), "zyx")


GIPL_TYPES = {7: "i1", 8: "u1", 15: "i2", 16: "u2", 31: "u4", 32: "i4", 64: "f4", 65: "f8"}
GIPL_MAGICS = (719555000, 4026526128)


def read_gipl(path: Path, head: bytes) -> Layout:
    """256 bytes, big-endian: sizes, type, distances; the magic number at the end."""
    if struct.unpack_from(">I", head, 252)[0] not in GIPL_MAGICS:
        raise Unusable("is no GIPL file, or damaged: its magic number is missing")
    *dims, code = struct.unpack_from(">5H", head)
    if code not in GIPL_TYPES:
        raise Unusable(f"holds elements of GIPL's type {code}; expected integers or floats")
    sizes = [*dims[:3], *([dims[3]] if dims[3] > 1 else [])]
    shape, axes = ordered(sizes, 1)
    return Layout(
        dtype=np.dtype(">" + GIPL_TYPES[code]),
        shape=shape,
        axes=axes,
        spacing=tuple(struct.unpack_from(">3f", head, 10)[::-1]),
        **whole(path, 256),
    )

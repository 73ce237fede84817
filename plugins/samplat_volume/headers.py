"""Headers of files that hold one block of voxels: NIfTI, MetaImage, NRRD, VTK, GIPL.

Only what is needed to find the voxels and to distrust the header; the geometry is SimpleITK's.
Sources: the NIfTI-1 and NIfTI-2 headers (nifti1.h, nifti2.h), MetaIO's and teem's descriptions of
their formats, VTK's "File Formats" (legacy), the header of the Guy's Image Processing Lab.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from samplat import InputError
from samplat_volume.layout import Layout

HEADER = 2**20
"""Bytes at the start of a file within which a text header ends."""
GZIP = b"\x1f\x8b"


class _Unusable(Exception):  # noqa: N818 never leaves this module
    """What is wrong with a header; the text says it without the file's name."""


def read_layout(path: Path) -> Layout:
    """Where the voxels of a file are, from its header.

    Raises:
        InputError: the header is cut off, damaged, or of a kind that is not read.
    """
    reader = next(read for suffix, read in READERS.items() if path.name.lower().endswith(suffix))
    try:
        return reader(path, _head(path))
    except _Unusable as fault:
        raise InputError(f"{path}: {fault}") from None
    except (struct.error, ValueError, KeyError, IndexError, OverflowError, TypeError) as fault:
        raise InputError(
            f"{path} has no complete header of its format ({type(fault).__name__}: {fault}); "
            "copy or download it again"
        ) from None


def _head(path: Path) -> bytes:
    """The first bytes; of a file that is compressed as a whole, the first of its content."""
    with path.open("rb") as file:
        data = file.read(HEADER)
    if not data:
        raise InputError(f"{path} is empty; copy or download it again")
    if data[:2] != GZIP:
        return data
    try:
        return zlib.decompressobj(31).decompress(data, HEADER)
    except zlib.error as error:
        raise InputError(f"{path} is damaged: {error}; copy or download it again") from None


def _whole(path: Path, at: int) -> dict[str, Any]:
    """Where the voxels begin that follow a header at byte `at` of the content."""
    with path.open("rb") as file:
        if file.read(2) == GZIP:
            return {"path": path, "data": path, "start": 0, "codec": "deflate", "skip": at}
    return {"path": path, "data": path, "start": at}


def _text(line: bytes) -> str:
    """A line of a header; names of files in it are UTF-8 today, and were not always."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _beside(path: Path, name: str) -> Path:
    """A file that a header names, which must lie beside it: headers come from strangers."""
    data = path.parent / name
    if data.resolve().parent != path.parent.resolve():
        raise _Unusable(f"names {name!r} for its voxels, which is not beside it; move it there")
    if not data.is_file():
        raise _Unusable(f"its voxels should be in {data}, which is missing; copy it here too")
    return data


NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
NIFTI_COLOURS = {128: 3, 2304: 4}
NIFTI_COMPLEX = {32, 1792, 2048}


def _nifti(path: Path, head: bytes) -> Layout:
    order, version = _nifti_version(head)

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
        raise _Unusable(f"its voxels begin at byte {at}; the header is damaged")
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
        **_whole(path, int(at)),
    )


def _nifti_version(head: bytes) -> tuple[str, int]:
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", head)
        if size == 348 and head[344:348] == b"n+1\0":
            return order, 1
        if size == 540 and head[4:8] == b"n+2\0":
            return order, 2
    if head[344:348] in (b"ni1\0", b"\0\0\0\0"):
        raise _Unusable("is one half of a pair .hdr and .img; write it as one .nii file")
    raise _Unusable("is no NIfTI file; expected NIfTI-1 or NIfTI-2 in one file")


def _nifti_type(code: int) -> tuple[str, int]:
    if code in NIFTI_COMPLEX:
        raise _Unusable("holds complex numbers; expected real ones: write its magnitude first")
    if code in NIFTI_COLOURS:
        return "u1", NIFTI_COLOURS[code]
    if code not in NIFTI_TYPES:
        raise _Unusable(f"holds numbers of NIfTI's type {code}; expected integers or floats")
    return NIFTI_TYPES[code], 1


def _nifti_shape(dims: Sequence[int], components: int) -> tuple[tuple[int, ...], str]:
    rank = dims[0]
    if not 1 <= rank <= 7:
        raise _Unusable(f"declares {rank} dimensions; expected 3 or 4")
    x, y, z, *others = (*dims[1 : rank + 1], 1, 1)[: max(rank, 3)]
    many = [n for n in others if n != 1]
    if len(many) > 1 or (many and components > 1):
        raise _Unusable(
            f"has {len(many) + 3 + (components > 1)} dimensions {tuple(dims[1 : rank + 1])}; "
            "expected 3, or 4 of which one is chosen by channel: split it first"
        )
    if components > 1:
        return (z, y, x, components), "zyxc"
    return ((many[0], z, y, x), "czyx") if many else ((z, y, x), "zyx")


META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def _meta(path: Path, head: bytes) -> Layout:
    fields, end = _meta_fields(head)

    def flag(*names: str) -> bool:
        return _field(fields, *names, default="false").lower() in ("true", "1")

    if not flag("BinaryData"):
        raise _Unusable("holds its voxels as text; write it as binary data")
    sizes = [int(n) for n in fields["DimSize"].split()]
    components = int(fields.get("ElementNumberOfChannels", "1"))
    kind = fields["ElementType"].removesuffix("_ARRAY")
    if kind not in META_TYPES:
        raise _Unusable(f"holds elements of type {kind}; expected integers or floats")
    order = ">" if flag("BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    shape, axes = _ordered(sizes, components)
    name = fields["ElementDataFile"]
    data, start = (path, end) if name.upper() == "LOCAL" else (_one_file(path, name), 0)
    compressed = flag("CompressedData")
    layout = Layout(
        path=path,
        data=data,
        start=start + max(0, int(fields.get("HeaderSize", "0"))),
        codec="deflate" if compressed else "none",
        dtype=np.dtype(order + META_TYPES[kind]),
        shape=shape,
        axes=axes,
        spacing=_reversed(_field(fields, "ElementSpacing", "ElementSize", default="").split()),
    )
    if int(fields.get("HeaderSize", "0")) == -1:  # the voxels are the file's end
        return _at_end(layout)
    return layout


def _meta_fields(head: bytes) -> tuple[dict[str, str], int]:
    fields, at = dict[str, str](), 0
    while "ElementDataFile" not in fields:
        end = head.find(b"\n", at)
        if end < 0 or b"=" not in head[at:end]:
            raise _Unusable("its header ends before ElementDataFile; it is cut off or no MetaImage")
        name, _, value = _text(head[at:end]).partition("=")
        fields[name.strip()], at = value.strip(), end + 1
    return fields, at


def _field(fields: Mapping[str, str], *names: str, default: str) -> str:
    return next((fields[name] for name in names if name in fields), default)


def _one_file(path: Path, name: str) -> Path:
    words = len(name.split()) > 2 and not (path.parent / name).is_file()
    if name.upper().startswith("LIST") or "%" in name or words:
        raise _Unusable("spreads its voxels over several files; write it as one file")
    return _beside(path, name)


def _at_end(layout: Layout) -> Layout:
    from dataclasses import replace

    return replace(layout, start=max(0, layout.data.stat().st_size - layout.bytes))


def _ordered(sizes: Sequence[int], components: int) -> tuple[tuple[int, ...], str]:
    """C shape and axes of sizes that are told fastest first."""
    if len(sizes) not in (2, 3, 4) or (len(sizes) == 4 and components > 1):
        raise _Unusable(
            f"has dimensions {tuple(sizes)} of {components} components; expected 3, or 4 of which "
            "one is chosen by channel: split it first"
        )
    if len(sizes) == 4:
        return tuple(reversed(sizes)), "czyx"
    volume = (*([1] if len(sizes) == 2 else []), *reversed(sizes))
    return ((*volume, components), "zyxc") if components > 1 else (volume, "zyx")


def _reversed(numbers: Sequence[str]) -> tuple[float, ...] | None:
    return tuple(float(n) for n in numbers[2::-1]) if len(numbers) >= 3 else None


NRRD_TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
NRRD_CODECS: Mapping[str, Literal["none", "deflate", "bzip2"]] = {
    "raw": "none", "gzip": "deflate", "gz": "deflate", "bzip2": "bzip2", "bz2": "bzip2",
}  # fmt: skip
NRRD_SPACE = {"domain", "space", "???", "none"}


def _nrrd(path: Path, head: bytes) -> Layout:
    fields, end = _nrrd_fields(head)
    encoding = fields["encoding"].lower()
    if encoding not in NRRD_CODECS:
        raise _Unusable(f"is encoded as {encoding}; write it raw or with gzip")
    kind = fields["type"].lower()
    code = next((c for c, names in NRRD_TYPES.items() if kind in names.split("|")), None)
    if code is None:
        raise _Unusable(f"holds elements of type {kind}; expected integers or floats")
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    name = fields.get("data file", fields.get("datafile"))
    data, start = (path, end) if name is None else (_one_file(path, name), 0)
    shape, axes = _nrrd_shape(fields)
    layout = Layout(
        path=path,
        data=data,
        start=start,
        codec=NRRD_CODECS[encoding],
        dtype=np.dtype(order + code),
        shape=shape,
        axes=axes,
        spacing=_nrrd_spacing(fields),
    )
    return _skipped(layout, fields)


def _nrrd_fields(head: bytes) -> tuple[dict[str, str], int]:
    if not head.startswith(b"NRRD000"):
        raise _Unusable("is no NRRD file; expected NRRD0001 to NRRD0005 at its start")
    fields, at = dict[str, str](), head.index(b"\n") + 1
    while True:
        end = head.find(b"\n", at)
        if end < 0 and at < len(head) and "sizes" in fields:
            end = len(head)  # a detached header need not end with an empty line
        if end < 0:
            if "data file" in fields or "datafile" in fields:
                return fields, at
            raise _Unusable("its header does not end; it is cut off: copy or download it again")
        line, at = _text(head[at:end]).rstrip("\r"), end + 1
        if not line:
            return fields, at
        if not line.startswith("#") and ": " in line:
            name, _, value = line.partition(": ")
            fields[name.strip().lower()] = value.strip()


def _nrrd_shape(fields: Mapping[str, str]) -> tuple[tuple[int, ...], str]:
    sizes = [int(n) for n in fields["sizes"].split()]
    if len(sizes) != int(fields["dimension"]):
        raise _Unusable(f"declares {fields['dimension']} dimensions and sizes {sizes}")
    if len(sizes) < 4:
        return _ordered(sizes, 1)
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    others = [i for i, kind in enumerate(kinds) if kind not in NRRD_SPACE or kind == "none"]
    if len(sizes) == 4 and others == [0]:
        return (*reversed(sizes[1:]), sizes[0]), "zyxc"
    if len(sizes) == 4 and others in ([], [3]):
        return tuple(reversed(sizes)), "czyx"
    raise _Unusable(
        f"has dimensions {tuple(sizes)} of kinds {' '.join(kinds)}; expected 3 of space, and "
        "at most one of channels, first or last"
    )


def _nrrd_spacing(fields: Mapping[str, str]) -> tuple[float, ...] | None:
    if "space directions" in fields:
        text = fields["space directions"].replace(" ", "").replace("none", "")
        vectors = [v.split(",") for v in text.strip("()").split(")(") if v]
        return tuple(math.hypot(*map(float, v)) for v in reversed(vectors))
    numbers = [n for n in fields.get("spacings", "").split() if n.lower() != "nan"]
    if "spacings" in fields and len(numbers) < 3:
        return (math.nan,) * 3
    return _reversed(numbers)


def _skipped(layout: Layout, fields: Mapping[str, str]) -> Layout:
    from dataclasses import replace

    lines = int(fields.get("line skip", fields.get("lineskip", "0")))
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    if skip == -1 and layout.codec == "none":
        return _at_end(layout)
    if lines or skip < 0:
        raise _Unusable("skips lines before its voxels; write the file again without")
    if layout.codec == "none":
        return replace(layout, start=layout.start + skip)
    return replace(layout, skip=skip)


VTK_TYPES = {
    "char": "i1", "unsigned_char": "u1", "short": "i2", "unsigned_short": "u2", "int": "i4",
    "unsigned_int": "u4", "float": "f4", "double": "f8", "vtktypeint64": "i8",
    "vtktypeuint64": "u8",
}  # fmt: skip


def _vtk(path: Path, head: bytes) -> Layout:
    """Legacy "STRUCTURED_POINTS"; binary numbers are big-endian."""
    lines, at = _vtk_lines(head)
    if len(lines) < 4 or not lines[0].startswith("# vtk DataFile"):
        raise _Unusable("is no legacy VTK file, or its header is cut off")
    if lines[2].strip().upper() != "BINARY":
        raise _Unusable("holds its voxels as text; write it as binary data")
    words = {line.split()[0].upper(): line.split()[1:] for line in lines[2:] if line.split()}
    if words["DATASET"][0].upper() != "STRUCTURED_POINTS":
        raise _Unusable(f"is a {words['DATASET'][0]}; expected STRUCTURED_POINTS")
    kind = words["SCALARS"][1].lower() if "SCALARS" in words else words["VECTORS"][1].lower()
    if kind not in VTK_TYPES:
        raise _Unusable(f"holds elements of type {kind}; expected integers or floats")
    components = int((*words.get("SCALARS", ()), "1")[2]) if "SCALARS" in words else 3
    shape, axes = _ordered([int(n) for n in words["DIMENSIONS"]], components)
    spacing = words.get("SPACING", words.get("ASPECT_RATIO", []))
    return Layout(
        dtype=np.dtype(">" + VTK_TYPES[kind]),
        shape=shape,
        axes=axes,
        spacing=_reversed(spacing),
        **_whole(path, at),
    )


def _vtk_lines(head: bytes) -> tuple[list[str], int]:
    """The lines before the voxels, and where those begin."""
    lines, at = [], 0
    while at < len(head):
        end = head.find(b"\n", at)
        if end < 0:
            break
        line, at = _text(head[at:end]), end + 1
        lines.append(line)
        if line.startswith(("LOOKUP_TABLE", "VECTORS")):
            return lines, at
        if line.startswith("SCALARS") and not head[at:].startswith(b"LOOKUP_TABLE"):
            return lines, at
    raise _Unusable("its header ends before its voxels; it is cut off: copy or download it again")


GIPL_TYPES = {7: "i1", 8: "u1", 15: "i2", 16: "u2", 31: "u4", 32: "i4", 64: "f4", 65: "f8"}
GIPL_MAGICS = (719555000, 4026526128)


def _gipl(path: Path, head: bytes) -> Layout:
    """256 bytes, big-endian: sizes, type, distances; the magic number at the end."""
    if struct.unpack_from(">I", head, 252)[0] not in GIPL_MAGICS:
        raise _Unusable("is no GIPL file, or damaged: its magic number is missing")
    *dims, code = struct.unpack_from(">5H", head)
    if code not in GIPL_TYPES:
        raise _Unusable(f"holds elements of GIPL's type {code}; expected integers or floats")
    sizes = [*dims[:3], *([dims[3]] if dims[3] > 1 else [])]
    shape, axes = _ordered(sizes, 1)
    return Layout(
        dtype=np.dtype(">" + GIPL_TYPES[code]),
        shape=shape,
        axes=axes,
        spacing=tuple(struct.unpack_from(">3f", head, 10)[::-1]),
        **_whole(path, 256),
    )


READERS: Mapping[str, Callable[[Path, bytes], Layout]] = {
    ".nii": _nifti,
    ".nii.gz": _nifti,
    ".mha": _meta,
    ".mhd": _meta,
    ".nrrd": _nrrd,
    ".nhdr": _nrrd,
    ".vtk": _vtk,
    ".gipl": _gipl,
    ".gipl.gz": _gipl,
}
"""Suffixes, and what reads their headers."""

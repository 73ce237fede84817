"""Headers in text: MetaImage, NRRD, VTK.

Sources: MetaIO's and teem's descriptions of their formats, VTK's "File Formats" (legacy).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from samplat_volume.header_parts import Unusable, beside, decoded, ordered, reversed_numbers, whole
from samplat_volume.layout import Layout

META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def read_meta(path: Path, head: bytes) -> Layout:
    """MetaImage, its voxels in the same file or in one beside it."""
    fields, end = _meta_fields(head)

    def flag(*names: str) -> bool:
        return _field(fields, *names, default="false").lower() in ("true", "1")

    if not flag("BinaryData"):
        raise Unusable("holds its voxels as text; write it as binary data")
    sizes = [int(n) for n in fields["DimSize"].split()]
    components = int(fields.get("ElementNumberOfChannels", "1"))
    kind = fields["ElementType"].removesuffix("_ARRAY")
    if kind not in META_TYPES:
        raise Unusable(f"holds elements of type {kind}; expected integers or floats")
    order = ">" if flag("BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    shape, axes = ordered(sizes, components)
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
        spacing=reversed_numbers(
            _field(fields, "ElementSpacing", "ElementSize", default="").split()
        ),
    )
    if int(fields.get("HeaderSize", "0")) == -1:  # the voxels are the file's end
        return _at_end(layout)
    return layout


def _meta_fields(head: bytes) -> tuple[dict[str, str], int]:
    fields, at = dict[str, str](), 0
    while "ElementDataFile" not in fields:
        end = head.find(b"\n", at)
        if end < 0 or b"=" not in head[at:end]:
            raise Unusable("its header ends before ElementDataFile; it is cut off or no MetaImage")
        name, _, value = decoded(head[at:end]).partition("=")
        fields[name.strip()], at = value.strip(), end + 1
    return fields, at


def _field(fields: Mapping[str, str], *names: str, default: str) -> str:
    return next((fields[name] for name in names if name in fields), default)


def _one_file(path: Path, name: str) -> Path:
    words = len(name.split()) > 2 and not (path.parent / name).is_file()
    if name.upper().startswith("LIST") or "%" in name or words:
        raise Unusable("spreads its voxels over several files; write it as one file")
    return beside(path, name)


def _at_end(layout: Layout) -> Layout:
    return replace(layout, start=max(0, layout.data.stat().st_size - layout.bytes))


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


def read_nrrd(path: Path, head: bytes) -> Layout:
    """NRRD, attached or detached."""
    fields, end = _nrrd_fields(head)
    encoding = fields["encoding"].lower()
    if encoding not in NRRD_CODECS:
        raise Unusable(f"is encoded as {encoding}; write it raw or with gzip")
    kind = fields["type"].lower()
    code = next((c for c, names in NRRD_TYPES.items() if kind in names.split("|")), None)
    if code is None:
        raise Unusable(f"holds elements of type {kind}; expected integers or floats")
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
        raise Unusable("is no NRRD file; expected NRRD0001 to NRRD0005 at its start")
    fields, at = dict[str, str](), head.index(b"\n") + 1
    while True:
        end = head.find(b"\n", at)
        if end < 0 and at < len(head) and "sizes" in fields:
            end = len(head)  # a detached header need not end with an empty line
        if end < 0:
            if "data file" in fields or "datafile" in fields:
                return fields, at
            raise Unusable("its header does not end; it is cut off: copy or download it again")
        line, at = decoded(head[at:end]).rstrip("\r"), end + 1
        if not line:
            return fields, at
        if not line.startswith("#") and ": " in line:
            name, _, value = line.partition(": ")
            fields[name.strip().lower()] = value.strip()


def _nrrd_shape(fields: Mapping[str, str]) -> tuple[tuple[int, ...], str]:
    sizes = [int(n) for n in fields["sizes"].split()]
    if len(sizes) != int(fields["dimension"]):
        raise Unusable(f"declares {fields['dimension']} dimensions and sizes {sizes}")
    if len(sizes) < 4:
        return ordered(sizes, 1)
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    others = [i for i, kind in enumerate(kinds) if kind not in NRRD_SPACE or kind == "none"]
    if len(sizes) == 4 and others == [0]:
        return (*reversed(sizes[1:]), sizes[0]), "zyxc"
    if len(sizes) == 4 and others in ([], [3]):
        return tuple(reversed(sizes)), "czyx"
    raise Unusable(
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
    return reversed_numbers(numbers)


def _skipped(layout: Layout, fields: Mapping[str, str]) -> Layout:
    lines = int(fields.get("line skip", fields.get("lineskip", "0")))
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    if skip == -1 and layout.codec == "none":
        return _at_end(layout)
    if lines or skip < 0:
        raise Unusable("skips lines before its voxels; write the file again without")
    if layout.codec == "none":
        return replace(layout, start=layout.start + skip)
    return replace(layout, skip=skip)


VTK_TYPES = {
    "char": "i1", "unsigned_char": "u1", "short": "i2", "unsigned_short": "u2", "int": "i4",
    "unsigned_int": "u4", "float": "f4", "double": "f8", "vtktypeint64": "i8",
    "vtktypeuint64": "u8",
}  # fmt: skip


def read_vtk(path: Path, head: bytes) -> Layout:
    """Legacy "STRUCTURED_POINTS"; binary numbers are big-endian."""
    lines, at = _vtk_lines(head)
    if len(lines) < 4 or not lines[0].startswith("# vtk DataFile"):
        raise Unusable("is no legacy VTK file, or its header is cut off")
    if lines[2].strip().upper() != "BINARY":
        raise Unusable("holds its voxels as text; write it as binary data")
    words = {line.split()[0].upper(): line.split()[1:] for line in lines[2:] if line.split()}
    if words["DATASET"][0].upper() != "STRUCTURED_POINTS":
        raise Unusable(f"is a {words['DATASET'][0]}; expected STRUCTURED_POINTS")
    kind = words["SCALARS"][1].lower() if "SCALARS" in words else words["VECTORS"][1].lower()
    if kind not in VTK_TYPES:
        raise Unusable(f"holds elements of type {kind}; expected integers or floats")
    components = int((*words.get("SCALARS", ()), "1")[2]) if "SCALARS" in words else 3
    shape, axes = ordered([int(n) for n in words["DIMENSIONS"]], components)
    spacing = words.get("SPACING", words.get("ASPECT_RATIO", []))
    return Layout(
        dtype=np.dtype(">" + VTK_TYPES[kind]),
        shape=shape,
        axes=axes,
        spacing=reversed_numbers(spacing),
        **whole(path, at),
    )


def _vtk_lines(head: bytes) -> tuple[list[str], int]:
    """The lines before the voxels, and where those begin."""
    lines, at = [], 0
    while at < len(head):
        end = head.find(b"\n", at)
        if end < 0:
            break
        line, at = decoded(head[at:end]), end + 1
        lines.append(line)
        if line.startswith(("LOOKUP_TABLE", "VECTORS")):
            return lines, at
        if line.startswith("SCALARS") and not head[at:].startswith(b"LOOKUP_TABLE"):
            return lines, at
    raise Unusable("its header ends before its voxels; it is cut off: copy or download it again")

"""What headers have in common: in which file voxels are, where, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

GZIP = b"\x1f\x8b"


class Unusable(Exception):  # noqa: N818 never leaves this module
    """What is wrong with a header; the text says it without the file's name."""


def whole(path: Path, at: int) -> dict[str, Any]:
    """Where the voxels begin that follow a header at byte `at` of the content."""
    with path.open("rb") as file:
        if file.read(2) == GZIP:
            return {"path": path, "data": path, "start": 0, "codec": "deflate", "skip": at}
    return {"path": path, "data": path, "start": at}


def decoded(line: bytes) -> str:
    """A line of a header; names of files in it are UTF-8 today, and were not always."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def beside(path: Path, name: str) -> Path:
    """A file that a header names, which must lie beside it: headers come from strangers."""
    data = path.parent / name
    if data.resolve().parent != path.parent.resolve():
        raise Unusable(f"names {name!r} for its voxels, which is not beside it; move it there")
    if not data.is_file():
        raise Unusable(f"its voxels should be in {data}, which is missing; copy it here too")
    return data


def ordered(sizes: Sequence[int], components: int) -> tuple[tuple[int, ...], str]:
    """C shape and axes of sizes that are told fastest first."""
    if len(sizes) not in (2, 3, 4) or (len(sizes) == 4 and components > 1):
        raise Unusable(
            f"has dimensions {tuple(sizes)} of {components} components; expected 3, or 4 of which "
            "one is chosen by channel: split it first"
        )
    if len(sizes) == 4:
        return tuple(reversed(sizes)), "czyx"
    volume = (*([1] if len(sizes) == 2 else []), *reversed(sizes))
    return ((*volume, components), "zyxc") if components > 1 else (volume, "zyx")


def reversed_numbers(numbers: Sequence[str]) -> tuple[float, ...] | None:
    """Distances (z, y, x) that are told as x, y, z; None where they are not."""
    return tuple(float(n) for n in numbers[2::-1]) if len(numbers) >= 3 else None

"""What a path holds, by its name and its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from samplat import InputError
from samplat_volume.headers import READERS

Kind = Literal["block", "dicom", "tiff", "ome-zarr"]

SUFFIXES = (*READERS, ".tif", ".tiff", ".dcm", ".zarr")
"""Suffixes of volumes; a directory without one may be a DICOM series."""
METADATA = ("zarr.json", ".zgroup", ".zattrs")


def accepts(path: str) -> bool:
    """Whether a path may be a volume, by its name; a folder by the names of its files."""
    if "://" in path or path.startswith("/vsi"):
        return ".zarr" in path
    return path.lower().rstrip("/").endswith(SUFFIXES) or _may_be_volume(Path(path))


def _may_be_volume(place: Path) -> bool:
    """DICOM files are called .dcm, or nothing, or end with a part of a UID; or it is a zarr."""
    if not place.is_dir():
        return False
    files = [p for p in place.iterdir() if p.is_file()]
    if any(p.name in METADATA for p in files):
        return True
    suffixes = (p.suffix.lower() for p in files if not p.name.startswith("."))
    return any(s in ("", ".dcm", ".dicom", ".ima") or s[1:].isdigit() for s in suffixes)


def kind_of(path: str) -> Kind:
    """What there is at a path.

    Raises:
        InputError: nothing, or nothing that can be read.
    """
    if "://" in path:
        return "ome-zarr"
    place = Path(path)
    if place.is_dir():
        zarr = path.rstrip("/").endswith(".zarr") or any((place / n).exists() for n in METADATA)
        return "ome-zarr" if zarr else "dicom"
    if not place.is_file():
        raise InputError(f"there is no file or folder {path}")
    name = place.name.lower()
    if name.endswith((".tif", ".tiff")):
        return "tiff"
    if name.endswith(tuple(READERS)):
        return "block"
    with place.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            raise InputError(f"{path} is one slice; expected the folder of its series: name that")
    raise InputError(
        f"{path} is no volume that can be read here; expected {' '.join(SUFFIXES)} or the folder "
        "of a DICOM series"
    )

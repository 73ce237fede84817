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
    if place.is_file():
        return _called_like_dicom(place) and _is_dicom(place)
    if not place.is_dir():
        return False
    files = [p for p in place.iterdir() if p.is_file()]
    return any(p.name in METADATA or _called_like_dicom(p) for p in files)


def _called_like_dicom(file: Path) -> bool:
    suffix = file.suffix.lower()
    known = suffix in ("", ".dcm", ".dicom", ".ima") or suffix[1:].isdigit()
    return known and not file.name.startswith(".")


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
    if name.endswith(".dcm") or _is_dicom(place):
        return "dicom"
    raise InputError(
        f"{path} is no volume that can be read here; expected {' '.join(SUFFIXES)} or the folder "
        "of a DICOM series"
    )


def _is_dicom(place: Path) -> bool:
    with place.open("rb") as file:
        return file.read(132)[128:] == b"DICM"

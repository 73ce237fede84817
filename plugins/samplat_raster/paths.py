"""Where a raster is: a file that may be opened, or a remote one under GDAL's name for it."""

from __future__ import annotations

import os
from pathlib import Path

from samplat import InputError
from samplat_raster.damage import sniff_driver
from samplat_raster.vrt import looks_like_vrt

SUFFIXES = (".tif", ".tiff", ".gtiff", ".jpg", ".jpeg", ".png", ".jp2", ".j2k", ".vrt")
"""Local suffixes that are ours. A VRT is claimed even where it is refused, with a reason."""

REMOTE = {
    "http://": "/vsicurl/http://",
    "https://": "/vsicurl/https://",
    "s3://": "/vsis3/",
    "gs://": "/vsigs/",
    "az://": "/vsiaz/",
}
"""URL schemes and the prefixes that GDAL has for them."""

DRIVERS = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG")
"""GDAL drivers that may open a file. Formats that name other files (VRT, MBTiles, ...) are out."""


def is_remote(path: str) -> bool:
    """Whether a path is a URL or one of GDAL's virtual paths."""
    return path.startswith(("/vsi", *REMOTE))


def gdal_path(path: str) -> str:
    """GDAL's name of a path or URL."""
    for scheme, prefix in REMOTE.items():
        if path.startswith(scheme):
            return prefix + path.removeprefix(scheme)
    return path


def driver_of(path: str, *, allow_vrt: bool = False) -> str:
    """The one driver that may open a local file, by its first bytes.

    Args:
        path: of the file.
        allow_vrt: take a VRT too.

    Raises:
        InputError: missing, not a file, not readable, or of no format on the list.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError(f"expected a raster file, got the directory {path}")
    if not file.exists():
        raise InputError(f"there is no file {path}")
    if not file.is_file() or not os.access(file, os.R_OK):
        raise InputError(f"cannot read {path}; expected a regular, readable raster file")
    driver = sniff_driver(file)
    if driver is None and allow_vrt and looks_like_vrt(file):
        return "VRT"
    if driver is None:
        raise InputError(_unknown(file))
    return driver


def _unknown(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return f"{file} is empty; expected a raster file"
    if head.startswith((b"<VRTDataset", b"<?xml")) or file.suffix.lower() == ".vrt":
        return (
            f"{file} is a VRT, which can name any file of this computer, and is not opened; "
            "give --allow-vrt (allow_vrt=True) if all that it reads is beside it"
        )
    return f"{file} is not a raster that can be read here; expected GeoTIFF, JPEG, PNG or JPEG 2000"

"""Files that GDAL reads beside a raster: overviews, masks, world files.

GDAL opens them with any driver it has, so a VRT called `image.tif.ovr`, or one that the metadata
of a GeoTIFF names as its overviews, would read any file of the computer through a file on the list
of formats. They may only be TIFFs, and only lie beside the raster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samplat import InputError
from samplat_raster.damage import check_whole, sniff_driver

IMAGE_SUFFIXES = (".ovr", ".msk", ".msk.ovr", ".ovr.msk")


def check_companions(dataset: Any, path: str) -> None:
    """Refuse a raster whose overviews or masks are elsewhere, or of another format than TIFF.

    Args:
        dataset: a dataset that was just opened, of which no pixel was read.
        path: its local path.

    Raises:
        InputError: that.
    """
    file = Path(path)
    if elsewhere := dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE"):
        raise InputError(
            f"{path} keeps its overviews in {elsewhere[:60]!r}, which is not opened; "
            "copy it with gdal_translate"
        )
    for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
        companion = file.with_name(file.name + suffix)
        if companion.is_file():
            _check_companion(companion)
    for name in dataset.files:
        if Path(name).parent != file.parent or not Path(name).name.startswith(file.stem):
            raise InputError(f"{path} refers to another file, {name}, which is not opened")


def _check_companion(companion: Path) -> None:
    if sniff_driver(companion) != "GTiff":
        raise InputError(f"{companion} is no TIFF, and is not opened; remove it")
    check_whole(companion, "GTiff")

"""VRTs, by consent: checked, and rewritten so that GDAL opens what was checked and nothing else.

A VRT is XML that names other files, computes pixels from them, or reads them as raw bytes. Of all
that, mosaics and stacks of bands are taken: elements and attributes on a list, and sources that are
rasters inside of the VRT's own folder. GDAL is not handed the file but a new document made from
what was read here: its parser forgives what ours refuses, so they might not agree on one text.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from samplat import InputError
from samplat_raster.damage import check_whole, sniff_driver

MAX_BYTES = 2**25
"""Longer documents are refused: a mosaic of ten thousand files takes about 5 MB."""

MAX_DEPTH = 3
"""VRTs inside of VRTs, the first one counted."""

TEXT_BYTES = 16
"""GDAL asks its driver for VRTs first, which looks for its mark in what it takes for a text. A NUL
among the first bytes ends that text: all pictures have one, and nothing after it is seen."""

MARK = b"<vrtdataset"

ATTRIBUTES = {
    "vrtdataset": {"rasterxsize", "rasterysize"},
    "vrtrasterband": {"datatype", "band", "blockxsize", "blockysize"},
    "srs": {"dataaxistosrsaxismapping", "coordinateepoch"},
    "geotransform": set[str](),
    "blockxsize": set[str](),
    "blockysize": set[str](),
    "maskband": set[str](),
    "description": set[str](),
    "unittype": set[str](),
    "offset": set[str](),
    "scale": set[str](),
    "colorinterp": set[str](),
    "colortable": set[str](),
    "entry": {"c1", "c2", "c3", "c4"},
    "nodatavalue": set[str](),
    "hidenodatavalue": set[str](),
    "simplesource": {"resampling"},
    "complexsource": {"resampling"},
    "sourcefilename": {"relativetovrt", "shared"},
    "sourceband": set[str](),
    "sourceproperties": {"rasterxsize", "rasterysize", "datatype", "blockxsize", "blockysize"},
    "srcrect": {"xoff", "yoff", "xsize", "ysize"},
    "dstrect": {"xoff", "yoff", "xsize", "ysize"},
    "usemaskband": set[str](),
    "nodata": set[str](),
    "scaleoffset": set[str](),
    "scaleratio": set[str](),
    "lut": set[str](),
}
"""Elements of a VRT that are taken, and their attributes; to GDAL, capitals are small letters.
Not among them: subClass (raw, derived, warped, pansharpened bands), OpenOptions, code."""

DROPPED = {"metadata", "histograms", "categorynames", "overview", "overviewlist"}
"""Elements that are left out of what GDAL sees: no pixel of the raster depends on them."""


@dataclass(frozen=True, kw_only=True)
class CheckedVrt:
    """A VRT that may be opened."""

    document: str
    """What to hand to GDAL instead of a file name."""
    files: tuple[Path, ...]
    """All files that it reads, itself first."""


def checked_vrt(path: str, check_source: Callable[[str], None]) -> CheckedVrt:
    """Read a VRT and the sources that it names.

    Args:
        path: of the VRT.
        check_source: refuses a raster that must not be opened.

    Raises:
        InputError: it does more than put rasters of its folder together, or one is unusable.
    """
    file = Path(path).resolve()
    found: dict[Path, None] = {}
    root = _rewritten(file, file.parent, 1, found)
    for source in found:
        if sniff_driver(source) is not None:
            check_source(str(source))
    return CheckedVrt(document=ET.tostring(root, encoding="unicode"), files=tuple(found))


def looks_like_vrt(path: Path) -> bool:
    """Whether a file begins as a VRT does."""
    with path.open("rb") as file:
        return MARK in file.read(4096).lower()


def _rewritten(file: Path, folder: Path, depth: int, found: dict[Path, None]) -> ET.Element:
    if depth > MAX_DEPTH:
        raise InputError(f"{file} lies {depth} VRTs deep; at most {MAX_DEPTH} are taken")
    found[file] = None
    root = _parsed(file)
    if root.tag.lower() != "vrtdataset":
        raise InputError(f"{file} is no VRT: it begins with <{root.tag}>")
    for element in list(root.iter()):
        for child in [c for c in element if c.tag.lower() in DROPPED]:
            element.remove(child)
    for element in root.iter():
        _check_element(element, file)
    known: dict[Path, str] = {}
    room = MAX_BYTES
    for name in _sources(root):
        source = _confined(name, file, folder)
        if source not in known:
            known[source] = _opened_as(source, folder, depth, found)
        name.text = known[source]
        if (room := room - len(known[source])) < 0:
            raise InputError(f"{file} repeats other VRTs so often that it is not opened")
        name.attrib.clear()
        name.set("relativeToVRT", "0")
    return root


def _parsed(file: Path) -> ET.Element:
    with file.open("rb") as stream:
        text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise InputError(f"{file} is longer than {MAX_BYTES} bytes, and no VRT that is opened")
    if b"<!DOCTYPE" in text.upper() or b"\0" in text:
        raise InputError(f"{file} has a document type or is no UTF-8, and is not opened")
    try:
        return ET.fromstring(text)  # noqa: S314 without a DTD there are no entities
    except (ET.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{file} is no VRT that can be read: {error}") from None


def _check_element(element: ET.Element, file: Path) -> None:
    allowed, told = ATTRIBUTES.get(element.tag.lower()), f"<{element.tag[:40]}>"
    extra = sorted(a for a in element.attrib if allowed is not None and a.lower() not in allowed)
    if extra:
        told += f' with {extra[0][:40]}="{element.attrib[extra[0]][:40]}"'
    if allowed is None or extra:
        raise InputError(
            f"{file} has a {told}, and is not opened: only mosaics and stacks of rasters are; turn "
            "it into a GeoTIFF with gdal_translate first"
        )


def _sources(root: ET.Element) -> Iterator[ET.Element]:
    return (e for e in root.iter() if e.tag.lower() == "sourcefilename")


def _confined(name: ET.Element, file: Path, folder: Path) -> Path:
    """The file that a source names, symbolic links followed."""
    text = name.text or ""
    if not text.strip() or ":" in text or text.startswith(("/vsi", "<")) or "\0" in text:
        raise InputError(f"{file} reads {text[:80]!r}, which is no file in the folder {folder}")
    relative = {k.lower(): v for k, v in name.attrib.items()}.get("relativetovrt", "0")
    if relative.strip() != "1" and not Path(text).is_absolute():
        # GDAL would look in whatever folder the program was started in
        raise InputError(f'{file} reads {text[:80]!r} without relativeToVRT="1"; make it so')
    source = (file.parent / text).resolve()
    if not source.is_relative_to(folder):
        raise InputError(
            f"{file} reads {text[:80]!r}, which lies outside of its folder {folder}; "
            "move it there, or turn the VRT into a GeoTIFF with gdal_translate"
        )
    if not source.is_file():
        raise InputError(f"{file} reads {text[:80]!r}, and there is no file {source}")
    return source


def _opened_as(source: Path, folder: Path, depth: int, found: dict[Path, None]) -> str:
    driver = sniff_driver(source)
    if driver is None and looks_like_vrt(source):
        return ET.tostring(_rewritten(source, folder, depth + 1, found), encoding="unicode")
    with source.open("rb") as stream:
        head = stream.read(TEXT_BYTES)
    if driver is None or b"\0" not in head:
        raise InputError(
            f"{source}, a source of a VRT, is not a raster that can be read here; "
            "expected GeoTIFF, JPEG, PNG or JPEG 2000"
        )
    check_whole(source, driver)
    found[source] = None
    return str(source)

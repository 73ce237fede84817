"""Opening a volume of any format: its voxels, its place, and what it can be told by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samplat import InputError
from samplat_volume.dicom_slices import Slice, read_folder
from samplat_volume.geometry import Geometry
from samplat_volume.integrity import read_geometry
from samplat_volume.layout import Layout, check_declared, mapped, planes
from samplat_volume.paths import kind_of
from samplat_volume.series import assemble, choose_series
from samplat_volume.stacks import ArrayVoxels, Stack, StackVoxels, Voxels

OPTIONS = (
    "channel",
    "time",
    "series",
    "slices",
    "spacing",
    "allow_gaps",
    "allow_duplicates",
    "allow_truncated",
    "flat",
)
HEADER_BYTES = 65536
"""Bytes at the start and at the end of a file that go into its digest."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A volume, whatever it came from."""

    voxels: Voxels
    """Its numbers."""
    geometry: Geometry
    """Where they lie."""
    facts: bytes
    """What the digest is made of: sizes, dates, header."""
    coarse: tuple[Voxels, ...] = ()
    """The same at lower resolutions."""
    chunked: bool = False
    """True: kept in chunks, so that scattered voxels cost as much as all."""
    slices: tuple[Slice, ...] = ()
    """Headers of a DICOM series, by z."""
    close: Callable[[], Any] = lambda: None
    """Releases files."""


def open_volume(path: str, options: Mapping[str, Any]) -> Opened:
    """Open what there is at a path, once it is known to be whole.

    Args:
        path: file, folder or URL.
        options: a value for each of `OPTIONS`, as `VolumeSource` describes them.

    Raises:
        InputError: missing, damaged, not a volume, or not to be read by this user.
    """
    try:
        kind = kind_of(path)
        if options["flat"] and kind != "ome-zarr":
            raise InputError(
                f"{path} takes no option flat: only images of OME-Zarr may be pictures"
            )
        return _OPENERS[kind](path, options)
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read: {error.strerror or error}; expected a file "
            "that is there and that you may read"
        ) from error


def _file_facts(files: Sequence[Path]) -> bytes:
    facts = [repr([(s.st_size, s.st_mtime_ns) for s in (f.stat() for f in files)]).encode()]
    for path in files:
        with path.open("rb") as file:
            facts.append(file.read(HEADER_BYTES))
            file.seek(max(0, path.stat().st_size - HEADER_BYTES))
            facts.append(file.read())
    return b"".join(facts)


def _open_block(path: str, options: Mapping[str, Any]) -> Opened:
    from samplat_volume.headers import read_layout

    _refuse(path, options, "time", "series", "slices")
    layout = read_layout(Path(path))
    check_declared(layout)
    geometry = read_geometry(layout, options["spacing"])
    dtype = _value_dtype(layout)
    files = sorted({layout.path, layout.data})
    facts = _file_facts(files)
    if layout.codec == "none":
        array = ArrayVoxels(array=mapped(layout), axes=layout.axes, dtype=dtype, scale=layout.scale)
        return Opened(voxels=array, geometry=geometry, facts=facts)
    stack = Stack(
        name=path,
        key=lambda: _key(files, f"{layout.axes} {layout.shape} {layout.dtype.str}"),
        shape=(layout.channels, *layout.extent),
        dtype=layout.dtype,
        planes=lambda: planes(layout),
        axes="zyxc" if layout.axes == "zyxc" else "czyx",
    )
    block = StackVoxels(stack, at_once=True, scale=layout.scale, dtype=dtype)
    return Opened(voxels=block, geometry=geometry, facts=facts, chunked=block.is_ingested)


def _key(files: Sequence[Path], how: str) -> str:
    from samplat_volume.ingest import key_of_files

    return key_of_files(files, how)


def _value_dtype(layout: Layout) -> np.dtype[Any]:
    """As ITK has it: rescaled numbers are float32, or float64 if they were."""
    if layout.scale == (1.0, 0.0) or (layout.dtype.itemsize == 8 and layout.dtype.kind == "f"):
        return layout.dtype.newbyteorder("=")
    return np.dtype(np.float32)


def _refuse(path: str, options: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if options[name] is not None:
            raise InputError(f"{path} takes no option {name}: it is not of a format that has it")


def _open_tiff(path: str, options: Mapping[str, Any]) -> Opened:
    from samplat_volume.tiffs import open_tiff

    _refuse(path, options, "series", "slices")
    voxels, geometry, close = open_tiff(Path(path), options["time"])
    facts = _file_facts([Path(path)])
    return Opened(voxels=voxels, geometry=geometry, facts=facts, close=close)


def _open_ome_zarr(path: str, options: Mapping[str, Any]) -> Opened:
    from samplat_volume.omezarr import open_ome_zarr

    _refuse(path, options, "series", "slices")
    image = open_ome_zarr(path, options["time"], flat=bool(options["flat"]))
    return Opened(
        voxels=image.levels[0],
        geometry=image.geometry,
        facts=image.facts + _tree_facts(path),
        coarse=image.levels[1:],
        chunked=True,
    )


def _tree_facts(path: str) -> bytes:
    """Sizes and dates of the files of a local directory; nothing of a URL.

    Raises:
        InputError: a chunk is an empty file, as interrupted copies leave them.
    """
    if "://" in path:
        return b""
    files = sorted(p for p in Path(path).rglob("*") if p.is_file())
    stats = [(str(f.relative_to(path)), f.stat()) for f in files]
    if empty := [name for name, stat in stats if not stat.st_size]:
        raise InputError(f"{path}/{empty[0]} is empty, it was cut off; copy the image again")
    return repr([(name, s.st_size, s.st_mtime_ns) for name, s in stats]).encode()


def _open_dicom(path: str, options: Mapping[str, Any]) -> Opened:
    from samplat_volume.dicom_pixels import dicom_stack

    _refuse(path, options, "time")
    folder = Path(path)
    slices = read_folder(folder)
    if folder.is_file() and len(slices) == 1 and not slices[0].fault:
        raise InputError(f"{path} is one slice; expected the folder of its series: name that")
    series = assemble(
        choose_series(slices, options["series"], folder),
        path=folder,
        count=options["slices"],
        spacing=options["spacing"],
        **{name: bool(options[name]) for name in OPTIONS if name.startswith("allow_")},
    )
    stack = dicom_stack(series, path)
    return Opened(
        voxels=StackVoxels(stack),
        geometry=series.geometry,
        facts=stack.key().encode(),
        slices=series.volumes[0],
    )


_OPENERS: Mapping[str, Callable[[str, Mapping[str, Any]], Opened]] = {
    "block": _open_block,
    "dicom": _open_dicom,
    "tiff": _open_tiff,
    "ome-zarr": _open_ome_zarr,
}

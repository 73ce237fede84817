"""Volumes as image sources."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import ImageInfo, InputError, Window
from samplat_volume.geometry import Geometry
from samplat_volume.integrity import (
    check_depth,
    check_geometry,
    checked_override,
    one_line,
    read_geometry,
    simpleitk,
)
from samplat_volume.layout import Layout, check_declared, check_extent, mapped, planes
from samplat_volume.paths import accepts, kind_of
from samplat_volume.series import Series, Slice, assemble, choose_series, read_folder
from samplat_volume.stacks import DEEP, ArrayVoxels, Stack, StackVoxels, Voxels

OPTIONS = (
    "channel",
    "time",
    "series",
    "slices",
    "spacing",
    "allow_gaps",
    "allow_duplicates",
    "allow_truncated",
)
HEADER_BYTES = 65536
"""Bytes at the start and at the end of a file that go into its digest."""
SAMPLE = 2**21
"""Voxels of a thumbnail, at most."""
STRIDED = 64 * 2**20
"""Bytes of a chunked volume up to which all its chunks are read for a thumbnail."""
RUNS = 4
"""Runs of neighbouring indices per axis that are sampled of a larger one."""


@dataclass(frozen=True, kw_only=True)
class VolumeFactory:
    """Opens volumes: NIfTI, NRRD, MetaImage, VTK, GIPL, TIFF stacks, DICOM series, OME-Zarr."""

    name: str = "volume"

    def accepts(self, path: str) -> bool:
        """Whether the path may be a volume: by suffix, or as a folder."""
        return accepts(path)

    def open(self, path: str, **options: Any) -> VolumeSource:
        """Open a volume; the options are those of `VolumeSource`.

        Raises:
            InputError: missing, damaged, or not a volume.
        """
        if unknown := sorted(options.keys() - set(OPTIONS)):
            raise InputError(f"volumes take the options {', '.join(OPTIONS)}; got {unknown[0]!r}")
        return VolumeSource(path, **options)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A volume, whatever it came from."""

    voxels: Voxels
    geometry: Geometry
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


class VolumeSource:
    """An open volume: checked, and read window by window. Pickling keeps only how it was opened.

    Faults that can be overridden are errors until they are: an option is part of a job's record.

    Args:
        path: file, folder of a DICOM series, or directory or URL of an OME-Zarr image.
        channel: which channel, echo, component or time to read, from 0; up to three become the
            bands. Has to be told where there are several.
        time: which time, from 0, of formats that have both times and channels.
        series: of a folder of several DICOM series: UID, or number in the error's list.
        slices: how many slices a DICOM series must have; only so is one missed at its ends.
        spacing: millimetres (z, y, x) instead of what the file says.
        allow_gaps: take the slices of a DICOM series as neighbours though some are missing.
        allow_duplicates: keep the first of DICOM slices of one place.
        allow_truncated: leave out DICOM slices that are cut off.
    """

    def __init__(
        self,
        path: str,
        *,
        channel: int | Sequence[int] | None = None,
        time: int | None = None,
        series: str | int | None = None,
        slices: int | None = None,
        spacing: Sequence[float] | None = None,
        allow_gaps: bool = False,
        allow_duplicates: bool = False,
        allow_truncated: bool = False,
    ) -> None:
        given = locals()
        self._path = path
        self._options = {name: given[name] for name in OPTIONS}
        self._opened = _OPENERS[kind_of(path)](path, self._options)
        if spacing is not None:
            stated = replace(self._opened.geometry, spacing=checked_override(spacing))
            self._opened = replace(self._opened, geometry=stated)
        self._channels = _chosen_channels(self._opened.voxels.shape[0], channel, path)
        self._info = self._describe()

    def __reduce__(self) -> tuple[Callable[..., VolumeSource], tuple[Any, ...]]:
        return _reopen, (self._path, self._options)

    @property
    def info(self) -> ImageInfo:
        """Description; `index_to_world` maps voxel centres (x, y, z) to LPS millimetres."""
        return self._info

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie."""
        return self._opened.geometry

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Of a DICOM series, the header of each slice by z; empty otherwise."""
        return self._opened.slices

    @property
    def digest(self) -> str:
        """SHA-256 of sizes, dates and headers, and of how the volume was opened."""
        facts = json.dumps([asdict(self._info), self._options], sort_keys=True, default=str)
        return hashlib.sha256(facts.encode() + self._opened.facts).hexdigest()

    def read(self, window: Window) -> NDArray[Any]:
        """Values (z, y, x, band) of a window, rescaled as the file says."""
        return self._opened.voxels.take(self._channels, _slices(window))

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Voxels (z, y, x) of a window that are numbers. True: finite in all bands."""
        if np.dtype(self._info.dtype).kind != "f":
            return np.ones(window.shape, bool)
        finite: NDArray[np.bool_] = np.isfinite(self.read(window)).all(axis=-1)
        return finite

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A sample of the whole volume, always the same, of at most two million voxels.

        Every n-th voxel; from a coarser resolution where the file has one. Of a large volume in
        chunks, evenly spaced blocks of neighbours, since scattered voxels would mean to read all.
        """
        voxels = self._coarse(max_size)
        if self._opened.chunked and _bytes(voxels) > STRIDED:
            pixels = self._sampled(voxels, max_size)
        else:
            flat = isinstance(voxels, StackVoxels) and voxels.by_plane
            pixels = voxels.take(self._channels, _strides(voxels.shape[1:], max_size, flat=flat))
        return pixels, np.isfinite(pixels).all(axis=-1)

    def _sampled(self, voxels: Voxels, max_size: int) -> NDArray[Any]:
        sampled = partial(_blocks, voxels, self._channels, max_size)
        if not isinstance(voxels, StackVoxels):
            return sampled()
        channels = "-".join(map(str, self._channels))
        return voxels.remembered(f"sample-{max_size}-{channels}", sampled)

    def close(self) -> None:
        """Release files; the source is not used afterwards."""
        self._opened.close()

    def _coarse(self, max_size: int) -> Voxels:
        for voxels in (self._opened.voxels, *self._opened.coarse):
            if max(voxels.shape[1:]) <= max_size and math.prod(voxels.shape[1:]) <= SAMPLE:
                return voxels
        return self._opened.coarse[-1] if self._opened.coarse else self._opened.voxels

    def _describe(self) -> ImageInfo:
        geometry, dtype = self._opened.geometry, self._opened.voxels.dtype
        check_extent(geometry.shape, self._path)
        check_depth(geometry.shape, self._path)
        check_geometry(geometry, self._path)
        if dtype.kind not in "buif":
            raise InputError(f"{self._path} holds {dtype} voxels; expected real numbers")
        a, b, c, d = (tuple(map(float, row)) for row in geometry.index_to_world)
        return ImageInfo(
            shape=geometry.shape,
            bands=len(self._channels),
            dtype=dtype.name,
            index_to_world=(a, b, c, d),  # type: ignore[arg-type]  # four numbers each
            spacing=geometry.spacing,
        )


def _reopen(path: str, options: Mapping[str, Any]) -> VolumeSource:
    return VolumeSource(path, **options)


def _slices(window: Window) -> tuple[slice, slice, slice]:
    z, y, x = window.slices
    return z, y, x


def _chosen_channels(count: int, channel: int | Sequence[int] | None, path: str) -> tuple[int, ...]:
    if channel is None and count > 1:
        colours = ", or channel=[0, 1, 2] for colours" if count in (3, 4) else ""
        raise InputError(
            f"{path} has {count} numbers per voxel (channels, times, echoes or colours); expected "
            f"one: choose it with channel=0 to {count - 1}{colours}"
        )
    chosen = (channel or 0,) if isinstance(channel, int | None) else tuple(channel)
    if not 1 <= len(chosen) <= 3:
        raise InputError(f"{path}: expected one to three channels, got {len(chosen)}")
    for one in chosen:
        if not 0 <= one < count:
            raise InputError(f"{path} has channels 0 to {count - 1}; there is no channel {one}")
    return chosen


def _bytes(voxels: Voxels) -> int:
    return math.prod(voxels.shape[1:]) * voxels.dtype.itemsize


def _strides(shape: tuple[int, ...], max_size: int, *, flat: bool) -> tuple[slice, slice, slice]:
    """Every n-th index per axis, so that neither an axis nor the whole becomes too large.

    Where it is `flat`, as few slices are taken as are read one by one: each is read whole.
    """
    limits = [min(max_size, DEEP) if flat else max_size, max_size, max_size]
    steps = [max(1, math.ceil(n / limit)) for n, limit in zip(shape, limits, strict=True)]
    while (counts := [math.ceil(n / s) for n, s in zip(shape, steps, strict=True)]) and (
        math.prod(counts) > SAMPLE
    ):
        steps[counts.index(max(counts))] += 1
    z, y, x = (slice(None, None, step) for step in steps)
    return z, y, x


def _blocks(voxels: Voxels, channels: Sequence[int], max_size: int) -> NDArray[Any]:
    z, y, x = (_runs(n, max_size) for n in voxels.shape[1:])
    return np.concatenate(
        [
            np.concatenate(
                [np.concatenate([voxels.take(channels, (a, b, c)) for c in x], 2) for b in y], 1
            )
            for a in z
        ]
    )


def _runs(size: int, max_size: int) -> list[slice]:
    """Evenly spaced runs of neighbouring indices, away from the ends."""
    count = min(RUNS, size)
    length = max(1, min(32, max_size // RUNS, size // count))
    # at multiples of their length, where chunks begin too
    centres = [int((i + 0.5) * size / count) for i in range(count)]
    starts = [centre // length * length for centre in centres]
    return [slice(start, start + length) for start in starts]


def _file_facts(files: Sequence[Path]) -> bytes:
    facts = [repr([(s.st_size, s.st_mtime_ns) for s in (f.stat() for f in files)]).encode()]
    for path in files:
        with path.open("rb") as file:
            facts.append(file.read(HEADER_BYTES))
            file.seek(max(0, path.stat().st_size - HEADER_BYTES))
            facts.append(file.read())
    return b"".join(facts)


def _open_block(path: str, options: Mapping[str, Any]) -> _Opened:
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
        return _Opened(voxels=array, geometry=geometry, facts=facts)
    stack = Stack(
        name=path,
        key=lambda: _key(files, f"{layout.axes} {layout.shape} {layout.dtype.str}"),
        shape=(layout.channels, *layout.extent),
        dtype=layout.dtype,
        planes=lambda: planes(layout),
        axes="zyxc" if layout.axes == "zyxc" else "czyx",
    )
    block = StackVoxels(stack, at_once=True, scale=layout.scale, dtype=dtype)
    return _Opened(voxels=block, geometry=geometry, facts=facts, chunked=block.is_ingested)


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


def _open_tiff(path: str, options: Mapping[str, Any]) -> _Opened:
    from samplat_volume.tiffs import open_tiff

    _refuse(path, options, "series", "slices")
    voxels, geometry, close = open_tiff(Path(path), options["time"])
    facts = _file_facts([Path(path)])
    return _Opened(voxels=voxels, geometry=geometry, facts=facts, close=close)


def _open_ome_zarr(path: str, options: Mapping[str, Any]) -> _Opened:
    from samplat_volume.omezarr import open_ome_zarr

    _refuse(path, options, "series", "slices")
    image = open_ome_zarr(path, options["time"])
    return _Opened(
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


def _open_dicom(path: str, options: Mapping[str, Any]) -> _Opened:
    _refuse(path, options, "time")
    folder = Path(path)
    series = assemble(
        choose_series(read_folder(folder), options["series"], folder),
        path=folder,
        count=options["slices"],
        spacing=options["spacing"],
        **{name: bool(options[name]) for name in OPTIONS if name.startswith("allow_")},
    )
    stack = _dicom_stack(series, path)
    return _Opened(
        voxels=StackVoxels(stack),
        geometry=series.geometry,
        facts=stack.key().encode(),
        slices=series.volumes[0],
    )


def _dicom_stack(series: Series, path: str) -> Stack:
    first = series.volumes[0][0]
    dtype = _dicom_dtype(series)
    channels = len(series.volumes) if len(series.volumes) > 1 else first.samples
    if len(series.volumes) > 1 and first.samples > 1:
        raise InputError(f"{path} has both colours and several times; expected one of them")

    def plane(z: int) -> NDArray[Any]:
        parts = [read_pixels(volume[z]) for volume in series.volumes]
        return np.concatenate(parts, axis=-1).astype(dtype, copy=False)

    def every() -> Iterator[NDArray[Any]]:
        return (plane(z) for z in range(series.geometry.shape[0]))

    def key() -> str:
        stats = [(s.uid, s.path.stat()) for volume in series.volumes for s in volume]
        told = repr([(uid, s.st_size, s.st_mtime_ns) for uid, s in stats])
        return hashlib.sha256(f"dicom {dtype} {told}".encode()).hexdigest()

    return Stack(
        name=path,
        key=key,
        shape=(channels, *series.geometry.shape),
        dtype=dtype,
        planes=every,
        plane=plane,
    )


def _dicom_dtype(series: Series) -> np.dtype[Any]:
    """A type that holds the values of all slices, whatever each one's slope."""
    one_of_each = {s.stored: s for volume in series.volumes for s in volume}
    return np.result_type(*(read_pixels(s).dtype for s in one_of_each.values()))


def read_pixels(one: Slice) -> NDArray[Any]:
    """The rescaled values (y, x, component) of a DICOM file, by GDCM.

    Raises:
        InputError: they cannot be decoded.
    """
    itk = simpleitk()
    try:
        image = itk.ReadImage(str(one.path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise InputError(f"{one.path} cannot be decoded: {one_line(error)}") from error
    values: NDArray[Any] = itk.GetArrayFromImage(image)
    if values.size != one.samples * one.size[0] * one.size[1]:
        raise InputError(
            f"{one.path} is decoded as {values.shape} values, its header tells {one.size} of "
            f"{one.samples}; expected grey values or RGB: convert it first"
        )
    return values.reshape(*one.size, one.samples)


_OPENERS: Mapping[str, Callable[[str, Mapping[str, Any]], _Opened]] = {
    "block": _open_block,
    "dicom": _open_dicom,
    "tiff": _open_tiff,
    "ome-zarr": _open_ome_zarr,
}

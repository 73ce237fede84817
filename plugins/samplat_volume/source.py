"""Volumes as image sources."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import ImageInfo, InputError, Window
from samplat_volume.dicom_slices import Slice
from samplat_volume.geometry import Geometry
from samplat_volume.integrity import check_depth, check_geometry, checked_override
from samplat_volume.layout import check_extent
from samplat_volume.opening import OPTIONS, open_volume
from samplat_volume.paths import accepts
from samplat_volume.stacks import DEEP, StackVoxels, Voxels

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


class VolumeSource:
    """An open volume: checked, and read window by window. Pickling keeps only how it was opened.

    Faults that can be overridden are errors until they are: an option is part of a job's record.

    Args:
        path: file, folder of a DICOM series, or directory or URL of an OME-Zarr image; one file
            of DICOM if it holds many frames.
        channel: which channel, echo, component or time to read, from 0; up to three become the
            bands. Has to be told where there are several.
        time: which time, from 0, of formats that have both times and channels.
        series: of a folder of several DICOM series: UID, or number in the error's list.
        slices: how many slices a DICOM series must have; only so is one missed at its ends.
        spacing: millimetres (z, y, x) instead of what the file says.
        allow_gaps: take the slices of a DICOM series as neighbours though some are missing; read
            chunks of OME-Zarr that are missing as its fill value.
        allow_duplicates: keep the first of DICOM slices of one place.
        allow_truncated: leave out DICOM slices that are cut off.
        flat: take an OME-Zarr image of one slice, as the fields of plates are.
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
        flat: bool = False,
    ) -> None:
        given = locals()
        self._path = path
        self._options = {name: given[name] for name in OPTIONS}
        self._opened = open_volume(path, self._options)
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
        # an option that is younger than jobs which have to resume
        told = {name: value for name, value in self._options.items() if name != "flat" or value}
        facts = json.dumps([asdict(self._info), told], sort_keys=True, default=str)
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

    @property
    def band_names(self) -> tuple[str, ...]:
        """Of all channels, times or components of the file: their numbers."""
        return tuple(str(n) for n in range(self._opened.voxels.shape[0]))

    def with_bands(self, indices: Sequence[int]) -> VolumeSource:
        """The same volume, of which other channels are read."""
        made = copy.copy(self)
        made._options = {**self._options, "channel": list(indices)}
        made._channels = _chosen_channels(self._opened.voxels.shape[0], indices, self._path)
        made._info = made._describe()
        return made

    def levels(self) -> tuple[VolumeSource, ...]:
        """The volume at the lower resolutions that its file has, finest first."""
        return tuple(self._coarsened(voxels) for voxels in self._opened.coarse)

    def _coarsened(self, voxels: Voxels) -> VolumeSource:
        fine, (depth, height, width) = self._opened.geometry, voxels.shape[1:]
        z, y, x = np.multiply(fine.spacing, fine.shape) / (depth, height, width)
        spacing = (float(z), float(y), float(x))
        geometry = replace(fine, shape=(depth, height, width), spacing=spacing)
        made = copy.copy(self)
        made._opened = replace(self._opened, voxels=voxels, geometry=geometry, coarse=())
        made._info = made._describe()
        return made

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
        if not self._options["flat"]:
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

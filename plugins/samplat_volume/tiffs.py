"""Multi-page TIFFs: plain pages, ImageJ hyperstacks, OME-TIFF, by tifffile.

Source: the OME data model for sizes in space.
"""

from __future__ import annotations

import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError
from samplat_volume.geometry import Geometry
from samplat_volume.layout import Mapped
from samplat_volume.stacks import ArrayVoxels, Stack, StackVoxels, Voxels, content_key
from samplat_volume.tiff_checks import DEFLATE, check_chain, check_pages

UNITS = {
    "nm": 1e-6, "nanometer": 1e-6, "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "\\u00b5m": 1e-3, "mm": 1.0, "millimeter": 1.0, "cm": 10.0,
    "centimeter": 10.0, "m": 1000.0, "meter": 1000.0, "inch": 25.4, "angstrom": 1e-7, "å": 1e-7,
    "micrometre": 1e-3, "nanometre": 1e-6, "millimetre": 1.0, "centimetre": 10.0, "metre": 1000.0,
}  # fmt: skip
"""Millimetres of a unit."""


def open_tiff(path: Path, time: int | None) -> tuple[Voxels, Geometry, Callable[[], Any]]:
    """A TIFF's pages as a volume. Uncompressed stacks are mapped, others read page by page.

    Returns:
        voxels, their place, and what closes the file.

    Raises:
        InputError: it is cut off, or its pages make no volume.
    """
    import tifffile

    # what it has to say becomes an error here; without a handler it would go to stderr
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    check_chain(path)
    file = path.open("rb")
    try:
        return _open(tifffile.TiffFile(file), file, path, time)
    except InputError:
        file.close()
        raise
    except Exception as error:  # of a damaged file the parser raises anything
        file.close()
        raise InputError(
            f"{path} is no TIFF that can be read: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error


def _open(
    tiff: Any, file: Any, path: Path, time: int | None
) -> tuple[Voxels, Geometry, Callable[[], Any]]:
    series = _only_series(tiff, path)
    check_pages(series, path)
    axes, shape = _axes(series, path)
    index = chosen_time(axes, shape, time, path)
    geometry = Geometry(
        shape=_space(axes, shape), spacing=_spacing(tiff), origin=(0, 0, 0), direction=np.eye(3)
    )
    if series.dataoffset is not None and min(series.shape) > 0:
        file.close()
        return _mapped(tiff, series, path, axes, shape, index), geometry, file.close
    pages = _Pages(file, series, path, axes, shape, index)
    pages.check()
    return _paged(pages, series, path, axes, shape, index), geometry, pages.close


def _only_series(file: Any, path: Path) -> Any:
    if len(file.series) != 1:
        shapes = ", ".join(str(s.shape) for s in file.series[:4])
        raise InputError(
            f"{path} holds {len(file.series)} images of different kinds ({shapes}); expected one "
            "stack: write it alone"
        )
    return file.series[0]


def _axes(series: Any, path: Path) -> tuple[str, tuple[int, ...]]:
    """Axes of "tczyx" and their extents; those of one index that mean nothing are dropped."""
    told = [("z" if a in "QI" else "c" if a == "S" else a.lower()) for a in series.axes]
    pairs = [(a, n) for a, n in zip(told, series.shape, strict=True) if n > 1 or a in "yx"]
    axes = "".join(a for a, _ in pairs)
    if len(set(axes)) < len(axes) or set(axes) - set("tczyx"):
        raise InputError(
            f"{path} has axes {series.axes} of {series.shape}; expected z, y, x and at most times "
            "and channels: split it first"
        )
    return axes, tuple(n for _, n in pairs)


def _space(axes: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    z, y, x = (shape[axes.index(a)] if a in axes else 1 for a in "zyx")
    return z, y, x


def chosen_time(axes: str, shape: tuple[int, ...], time: int | None, path: Path | str) -> int:
    """The index along "t", which has to be told where there are several.

    Raises:
        InputError: it was not, or there is no such time.
    """
    times = shape[axes.index("t")] if "t" in axes else 1
    if time is None and times > 1:
        raise InputError(f"{path} holds {times} times; choose one with time=0 to {times - 1}")
    if time is not None and not 0 <= time < times:
        raise InputError(f"{path} holds {times} times, from 0; there is no time {time}")
    return time or 0


def _mapped(
    tiff: Any, series: Any, path: Path, axes: str, shape: tuple[int, ...], time: int
) -> Voxels:
    stored = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    array = Mapped(path=path, dtype=stored, start=series.dataoffset, shape=shape)
    return ArrayVoxels(array=array, axes=axes, dtype=stored.newbyteorder("="), time=time)


class _Pages:
    """Pages by time, slice and channel; one thread at a time reads."""

    def __init__(self, file: Any, series: Any, path: Path, axes: str, shape: Any, time: int):
        self._series, self._path, self._time = series, path, time
        self._lock, self.close = threading.Lock(), weakref.finalize(self, file.close)
        inner = 3 if axes.endswith(("yxc", "cyx")) and series.keyframe.samplesperpixel > 1 else 2
        self._outer, self._sizes = axes[: len(axes) - inner], shape[: len(axes) - inner]
        self._planar = inner == 3 and axes.endswith("cyx")
        self._channels = self._sizes[self._outer.index("c")] if "c" in self._outer else 1

    def check(self) -> None:
        """Decode a page if tifffile cannot, so that an unknown compression is an error now."""
        if not _is_known(self._series):
            self(0)

    def __call__(self, z: int) -> NDArray[Any]:
        """A plane (y, x, c)."""
        parts = [self._page(z, c) for c in range(self._channels)]
        if parts[0].ndim == 3:
            return np.moveaxis(parts[0], 0, -1) if self._planar else parts[0]
        return np.stack(parts, axis=-1)

    def _page(self, z: int, channel: int) -> NDArray[Any]:
        place = {"t": self._time, "c": channel, "z": z}
        index = [place[a] for a in self._outer]
        number = int(np.ravel_multi_index(index, self._sizes)) if index else 0
        try:
            with self._lock:
                if not _is_known(self._series):
                    return _by_pillow(self._path, self._series, number)
                page: NDArray[Any] = self._series.pages[number].asarray()
        except InputError:
            raise
        except Exception as error:  # codecs raise what they like
            raise InputError(
                f"{self._path}: page {number} is damaged ({error}); copy or download it again"
            ) from error
        return page


def _is_known(series: Any) -> bool:
    """Whether tifffile decompresses it by itself; for other methods it needs imagecodecs."""
    from importlib.util import find_spec

    import tifffile

    first = series.keyframe
    if find_spec("imagecodecs") is not None or first.compression == 1:
        return True
    try:
        tifffile.TIFF.UNPREDICTORS[first.predictor]
    except KeyError:
        return False
    return first.compression in DEFLATE


def _by_pillow(path: Path, series: Any, number: int) -> NDArray[Any]:
    """A page of a method that libtiff knows, such as LZW and PackBits."""
    from PIL import Image

    kind, first = np.dtype(series.dtype), series.keyframe
    with Image.open(path) as image:
        image.seek(series.pages[number].index)
        page = np.asarray(image)
    if page.shape != first.shape or page.dtype.itemsize != kind.itemsize:
        method = getattr(first.compression, "name", first.compression)
        raise InputError(
            f"{path} is compressed with {method}, which cannot be read here for {first.shape} "
            f"{kind.name} pixels; write it with deflate or uncompressed, or install imagecodecs"
        )
    return page.astype(page.dtype.newbyteorder("="), copy=False).view(kind.newbyteorder("="))


def _paged(
    pages: _Pages, series: Any, path: Path, axes: str, shape: tuple[int, ...], time: int
) -> Voxels:
    depth, height, width = _space(axes, shape)
    channels = shape[axes.index("c")] if "c" in axes else 1

    def planes() -> Iterator[NDArray[Any]]:
        return (pages(z) for z in range(depth))

    stack = Stack(
        name=str(path),
        key=lambda: content_key([path], f"tiff time {time}"),
        shape=(channels, depth, height, width),
        dtype=np.dtype(series.dtype).newbyteorder("="),
        planes=planes,
        plane=pages,
    )
    return StackVoxels(stack)


def _spacing(file: Any) -> tuple[float, float, float]:
    """Millimetres (z, y, x) where all three are told; otherwise 1."""
    if file.ome_metadata:
        return _ome_spacing(file.ome_metadata)
    told = file.imagej_metadata or {}
    unit = UNITS.get(str(told.get("unit", "")).lower())
    if unit is None or "spacing" not in told:
        return 1.0, 1.0, 1.0
    tags = file.pages[0].tags
    (y, per_y), (x, per_x) = tags["YResolution"].value, tags["XResolution"].value
    if not all((y, per_y, x, per_x)):
        return 1.0, 1.0, 1.0
    return float(told["spacing"]) * unit, per_y / y * unit, per_x / x * unit


def _ome_spacing(xml: str) -> tuple[float, float, float]:
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    found = dict(re.findall(r'(PhysicalSize[XYZ](?:Unit)?)="([^"]*)"', pixels[0] if pixels else ""))
    if not all(f"PhysicalSize{a}" in found for a in "ZYX"):
        return 1.0, 1.0, 1.0
    z, y, x = (
        float(found[f"PhysicalSize{a}"]) * UNITS.get(found.get(f"PhysicalSize{a}Unit", "µm"), 1.0)
        for a in "ZYX"
    )
    return z, y, x

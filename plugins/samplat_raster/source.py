"""Rasters as image sources, read through GDAL."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from samplat import ImageInfo, InputError, Window
from samplat_raster.companions import check_companions
from samplat_raster.damage import check_whole
from samplat_raster.georeference import matrix_of, pixel_spacing
from samplat_raster.paths import DRIVERS, SUFFIXES, driver_of, gdal_path, is_remote

T = TypeVar("T")

MAX_PIXELS = 2**44
"""Larger images are taken for a damaged or hostile header: 4 million pixels a side."""

HEADER_BYTES = 65536
"""Bytes at the start and at the end of a file that go into its digest."""

REMOTE_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # companions cannot be checked there
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_MAX_RETRY": 3,
}
"""GDAL's settings for URLs; without timeouts it would wait for ever."""

GDAL_CACHE_BYTES = 64 * 2**20
"""Blocks that GDAL keeps in memory; what it takes by itself grows with the machine."""

_OPENING = threading.Lock()  # warning filters are global


@dataclass(frozen=True, kw_only=True)
class RasterFactory:
    """Opens rasters: GeoTIFF, JPEG, PNG, JPEG 2000; local files, URLs and `/vsi` paths."""

    name: str = "raster"

    def accepts(self, path: str) -> bool:
        """Whether the suffix or the scheme is a raster's."""
        return is_remote(path) or path.lower().endswith(SUFFIXES)

    def open(self, path: str, **options: Any) -> RasterSource:
        """Open a raster; the options are those of `RasterSource`.

        Raises:
            InputError: missing, unreadable, cut off, complex, or of a format not on the list.
        """
        if unknown := sorted(options.keys() - {"bidx", "nodata"}):
            raise InputError(f"rasters take the options bidx and nodata, got {unknown[0]!r}")
        return RasterSource(path, **options)


@dataclass(frozen=True, kw_only=True)
class _Bands:
    """What is read of a file, and how its valid pixels are told."""

    indexes: tuple[int, ...]
    """Bands to read, from 1."""
    nodata: tuple[float | None, ...]
    """Value of each that means "no data"."""
    masked: bool
    """True: the file has an alpha band or a mask band."""
    palette: NDArray[np.uint8] | None
    """(entries, 3) colours, where the one band holds their numbers."""


class RasterSource:
    """An open raster. Each thread has its own dataset; pickling keeps only how it was opened.

    A pixel is valid where the file's mask says so, no chosen band is NaN or infinite, and at least
    one chosen band differs from its nodata value.

    Args:
        path: path, URL or `/vsi` path.
        bidx: numbers of the bands to read, from 1. Without them: red, green and blue where they
            are marked, otherwise the first three that are not an alpha band. The colours of a
            palette are looked up.
        nodata: value that means "no data", instead of what the file says.
    """

    def __init__(
        self, path: str, *, bidx: Sequence[int] | None = None, nodata: float | None = None
    ) -> None:
        self._path, self._bidx, self._nodata = path, bidx, nodata
        self._local = threading.local()
        self._opened: list[Any] = []
        self._driver = None if is_remote(path) else driver_of(path)
        if self._driver is not None:
            check_whole(Path(path), self._driver)
        try:
            if self._driver is not None:
                check_companions(self._dataset(), path)
            self._bands = _choose_bands(self._dataset(), path, bidx, nodata)
            self._info = _describe(self._dataset(), path, self._bands)
        except InputError:
            self.close()
            raise

    def __reduce__(self) -> tuple[Callable[..., RasterSource], tuple[Any, ...]]:
        return _reopen, (self._path, self._bidx, self._nodata)

    @property
    def info(self) -> ImageInfo:
        """Description of the raster, with the chosen bands."""
        return self._info

    @property
    def digest(self) -> str:
        """SHA-256 of sizes, dates, the first and last bytes of a file; of two blocks of a URL."""
        facts = json.dumps([asdict(self._info), self._bands.indexes, self._bands.nodata])
        content = self._remote_content() if self._driver is None else self._local_content()
        return hashlib.sha256(facts.encode() + content).hexdigest()

    def _local_content(self) -> bytes:
        files = [Path(self._path), *(Path(f) for f in sorted(self._dataset().files))]
        stats = [f.stat() for f in files if f.exists()]
        with Path(self._path).open("rb") as file:
            head = file.read(HEADER_BYTES)
            file.seek(max(0, stats[0].st_size - HEADER_BYTES))
            return head + file.read() + repr([(s.st_size, s.st_mtime_ns) for s in stats]).encode()

    def _remote_content(self) -> bytes:
        _, height, width = self._info.shape
        starts = ((0, 0), (height // 2, width // 2))
        blocks = (
            Window(start=(0, y, x), stop=(1, min(height, y + 64), min(width, x + 64)))
            for y, x in starts
        )
        return b"".join(self.read(block).tobytes() for block in blocks)

    def read(self, window: Window) -> NDArray[Any]:
        """Pixels (1, y, x, band) of a window, in the stored type; a palette's colours as uint8."""
        return self._coloured(self._stored(window))

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Valid pixels (1, y, x) of a window. True: data."""
        unmarked = all(v is None for v in self._bands.nodata)
        if unmarked and np.dtype(self._info.dtype).kind != "f":
            return self._unmasked(window.shape, window=_rasterio_window(window))
        pixels = self._stored(window)
        return self._has_data(pixels) & self._unmasked(
            window.shape, window=_rasterio_window(window)
        )

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The whole raster, nearest pixels, no side longer than `max_size`; and its valid pixels.

        GDAL takes the pixels from overviews where the file has them.
        """
        _, height, width = self._info.shape
        factor = max(1.0, max(height, width) / max_size)
        shape = (max(1, math.floor(height / factor)), max(1, math.floor(width / factor)))
        indexes = list(self._bands.indexes)
        stored = self._checked(
            "an overview",
            lambda dataset: dataset.read(indexes, out_shape=(len(indexes), *shape)),
        )
        pixels = stored.transpose(1, 2, 0)[None]
        valid = self._has_data(pixels) & self._unmasked((1, *shape), out_shape=shape)
        return self._coloured(pixels), valid

    def close(self) -> None:
        """Close the datasets of all threads."""
        with _OPENING:
            for dataset in self._opened:
                dataset.close()
            self._opened.clear()
        self._local = threading.local()

    def _dataset(self) -> Any:
        if not hasattr(self._local, "dataset"):
            self._local.dataset = _open(self._path, self._driver)
            with _OPENING:
                self._opened.append(self._local.dataset)
        return self._local.dataset

    def _stored(self, window: Window) -> NDArray[Any]:
        # `read` and `valid` of a window come one after the other, in one thread
        last: tuple[Window, NDArray[Any]] | None = getattr(self._local, "last", None)
        if last is None or last[0] != window:
            last = self._local.last = (window, self._read(window))
        return last[1]

    def _read(self, window: Window) -> NDArray[Any]:
        indexes, place = list(self._bands.indexes), _rasterio_window(window)
        stored: NDArray[Any] = self._checked(
            f"pixels {window.start[1:]} to {window.stop[1:]} (row, column)",
            lambda dataset: dataset.read(indexes, window=place),
        )
        pixels = np.ascontiguousarray(stored.transpose(1, 2, 0))[None]
        pixels.flags.writeable = False
        return pixels

    def _coloured(self, stored: NDArray[Any]) -> NDArray[Any]:
        if self._bands.palette is None:
            return stored
        last = len(self._bands.palette) - 1
        colours: NDArray[Any] = self._bands.palette[np.clip(stored[..., 0], 0, last)]
        return colours

    def _has_data(self, pixels: NDArray[Any]) -> NDArray[np.bool_]:
        real = pixels.dtype.kind == "f"
        finite = np.ones(pixels.shape[:-1], bool)
        if real:
            finite &= np.isfinite(pixels).all(axis=-1)
        if any(value is None for value in self._bands.nodata):
            return finite
        empty = finite.copy()
        for band, value in enumerate(self._bands.nodata):
            # integers are compared as such: as floats they would all be converted
            whole = int(value) if not real and value == int(value or 0) else value
            empty &= pixels[..., band] == whole
        return finite & ~empty

    def _unmasked(self, shape: tuple[int, ...], **options: Any) -> NDArray[np.bool_]:
        if not self._bands.masked:
            return np.ones(shape, bool)
        first = self._bands.indexes[0]
        mask = self._checked("the mask", lambda dataset: dataset.read_masks(first, **options))
        inside: NDArray[np.bool_] = mask > 0
        return inside.reshape(shape)

    def _checked(self, what: str, read: Callable[[Any], T]) -> T:
        from rasterio.errors import RasterioError

        try:
            with _gdal(self._path):
                return read(self._dataset())
        except (RasterioError, OSError) as error:
            reason = _one_line(error.__cause__ or error)
            raise InputError(
                f"cannot read {what} of {self._path}: {reason}; the file is damaged or changed"
            ) from error


def _reopen(path: str, bidx: Sequence[int] | None, nodata: float | None) -> RasterSource:
    return RasterSource(path, bidx=bidx, nodata=nodata)


def _rasterio_window(window: Window) -> Any:
    from rasterio.windows import Window as Place

    (_, y0, x0), (_, y1, x1) = window.start, window.stop
    return Place(x0, y0, x1 - x0, y1 - y0)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _gdal(path: str) -> Any:
    """GDAL's settings; inside of them, its messages go to the log and not to stderr."""
    import rasterio

    options = {**REMOTE_OPTIONS} if is_remote(path) else {}
    return rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES, **options)


def _open(path: str, driver: str | None) -> Any:
    """A dataset of this thread, of a driver on the list and no other."""
    import rasterio

    # GDAL's messages come as exceptions; without a handler they would also go to stderr
    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    reasons = []
    for name in DRIVERS if driver is None else (driver,):
        with _OPENING, _gdal(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            try:
                return rasterio.open(gdal_path(path), driver=name)
            except (rasterio.errors.RasterioError, OSError) as error:
                reasons.append(_one_line(error.__cause__ or error))
    raise InputError(f"cannot open {path} as {driver or ' or '.join(DRIVERS)}: {reasons[0]}")


def _choose_bands(
    dataset: Any, path: str, bidx: Sequence[int] | None, nodata: float | None
) -> _Bands:
    from rasterio.enums import ColorInterp, MaskFlags

    colours = dataset.colorinterp
    alpha = [i for i, c in enumerate(colours, 1) if c == ColorInterp.alpha]
    indexes = (
        _default_bands(colours) if bidx is None else _checked_bands(dataset, path, bidx, alpha)
    )
    if not indexes:
        raise InputError(f"{path} has no bands but an alpha band; expected at least one of pixels")
    values = [dataset.nodatavals[i - 1] if nodata is None else nodata for i in indexes]
    return _Bands(
        indexes=indexes,
        nodata=tuple(None if v is None or not math.isfinite(v) else float(v) for v in values),
        masked=MaskFlags.per_dataset in dataset.mask_flag_enums[indexes[0] - 1],
        palette=_palette(dataset, indexes[0])
        if colours[indexes[0] - 1] == ColorInterp.palette
        else None,
    )


def _default_bands(colours: Sequence[Any]) -> tuple[int, ...]:
    from rasterio.enums import ColorInterp

    rgb = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(c in colours for c in rgb):
        return tuple(colours.index(c) + 1 for c in rgb)
    return tuple(i for i, c in enumerate(colours, 1) if c != ColorInterp.alpha)[:3]


def _checked_bands(
    dataset: Any, path: str, bidx: Sequence[int], alpha: list[int]
) -> tuple[int, ...]:
    for i in bidx:
        if not 1 <= i <= dataset.count:
            raise InputError(f"{path} has bands 1 to {dataset.count}, there is no band {i}")
        if i in alpha:
            raise InputError(f"band {i} of {path} is an alpha band: it masks, it is no colour")
    return tuple(int(i) for i in bidx)


def _palette(dataset: Any, band: int) -> NDArray[np.uint8]:
    entries = dataset.colormap(band)
    colours = np.zeros((max(entries) + 1, 3), np.uint8)
    for number, colour in entries.items():
        colours[number] = colour[:3]
    return colours


def _describe(dataset: Any, path: str, bands: _Bands) -> ImageInfo:
    dtypes = [dataset.dtypes[i - 1] for i in bands.indexes]
    if complex_types := [t for t in dtypes if t.startswith("complex")]:
        raise InputError(
            f"{path} holds {complex_types[0]} pixels; expected real ones: "
            "write its amplitude to a new file first"
        )
    _check_size(dataset, path)
    transform, crs = dataset.transform, dataset.crs
    _check_transform(transform, path)
    return ImageInfo(
        shape=(1, dataset.height, dataset.width),
        bands=len(bands.indexes) if bands.palette is None else 3,
        dtype=str(np.result_type(*dtypes)) if bands.palette is None else "uint8",
        index_to_world=matrix_of(transform),
        crs=crs.to_wkt() if crs else None,
        nodata=bands.nodata[0],
        spacing=pixel_spacing(transform),
    )


def _check_size(dataset: Any, path: str) -> None:
    if min(dataset.shape) < 1:
        raise InputError(f"{path} has no pixels: {dataset.width} x {dataset.height}")
    if dataset.width * dataset.height > MAX_PIXELS:
        raise InputError(
            f"{path} claims {dataset.width} x {dataset.height} pixels; at most {MAX_PIXELS} are "
            "taken: cut it into parts"
        )


def _check_transform(transform: Any, path: str) -> None:
    if not all(map(math.isfinite, transform[:6])) or transform.determinant == 0:
        raise InputError(
            f"{path} has an unusable geotransform {tuple(transform[:6])}; "
            "mend it with gdal_edit.py -a_ullr"
        )

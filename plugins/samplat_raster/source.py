"""Rasters as image sources, read through GDAL."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from samplat import ImageInfo, InputError, Window
from samplat_raster.bands import Bands, choose_bands
from samplat_raster.companions import check_companions
from samplat_raster.damage import check_whole
from samplat_raster.georeference import matrix_of, pixel_metres, pixel_spacing
from samplat_raster.paths import DRIVERS, SUFFIXES, driver_of, gdal_path, is_remote
from samplat_raster.resampling import HALF, Resampled, knowing_nodata, level_options, resampled
from samplat_raster.samples import look_at
from samplat_raster.vrt import checked_vrt

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
OPTIONS = {"bidx", "nodata", "gsd", "allow_vrt"}
"""Options of a raster in a `SourceSpec`."""

COARSEST = 1024
"""Pixels a side that `levels` end with, where a raster has no overviews."""

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
        if unknown := sorted(options.keys() - OPTIONS):
            known = ", ".join(sorted(OPTIONS))
            raise InputError(f"rasters take the options {known}; got {unknown[0]!r}")
        return RasterSource(path, **options)


class RasterSource:
    """An open raster. Each thread has its own dataset; pickling keeps only how it was opened.

    A pixel is valid where the file's mask says so, no chosen band is NaN or infinite, and at least
    one chosen band differs from its nodata value.

    Args:
        path: path, URL or `/vsi` path.
        bidx: numbers of the bands to read, from 1, or their names. Without them: red, green and
            blue where they are marked, otherwise the first three that are not an alpha band. The
            colours of a palette are looked up.
        nodata: value that means "no data", instead of what the file says.
        gsd: ground sampling distance in metres at which to read; the file's own without it.
        allow_vrt: open a VRT too, if it only puts rasters of its own folder together.
    """

    def __init__(
        self,
        path: str,
        *,
        bidx: Sequence[int | str] | None = None,
        nodata: float | None = None,
        gsd: float | None = None,
        allow_vrt: bool = False,
    ) -> None:
        self._path = path
        options: dict[str, Any] = {"nodata": nodata, "gsd": gsd, "allow_vrt": allow_vrt}
        self._options = {"bidx": bidx, **options}
        self._local = threading.local()
        self._opened: list[Any] = []
        self._target = _target(path, allow_vrt=allow_vrt)
        try:
            if self._target.driver not in (None, "VRT"):
                check_companions(self._dataset(), path)
            self._bands = choose_bands(self._dataset(), path, bidx, nodata)
            self._info = _describe(self._dataset(), path, self._bands)
            self._grid = None if gsd is None else self._resampled(gsd)
        except InputError:
            self.close()
            raise

    def __reduce__(self) -> tuple[Callable[..., RasterSource], tuple[Any, ...]]:
        return _reopen, (self._path, self._options)

    def _resampled(self, gsd: float) -> Resampled | None:
        dataset, (_, height, width) = self._dataset(), self._info.shape
        pixel = pixel_metres(self._info)
        grid = resampled((height, width), pixel, dataset.overviews(1), gsd, self._path)
        if grid is not None:
            self._info = _coarser(self._info, grid)
            _check_size(grid.shape, self._path)
        return grid

    @property
    def info(self) -> ImageInfo:
        """Description of the raster, with the chosen bands."""
        return self._info

    @property
    def digest(self) -> str:
        """SHA-256 of sizes, dates, the first and last bytes of a file; of two blocks of a URL."""
        facts = json.dumps([asdict(self._info), self._bands.indexes, self._bands.nodata])
        content = self._local_content() if self._target.driver else self._remote_content()
        return hashlib.sha256(facts.encode() + content).hexdigest()

    def _local_content(self) -> bytes:
        named = self._target.files or tuple(Path(f) for f in sorted(self._dataset().files))
        files = [Path(self._path), *named]
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
            return self._unmasked(window)
        return self._has_data(self._stored(window)) & self._unmasked(window)

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The whole raster, nearest pixels, no side longer than `max_size`; and its valid pixels.

        GDAL takes the pixels from overviews where the file has them. A very large file without any
        is not read whole: the picture is then made of patches of it. It does not depend on `gsd`.
        """
        look, bands = look_at(self._dataset(), max_size), list(self._bands.indexes)
        stored = self._checked(
            "an overview",
            lambda: look.assemble(functools.partial(_bands_of, self._dataset(), bands)),
        )
        pixels = stored.transpose(1, 2, 0)[None]
        valid = self._has_data(pixels)
        if self._bands.masked:
            request = functools.partial(_mask_of, self._dataset(), self._bands)
            valid &= self._checked("the mask", lambda: look.assemble(request))[None] > 0
        return self._coloured(pixels), valid

    @property
    def band_names(self) -> tuple[str, ...]:
        """Of all bands of the file but alpha bands: what they are described as, or their number."""
        described = self._dataset().descriptions
        return tuple(described[i - 1] or f"band {i}" for i in self._shown)

    @property
    def _shown(self) -> tuple[int, ...]:
        from rasterio.enums import ColorInterp

        colours = self._dataset().colorinterp
        return tuple(i for i, c in enumerate(colours, 1) if c != ColorInterp.alpha)

    @property
    def coloured(self) -> bool:
        """Whether red, green and blue are read, and are the file's first bands."""
        from rasterio.enums import ColorInterp

        first = self._bands.indexes == self._shown[: len(self._bands.indexes)]
        colours = [self._dataset().colorinterp[i - 1] for i in self._bands.indexes]
        rgb = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
        return first and (colours == rgb or self._bands.palette is not None)

    @property
    def masked(self) -> bool:
        """Whether the file can say that a pixel is no data."""
        return self._bands.masked or any(value is not None for value in self._bands.nodata)

    def with_bands(self, indices: Sequence[int]) -> RasterSource:
        """The same file, of which other bands are read; by their place in `band_names`."""
        return _reopen(self._path, {**self._options, "bidx": [self._shown[i] for i in indices]})

    def levels(self) -> tuple[RasterSource, ...]:
        """The raster at lower resolutions, finest first, over the same ground.

        They are its overviews; without any, its own pixels, averaged as they are read. A raster
        that is read at another `gsd` has none.
        """
        if self._grid is not None:
            return ()
        height, width = self._info.shape[1:]
        if stored := self._dataset().overviews(1):
            return tuple(self._coarsened(f, n) for n, f in enumerate(stored))
        count = math.ceil(math.log2(max(1, max(height, width) / COARSEST)))
        factors = (2**n for n in range(1, count + 1))
        return tuple(self._coarsened(f, None) for f in factors)

    def _coarsened(self, factor: int, level: int | None) -> RasterSource:
        _, height, width = self._info.shape
        rows, columns = -(-height // factor), -(-width // factor)
        grid = Resampled(
            shape=(rows, columns), factors=(height / rows, width / columns), level=level
        )
        made = _reopen(self._path, self._options)
        made._grid, made._info = grid, _coarser(made._info, grid)
        return made

    def close(self) -> None:
        """Close the datasets of all threads."""
        with _OPENING:
            for dataset in self._opened:
                dataset.close()
            self._opened.clear()
        self._local = threading.local()

    def _dataset(self) -> Any:
        """The file, open in this thread."""
        if not hasattr(self._local, "dataset"):
            self._local.dataset = self._kept(_open(self._target))
        return self._local.dataset

    def _level(self) -> Any:
        """What the resampled grid is read from, open in this thread."""
        if self._grid is None:
            return self._dataset()
        if not hasattr(self._local, "level"):
            level = self._kept(_open(self._target, **level_options(self._grid.level)))
            nodata = self._options["nodata"]
            self._local.level = self._kept(knowing_nodata(level, nodata))
        return self._local.level

    def _kept(self, dataset: Any) -> Any:
        with _OPENING:
            self._opened.append(dataset)
        return dataset

    def _stored(self, window: Window) -> NDArray[Any]:
        # `read` and `valid` of a window come one after the other, in one thread
        last: tuple[Window, NDArray[Any]] | None = getattr(self._local, "last", None)
        if last is None or last[0] != window:
            last = self._local.last = (window, self._read(window))
        return last[1]

    def _read(self, window: Window) -> NDArray[Any]:
        bands = list(self._bands.indexes)
        stored = self._checked(
            f"pixels {window.start[1:]} to {window.stop[1:]} (row, column)",
            lambda: self._of_window(window, functools.partial(_bands_of, self._level(), bands)),
        )
        pixels = np.ascontiguousarray(stored.transpose(1, 2, 0))[None]
        pixels.flags.writeable = False
        return pixels

    def _of_window(self, window: Window, request: Callable[..., NDArray[Any]]) -> NDArray[Any]:
        """What a request gives for a window, at the resolution that was asked for."""
        if self._grid is None:
            return request(window=_rasterio_window(window))
        from rasterio.enums import Resampling

        # numbers of colours, or of classes, have no mean
        how = Resampling.bilinear if self._bands.palette is None else Resampling.nearest
        return self._grid.read(self._level(), window, functools.partial(request, resampling=how))

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
            if not empty.any():
                return finite
            # integers are compared as such: as floats they would all be converted
            whole = int(value) if not real and value == int(value or 0) else value
            empty &= pixels[..., band] == whole
        return finite & ~empty

    def _unmasked(self, window: Window) -> NDArray[np.bool_]:
        if not self._bands.masked:
            return np.ones(window.shape, bool)
        mask = functools.partial(_mask_of, self._level(), self._bands)
        read = self._checked("the mask", lambda: self._of_window(window, mask))
        inside: NDArray[np.bool_] = read >= (1 if self._grid is None else HALF)
        return inside[None]

    def _checked(self, what: str, read: Callable[[], T]) -> T:
        from rasterio.errors import RasterioError

        try:
            with _gdal(self._path):
                return read()
        except (RasterioError, OSError) as error:
            reason = _one_line(error.__cause__ or error)
            raise InputError(
                f"cannot read {what} of {self._path}: {reason}; the file is damaged or changed"
            ) from error


def _reopen(path: str, options: Mapping[str, Any]) -> RasterSource:
    return RasterSource(path, **options)


def _bands_of(
    dataset: Any, bands: list[int], out_shape: tuple[int, int] | None = None, **place: Any
) -> NDArray[Any]:
    """Bands (band, y, x) that lie pixel by pixel in memory: GDAL is quicker at it than a copy."""
    window = place.get("window") or dataset
    height, width = out_shape or (round(window.height), round(window.width))
    pixels: NDArray[Any] = np.empty((height, width, len(bands)), dataset.dtypes[bands[0] - 1])
    dataset.read(bands, out=pixels.transpose(2, 0, 1), **place)
    return pixels.transpose(2, 0, 1)


def _mask_of(dataset: Any, bands: Bands, **place: Any) -> NDArray[Any]:
    if bands.alpha is not None:
        return np.where(dataset.read(bands.alpha, **place) > 0, 255, 0)
    mask: NDArray[Any] = dataset.read_masks(bands.indexes[0], **place)
    return mask


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What GDAL is asked to open."""

    path: str
    """As the user gave it."""
    name: str
    """For GDAL: a file, a virtual path, or the document of a VRT that was checked."""
    driver: str | None
    """The one driver that may open it; None for a URL, of which only GDAL sees the first bytes."""
    files: tuple[Path, ...] = ()
    """What a VRT reads."""


def _target(path: str, *, allow_vrt: bool) -> _Target:
    if is_remote(path):
        return _Target(path=path, name=gdal_path(path), driver=None)
    driver = driver_of(path, allow_vrt=allow_vrt)
    if driver == "VRT":
        vrt = checked_vrt(path, _check_source)
        return _Target(path=path, name=vrt.document, driver=driver, files=vrt.files)
    check_whole(Path(path), driver)
    return _Target(path=path, name=path, driver=driver)


def _check_source(path: str) -> None:
    """Refuse a source of a VRT that would be refused alone."""
    dataset = _open(_target(path, allow_vrt=False))
    try:
        check_companions(dataset, path)
    finally:
        dataset.close()


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


def _open(target: _Target, **options: Any) -> Any:
    """A dataset of this thread, of a driver on the list and no other."""
    import rasterio

    # GDAL's messages come as exceptions; without a handler they would also go to stderr
    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    reasons = []
    for name in (target.driver,) if target.driver else DRIVERS:
        with _OPENING, _gdal(target.path), warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            try:
                return rasterio.open(target.name, driver=name, **options)
            except (rasterio.errors.RasterioError, OSError) as error:
                reasons.append(_one_line(error.__cause__ or error))
    drivers = target.driver or " or ".join(DRIVERS)
    raise InputError(f"cannot open {target.path} as {drivers}: {reasons[0]}")


def _describe(dataset: Any, path: str, bands: Bands) -> ImageInfo:
    dtypes = [dataset.dtypes[i - 1] for i in bands.indexes]
    if complex_types := [t for t in dtypes if t.startswith("complex")]:
        raise InputError(
            f"{path} holds {complex_types[0]} pixels; expected real ones: "
            "write its amplitude to a new file first"
        )
    _check_size(dataset.shape, path)
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


def _coarser(info: ImageInfo, grid: Resampled) -> ImageInfo:
    down, across = grid.factors
    matrix = np.asarray(info.index_to_world) * (across, down, 1.0, 1.0)
    moved = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in matrix)
    _, height, width = info.spacing
    return replace(
        info,
        shape=(1, *grid.shape),
        index_to_world=moved,
        spacing=(1.0, height * down, width * across),
    )


def _check_size(shape: tuple[int, int], path: str) -> None:
    height, width = shape
    if min(height, width) < 1:
        raise InputError(f"{path} has no pixels: {width} x {height}")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{path} claims {width} x {height} pixels; at most {MAX_PIXELS} are taken: cut it into "
            "parts, or choose another ground sampling distance"
        )


def _check_transform(transform: Any, path: str) -> None:
    if not all(map(math.isfinite, transform[:6])) or transform.determinant == 0:
        raise InputError(
            f"{path} has an unusable geotransform {tuple(transform[:6])}; "
            "mend it with gdal_edit.py -a_ullr"
        )

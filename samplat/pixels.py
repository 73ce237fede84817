"""What an image is to the engine: its description, its source, and how it becomes uint8.

A raster is a volume of one slice, so arrays are always (z, y, x, band).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.tiles import Window


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """Description of an image on disk: everything but its pixels."""

    shape: tuple[int, int, int]
    """Extent in pixels (z, y, x); z is 1 for a raster."""
    bands: int
    """Number of bands that `read` returns."""
    dtype: str
    """numpy name of the stored type, such as "uint16"."""
    index_to_world: tuple[tuple[float, float, float, float], ...] = (
        (1.0, 0.0, 0.0, 0.0),
        (0.0, 1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 1.0),
    )
    """4x4 affine from (x, y, z, 1) to world units. For a raster, pixel *corners* as in GDAL's
    geotransform; for a volume, voxel *centres* as in ITK."""
    crs: str | None = None
    """Coordinate reference system as WKT; None where the image has none."""
    nodata: float | None = None
    """Pixel value that means "no data"; None where there is none."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """World units per pixel along (z, y, x)."""

    def part(self, window: Window) -> ImageInfo:
        """Description of a part of the image."""
        matrix = np.array(self.index_to_world)
        matrix[:3, 3] += matrix[:3, :3] @ window.start[::-1]
        z, y, x = window.shape
        moved = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in matrix)
        return replace(self, shape=(z, y, x), index_to_world=moved)


@runtime_checkable
class ImageSource(Protocol):
    """An open image. Reading is thread-safe or internally serialised."""

    @property
    def info(self) -> ImageInfo:
        """Description of the image."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 that changes when the pixels may have changed; cheap (size, dates, header)."""
        ...

    def read(self, window: Window) -> NDArray[Any]:
        """Pixels (z, y, x, band) of a window, in the stored type."""
        ...

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Valid pixels (z, y, x) of a window. True: data; False: nodata, NaN, or masked out."""
        ...

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The whole image at reduced resolution, and its valid pixels, from overviews if it can.

        Returns:
            pixels (z, y, x, band) and valid (z, y, x), no axis longer than `max_size`.
        """
        ...

    def close(self) -> None:
        """Release files; the source is not used afterwards."""
        ...

    # Windows show more than the engine reads. A source whose image is kept at several resolutions
    # may have `levels() -> Sequence[ImageSource]`, the coarser ones, finest first. One whose file
    # has other bands than those that are read may have `band_names`, all of them in order, and
    # `with_bands(indices) -> ImageSource`, the same image with those, from 0. One that knows where
    # there is no data may have `masked: bool`; one whose first bands are colours `coloured: bool`.


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """How to open an image, picklable: what a worker needs instead of an open file."""

    path: str
    """Path, URL or `/vsi` path, as the user gave it."""
    factory: str
    """Name of the registered `SourceFactory`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword options of that factory, JSON values only."""


class SourceFactory(Protocol):
    """Opens the images of one field; registered by a plugin."""

    @property
    def name(self) -> str:
        """Unique name."""
        ...

    def accepts(self, path: str) -> bool:
        """Whether this factory claims the path, by suffix or scheme; opens nothing."""
        ...

    def open(self, path: str, *args: Any, **options: Any) -> ImageSource:
        """Open an image.

        Raises:
            InputError: missing, unreadable, damaged, or of an unsupported type.
        """
        ...


def read_valid(source: ImageSource, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Pixels (z, y, x, band) of a window, and which of them (z, y, x) are valid and finite."""
    raw, valid = source.read(window), source.valid(window)
    if raw.dtype.kind == "f":
        valid = valid & np.isfinite(raw).all(axis=-1)
    return raw, valid


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A linear map of stored values to 0..255, band by band; its values are recorded in the job."""

    low: tuple[float, ...]
    """Value that becomes 0, per band."""
    high: tuple[float, ...]
    """Value that becomes 255, per band."""

    def __call__(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Pixels (z, y, x, band) as uint8; invalid ones become 0."""
        if pixels.shape[-1] != len(self.low):
            raise InputError(f"stretch of {len(self.low)} bands, image of {pixels.shape[-1]}")
        kind = pixels.dtype
        if kind.kind in "ui" and kind.itemsize <= 2 and pixels.size > 2 ** (8 * kind.itemsize):
            out = self._looked_up(pixels)
        else:
            out = self._scaled(pixels)
        if not valid.all():
            out[~valid] = 0
        return out

    def _scaled(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        # differences of large numbers need their bits: 32-bit integers and float64
        exact = np.result_type(pixels.dtype, np.float32)
        low = np.asarray(self.low, exact)
        span = np.maximum(np.asarray(self.high, exact) - low, np.finfo(exact).tiny)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = (pixels.astype(exact) - low) * exact.type(255) / span
        scaled = np.nan_to_num(np.clip(scaled, 0, 255), nan=0.0)
        out: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
        return out

    def _looked_up(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """The same for integers of one or two bytes: each value there can be is scaled once."""
        values = np.arange(2 ** (8 * pixels.dtype.itemsize)).astype(
            pixels.dtype.str.replace("i", "u")
        )
        table = self._scaled(np.repeat(values.view(pixels.dtype)[:, None], len(self.low), axis=1))
        if (table == values[:, None]).all() and pixels.dtype == np.uint8:
            return pixels.astype(np.uint8)
        out = np.empty(pixels.shape, np.uint8)
        for band in range(pixels.shape[-1]):
            np.take(table[:, band], pixels[..., band].view(values.dtype), out=out[..., band])
        return out


class Rescaler(Protocol):
    """Decides, once for a whole image, how its values become uint8; registered by a plugin."""

    @property
    def name(self) -> str:
        """Unique name."""
        ...

    def fit(self, source: ImageSource, *args: Any, **options: Any) -> Stretch:
        """Look at the image (from overviews where there are any) and return a fixed map."""
        ...


@dataclass(frozen=True, kw_only=True)
class PercentileRescaler:
    """One stretch for the whole scene between two percentiles of its valid values."""

    name: str = "percentile"

    def fit(
        self, source: ImageSource, *, low: float = 2.0, high: float = 98.0, max_size: int = 2048
    ) -> Stretch:
        """Percentiles in 0..100 over a thumbnail of at most `max_size` pixels a side.

        uint8 images are passed through: they were stretched by whoever made them.
        """
        if not 0 <= low < high <= 100:
            raise InputError(f"expected percentiles 0 <= low < high <= 100, got {low},{high}")
        if source.info.dtype == "uint8":
            return identity_stretch(source.info.bands)
        pixels, valid = source.thumbnail(max_size)
        values = pixels[valid & np.isfinite(pixels).all(axis=-1)].astype(np.float64)
        if values.size == 0:
            return identity_stretch(source.info.bands)
        lows, highs = np.percentile(values, [low, high], axis=0)
        return Stretch(low=tuple(map(float, lows)), high=tuple(map(float, highs)))


@dataclass(frozen=True, kw_only=True)
class RangeRescaler:
    """Values that the user knows to be black and white."""

    name: str = "range"

    def fit(self, source: ImageSource, *, ranges: Sequence[Sequence[float]]) -> Stretch:
        """A stretch between given values.

        Args:
            source: the image.
            ranges: low and high of each band, or one pair for all bands.

        Raises:
            InputError: a pair is not in order, or there are neither one nor as many as bands.
        """
        bands = source.info.bands
        for low, high in ranges:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InputError(f"expected a range low < high, got {low:g}:{high:g}")
        if len(ranges) not in (1, bands):
            raise InputError(f"expected one range or {bands}, one for each band; got {len(ranges)}")
        lows, highs = zip(*(ranges if len(ranges) == bands else list(ranges) * bands), strict=True)
        return Stretch(low=tuple(map(float, lows)), high=tuple(map(float, highs)))


@dataclass(frozen=True, kw_only=True)
class IdentityRescaler:
    """Values are taken as 0..255 already."""

    name: str = "none"

    def fit(self, source: ImageSource) -> Stretch:
        """The stretch that changes nothing but the type."""
        return identity_stretch(source.info.bands)


def identity_stretch(bands: int) -> Stretch:
    """The stretch that maps 0..255 to 0..255 in every band."""
    return Stretch(low=(0.0,) * bands, high=(255.0,) * bands)


def to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Three bands from any number: one is repeated, two get their mean, more are cut to three.

    Args:
        pixels: (..., band).
    """
    bands = pixels.shape[-1]
    if bands == 1:
        return np.repeat(pixels, 3, axis=-1)
    if bands == 2:
        mean = pixels.mean(axis=-1, keepdims=True).round().astype(np.uint8)
        return np.concatenate([pixels, mean], axis=-1)
    return np.ascontiguousarray(pixels[..., :3])


def as_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image array HxW or HxWx{1,2,3,4} of any real type as uint8 HxWx3.

    uint8 is taken as it is; other types are stretched between their finite minimum and maximum.

    Raises:
        InputError: not a real 2D image, or empty.
    """
    array = np.asarray(image)
    _check_image(array)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    bands = array[..., None] if array.ndim == 2 else array
    if bands.dtype == np.uint8:
        return to_rgb(bands)
    finite = np.isfinite(bands)
    values = bands[finite]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    stretch = Stretch(low=(low,) * bands.shape[-1], high=(high,) * bands.shape[-1])
    return to_rgb(stretch(bands, finite.all(axis=-1)))


def _check_image(array: NDArray[Any]) -> None:
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4):
        raise InputError(
            f"expected an image HxW or HxWx3, got shape {array.shape}; "
            "pass one slice, with the bands last"
        )
    if array.size == 0:
        raise InputError(f"expected at least one pixel, got an image of shape {array.shape}")
    if array.dtype.kind not in "buif":
        raise InputError(f"expected a real numeric image, got dtype {array.dtype}")

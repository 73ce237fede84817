"""Which bands of a raster are read, and how their valid pixels are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError


@dataclass(frozen=True, kw_only=True)
class Bands:
    """What is read of a file, and how its valid pixels are told."""

    indexes: tuple[int, ...]
    """Bands to read, from 1."""
    nodata: tuple[float | None, ...]
    """Value of each that means "no data"."""
    masked: bool
    """True: the file has an alpha band or a mask band."""
    alpha: int | None
    """An alpha band of which GDAL makes no mask: it does so of uint8 and uint16 alone."""
    palette: NDArray[np.uint8] | None
    """(entries, 3) colours, where the one band holds their numbers."""


def choose_bands(
    dataset: Any, path: str, bidx: Sequence[int | str] | None, nodata: float | None
) -> Bands:
    """What to read of an open raster.

    Args:
        dataset: the raster.
        path: of it, for messages.
        bidx: numbers or names of bands; None for its colours, or the first three.
        nodata: value that means "no data", instead of what the file says.

    Raises:
        InputError: there is no such band, or only an alpha band.
    """
    from rasterio.enums import ColorInterp, MaskFlags

    colours = dataset.colorinterp
    alpha = [i for i, c in enumerate(colours, 1) if c == ColorInterp.alpha]
    indexes = (
        _default_bands(colours) if bidx is None else _checked_bands(dataset, path, bidx, alpha)
    )
    if not indexes:
        raise InputError(f"{path} has no bands but an alpha band; expected at least one of pixels")
    values = [dataset.nodatavals[i - 1] if nodata is None else nodata for i in indexes]
    known = MaskFlags.per_dataset in dataset.mask_flag_enums[indexes[0] - 1]
    return Bands(
        indexes=indexes,
        nodata=tuple(None if v is None or not math.isfinite(v) else float(v) for v in values),
        masked=known or bool(alpha),
        alpha=None if known or not alpha else alpha[0],
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
    dataset: Any, path: str, bidx: Sequence[int | str], alpha: list[int]
) -> tuple[int, ...]:
    numbers = [_numbered(dataset, path, b) if isinstance(b, str) else int(b) for b in bidx]
    for i in numbers:
        if not 1 <= i <= dataset.count:
            raise InputError(f"{path} has bands 1 to {dataset.count}, there is no band {i}")
        if i in alpha:
            raise InputError(f"band {i} of {path} is an alpha band: it masks, it is no colour")
    return tuple(numbers)


def _numbered(dataset: Any, path: str, name: str) -> int:
    """Number of the band of a name: its description, or else the colour that it is marked as."""
    wanted = name.strip().casefold()
    described = [(d or "").strip().casefold() for d in dataset.descriptions]
    colours = [c.name for c in dataset.colorinterp]
    for names in (described, colours):
        if names.count(wanted) == 1:
            return names.index(wanted) + 1
    several = max(names.count(wanted) for names in (described, colours)) > 1
    known = (d or c for d, c in zip(dataset.descriptions, colours, strict=True))
    listed = ", ".join(f"{i} {k}" for i, k in enumerate(known, 1))
    told = "several bands" if several else "no band"
    raise InputError(f"{path} has {told} called {name!r}; there are: {listed}")


def _palette(dataset: Any, band: int) -> NDArray[np.uint8]:
    entries = dataset.colormap(band)
    colours = np.zeros((max(entries) + 1, 3), np.uint8)
    for number, colour in entries.items():
        colours[number] = colour[:3]
    return colours

"""Pixels of rasters, through whatever reader is registered for them, and how they are cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from samplat import ImageSource, InputError, PluginError, SourceSpec, Stretch, Window, registry
from samplat_train.data.pictures import as_image

SIDE = 1024
"""Largest side of a tile in pixels."""


def spec_of(path: str, options: dict[str, object] | None = None) -> SourceSpec:
    """How to open a raster.

    Raises:
        PluginError: no installed plugin reads rasters.
    """
    if not registry().names("sources"):
        raise PluginError("rasters need a plugin: pip install 'samplat[raster]'")
    return SourceSpec(path=path, factory=registry().source_for(path).name, options=options or {})


@contextmanager
def opened(spec: SourceSpec) -> Iterator[ImageSource]:
    """The raster, closed afterwards: an open file must not be shared with worker processes."""
    source = registry().open_source(spec)
    try:
        yield source
    finally:
        source.close()


def windows_of(shape: tuple[int, ...], side: int = SIDE) -> list[Window]:
    """A partition of (z, y, x) into windows one slice thick, of nearly equal sides <= `side`."""
    if side < 1:
        raise InputError(f"the side of a tile must be at least 1, got {side}")
    planes, rows, columns = shape
    return [
        Window(start=(z, y0, x0), stop=(z + 1, y1, x1))
        for z in range(planes)
        for y0, y1 in _cuts(rows, side)
        for x0, x1 in _cuts(columns, side)
    ]


def _cuts(length: int, side: int) -> list[tuple[int, int]]:
    parts = -(-length // side)
    ends = [length * k // parts for k in range(parts + 1)]
    return list(pairwise(ends))


def pixels_of(
    source: ImageSource, window: Window, stretch: Stretch, where: object
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A window one slice thick as a picture (H, W, 3), and its valid pixels (H, W)."""
    valid = source.valid(window)
    return as_image(stretch(source.read(window), valid)[0], where), valid[0]

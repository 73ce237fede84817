"""Slices of an open volume as models see them, read when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import ImageSource, Stretch, Window
from samplat_volume.geometry import Geometry
from samplat_volume.model_slices import ModelSlices
from samplat_volume.planes import INDEX_PLANES, Plane, plane_of
from samplat_volume.slices import SliceSegmenter, SliceStack, reordered

if TYPE_CHECKING:
    from samplat import Model

RECENT = 8
"""Slices kept in memory: a step looks at two, and the model at one of them."""


class SourceStack:
    """The slices of a volume across an axis; a slice that nobody asks for is not read.

    Args:
        source: the volume.
        plane: its slices.
        stretch: what its values look like, fitted to the whole volume.
    """

    def __init__(self, source: ImageSource, plane: Plane, stretch: Stretch) -> None:
        self._source, self._plane, self._stretch = source, plane, stretch
        self._recent: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows, columns."""
        return (self._plane.count, *self._plane.shape)

    @property
    def steps(self) -> tuple[float, float, float]:
        """Mm between slices, rows, columns."""
        return reordered(self._plane.geometry.spacing, self._plane.axis)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """One slice (H, W), or (H, W, band) of a volume in colours."""
        if index in self._recent:
            self._recent.move_to_end(index)
            return self._recent[index]
        pixels = self._plane.pixels(self._source, index, self._stretch)
        shown = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        self._recent[index] = shown
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return shown


class SourcePlanes:
    """A volume that a model can be asked across every axis.

    Args:
        source: the volume.
        geometry: its own.
        stretch: what its values look like.
        model: from `samplat.load_model`.
    """

    def __init__(
        self, source: ImageSource, geometry: Geometry, stretch: Stretch, model: Model
    ) -> None:
        planes = [plane_of(geometry, name) for name in INDEX_PLANES]
        self._stacks = [SourceStack(source, plane, stretch) for plane in planes]
        self._slices = [ModelSlices(model, stack) for stack in self._stacks]

    def segmenter(self, axis: int) -> SliceSegmenter:
        """Of the slices across an axis."""
        return self._slices[axis]

    def reader(self, axis: int) -> SliceStack:
        """Reads them."""
        return self._stacks[axis]


class SourceArray:
    """A volume's stored values, indexed like an array (z, y, x, band)."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.shape = (*source.info.shape, source.info.bands)

    def __getitem__(self, where: tuple[slice, slice, slice]) -> NDArray[Any]:
        start, stop = (tuple(getattr(s, name) for s in where) for name in ("start", "stop"))
        return self._source.read(Window(start=start, stop=stop))

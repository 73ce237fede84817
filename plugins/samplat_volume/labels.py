"""Labels on their way to a file: read window by window, so that they need not fit in memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import (
    HOLE,
    ImageSource,
    InputError,
    JobResult,
    SourceSpec,
    Window,
    smallest_dtype,
)
from samplat_volume.geometry import Geometry

SLAB_VOXELS = 2**27
"""Most voxels that are read at once: 512 MB of ids."""

ARRAY_BLOCK = (32, 512, 512)
"""Windows in which arrays are read."""

Values = tuple[NDArray[Any], NDArray[np.bool_]]
"""Intensities (z, y, x, band) of a window, and which of its voxels (z, y, x) hold data."""

ReadValues = Callable[[Window], Values]


@dataclass(frozen=True, kw_only=True)
class LabelVolume:
    """Labels in space, of a job or of an array."""

    geometry: Geometry
    """Where the voxels lie."""
    largest: int
    """Largest id."""
    read: Callable[[Window], NDArray[np.uint32]]
    """Ids (z, y, x) of a window: 0 is background, `HOLE` a voxel whose tile failed."""
    block: tuple[int, int, int]
    """Extent (z, y, x) of the windows, from 0 on, that cost least to read."""
    values: Callable[[], AbstractContextManager[ReadValues | None]]
    """Opens the image that was segmented; None in it where there is no image."""
    known_ids: NDArray[np.uint32] | None = None
    """Ids that occur, ascending, if somebody knows them already."""
    properties: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What is known of the objects already, (N,) by name, in the order of `known_ids`."""
    holes: bool | None = None
    """True: some voxels are `HOLE`; None: not known yet."""
    source: SourceSpec | None = None
    """The image that was segmented."""
    made_by: str = "samplat"
    """What found the objects: the name of a model or of a segmenter."""

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The smallest type that holds all ids and, above them, a value for holes."""
        return smallest_dtype(self.largest)

    @property
    def hole(self) -> int:
        """What the voxels of tiles that failed are in that type."""
        return int(np.iinfo(self.dtype).max)

    @functools.cached_property
    def ids(self) -> NDArray[np.uint32]:
        """Ids that occur, ascending; neither background nor holes."""
        if self.known_ids is not None:
            return self.known_ids
        found = np.zeros(self.largest + 1, bool)
        for _, labels in self.slabs():
            found[labels[labels != HOLE]] = True
        found[0] = False
        return np.flatnonzero(found).astype(np.uint32)

    @functools.cached_property
    def has_holes(self) -> bool:
        """Whether some voxels belong to tiles that failed."""
        if self.holes is not None:
            return self.holes
        return any(bool((labels == HOLE).any()) for _, labels in self.slabs())

    def slabs(self, margin: int = 0) -> Iterator[tuple[Window, NDArray[np.uint32]]]:
        """Whole slices, some at a time, with `margin` slices more on both sides where there are.

        Yields:
            the window without the margin, and the labels with it.
        """
        whole = Window(start=(0, 0, 0), stop=self.geometry.shape)
        for window in slab_windows(self.geometry.shape, self.block[0]):
            yield window, self.read(window.grown((margin, 0, 0)).intersection(whole))


def slab_windows(shape: tuple[int, int, int], depth: int) -> Iterator[Window]:
    """Windows of whole slices, in order: `depth` at a time, or as many as may be in memory."""
    depth, height, width = min(depth, shape[0]), *shape[1:]
    most = max(1, SLAB_VOXELS // (height * width))
    # halves of a block are read twice, so as few parts as will do
    thick = math.ceil(depth / math.ceil(depth / most))
    for z in range(0, shape[0], thick):
        yield Window(start=(z, 0, 0), stop=(min(z + thick, shape[0]), height, width))


def of_result(result: JobResult) -> LabelVolume:
    """The labels of a job.

    Raises:
        InputError: the image lies on the ground, not in a scanner.
    """
    if result.info.crs is not None:
        raise InputError(
            f"{result.job.source.path} has a CRS, and volumes have none; "
            "choose an output for rasters, such as .tif or .parquet"
        )
    table = result.objects
    ids = table["id"].to_numpy()
    smallest_dtype(int(ids.max(initial=0)))  # refuses more objects than files can number
    ids = ids.astype(np.uint32)
    names = {"area_px": "voxels", "predicted_iou": "predicted_iou", "stability": "stability"}
    return LabelVolume(
        geometry=Geometry.of_info(result.info),
        largest=int(ids.max(initial=0)),
        read=lambda window: result.labels(window).astype(np.uint32, copy=False),
        block=_block(result.grid.tile_shape),
        values=functools.partial(_open_image, result.job.source),
        known_ids=ids,
        properties={new: table[old].to_numpy() for old, new in names.items()},
        holes=bool(result.quarantined),
        source=result.job.source,
        made_by=result.job.model or result.job.segmenter,
    )


def _block(tile: tuple[int, ...]) -> tuple[int, int, int]:
    """Whole tiles, several one above the other where they are thin."""
    depth, height, width = tile
    return depth * max(1, ARRAY_BLOCK[0] // depth), height, width


@contextmanager
def _open_image(spec: SourceSpec) -> Iterator[ReadValues]:
    from samplat import registry

    source: ImageSource = registry().open_source(spec)
    try:
        yield lambda window: (source.read(window), source.valid(window))
    finally:
        source.close()


def of_array(
    labels: Any,
    geometry: Geometry,
    *,
    image: Any = None,
    source: str | None = None,
    made_by: str = "samplat",
) -> LabelVolume:
    """The labels of an array (z, y, x): numpy's, zarr's, or anything that is sliced like them.

    Args:
        labels: ids, 0 is background; of any integer type, or bool.
        geometry: where its voxels lie.
        image: (z, y, x) or (z, y, x, band), what was segmented; for mean intensities.
        source: path of the folder of the DICOM series, for DICOM SEG.
        made_by: what found the objects.

    Raises:
        InputError: not three-dimensional, of another shape, or not of ids.
    """
    shape, dtype = tuple(labels.shape), np.dtype(labels.dtype)
    if shape != tuple(geometry.shape):
        raise InputError(f"expected labels of shape {geometry.shape} (z, y, x), got {shape}")
    if dtype.kind not in "bui":
        raise InputError(f"expected integer labels, got {dtype}; round them to ids first")
    if image is not None and tuple(image.shape[:3]) != shape:
        raise InputError(f"expected an image of shape {shape} (z, y, x), got {image.shape}")
    read = functools.partial(_read_array, labels)
    return LabelVolume(
        geometry=geometry,
        largest=_largest(labels),
        read=read,
        block=ARRAY_BLOCK,
        values=lambda: nullcontext(None if image is None else functools.partial(_values, image)),
        source=None if source is None else SourceSpec(path=source, factory="volume"),
        made_by=made_by,
    )


def _read_array(labels: Any, window: Window) -> NDArray[np.uint32]:
    part = np.asarray(labels[window.slices])
    return np.ascontiguousarray(part, np.uint32)


def _values(image: Any, window: Window) -> Values:
    values = np.asarray(image[window.slices])
    return values.reshape(*window.shape, -1), np.ones(window.shape, bool)


def _largest(labels: Any) -> int:
    largest = 0
    for window in slab_windows(labels.shape, ARRAY_BLOCK[0]):
        part = np.asarray(labels[window.slices])
        if part.dtype.kind == "i" and part.min(initial=0) < 0:
            raise InputError(f"expected ids from 0 on, got {part.min()}; give negative labels ids")
        top = int(part.max(initial=0))
        if top == HOLE:
            top = int(part.max(initial=0, where=part != HOLE))
        elif top > HOLE:
            raise InputError(f"expected ids below {HOLE}, got {top}; number the objects anew")
        largest = max(largest, top)
    return largest

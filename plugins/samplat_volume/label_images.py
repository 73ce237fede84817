"""Label images: whole numbers from 0 on the grid of a volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, Window
from samplat_volume.geometry import Geometry
from samplat_volume.source import VolumeSource

SAME_PLACE = 1e-2
"""Share of a voxel by which two grids may differ and be one; files round differently."""


def read_labels(path: str, geometry: Geometry | None = None, **options: Any) -> NDArray[np.uint32]:
    """The labels (z, y, x) of a file; 0 is background.

    Args:
        path: any volume that can be opened.
        geometry: grid that it has to be on; None: any.
        options: those of `VolumeSource`.

    Raises:
        InputError: it has negative or fractional numbers, or lies on another grid.
    """
    source = open_labels(path, geometry, **options)
    try:
        return labels_of(source, path, Window(start=(0, 0, 0), stop=source.info.shape))
    finally:
        source.close()


def open_labels(path: str, geometry: Geometry | None = None, **options: Any) -> VolumeSource:
    """A file of labels, to be read in parts by `labels_of`.

    Raises:
        InputError: as of `read_labels`, but for what the numbers are.
    """
    source = VolumeSource(path, **options)
    try:
        if geometry is not None:
            check_same_grid(source.geometry, geometry, path)
        if source.info.bands != 1:
            raise InputError(f"{path} has {source.info.bands} bands; expected one of labels")
    except InputError:
        source.close()
        raise
    return source


def labels_of(source: VolumeSource, path: str, window: Window) -> NDArray[np.uint32]:
    """The labels (z, y, x) of a window.

    Raises:
        InputError: it has negative or fractional numbers.
    """
    return as_labels(source.read(window)[..., 0], path, window.start)


def as_labels(
    values: NDArray[Any], path: str, start: tuple[int, ...] = (0, 0, 0)
) -> NDArray[np.uint32]:
    """Numbers as labels; floats are taken where they are whole, as some tools write them.

    Args:
        values: (z, y, x).
        path: where they are from, for messages.
        start: their first voxel in the volume, likewise.

    Raises:
        InputError: a number is negative, fractional, not finite, or above 2^32 - 2.
    """
    if values.dtype.kind == "f":
        wrong = ~np.isfinite(values) | (values != np.rint(values))
        if wrong.any():
            raise InputError(
                f"{path} holds {values[wrong][0]:g}, at voxel {_first(wrong, start)}; expected "
                "labels, whole numbers from 0: is it an image or a probability? threshold it first"
            )
    if (wrong := values < 0).any():
        raise InputError(
            f"{path} holds {values[wrong][0]:g}, at voxel {_first(wrong, start)}; expected labels, "
            "whole numbers from 0: is it an image? shift or drop the negative ones first"
        )
    if values.size and values.max() >= 2**32 - 1:
        raise InputError(f"{path} holds the label {values.max()}; at most {2**32 - 2} are taken")
    return values.astype(np.uint32)


def _first(wrong: NDArray[np.bool_], start: tuple[int, ...]) -> str:
    """The first voxel, as x,y,z."""
    return ",".join(str(int(i)) for i in reversed(np.argwhere(wrong)[0] + start))


def check_same_grid(found: Geometry, expected: Geometry, path: str) -> None:
    """Refuse labels whose voxels are not those of the volume.

    Raises:
        InputError: their number or place differ.
    """
    if found.shape != expected.shape:
        told, meant = (" x ".join(map(str, g.shape[::-1])) for g in (found, expected))
        raise InputError(
            f"{path} has {told} voxels, the volume {meant}; resample the labels onto the volume"
        )
    ends = np.array([[0, 0, 0], *np.diag(found.shape)], np.float64)
    away = np.abs(found.to_physical(ends) - expected.to_physical(ends)).max()
    if away > SAME_PLACE * min(expected.spacing):
        raise InputError(
            f"{path} lies up to {away:.3g} mm beside the volume; expected the same origin, spacing "
            "and direction: resample the labels onto the volume"
        )

"""Ids in the smallest type; what all label outputs of rasters share."""

from __future__ import annotations

import numpy as np

from samplat import ImageInfo, InputError, JobResult, narrowed, replacing, smallest_dtype

__all__ = ["label_dtype", "narrowed", "replacing"]


def label_dtype(result: JobResult) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds all ids and, above them, a value for holes."""
    return smallest_dtype(int(np.max(result.objects["id"].to_numpy(), initial=0)))


def check_flat(info: ImageInfo) -> None:
    """Refuse volumes: rasters have one slice, and the others would be lost.

    Raises:
        InputError: there are more slices.
    """
    if info.shape[0] != 1:
        raise InputError(
            f"a raster holds one slice and this image has {info.shape[0]}; "
            "choose an output for volumes, such as .nii.gz or .ome.zarr"
        )

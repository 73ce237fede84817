"""Ids in the smallest type; what all label outputs of rasters share."""

from __future__ import annotations

import numpy as np

from samplat import JobResult, narrowed, replacing, smallest_dtype

__all__ = ["label_dtype", "narrowed", "replacing"]


def label_dtype(result: JobResult) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds all ids and, above them, a value for holes."""
    return smallest_dtype(int(np.max(result.objects["id"].to_numpy(), initial=0)))

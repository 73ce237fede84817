"""Volumes in memory for tests, and jobs over them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.oracle import ArraySource, oracle_job, oracle_tools, paint
from samplat.job import JobResult
from samplat.pipeline import run_job
from samplat.pixels import ImageInfo
from samplat.plugins import Registry
from samplat.segmenters import ThresholdFactory
from samplat.stacking import StackRules
from samplat.tiles import Window


@dataclass
class VolumeArray(ArraySource):
    """A volume in memory (z, y, x, band)."""

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def info(self) -> ImageInfo:
        depth, height, width, bands = self.array.shape
        kind = str(self.array.dtype)
        shape = (depth, height, width)
        return ImageInfo(shape=shape, bands=bands, dtype=kind, spacing=self.spacing)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.array.tobytes()).hexdigest()

    def read(self, window: Window) -> NDArray[Any]:
        return self.array[window.slices]

    def valid(self, window: Window) -> NDArray[np.bool_]:
        return np.ones(window.shape, bool) if self.mask is None else self.mask[window.slices]


def tools_of(labels: NDArray[np.int64], **parameters: Any) -> Registry:
    """The oracle, a threshold, and a volume of labels (z, y, x), called "image"."""
    found = oracle_tools(image=VolumeArray(paint(labels), **parameters))
    found.add("segmenters", "test", ThresholdFactory())
    return found


def stacked(
    job_dir: Path,
    labels: NDArray[np.int64],
    rules: StackRules,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **parameters: Any,
) -> JobResult:
    """What a job finds in a volume of labels."""
    job = oracle_job(job_dir, stacking=rules, **parameters)
    return run_job(job, tools=tools_of(labels, spacing=spacing))


def volume_of(result: JobResult) -> NDArray[np.uint32]:
    """All labels (z, y, x)."""
    return result.labels(Window(start=(0, 0, 0), stop=result.info.shape))


def ellipsoids(
    rng: np.random.Generator, shape: tuple[int, int, int], count: int, *, apart: bool
) -> NDArray[np.int64]:
    """Random ellipsoids of semi-axes 2 to 5: touching, the later over the earlier, or apart."""
    labels = np.zeros(shape, np.int64)
    places = np.indices(shape).reshape(3, -1).T
    for name in range(1, count + 1):
        centre, size = rng.uniform(0, shape), rng.uniform(2, 5, 3)
        away = (((places - centre) / size) ** 2).sum(axis=1).reshape(shape)
        if not apart or not labels[away < (1 + 2.0 / size.min()) ** 2].any():
            labels[away < 1] = name
    return labels

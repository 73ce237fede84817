"""Rasters made for the tests, and a model-free segmenter: every colour is an object."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from scipy import ndimage

from samplat import MaskSet, hookimpl, mask_set

UTM = {"crs": "EPSG:32614", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)}
POISON = 251

VRT_BOMB = (
    '<VRTDataset rasterXSize="2000000000" rasterYSize="2000000000">'
    '<VRTRasterBand band="1" dataType="Byte"/></VRTDataset>'
)
VRT_SPY = (
    '<VRTDataset rasterXSize="10" rasterYSize="10">'
    '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    '<SourceFilename relativetoVRT="0">{path}</SourceFilename><ImageOffset>0</ImageOffset>'
    "<PixelOffset>1</PixelOffset><LineOffset>10</LineOffset></VRTRasterBand></VRTDataset>"
)


def write(path: Path, array: NDArray[Any], **profile: Any) -> Path:
    """A raster (band, y, x) or (y, x); a GeoTIFF unless the profile says otherwise."""
    bands = array if array.ndim == 3 else array[None]
    given = {"driver": "GTiff", "dtype": bands.dtype.name, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        count, height, width = bands.shape
        with rasterio.open(path, "w", width=width, height=height, count=count, **given) as out:
            out.write(bands)
    return path


def painted(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Labels (y, x) as red, green and blue (band, y, x); 0 is black."""
    return np.stack([(labels >> shift) & 255 for shift in (0, 8, 16)]).astype(np.uint8)


def blobs(shape: tuple[int, int], count: int, seed: int = 0) -> NDArray[np.int64]:
    """Labels (y, x) of random discs, some of them with holes or in pieces."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int64)
    y, x = np.indices(shape)
    for name in range(1, count + 1):
        cy, cx, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 14)
        distance = np.hypot(y - cy, x - cx) + rng.normal(0, 1, shape)
        labels[(distance < radius) & (distance > radius * rng.choice([0, 0.5]))] = name
    return labels


@dataclass(frozen=True)
class Colours:
    """Every colour of a tile but black is one object; a tile with `POISON` red fails."""

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        if (pixels[..., 0] == POISON).any():
            raise ValueError("poison")
        labels = (pixels.astype(np.int64) << np.array([0, 8, 16])).sum(axis=-1)
        ids = np.unique(labels[labels > 0])
        points = np.array([np.argwhere(labels == i)[0][::-1] + 0.5 for i in ids])
        return mask_set(labels[None] == ids[:, None, None], points=points.reshape(-1, 2))


@dataclass(frozen=True)
class Bright:
    """Every connected patch of at least 60 pixels brighter than the middle is an object."""

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        labels, count = ndimage.label((pixels.mean(axis=-1) > 110) & valid)
        kept = np.flatnonzero(np.bincount(labels.ravel(), minlength=count + 1)[1:] >= 60) + 1
        return mask_set(labels[None] == kept[:, None, None])


@dataclass(frozen=True)
class ModelFree:
    """A factory of a segmenter without model or options."""

    name: str
    segmenter: Any

    def create(self, model: str | None, **options: Any) -> Any:
        return self.segmenter

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


@hookimpl
def register_segmenters(register: Any) -> None:
    register(ModelFree("colours", Colours()))
    register(ModelFree("bright", Bright()))

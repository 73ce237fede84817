"""samgeo's own tiled run with a segmenter of ours instead of its weights.

What is run of a checkout (1.4.2 was looked at), unchanged and nothing else of it:

* `SamGeo.generate(image, mask, batch=True, batch_sample_size=(T, T), foreground=True,
  erosion_kernel=(3, 3), mask_multiplier=255)`, as its examples of large images call it. That is
  `tiff_to_tiff`: tiles of T + 2 · 128 pixels by `calculate_sample_grid`, `read_block`,
  `SamGeo.__call__` on each, which makes foreground of all masks without their eroded borders, and
  `write_block`.
* `SamGeo.tiff_to_gpkg` of that, which is `raster_to_vector`: a row for each connected region. Those
  rows are the objects, and their order gives the ids.

`SamGeo.__init__` would load a model; it is not called, and `mask_generator` is an object here whose
`generate` asks the segmenter. The package `segment_anything` is a stub, and samgeo's `__init__`,
which imports much that has nothing to do with tiles, is not run. Its `split_raster` needs GDAL's
own Python module and is left out: its tiles are files of their own, and no function brings ids of
several together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import samplat
from samplat.errors import InputError

Find = Callable[[NDArray[np.uint8], NDArray[np.bool_]], samplat.MaskSet]
BORDERS = (3, 3)
"""What is eroded from each mask, so that objects that touch are not one region."""


@dataclass
class Generator:
    """Stands for `SamAutomaticMaskGenerator`."""

    find: Find
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    """Of what it was called with."""

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Masks as that one gives them."""
        self.shapes.append(image.shape)
        masks = self.find(image, np.ones(image.shape[:2], bool)).to_arrays()
        return [{"segmentation": m, "area": int(m.sum()), "predicted_iou": 1.0} for m in masks]


def samgeo_ids(
    checkout: Path, image: Path, tile: int, find: Find, borders: tuple[int, int] | None = BORDERS
) -> tuple[NDArray[np.int64], int]:
    """Ids (H, W) of the rows that samgeo writes for an image, 0 for none, and its calls of a model.

    Args:
        checkout: a folder with samgeo's source.
        image: a GeoTIFF.
        tile: side of its tiles, without what it reads around them.
        find: the segmenter.
        borders: its `erosion_kernel`; None is its default.

    Raises:
        InputError: there is no samgeo.
    """
    sam = _without_model(checkout, Generator(find))
    mask, rows = image.with_name("samgeo.tif"), image.with_name("samgeo.gpkg")
    sam.generate(
        str(image),
        str(mask),
        batch=True,
        batch_sample_size=(tile, tile),
        foreground=True,
        erosion_kernel=borders,
        mask_multiplier=255,
    )
    sam.tiff_to_gpkg(str(mask), str(rows))
    return _burnt(rows, image), len(sam.mask_generator.shapes)


def _without_model(checkout: Path, generator: Generator) -> Any:
    source = checkout / "samgeo"
    if not (source / "samgeo.py").exists():
        raise InputError(f"{checkout} holds no samgeo/samgeo.py; expected a checkout of samgeo")
    package, stub = ModuleType("samgeo"), ModuleType("segment_anything")
    package.__path__ = [str(source)]
    for name in ("SamAutomaticMaskGenerator", "SamPredictor"):
        setattr(stub, name, type(name, (), {}))
    stub.sam_model_registry = {}  # type: ignore[attr-defined]
    os.environ.setdefault("TQDM_DISABLE", "1")
    sys.modules |= {"samgeo": package, "segment_anything": stub}
    from samgeo.samgeo import SamGeo  # type: ignore[import-not-found]

    sam = SamGeo.__new__(SamGeo)
    sam.mask_generator = generator
    return sam


def _burnt(rows: Path, image: Path) -> NDArray[np.int64]:
    """The number of each row from 1, where it lies in the image."""
    import geopandas
    import rasterio
    from rasterio.features import rasterize

    shapes = geopandas.read_file(rows).geometry
    with rasterio.open(image) as scene:
        size, place = scene.shape, scene.transform
    if shapes.empty:
        return np.zeros(size, np.int64)
    numbered = ((shape, number) for number, shape in enumerate(shapes, start=1))
    ids: NDArray[np.int64] = rasterize(numbered, size, transform=place, dtype="int32")
    return ids.astype(np.int64)

"""Label files of one raster agree: COG, zarr and GeoParquet tell the same of every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import xarray
from numpy.typing import NDArray
from rio_cogeo import cog_validate


def check_files(source: Path, outputs: Mapping[str, Path]) -> None:
    """What holds for the outputs of any run on a north-up raster, by suffix."""
    check_cog(source, outputs[".tif"])
    check_zarr(outputs[".zarr"], outputs[".tif"])
    check_polygons(outputs[".parquet"], outputs[".tif"])


def check_cog(source: Path, path: Path) -> None:
    with rasterio.open(source) as given, rasterio.open(path) as cog:
        assert cog.crs == given.crs
        assert cog.transform == given.transform
        assert cog.shape == given.shape
        labels, factors = cog.read(1), cog.overviews(1)
    assert cog_validate(path, strict=True) == (True, [], [])
    for level, factor in enumerate(factors):
        with rasterio.open(path, overview_level=level) as overview:
            check_overview(labels, overview.read(1), factor)


def check_overview(labels: NDArray[Any], small: NDArray[Any], factor: int) -> None:
    """Each pixel is one of those that it stands for: a mean of two ids is another object's id."""
    found = np.zeros(small.shape, bool)
    # an image's side need not be a multiple of the factor: one pixel more on either side
    for dy, dx in np.ndindex(factor + 2, factor + 2):
        rows, columns = (
            np.clip(np.arange(n) * factor + d - 1, 0, whole - 1)
            for n, d, whole in zip(small.shape, (dy, dx), labels.shape, strict=True)
        )
        found |= labels[np.ix_(rows, columns)] == small
    assert found.all(), f"{(~found).sum()} pixels of the overview 1:{factor} are of no pixel below"


def check_zarr(path: Path, cog: Path) -> None:
    with rasterio.open(cog) as dataset, xarray.open_zarr(path) as opened:
        labels = opened["labels"]
        assert labels.dtype == dataset.dtypes[0]
        assert labels.dims == ("y", "x")
        assert np.array_equal(labels.to_numpy(), dataset.read(1))
        if dataset.crs:
            mapping = opened.coords["spatial_ref"].attrs
            assert rasterio.crs.CRS.from_wkt(mapping["crs_wkt"]) == dataset.crs
            geotransform = [float(v) for v in mapping["GeoTransform"].split()]
            assert geotransform == list(dataset.transform.to_gdal())
        x, y = dataset.xy(3, 5)
        assert float(opened.x[5]) == pytest.approx(x, rel=1e-12)
        assert float(opened.y[3]) == pytest.approx(y, rel=1e-12)


def check_polygons(path: Path, cog: Path) -> None:
    """They are valid, have the ids and areas of the labels, and cover the same pixels."""
    frame = geopandas.read_parquet(path).sort_values("id")
    with rasterio.open(cog) as dataset:
        labels = dataset.read(1)
        labels[labels == dataset.nodata] = 0  # of no pixel, where there is no such value
        crs, transform = dataset.crs, dataset.transform
    assert frame.crs == crs
    assert frame.is_valid.all()
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    assert frame["id"].tolist() == np.flatnonzero(counts).tolist()
    assert frame["area_px"].tolist() == counts[counts > 0].tolist()
    shapes = zip(frame.geometry, frame["id"].tolist(), strict=True)
    burnt = np.zeros(labels.shape, np.uint32)
    if len(frame):
        rasterio.features.rasterize(shapes, out=burnt, transform=transform)
    assert np.array_equal(burnt, labels)

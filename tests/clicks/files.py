"""Files that the tests open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


def write_raster(
    path: Path, bands: NDArray[Any], overviews: Sequence[int] = (), **profile: Any
) -> str:
    """A GeoTIFF of (band, y, x) in UTM zone 45N, with pixels of 0.3 m."""
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.transform import Affine

    count, height, width = bands.shape
    given = {
        "driver": "GTiff",
        "dtype": bands.dtype.name,
        "crs": "EPSG:32645",
        "transform": Affine(0.3, 0, 334_000, 0, -0.3, 3_060_000),
        **profile,
    }
    with rasterio.open(path, "w", count=count, height=height, width=width, **given) as file:
        file.write(bands)
        if overviews:
            file.build_overviews(list(overviews), Resampling.nearest)
    return str(path)


def write_ome_zarr(path: Path, values: NDArray[Any], version: int) -> Path:
    """(z, y, x) of 2 x 0.5 x 0.5 mm at two resolutions, in zarr 2 as OME-Zarr 0.4, or 3 as 0.5."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
    datasets = []
    for level, data in enumerate((values, values[:, ::2, ::2])):
        array = group.create_array(
            str(level), shape=data.shape, chunks=(1, 16, 16), dtype=data.dtype
        )
        array[:] = data
        scale = [2.0, 0.5 * 2**level, 0.5 * 2**level]
        transformations = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    described: dict[str, Any] = {"axes": axes, "datasets": datasets, "name": "image"}
    if version == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **described}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [described]}
    return path


def write_huge(path: Path, side: int, middle: tuple[int, int], radius: int) -> Path:
    """A COG of side x side pixels with one bright disc; tiles without pixels take no space."""
    import numpy as np
    import rasterio
    from rasterio.transform import Affine
    from rasterio.windows import Window

    profile = {"dtype": "uint8", "count": 1, "height": side, "width": side, "crs": "EPSG:32645"}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True}
    y, x = (at // 512 * 512 - 512 for at in middle)
    rows, columns = np.mgrid[y : y + 1536, x : x + 1536]
    disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < radius**2
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        transform=Affine(0.3, 0, 334_000, 0, -0.3, 3_060_000),
        compress="deflate",
        bigtiff="yes",
        **profile,
        **tiled,
    ) as file:
        file.write(np.where(disc, 220, 40).astype(np.uint8), 1, window=Window(x, y, 1536, 1536))
        file.build_overviews([8, 64], rasterio.enums.Resampling.nearest)
    return path

"""Labels as a zarr v3 group that xarray opens with coordinates and CRS (CF conventions)."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samplat import ImageInfo, InputError, JobResult, check_writable
from samplat_raster.georeference import affine_of, bounds_of, code_of
from samplat_raster.outputs import check_flat, label_dtype, narrowed, replacing

MARK = "samplat_labels"
"""Attribute of the group by which we know our own output, and may replace it."""

PROJ = {
    "schema_url": "https://raw.githubusercontent.com/zarr-experimental/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-experimental/geo-proj/blob/v1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "description": "Coordinate reference system information for geospatial data",
}
SPATIAL = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial:",
    "description": "Spatial coordinate information",
}
"""How the two conventions want to be named."""


@dataclass(frozen=True, kw_only=True)
class ZarrExporter:
    """A group with `labels` (y, x), the pixel centres `x` and `y`, and `spatial_ref`.

    One shard per tile, zstd and crc32c. Pixels of tiles that failed have the largest value of the
    type, which is the fill value and the attribute `hole`.
    """

    name: str = "zarr"
    suffixes: tuple[str, ...] = (".zarr",)

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written, or that holds someone else's data."""
        check_writable(output)
        if output.exists() and not _is_ours(output):
            raise InputError(
                f"cannot write {output}: it exists and was not written by samplat; "
                "remove it, or choose another name"
            )

    def check_image(self, info: ImageInfo) -> None:
        """Refuse volumes."""
        check_flat(info)

    def export(self, result: JobResult, output: Path) -> None:
        """Write shard by shard."""
        import zarr

        check_flat(result.info)
        with replacing(output) as written:
            group = zarr.create_group(str(written), zarr_format=3)
            group.attrs.update({"Conventions": "CF-1.11", MARK: 1, **_conventions(result)})
            _write_coordinates(group, result)
            labels = _create_labels(group, result)
            for window, shard in result.shards():
                labels[window.slices[1:]] = narrowed(shard[0], labels.dtype)
            _consolidate(written)


def _conventions(result: JobResult) -> dict[str, Any]:
    """The zarr conventions `spatial` and, with a CRS, `proj`: of the group, for its arrays."""
    from pyproj import CRS

    transform, (_, height, width) = affine_of(result.info), result.info.shape
    spatial = {
        "zarr_conventions": [SPATIAL],
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [height, width],
        "spatial:transform": list(transform)[:6],
        "spatial:bbox": list(bounds_of(result.info)),
        "spatial:registration": "pixel",
    }
    if not result.info.crs:
        return spatial
    crs = CRS.from_wkt(result.info.crs)
    named = {"proj:code": code_of(result.info.crs)} if code_of(result.info.crs) else {}
    spatial["zarr_conventions"] = [PROJ, SPATIAL]
    return {**spatial, **named, "proj:wkt2": crs.to_wkt("WKT2_2019")}


def _consolidate(written: Path) -> None:
    """One file with all metadata: xarray looks for it, and warns where there is none."""
    import zarr
    from zarr.errors import ZarrUserWarning

    with warnings.catch_warnings():
        # zarr says that other readers may not know it: they read the parts
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(str(written))


def _is_ours(output: Path) -> bool:
    try:
        header = json.loads((output / "zarr.json").read_bytes())
        return MARK in header["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _create_labels(group: Any, result: JobResult) -> Any:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    dtype, shard = label_dtype(result), result.grid.tile_shape[1:]
    hole = int(np.iinfo(dtype).max)
    attributes: dict[str, Any] = {
        "long_name": "object id",
        "background": 0,
        "hole": hole,
        "model": result.job.model or result.job.segmenter,
    }
    if result.info.crs:
        # the second one makes xarray see the CRS without `decode_coords="all"`
        attributes |= {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    return group.create_array(
        "labels",
        shape=result.info.shape[1:],
        dtype=dtype.name,
        shards=shard,
        chunks=tuple(map(_chunk_side, shard)),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=hole,
        dimension_names=["y", "x"],
        attributes=attributes,
    )


def _chunk_side(shard: int) -> int:
    """The largest divisor up to 512, unless it is very small."""
    side = max(d for d in range(1, min(shard, 512) + 1) if shard % d == 0)
    return side if side >= 32 else shard


def _write_coordinates(group: Any, result: JobResult) -> None:
    transform = affine_of(result.info)
    _, height, width = result.info.shape
    axes = _axis_attributes(result.info.crs)
    # a rotated raster has no coordinate per row or column: GeoTransform alone describes it
    if transform.b == 0 and transform.d == 0:
        x = transform.c + transform.a * (np.arange(width) + 0.5)
        y = transform.f + transform.e * (np.arange(height) + 0.5)
        for name, values in (("x", x), ("y", y)):
            axis = group.create_array(
                name,
                shape=values.shape,
                dtype="float64",
                dimension_names=[name],
                attributes=axes[name],
            )
            axis[:] = values
    if result.info.crs:
        reference = {**_grid_mapping(result.info.crs), "GeoTransform": _geotransform(transform)}
        group.create_array(
            "spatial_ref", shape=(), dtype="int64", fill_value=0, attributes=reference
        )[...] = 0


def _geotransform(transform: Any) -> str:
    return " ".join(repr(float(v)) for v in transform.to_gdal())


def _axis_attributes(crs: str | None) -> dict[str, dict[str, Any]]:
    from pyproj import CRS

    attributes: dict[str, dict[str, Any]] = {"x": {"axis": "X"}, "y": {"axis": "Y"}}
    for axis in CRS.from_wkt(crs).cs_to_cf() if crs else ():
        name = str(axis.get("axis", "")).lower()
        if name not in attributes:
            name = {"longitude": "x", "latitude": "y"}.get(axis.get("standard_name", ""), "")
        if name in attributes:
            attributes[name].update(axis)
    return attributes


def _grid_mapping(crs: str) -> dict[str, Any]:
    from pyproj import CRS

    mapping: dict[str, Any] = CRS.from_wkt(crs).to_cf()
    return {**mapping, "spatial_ref": mapping["crs_wkt"]}

"""Objects as polygons on the ground: GeoParquet and GeoPackage."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import JobError, JobResult, check_file
from samplat_raster.georeference import geodesic_areas, to_world
from samplat_raster.outputs import replacing
from samplat_raster.polygons import outline
from samplat_raster.prompt_columns import prompt_columns

COPIED_COLUMNS = ("id", "area_px", "predicted_iou", "stability", "truncated")
"""Columns of the job's table of objects that go into the file as they are."""


@dataclass(frozen=True, kw_only=True)
class GeoParquetExporter:
    """GeoParquet 1.1 with a bounding-box column, zstd; columns as in `object_frame`."""

    name: str = "geoparquet"
    suffixes: tuple[str, ...] = (".parquet", ".geoparquet")

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def export(self, result: JobResult, output: Path) -> None:
        """Write all objects."""
        frame = object_frame(result)
        with replacing(output) as written:
            frame.to_parquet(
                written,
                index=False,
                compression="zstd",
                schema_version="1.1.0",
                write_covering_bbox=True,
            )


@dataclass(frozen=True, kw_only=True)
class GeoPackageExporter:
    """A GeoPackage with one layer `objects`; columns as in `object_frame`."""

    name: str = "geopackage"
    suffixes: tuple[str, ...] = (".gpkg",)

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def export(self, result: JobResult, output: Path) -> None:
        """Write all objects."""
        import pyogrio

        frame = object_frame(result)
        with replacing(output) as written, warnings.catch_warnings():
            # a raster without CRS was warned about already
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            try:
                pyogrio.write_dataframe(
                    frame,
                    written,
                    driver="GPKG",
                    layer="objects",
                    geometry_type="MultiPolygon",
                    promote_to_multi=True,
                )
            except pyogrio.errors.DataSourceError as error:
                raise OSError(str(error)) from error


def object_frame(result: JobResult) -> Any:
    """A GeoDataFrame with one row per object, by id.

    Columns: id; area_m2, on the ellipsoid, null without CRS; area_px; predicted_iou; stability;
    truncated (True: cut by a tile's edge, and no neighbour completed it); point_x and point_y of
    the prompt in world units, NaN without one; model; what `prompt_columns` adds; geometry, along
    pixel edges, in world units.

    Raises:
        JobError: labels and table of objects disagree.
    """
    import geopandas

    outlines = outline(result)
    table = result.objects
    if not np.array_equal(outlines.ids, table["id"].to_numpy()):
        raise JobError(
            f"labels and table of objects of {result.store.path} disagree; "
            "remove the job directory and run again"
        )
    geometries = _on_the_ground(result, outlines.geometries)
    copied: dict[str, Any] = {name: table[name].to_numpy() for name in COPIED_COLUMNS}
    points = to_world(result.info, _points(table))
    data: dict[str, Any] = {
        "id": copied.pop("id"),
        "area_m2": _square_metres(geometries, result.info.crs),
        **copied,
        "point_x": points[:, 0],
        "point_y": points[:, 1],
        "model": np.full(len(geometries), result.job.model or result.job.segmenter, object),
    }
    data |= prompt_columns(result.objects, taken=data)
    return geopandas.GeoDataFrame(data, geometry=geometries, crs=result.info.crs)


def _on_the_ground(result: JobResult, geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    import shapely

    moved: NDArray[np.object_] = shapely.transform(geometries, lambda xy: to_world(result.info, xy))
    return moved


def _points(table: Any) -> NDArray[np.float64]:
    columns = [table[name].to_numpy().astype(np.float64) for name in ("point_x", "point_y")]
    return np.stack(columns, axis=1)


def _square_metres(geometries: NDArray[np.object_], crs: str | None) -> NDArray[np.float64]:
    if crs is None:
        return np.full(len(geometries), np.nan)
    return geodesic_areas(geometries, crs)

"""Rasters: anything with pixels on the ground, read through GDAL, written as COG, zarr or vectors.

Nothing heavy is imported here: `samplat --help` loads this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from samplat import hookimpl

if TYPE_CHECKING:
    import typer

    from samplat import Exporter, JobKind, Prompter, SourceFactory

REQUIRES = ("geopandas", "pyogrio", "pyproj", "rasterio", "shapely")
"""Libraries of the extra `samplat[raster]`."""


@hookimpl
def register_sources(register: Callable[[SourceFactory], None]) -> None:
    """Rasters on disk or behind a URL."""
    from samplat_raster.source import RasterFactory

    register(RasterFactory())


@hookimpl
def register_prompters(register: Callable[[Prompter], None]) -> None:
    """Files of points, boxes and polygons."""
    from samplat_raster.vector_prompts import VectorPrompter

    register(VectorPrompter())


@hookimpl
def register_exporters(register: Callable[[Exporter], None]) -> None:
    """Label rasters and polygons."""
    from samplat_raster import vector
    from samplat_raster.cog import CogExporter
    from samplat_raster.geoparquet import GeoParquetExporter
    from samplat_raster.geozarr import ZarrExporter
    from samplat_raster.stac import StacExporter

    for exporter in (
        CogExporter(),
        ZarrExporter(),
        GeoParquetExporter(),
        vector.geopackage(),
        vector.flatgeobuf(),
        vector.geojson(),
        StacExporter(),
    ):
        register(exporter)


@hookimpl
def register_job_kinds(register: Callable[[JobKind], None]) -> None:
    """Rasters as items of a batch."""
    from samplat_raster.kind import RasterKind

    register(RasterKind())


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """The commands `tile-segment` and `export`."""
    from samplat import carried_out
    from samplat_raster.commands import tile_segment
    from samplat_raster.export_command import export

    app.command("tile-segment")(carried_out(tile_segment))
    app.command("export")(export)

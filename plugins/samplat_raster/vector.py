"""Objects as features of GDAL's vector formats: GeoPackage, FlatGeobuf and GeoJSON."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from samplat import JobResult, check_file
from samplat_raster.drawing import EXACT, Drawing
from samplat_raster.features import FeatureBatch, feature_schema, features
from samplat_raster.outputs import replacing

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class _FeatureExporter:
    """One layer `objects` of multipolygons; columns as in `feature_schema`."""

    driver: str
    """GDAL's."""
    name: str
    suffixes: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the layer, as GDAL knows them."""

    drawing: Drawing = EXACT
    """How polygons are drawn."""

    def with_options(self, *, drawing: Drawing = EXACT, **others: Any) -> Self:
        """The same exporter, drawing in another way."""
        return replace(self, drawing=drawing)

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def export(self, result: JobResult, output: Path) -> None:
        """Write all objects, a batch at a time."""
        with replacing(output) as written:
            write_features(
                features(result, self.drawing),
                written,
                crs=result.info.crs,
                driver=self.driver,
                **self.options,
            )


def geopackage() -> _FeatureExporter:
    """GeoPackage, with a spatial index."""
    return _FeatureExporter(driver="GPKG", name="geopackage", suffixes=(".gpkg",))


def flatgeobuf() -> _FeatureExporter:
    """FlatGeobuf, with a spatial index: GDAL keeps some 83 bytes a feature in memory for it."""
    return _FeatureExporter(driver="FlatGeobuf", name="flatgeobuf", suffixes=(".fgb",))


def write_features(
    batches: Iterable[FeatureBatch], path: Path, *, crs: str | None, driver: str, **options: Any
) -> None:
    """Write features as they come.

    Raises:
        OSError: GDAL cannot write them.
    """
    import pyogrio

    stream = _Stream(batches)
    with warnings.catch_warnings():
        # a raster without CRS was warned about already
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        try:
            pyogrio.write_arrow(
                stream.reader(),
                path,
                driver=driver,
                layer="objects",
                geometry_name="geometry",
                geometry_type="MultiPolygon",
                crs=crs,
                **options,
            )
        except Exception as error:
            # what failed on our side of the stream reaches GDAL as a text only
            if stream.failure is not None:
                raise stream.failure from error
            if isinstance(error, pyogrio.errors.DataSourceError | pyogrio.errors.DataLayerError):
                raise OSError(str(error)) from error
            raise


@dataclass(kw_only=False)
class _Stream:
    """Features as an Arrow stream, which remembers why it broke."""

    batches: Iterable[FeatureBatch]
    failure: Exception | None = None

    def reader(self) -> pa.RecordBatchReader:
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(_schema(), self._encoded())

    def _encoded(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        schema = _schema()
        try:
            for batch in self.batches:
                arrays = [*batch.columns.columns, _as_multipolygons(batch)]
                yield pa.record_batch(arrays, schema=schema)
        except Exception as error:
            self.failure = error
            raise


def _schema() -> pa.Schema:
    import pyarrow as pa

    wkb = {"ARROW:extension:name": "ogc.wkb"}
    return feature_schema().append(pa.field("geometry", pa.binary(), metadata=wkb))


def _as_multipolygons(batch: FeatureBatch) -> pa.Array:
    import pyarrow as pa
    import shapely

    parts, owner = shapely.get_parts(batch.geometries, return_index=True)
    several = shapely.multipolygons(parts, indices=owner)
    return pa.array(shapely.to_wkb(several), pa.binary())

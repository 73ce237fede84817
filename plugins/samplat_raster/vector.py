"""Objects as features of GDAL's vector formats: GeoPackage, FlatGeobuf and GeoJSON."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from samplat import ImageInfo, InputError, JobResult, check_file
from samplat_raster.drawing import EXACT, Drawing
from samplat_raster.features import FeatureBatch, feature_schema, features
from samplat_raster.outputs import replacing

if TYPE_CHECKING:
    import pyarrow as pa


LONGEST_EDGE = 64
"""In pixels, of polygons that are to be transformed to degrees."""


@dataclass(frozen=True, kw_only=True)
class _FeatureExporter:
    """One layer `objects` of multipolygons; columns as in `feature_schema`."""

    driver: str
    """GDAL's."""
    name: str
    suffixes: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the layer, as GDAL knows them."""
    degrees: bool = False
    """True: longitude and latitude only; GDAL transforms."""

    drawing: Drawing = EXACT
    """How polygons are drawn."""

    def with_options(self, *, drawing: Drawing = EXACT, **others: Any) -> Self:
        """The same exporter, drawing in another way."""
        return replace(self, drawing=drawing)

    def check_image(self, info: ImageInfo) -> None:
        """Refuse an image that the format cannot describe.

        Raises:
            InputError: it has no CRS, and the format is in longitude and latitude only.
        """
        if self.degrees and info.crs is None:
            raise InputError(
                f"{self.driver} is in longitude and latitude, and the image has no CRS; "
                "choose .gpkg, .fgb or .parquet"
            )

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def export(self, result: JobResult, output: Path) -> None:
        """Write all objects, a batch at a time."""
        self.check_image(result.info)
        found = features(result, self.drawing)
        if self.degrees:
            found = (_densified(batch, result.info) for batch in found)
        with replacing(output) as written:
            crs = result.info.crs
            schema = feature_schema(result.features.schema)
            write_features(found, written, schema, crs=crs, driver=self.driver, **self.options)


def geopackage() -> _FeatureExporter:
    """GeoPackage, with a spatial index."""
    return _FeatureExporter(driver="GPKG", name="geopackage", suffixes=(".gpkg",))


def flatgeobuf() -> _FeatureExporter:
    """FlatGeobuf, with a spatial index: GDAL keeps some 83 bytes a feature in memory for it."""
    return _FeatureExporter(driver="FlatGeobuf", name="flatgeobuf", suffixes=(".fgb",))


def geojson() -> _FeatureExporter:
    """GeoJSON as RFC 7946 has it.

    Longitude and latitude with seven digits, shells against the clock, geometries cut at the
    antimeridian.
    """
    return _FeatureExporter(
        driver="GeoJSON",
        name="geojson",
        suffixes=(".geojson",),
        options={"RFC7946": "YES", "COORDINATE_PRECISION": "7"},
        degrees=True,
    )


def _densified(batch: FeatureBatch, info: ImageInfo) -> FeatureBatch:
    """With more vertices: what is straight in a projection is not in degrees."""
    import shapely

    from samplat_raster.rings import Polygons

    longest = LONGEST_EDGE * max(info.spacing[1:])
    dense = shapely.segmentize(batch.geometries.to_shapely(), longest)
    return replace(batch, geometries=Polygons.of_shapely(dense))


def write_features(
    batches: Iterable[FeatureBatch],
    path: Path,
    attributes: pa.Schema,
    *,
    crs: str | None,
    driver: str,
    **options: Any,
) -> None:
    """Write features with these attributes as they come.

    Raises:
        OSError: GDAL cannot write them.
    """
    import pyogrio

    stream = _Stream(batches, _schema(attributes))
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
    schema: pa.Schema
    failure: Exception | None = None

    def reader(self) -> pa.RecordBatchReader:
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.schema, self._encoded())

    def _encoded(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        try:
            for batch in self.batches:
                arrays = [*batch.columns.columns, batch.geometries.wkb(multi=True)]
                yield pa.record_batch(arrays, schema=self.schema)
        except Exception as error:
            self.failure = error
            raise


def _schema(attributes: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    wkb = {"ARROW:extension:name": "ogc.wkb"}
    return attributes.append(pa.field("geometry", pa.binary(), metadata=wkb))

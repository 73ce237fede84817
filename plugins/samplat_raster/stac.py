"""A STAC item that describes the other outputs of a job."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from samplat import JobResult, check_file
from samplat_raster.georeference import affine_of, bounds_of, code_of, corners_of
from samplat_raster.outputs import replacing

PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".tiff": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".zarr": "application/vnd.zarr; version=3",
    ".parquet": "application/vnd.apache.parquet",
    ".geoparquet": "application/vnd.apache.parquet",
    ".gpkg": "application/geopackage+sqlite3",
    ".fgb": "application/vnd.flatgeobuf",
    ".geojson": "application/geo+json",
}
SIDE_POINTS = 33
"""Of the footprint along each side: what is straight in a projection is not in degrees."""
DIGITS = 7


@dataclass(frozen=True, kw_only=True)
class StacExporter:
    """A STAC 1.1 item with the projection extension; its assets are the other outputs.

    Its time is that at which the job was begun: when the image was taken is not known.
    """

    name: str = "stac"
    suffixes: tuple[str, ...] = (".stac.json",)
    outputs: tuple[Path, ...] = ()
    """What else is written."""
    describes: bool = True
    """It comes after what it describes."""

    def with_options(self, *, outputs: tuple[Path, ...] = (), **others: Any) -> Self:
        """The same exporter, knowing what else is written."""
        return replace(self, outputs=outputs)

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written."""
        check_file(output)

    def export(self, result: JobResult, output: Path) -> None:
        """Write the item."""
        described = [o for o in self.outputs if not o.name.lower().endswith(self.suffixes)]
        with replacing(output) as written:
            content = json.dumps(item(result, output, described), indent=2)
            written.write_text(content + "\n", encoding="utf-8")


def item(result: JobResult, output: Path, described: list[Path]) -> dict[str, Any]:
    """The item of a job.

    Args:
        result: the job.
        output: where the item will lie: assets are named relative to that.
        described: the other outputs.
    """
    footprint = _footprint(result)
    placed = {} if footprint is None else {"bbox": bounding_box(footprint)}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [PROJECTION],
        "id": f"{output.name.removesuffix('.stac.json')}-{result.run.short}",
        "geometry": footprint,
        **placed,
        "properties": {**_properties(result), **_projection(result)},
        "links": [],
        "assets": {_key(o): _asset(o, output) for o in described},
    }


def _properties(result: JobResult) -> dict[str, Any]:
    run = result.run
    return {
        "datetime": run.provenance["created"],
        "title": f"Objects in {Path(run.provenance['image']).name}",
        "samplat:model": run.found_by,
        "samplat:weights": run.weights_short,
        "samplat:run": run.short,
        "samplat:version": run.provenance["versions"]["samplat"],
        "samplat:objects": result.objects.num_rows,
        "samplat:failed_tiles": len(result.quarantined),
    }


def _projection(result: JobResult) -> dict[str, Any]:
    from pyproj import CRS

    crs = result.info.crs
    return {
        "proj:code": code_of(crs) if crs else None,
        **({"proj:wkt2": CRS.from_wkt(crs).to_wkt("WKT2_2019")} if crs else {}),
        "proj:shape": list(result.info.shape[1:]),
        "proj:transform": list(affine_of(result.info)),
        "proj:bbox": list(bounds_of(result.info)),
    }


def _key(output: Path) -> str:
    return output.suffix.lower().lstrip(".")


def _asset(output: Path, beside: Path) -> dict[str, Any]:
    href = Path(os.path.relpath(output.absolute(), beside.absolute().parent)).as_posix()
    raster = _key(output) in ("tif", "tiff", "zarr")
    known = MEDIA_TYPES.get(output.suffix.lower())
    return {
        "href": href if href.startswith("../") else f"./{href}",
        **({"type": known} if known else {}),
        "title": "Labels: one id per object" if raster else "Objects as polygons",
        "roles": ["data"],
    }


def _footprint(result: JobResult) -> dict[str, Any] | None:
    """The image's outline in longitude and latitude, cut at the antimeridian; None without CRS."""
    from rasterio.warp import transform_geom

    if result.info.crs is None:
        return None
    ring = _with_more_points(corners_of(result.info))
    outline = {"type": "Polygon", "coordinates": [ring.tolist()]}
    moved: dict[str, Any] = transform_geom(
        result.info.crs, "OGC:CRS84", outline, antimeridian_cutting=True, precision=DIGITS
    )
    return _right_handed(moved)


def _with_more_points(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    following = np.roll(corners, -1, axis=0)
    sides = [
        a + (b - a) * np.linspace(0, 1, SIDE_POINTS, endpoint=False)[:, None]
        for a, b in zip(corners, following, strict=True)
    ]
    return np.concatenate([*sides, corners[:1]])


def _right_handed(geometry: dict[str, Any]) -> dict[str, Any]:
    import shapely

    oriented = shapely.orient_polygons(shapely.geometry.shape(geometry), exterior_cw=False)
    content: dict[str, Any] = json.loads(shapely.to_geojson(oriented))
    return content


def bounding_box(geometry: dict[str, Any]) -> list[float]:
    """West, south, east, north; west is greater than east across the antimeridian (RFC 7946)."""
    import shapely

    boxes = shapely.bounds(shapely.get_parts(shapely.geometry.shape(geometry)))
    (west, south), (east, north) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    apart = [box for box in boxes if box[2] - box[0] < 360]
    if len(apart) > 1 and west <= -180 and east >= 180:
        west = min(box[0] for box in apart if box[2] >= 180)
        east = max(box[2] for box in apart if box[0] <= -180)
    return [float(v) for v in (west, south, east, north)]

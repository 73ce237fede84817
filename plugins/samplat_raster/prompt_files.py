"""Files of prompts: what they hold and in which CRS, whatever their format.

The format is told by the first bytes, and no other GDAL driver than that format's is let at a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

PIXEL, IMAGE = "pixel", "image"
"""CRS of prompts that count pixels from the image's corner, or use its coordinates, whatever they
are."""
MAGIC = {b"SQLite format 3\0": "GPKG", b"fgb\x03": "FlatGeobuf", b"PAR1": "parquet"}
"""How files of a format begin; GeoJSON begins with a brace, and CSV with anything else."""

X, Y = ("x",), ("y",)
LON, LAT = ("lon", "longitude", "lng", "long"), ("lat", "latitude")
CORNERS = (
    ("x0", "xmin", "minx", "left"),
    ("y0", "ymin", "miny", "top"),
    ("x1", "xmax", "maxx", "right"),
    ("y1", "ymax", "maxy", "bottom"),
)
SEPARATORS = ",;\t|"
WKT, CRS_COLUMN = ("wkt", "geometry", "geom", "the_geom"), ("crs", "srid")


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """N features as they are in a file."""

    geometries: NDArray[np.object_]
    """(N,) shapely geometries."""
    columns: Any
    """DataFrame of N rows: all else, in the order of the file."""
    crs: str | None
    """CRS of the geometries as WKT or an authority's code; `PIXEL`; None: not said."""


def read_prompts(path: str, layer: str | None = None) -> PromptFile:
    """All features of a file of prompts.

    Args:
        path: a local GeoJSON, GeoPackage, FlatGeobuf, (Geo)Parquet or CSV.
        layer: of a GeoPackage with several.

    Raises:
        InputError: missing, unreadable, empty, of another format, or without usable geometries.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file of prompts {path}")
    kind = _kind_of(file)
    if layer is not None and kind != "GPKG":
        raise InputError(f"{path} has no layers, only a GeoPackage has; leave the layer out")
    if kind == "parquet":
        found = _read_parquet(file)
    elif kind == "CSV":
        found = _from_table(_read_csv(file), path)
    else:
        found = _read_vector(file, kind, layer)
    _check_geometries(found.geometries, path)
    return found


def _kind_of(file: Path) -> str:
    with file.open("rb") as opened:
        head = opened.read(4096)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"{":
        return "GeoJSON"
    if start in (b"", b"<", b"[") or b"\0" in head:
        raise InputError(
            f"{file} is no file of prompts: expected GeoJSON, GeoPackage, FlatGeobuf, GeoParquet "
            "or CSV"
        )
    return "CSV"


def _read_vector(file: Path, kind: str, layer: str | None) -> PromptFile:
    import pyogrio

    # of GeoJSON GDAL would believe the suffix
    place = f"GeoJSON:{file}" if kind == "GeoJSON" else str(file)
    try:
        layers = [str(name) for name in pyogrio.list_layers(place)[:, 0]]
        if layer is None and len(layers) > 1:
            raise InputError(f"{file} has the layers {', '.join(layers)}; choose one of them")
        if layer is not None and layer not in layers:
            raise InputError(f"{file} has no layer {layer!r}, but {', '.join(layers)}")
        driver = pyogrio.read_info(place, layer=layer)["driver"]
        if driver != kind:
            raise InputError(f"{file} is read as {driver}; expected {kind}")
        frame = pyogrio.read_dataframe(place, layer=layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError) as error:
        raise InputError(f"cannot read the prompts of {file}: {_one_line(error)}") from error
    return _from_frame(frame, str(file))


def _from_frame(frame: Any, path: str) -> PromptFile:
    import geopandas

    if not isinstance(frame, geopandas.GeoDataFrame):
        raise InputError(f"{path} has no geometries; expected points, boxes or polygons")
    geometry = frame.geometry
    columns = frame.drop(columns=geometry.name).reset_index(drop=True)
    crs = None if frame.crs is None else frame.crs.to_wkt()
    return PromptFile(geometries=np.asarray(geometry.array), columns=columns, crs=crs)


def _read_parquet(file: Path) -> PromptFile:
    import geopandas
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        if b"geo" in (schema.metadata or {}):
            return _from_frame(geopandas.read_parquet(file), str(file))
        return _from_table(pd.read_parquet(file), str(file))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"cannot read the prompts of {file}: {_one_line(error)}") from error


def _read_csv(file: Path) -> Any:
    import pandas as pd

    try:
        with file.open(encoding="utf-8-sig") as opened:
            head = opened.readline()
        separator = max(SEPARATORS, key=head.count)  # the first of equals: a comma
        return pd.read_csv(file, sep=separator, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as e:
        raise InputError(f"cannot read {file} as CSV: {_one_line(e)}") from e


def _from_table(table: Any, path: str) -> PromptFile:
    """Geometries of the columns of a table: corners, points or WKT, whichever a row has."""
    import shapely

    names = {str(name).strip().lower(): name for name in reversed(table.columns)}

    def column(options: tuple[str, ...]) -> Any:
        return next((names[option] for option in options if option in names), None)

    corners = [column(options) for options in CORNERS]
    places, degrees = [column(X), column(Y)], [column(LON), column(LAT)]
    wkt = column(WKT)
    geometries, used = np.full(len(table), None, object), []
    geographic = None in places and None not in degrees
    if wkt is not None:
        geometries = _parsed(table[wkt], path)
        used += [wkt]
    if None not in corners:
        boxes = _numbers(table, corners, path)
        there = np.isfinite(boxes).all(axis=1) & (geometries == None)  # noqa: E711 elementwise
        geometries[there] = shapely.box(*boxes[there].T)
        used += corners
    if None not in places or geographic:
        chosen = degrees if geographic else places
        points = _numbers(table, chosen, path)
        there = np.isfinite(points).all(axis=1) & (geometries == None)  # noqa: E711 elementwise
        geometries[there] = shapely.points(points[there])
        used += chosen
    if not used:
        raise InputError(
            f"{path} has the columns {', '.join(map(str, table.columns))}; expected x and y, lon "
            "and lat, x0, y0, x1 and y1, or wkt"
        )
    stated = column(CRS_COLUMN)
    crs = "EPSG:4326" if geographic else _stated_crs(table, stated, geometries, path)
    rest = table.drop(columns=[*used, *([stated] if stated is not None else [])])
    return PromptFile(geometries=geometries, columns=rest.reset_index(drop=True), crs=crs)


def _numbers(table: Any, columns: list[Any], path: str) -> NDArray[np.float64]:
    import pandas as pd

    try:
        return np.stack([pd.to_numeric(table[c]).to_numpy(np.float64) for c in columns], axis=1)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: the coordinates are no numbers: {_one_line(error)}") from error


def _parsed(texts: Any, path: str) -> NDArray[np.object_]:
    import shapely

    geometries = np.full(len(texts), None, object)
    for row, text in enumerate(texts):
        if isinstance(text, str) and text.strip():
            srid, _, plain = text.rpartition(";")
            try:
                geometry = shapely.from_wkt(plain)
            except shapely.errors.GEOSException as error:
                raise InputError(
                    f"{path}: feature {row + 1} is no WKT: {_one_line(error)}"
                ) from error
            code = srid.strip().upper().removeprefix("SRID=")
            geometries[row] = shapely.set_srid(geometry, int(code)) if code.isdigit() else geometry
    return geometries


def _stated_crs(table: Any, column: Any, geometries: NDArray[np.object_], path: str) -> str | None:
    """What a table says of its CRS: in a column, or in its WKT (`SRID=4326;POINT (...)`)."""
    import shapely

    if column is not None:
        stated = sorted({str(v).removesuffix(".0") for v in table[column].dropna()})
    else:
        stated = sorted({str(v) for v in shapely.get_srid(geometries) if v > 0})
    if len(stated) > 1:
        raise InputError(f"{path} mixes the CRS {', '.join(stated)}; write one file for each")
    if not stated:
        return None
    return f"EPSG:{stated[0]}" if stated[0].isdigit() else stated[0]


def _check_geometries(geometries: NDArray[np.object_], path: str) -> None:
    import shapely

    if not len(geometries):
        raise InputError(f"{path} is empty: expected at least one point, box or polygon")
    missing = np.flatnonzero(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    if len(missing):
        raise InputError(
            f"{path}: feature {missing[0] + 1} has no geometry ({len(missing)} lack it)"
        )
    known = np.isin(shapely.get_type_id(geometries), [0, 3, 4, 6])
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        raise InputError(
            f"{path}: feature {row + 1} is a {geometries[row].geom_type}; expected points, boxes "
            "or polygons"
        )
    coordinates, owner = shapely.get_coordinates(geometries, return_index=True)
    broken = owner[~np.isfinite(coordinates).all(axis=1)]
    if len(broken):
        raise InputError(f"{path}: feature {broken[0] + 1} has a coordinate that is no number")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:300]

"""A raster and polygons on it: GeoTIFF and the like with GeoParquet, GeoPackage or GeoJSON.

Polygons are brought into the CRS of the raster; a pixel belongs to a polygon when its centre does.
A picture is a tile that some polygon touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import ImageInfo, InputError, SourceSpec, Stretch, Window, registry
from samplat_train.data.pictures import PART, Picture, levels_of
from samplat_train.data.rasters import SIDE, opened, pixels_of, spec_of, windows_of

SUFFIXES = (".parquet", ".geoparquet", ".gpkg", ".geojson", ".json", ".fgb", ".shp")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A window of a raster, and what lies on it."""

    raster: SourceSpec
    """The raster."""
    window: Window
    """(z, y, x) pixels, one slice thick."""
    polygons: tuple[Any, ...] = field(repr=False)
    """The polygons that touch it, in pixels (x, y) of the raster, (0, 0) its first corner."""


@dataclass(frozen=True, kw_only=True)
class PolygonTiles:
    """The tiles of one or more rasters that a polygon touches."""

    name: str
    """RASTER+VECTOR."""
    tiles: tuple[Tile, ...]
    """In order of raster, row, column."""

    @classmethod
    def open(cls, rasters: Sequence[Path], vector: Path, *, side: int = SIDE) -> PolygonTiles:
        """Read the polygons and the headers of the rasters; no pixel is read.

        Args:
            rasters: each is cut into tiles by itself.
            vector: polygons of all of them; other geometries are refused.
            side: largest side of a tile in pixels.

        Raises:
            InputError: a file cannot be read, a CRS is missing on one side or unusable, or no
                polygon lies on a raster.
            PluginError: no plugin for rasters is installed.
        """
        specs = [spec_of(str(path)) for path in rasters]
        frame = _read_polygons(vector)
        name = f"{rasters[0] if len(rasters) == 1 else rasters[0].parent}+{vector}"
        tiles: list[Tile] = []
        for spec in specs:
            with opened(spec) as source:
                info = source.info
            polygons = _in_pixels(frame, info, spec.path, vector)
            tiles += _tiles_of(spec, info, polygons, side)
        if not tiles:
            raise InputError(
                f"{vector}: none of its {len(frame)} polygons lies on {name.partition('+')[0]}; "
                "do both cover the same place?"
            )
        return cls(name=name, tiles=tuple(tiles))

    def __len__(self) -> int:
        return len(self.tiles)

    def key(self, i: int) -> str:
        """`raster#row_column` of the tile's first pixel."""
        _, y, x = self.tiles[i].window.start
        return f"{Path(self.tiles[i].raster.path).name}{PART}{y}_{x}"

    def read(self, i: int) -> Picture:
        """Picture i; polygon k of its tile has the id k + 1. Invalid pixels have no label.

        Raises:
            InputError: the raster cannot be read.
        """
        tile = self.tiles[i]
        with opened(tile.raster) as source:
            image, valid = pixels_of(source, tile.window, _stretch(tile.raster.path), self.key(i))
        labels = levels_of(_masks(tile), valid.shape)
        return Picture(name=self.key(i), image=image, labels=labels * valid)


@lru_cache(maxsize=4096)
def _stretch(path: str) -> Stretch:
    """Of the whole raster: equal numbers look equal in every tile."""
    with opened(spec_of(path)) as source:
        return registry().rescaler("percentile").fit(source, low=2.0, high=98.0)


def _read_polygons(path: Path) -> Any:
    """A GeoDataFrame of polygons."""
    import geopandas

    try:
        parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        frame = geopandas.read_parquet(path) if parquet else geopandas.read_file(path)
        empty = frame.geometry.isna() | frame.geometry.is_empty
    except Exception as error:  # the readers have no common error
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as polygons: {reason}") from error
    frame = frame[~empty]
    kinds = sorted(set(frame.geom_type) - {"Polygon", "MultiPolygon"})
    if kinds or not len(frame):
        found = f"also {', '.join(kinds)}" if kinds else "none"
        raise InputError(f"{path}: expected polygons, found {found}")
    return frame


def _in_pixels(frame: Any, info: ImageInfo, raster: str, vector: Path) -> NDArray[np.object_]:
    """Its geometries in pixels (x, y) of a raster, (0, 0) the corner of the first one."""
    import shapely

    if (frame.crs is None) != (info.crs is None):
        lacking, other = (str(vector), raster) if frame.crs is None else (raster, str(vector))
        raise InputError(f"{lacking} has no CRS, {other} has one; write it into the file first")
    moved = frame.geometry
    if info.crs is not None:
        try:
            moved = frame.geometry.to_crs(info.crs)
        except Exception as error:  # nor have pyproj and shapely
            raise InputError(
                f"{vector}: cannot be brought into the CRS of {raster}: {error}"
            ) from error
    polygons = moved.to_numpy()
    # what the raster's projection cannot hold does not lie on it
    lost = ~np.isfinite(shapely.bounds(polygons)).all(axis=1)
    inverse = np.linalg.inv(np.array(info.index_to_world)[np.ix_([0, 1, 3], [0, 1, 3])])
    placed: NDArray[np.object_] = shapely.transform(
        np.where(lost, shapely.Polygon(), polygons),
        lambda xy: xy @ inverse[:2, :2].T + inverse[:2, 2],
    )
    return placed


def _tiles_of(
    spec: SourceSpec, info: ImageInfo, geometries: NDArray[np.object_], side: int
) -> Iterator[Tile]:
    import shapely

    tree = shapely.STRtree(geometries)
    for window in windows_of(info.shape, side):
        (_, y0, x0), (_, y1, x1) = window.start, window.stop
        touching = tree.query(shapely.box(x0, y0, x1, y1), predicate="intersects")
        if touching.size:
            found = tuple(geometries[np.sort(touching)])
            yield Tile(raster=spec, window=window, polygons=found)


def _masks(tile: Tile) -> Iterator[NDArray[np.bool_]]:
    """Of each polygon the pixels (H, W) of the tile whose centres lie in it."""
    from rasterio import Affine
    from rasterio.features import rasterize

    _, y, x = tile.window.start
    shape, place = tile.window.shape[1:], Affine.translation(x, y)
    for polygon in tile.polygons:
        burnt = rasterize([polygon], out_shape=shape, transform=place, dtype=np.uint8)
        yield burnt.astype(bool)

"""Rasters as items of `samplat batch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RasterKind:
    """What `tile-segment` takes."""

    name: str = "raster"
    command: str = "tile-segment"
    suffix: str = ".tif"
    prompts: tuple[str, ...] = (
        ".geojson",
        ".json",
        ".gpkg",
        ".fgb",
        ".parquet",
        ".geoparquet",
        ".csv",
        ".tsv",
        ".txt",
    )

    def accepts(self, path: str) -> bool:
        """Whether a path may be a raster, by its name."""
        from samplat_raster.source import RasterFactory

        return RasterFactory().accepts(path)

    def inside(self, folder: Path) -> Sequence[tuple[str, str, Mapping[str, Any]]]:
        """Nothing: rasters are files, and globs name them."""
        return ()

    def arguments(self, image: str, outputs: Sequence[Path]) -> Sequence[str]:
        """INPUT OUTPUT..."""
        return (image, *map(str, outputs))

    @property
    def order(self) -> Any:
        """What `tile-segment` understands of its arguments."""
        from samplat_raster.commands import tile_segment

        return tile_segment

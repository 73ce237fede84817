"""The command line, as a person types it, on a real aerial picture with the bundled model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import geopandas
import rasterio

from raster.agreement import check_files

OUTPUTS = {".tif": "out.tif", ".parquet": "out.parquet", ".zarr": "out.zarr"}


def test_an_aerial_picture_becomes_files_that_agree(eval_data: Path, tmp_path: Path) -> None:
    picture = eval_data / "geo_nogt_naip_landsat" / "naip_20140720.tif"
    sizes = ["--tile-size", "256", "--halo", "64", "--points-per-side", "6"]
    command = [sys.executable, "-m", "samplat", "tile-segment", picture, *OUTPUTS.values(), *sizes]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " objects, 12 tiles, " in done.stdout
    outputs = {suffix: tmp_path / name for suffix, name in OUTPUTS.items()}
    check_files(picture, outputs)
    with rasterio.open(outputs[".tif"]) as cog:
        assert cog.overviews(1) == [2]
    assert len(geopandas.read_parquet(outputs[".parquet"])) >= 10

"""The demo writes files that other programs can open, and pictures that show something."""

import os
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image

DEMO = Path(__file__).parents[2] / "docs" / "examples" / "demo.py"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new"
    done = subprocess.run(
        [sys.executable, str(DEMO), "--output", str(folder), "--points-per-side=12"],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_files_have_the_same_objects_where_the_scene_is(output):
    with rasterio.open(output / "labels.tif") as cog, rasterio.open(output / "scene.tif") as scene:
        assert (cog.crs, cog.transform, cog.shape) == (scene.crs, scene.transform, scene.shape)
        labels, nodata = cog.read(1), cog.nodata
    frame = geopandas.read_parquet(output / "objects.parquet")
    ids = np.unique(labels[(labels > 0) & (labels != nodata)])
    assert len(ids) >= 10
    assert sorted(frame["id"].tolist()) == ids.tolist()
    assert frame.is_valid.all()


@pytest.mark.parametrize(
    ("name", "parts"), [("photograph.png", 2), ("scene.png", 1), ("demo.png", 3)]
)
def test_the_pictures_are_not_blank(output, name, parts):
    """Each part varies, and something in it is tinted: the photograph is grey by itself."""
    with Image.open(output / name) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for part in np.array_split(pixels, parts, axis=1):
        assert part.std() > 10
        assert (np.ptp(part, axis=2) > 20).mean() > 0.001


def test_the_readme_shows_such_a_picture(output):
    readmes = DEMO.parents[1] / "images" / "demo.png"
    with Image.open(readmes) as shown, Image.open(output / "demo.png") as made:
        assert made.height == shown.height
        assert made.width == pytest.approx(shown.width, abs=2)

"""The readers on real data, where they are at hand."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samplat_train.data.files import read_array
from samplat_train.data.opening import open_source
from samplat_train.data.pictures import split


@pytest.fixture(scope="module")
def data():
    beside = Path(__file__).parents[3] / "shared" / "data"
    root = Path(os.environ.get("SAMPLAT_DATA", beside)) / "eval"
    if not root.is_dir():
        pytest.skip("no evaluation data: set SAMPLAT_DATA")
    return root


def test_nuclei(data):
    folder = data / "bio_dsb2018"
    source = open_source(str(folder))
    assert len(source) == len(list((folder / "images").iterdir()))
    for i in range(0, len(source), 40):
        picture = source.read(i)
        labels = np.asarray(Image.open(folder / "labels" / f"{source.key(i)}.png"))
        assert np.array_equal(picture.labels[0], labels)
        assert picture.objects == len(np.unique(labels)) - 1 > 0


def test_hippocampi(data):
    sitk = pytest.importorskip("SimpleITK")
    folder = data / "med_hippocampus"
    source = open_source(str(folder))
    name = source.key(0).partition("#")[0]
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labels" / name)))
    mine = [i for i in range(len(source)) if source.key(i).startswith(name)]
    assert len(mine) == whole.any(axis=(1, 2)).sum()
    for i in mine:
        place = int(source.key(i).partition("#")[2])
        assert np.array_equal(source.read(i).labels[0], whole[place])
    rest, held = split(source, share=0.2)
    volumes = [{part.key(i).partition("#")[0] for i in range(len(part))} for part in (rest, held)]
    assert volumes[0].isdisjoint(volumes[1])
    assert len(volumes[0] | volumes[1]) == len(list((folder / "images").iterdir()))


def test_buildings(data, tmp_path):
    """Tiles and polygons agree with the label rasters that were made from them."""
    rasterio = pytest.importorskip("rasterio")
    tiles = sorted((data / "geo_banepa" / "images").iterdir())[:3]
    expected = []
    for tile in tiles:
        with rasterio.open(data / "geo_banepa" / "labels" / tile.name) as labels:
            place, crs = labels.transform, labels.crs
            expected.append(labels.read(1))
        pixels = np.asarray(Image.open(tile)).transpose(2, 0, 1)
        profile = {"count": 3, "height": 512, "width": 512, "dtype": "uint8"}
        with rasterio.open(tmp_path / tile.name, "w", crs=crs, transform=place, **profile) as out:
            out.write(pixels)
    source = open_source(f"{tmp_path}+{data / 'geo_banepa' / 'buildings.geojson'}")
    assert [source.key(i) for i in range(len(source))] == [f"{t.name}#0_0" for t in tiles]
    for i, labels in enumerate(expected):
        picture = source.read(i)
        ours = picture.labels.any(axis=0)
        assert (ours & (labels > 0)).sum() / (ours | (labels > 0)).sum() > 0.99
        assert np.array_equal(picture.image, np.asarray(Image.open(tiles[i])))


def test_a_panchromatic_scene(data):
    pytest.importorskip("rasterio")
    folder = data / "geo_atlanta_spacenet4"
    rasters = open_source(
        f"{folder / 'images' / 'sample_geotiff.tif'}+{folder / 'buildings.geojson'}"
    )
    pictures = open_source(str(folder))
    first, second = rasters.read(0), pictures.read(0)
    ours, theirs = first.labels.any(axis=0), second.labels.any(axis=0)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.99
    assert np.corrcoef(first.image[..., 0].ravel(), second.image[..., 0].ravel())[0, 1] > 0.9


def test_no_picture_to_train_on_is_one_to_evaluate_on(data):
    """By the digest of the decoded pixels, whatever the files are called."""
    train = data.parent / "train"
    if not train.is_dir():
        pytest.skip("no training data beside the evaluation data")

    def digests(root):
        files = (p for p in root.rglob("*") if p.suffix in (".png", ".jpg", ".tif"))
        pictures = (p for p in files if "labels" not in str(p.relative_to(root)))
        return {hashlib.sha256(read_array(p).tobytes()).hexdigest() for p in pictures}

    learned, judged = digests(train), digests(data)
    assert len(learned) > 300
    assert len(judged) > 200
    assert not learned & judged

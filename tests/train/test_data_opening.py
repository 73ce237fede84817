"""A path is opened by the reader that it is for, and what is none says what was found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from samplat import InputError
from samplat_train.data.coco import CocoFile
from samplat_train.data.folders import PictureFolder
from samplat_train.data.opening import open_source
from samplat_train.data.sa1b import Sa1bFolder, write_sa1b
from samplat_train.data.vector import PolygonTiles
from samplat_train.data.volumes import VolumeFolder

PIXELS = np.zeros((8, 9, 3), np.uint8)
MASK = np.zeros((8, 9), bool)
MASK[2:5, 3:7] = True


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pictures(folder):
    save(folder / "images" / "a.png", PIXELS)
    save(folder / "labels" / "a.png", MASK.astype(np.uint8))


def volumes(folder):
    sitk = pytest.importorskip("SimpleITK")
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
        volume = sitk.GetImageFromArray(np.stack([MASK.astype(np.uint8)] * 2))
        sitk.WriteImage(volume, str(folder / part / "a.nii.gz"))


def sa1b(folder):
    write_sa1b(folder, "sa_1", PIXELS, MASK[None])


def coco(folder, name="instances.json"):
    save(folder / "a.png", PIXELS)
    square = {"id": 1, "image_id": 1, "segmentation": [[3, 2, 7, 2, 7, 5, 3, 5]]}
    image = {"id": 1, "file_name": "a.png", "height": 8, "width": 9}
    (folder / name).write_text(json.dumps({"images": [image], "annotations": [square]}))


def polygons(folder):
    rasterio = pytest.importorskip("rasterio")
    folder.mkdir(exist_ok=True)
    profile = {"count": 1, "height": 8, "width": 9, "dtype": "uint8"}
    place = rasterio.Affine(1, 0, 100, 0, -1, 50)
    with rasterio.open(folder / "r.tif", "w", crs=4326, transform=place, **profile) as out:
        out.write(PIXELS[..., 0], 1)
    ring = [[103, 48], [107, 48], [107, 45], [103, 45], [103, 48]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {}, "geometry": shape}
    text = json.dumps({"type": "FeatureCollection", "features": [feature]})
    (folder / "v.geojson").write_text(text)


MAKERS = {
    pictures: PictureFolder,
    volumes: VolumeFolder,
    sa1b: Sa1bFolder,
    coco: CocoFile,
    polygons: PolygonTiles,
}


@pytest.mark.parametrize("make", MAKERS, ids=lambda m: m.__name__)
def test_folders_of_every_layout(tmp_path, make):
    make(tmp_path / "data")
    source = open_source(str(tmp_path / "data"))
    assert isinstance(source, MAKERS[make])
    assert np.array_equal(source.read(0).labels[0] > 0, MASK)
    assert source.name.startswith(str(tmp_path / "data"))


def test_coco_by_its_file_and_with_pictures_elsewhere(tmp_path):
    coco(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "there" / "a.png")
    with pytest.raises(InputError, match=r"a\.png is missing"):
        open_source(f"{tmp_path}/instances.json").read(0)
    source = open_source(f"{tmp_path}/there+{tmp_path}/instances.json")
    assert np.array_equal(source.read(0).labels[0] > 0, MASK)


@pytest.mark.parametrize("raster", ["r.tif", "."])
def test_rasters_and_polygons_by_a_plus(tmp_path, raster):
    folder = tmp_path / "a+b"
    polygons(folder)
    source = open_source(f"{folder / raster}+{folder / 'v.geojson'}")
    assert isinstance(source, PolygonTiles)
    assert np.array_equal(source.read(0).labels[0] > 0, MASK)


def test_geojson_called_json_is_polygons(tmp_path):
    polygons(tmp_path)
    (tmp_path / "v.geojson").rename(tmp_path / "v.json")
    source = open_source(f"{tmp_path}/r.tif+{tmp_path}/v.json")
    assert isinstance(source, PolygonTiles)
    with pytest.raises(InputError, match=r"v\.json: is no COCO file; polygons need the raster"):
        open_source(f"{tmp_path}/v.json")


def test_what_is_nothing_says_what_was_looked_for_and_found(tmp_path):
    for name in ("b.txt", "c.dat"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError) as error:
        open_source(str(tmp_path))
    message = str(error.value)
    for layout in ("images/ and labels/", "SA-1B", "COCO", "vector file", "of a job"):
        assert layout in message
    assert message.endswith("found b.txt, c.dat, images/")
    assert "\n" not in message


def test_many_files_are_counted(tmp_path):
    for k in range(9):
        (tmp_path / f"{k}.txt").touch()
    with pytest.raises(InputError, match=r"found 0\.txt, .*4\.txt and 4 more"):
        open_source(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found nothing"):
        open_source(str(tmp_path / "empty"))


def test_files_and_pairs_that_are_nothing(tmp_path):
    coco(tmp_path)
    (tmp_path / "b.txt").touch()
    for text, message in {
        f"{tmp_path}/b.txt": r"b\.txt: expected a COCO \.json, RASTER\+VECTOR, or a folder",
        f"{tmp_path}/nothing": "there is no such file or folder",
        f"{tmp_path}/a.png+{tmp_path}/nothing": "there is no such file or folder",
        f"{tmp_path}/a.png+{tmp_path}/b.txt": r"b\.txt: expected polygons",
    }.items():
        with pytest.raises(InputError, match=message):
            open_source(text)
    (tmp_path / "bare").mkdir()
    (tmp_path / "v.gpkg").touch()
    with pytest.raises(InputError, match=r"bare: expected rasters .* found nothing"):
        open_source(f"{tmp_path}/bare+{tmp_path}/v.gpkg")


def test_two_coco_files_are_one_too_many(tmp_path):
    coco(tmp_path)
    coco(tmp_path, "more.json")
    with pytest.raises(InputError, match="expected one of"):
        open_source(str(tmp_path))

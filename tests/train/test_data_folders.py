"""Folders of pictures with label pictures: what they accept, and every fault by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import samplat
from samplat import InputError
from samplat_train.data.folders import PictureFolder

LABELS = np.kron(np.array([[0, 1, 700], [2, 0, 3]], np.uint16), np.ones((5, 6), np.uint16))
PIXELS = np.random.default_rng(0).integers(0, 256, (*LABELS.shape, 3), dtype=np.uint8)


def write(folder, name, pixels=PIXELS, labels=LABELS, suffix=".png", home="labels"):
    for part, array in (("images", pixels), (home, labels)):
        path = folder / part / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(path, array)
        else:
            Image.fromarray(array).save(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".npy"])
def test_what_was_written_is_read(tmp_path, suffix):
    write(tmp_path, "deep/er.a", suffix=suffix)
    source = PictureFolder.open(tmp_path)
    picture = source.read(0)
    assert picture.name == source.key(0) == "deep/er.a"
    assert np.array_equal(picture.image, PIXELS)
    assert np.array_equal(picture.labels, LABELS[None])
    assert picture.objects == 4


def test_levels_of_an_array(tmp_path):
    levels = np.stack([LABELS, LABELS % 3])
    write(tmp_path, "a", labels=levels, suffix=".npy")
    assert np.array_equal(PictureFolder.open(tmp_path).read(0).labels, levels)


def test_grey_alpha_and_palettes(tmp_path):
    write(tmp_path, "grey", PIXELS[..., 0])
    write(tmp_path, "rgba", np.concatenate([PIXELS, PIXELS[..., :1]], axis=2))
    write(tmp_path, "wide", PIXELS[..., 0].astype(np.uint16) * 256)
    write(tmp_path, "zones")
    for part, array in (("images", LABELS % 5), ("labels", LABELS % 5)):
        indexed = Image.fromarray(array.astype(np.uint8), "L").convert("P")
        indexed.putpalette([v for k in range(256) for v in (k, 255 - k, 7)])
        indexed.putdata(array.astype(np.uint8).ravel().tolist())
        indexed.save(tmp_path / part / "zones.png")
    grey, rgba, wide, zones = (PictureFolder.open(tmp_path).read(i) for i in range(4))
    assert (grey.image == PIXELS[..., :1]).all()
    assert np.array_equal(rgba.image, PIXELS)
    order = np.argsort(PIXELS[..., 0], axis=None)
    assert (np.diff(wide.image[..., 2].ravel()[order].astype(int)) >= 0).all()
    assert np.array_equal(zones.labels[0], LABELS % 5)
    assert (zones.image[..., 1] == 255 - LABELS % 5).all()


@pytest.fixture
def deep_colours(tmp_path):
    """A folder with a picture of 16-bit colours, of which none uses the upper bits."""
    rasterio = pytest.importorskip("rasterio")
    write(tmp_path, "a", suffix=".tif")
    profile = {"driver": "GTiff", "width": 18, "height": 10, "count": 3, "dtype": "uint16"}
    placed = rasterio.Affine(1, 0, 100, 0, -1, 100)
    path = tmp_path / "images" / "a.tif"
    with rasterio.open(path, "w", transform=placed, photometric="rgb", **profile) as out:
        out.write(PIXELS.transpose(2, 0, 1).astype(np.uint16) // 2)
    return tmp_path


def test_deep_colours_are_not_cut_to_eight_bits(deep_colours):
    image = PictureFolder.open(deep_colours).read(0).image
    order = np.argsort(PIXELS, axis=None)
    assert (np.diff(image.ravel()[order].astype(int)) >= 0).all()
    assert (image.min(), image.max()) == (0, 255)


def test_without_a_raster_reader_deep_colours_are_refused(deep_colours, monkeypatch):
    monkeypatch.setattr("samplat_train.data.files.registry", samplat.Registry)
    with pytest.raises(InputError, match=r"a\.tif: .* colours of 16 bits; pip install"):
        PictureFolder.open(deep_colours).read(0)


def test_a_float_tiff_is_stretched_as_picture_and_refused_as_labels(tmp_path):
    write(tmp_path, "a", PIXELS[..., 0].astype(np.float32), suffix=".tif")
    assert PictureFolder.open(tmp_path).read(0).image.max() == 255
    write(tmp_path, "a", labels=LABELS.astype(np.float32), suffix=".tif")
    with pytest.raises(InputError, match=r"labels/a\.tif: labels must be integers"):
        PictureFolder.open(tmp_path).read(0)


def test_the_first_labels_that_are_not_semantic(tmp_path):
    write(tmp_path, "a", home="labels_axons")
    write(tmp_path, "a", labels=LABELS * 0, home="labels_semantic")
    assert PictureFolder.open(tmp_path).read(0).objects == 4


def test_other_files_do_not_matter(tmp_path):
    write(tmp_path, "a")
    for name in (".hidden.png", "b.partial", "a.png.aux.xml", "notes.txt"):
        (tmp_path / "images" / name).write_text("?")
    assert len(PictureFolder.open(tmp_path)) == 1


def test_nothing_is_read_at_opening(tmp_path):
    write(tmp_path, "a")
    (tmp_path / "images" / "a.png").write_bytes(b"?")
    source = PictureFolder.open(tmp_path)
    with pytest.raises(InputError, match=r"images/a\.png: cannot be read as a picture"):
        source.read(0)


def test_folders_without_pairs_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected images/ and labels/"):
        PictureFolder.open(tmp_path / "nothing")
    write(tmp_path, "a")
    write(tmp_path, "b")
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(InputError, match="no labels for 1 images, first b"):
        PictureFolder.open(tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "a", suffix=".tif")
    with pytest.raises(InputError, match=r"a\.tif and a\.png are of one name"):
        PictureFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("labels", "suffix", "message"),
    [
        (LABELS[:5], ".png", r"a\.png: labels of \(5, 18\) for an image of \(10, 18\)"),
        (PIXELS, ".png", r"a\.png: expected one number per pixel, got a picture of 3 channels"),
        (LABELS.astype(float), ".npy", r"a\.npy: labels must be integers, .* got float64"),
        (-LABELS.astype(int), ".npy", r"a\.npy: labels must be >= 0, got -700"),
        (LABELS[:, 0], ".npy", r"a\.npy: expected labels \(H, W\) or \(L, H, W\)"),
        (np.array([{}]), ".npy", r"a\.npy: cannot be read as a picture or labels"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, suffix, message):
    write(tmp_path, "a", labels=labels, suffix=suffix)
    with pytest.raises(InputError, match=f"labels/{message}"):
        PictureFolder.open(tmp_path).read(0)


def test_a_picture_without_objects_is_one(tmp_path):
    write(tmp_path, "a", labels=LABELS * 0)
    assert PictureFolder.open(tmp_path).read(0).objects == 0

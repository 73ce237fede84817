from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from raster.crafted import UTM, VRT_BOMB, VRT_SPY, blobs, write
from samplat import InputError, Window
from samplat_raster.source import RasterFactory, RasterSource

WHOLE = Window(start=(0, 0, 0), stop=(1, 40, 60))


def scene(path: Path, dtype: str = "uint8", bands: int = 3, **profile: Any) -> Path:
    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 120, (bands, 40, 60)).astype(dtype)
    return write(path, pixels, **{**UTM, **profile})


def test_a_window_is_what_rasterio_reads(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif", "uint16")
    source = RasterSource(str(path))
    window = Window(start=(0, 5, 7), stop=(1, 30, 60))
    with rasterio.open(path) as dataset:
        expected = dataset.read(window=((5, 30), (7, 60)))
        assert source.info.crs is not None
        assert rasterio.crs.CRS.from_wkt(source.info.crs) == dataset.crs
    assert np.array_equal(source.read(window)[0], expected.transpose(1, 2, 0))
    assert source.valid(window).all()
    assert source.info.shape == (1, 40, 60)
    assert source.info.spacing == (1.0, 0.5, 0.5)
    assert source.info.index_to_world[:2] == ((0.5, 0, 0, 500_000), (0, -0.5, 0, 4_000_000))


def test_bands_are_chosen_by_number_and_colour(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif", bands=5)
    with rasterio.open(path) as dataset:
        pixels = dataset.read()
    first_three = RasterSource(str(path)).read(WHOLE)
    assert np.array_equal(first_three[0], pixels[:3].transpose(1, 2, 0))
    chosen = RasterSource(str(path), bidx=[5, 1]).read(WHOLE)
    assert np.array_equal(chosen[0], pixels[[4, 0]].transpose(1, 2, 0))
    with rasterio.open(path, "r+") as dataset:
        colours = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
        dataset.colorinterp = (*colours, ColorInterp.undefined, ColorInterp.alpha)
    by_colour = RasterSource(str(path)).read(WHOLE)
    assert np.array_equal(by_colour[0], pixels[[2, 1, 0]].transpose(1, 2, 0))


@pytest.mark.parametrize(("bidx", "told"), [([4], "no band 4"), ([0], "no band 0")])
def test_a_band_that_is_not_there_is_refused(tmp_path: Path, bidx: list[int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        RasterSource(str(scene(tmp_path / "a.tif")), bidx=bidx)


def test_an_alpha_band_is_a_mask(tmp_path: Path) -> None:
    pixels = np.full((4, 40, 60), 9, np.uint8)
    pixels[3, :, :20] = 0
    path = write(tmp_path / "a.png", pixels, driver="PNG")
    source = RasterSource(str(path))
    assert source.info.bands == 3
    assert not source.valid(WHOLE)[0, :, :20].any()
    assert source.valid(WHOLE)[0, :, 20:].all()
    with pytest.raises(InputError, match="alpha band"):
        RasterSource(str(path), bidx=[4])


def test_a_mask_band_is_a_mask(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.arange(60) >= 10 + np.zeros((40, 1)))
    valid = RasterSource(str(path)).valid(WHOLE)[0]
    assert not valid[:, :10].any()
    assert valid[:, 10:].all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_nodata_is_where_all_chosen_bands_have_it(tmp_path: Path, dtype: str) -> None:
    pixels = np.full((2, 40, 60), 5, dtype)
    pixels[:, :3] = 0
    pixels[0, 3:6] = 0
    path = write(tmp_path / "a.tif", pixels, nodata=0, **UTM)
    valid = RasterSource(str(path)).valid(WHOLE)[0]
    assert not valid[:3].any()
    assert valid[3:].all()
    assert RasterSource(str(path), bidx=[1]).valid(WHOLE)[0, :6].sum() == 0
    assert not RasterSource(str(path), nodata=5.0, bidx=[2]).valid(WHOLE)[0, 3:].any()


def test_nan_and_infinity_are_invalid_in_any_band(tmp_path: Path) -> None:
    pixels = np.ones((2, 40, 60), np.float32)
    pixels[0, 0, 0], pixels[1, 0, 1], pixels[0, 0, 2] = np.nan, np.inf, -9999
    path = write(tmp_path / "a.tif", pixels, nodata=float("nan"), **UTM)
    valid = RasterSource(str(path)).valid(WHOLE)
    assert np.argwhere(~valid).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif", bands=1)
    colours = {i: (i, 255 - i, 7, 255) for i in range(256)}
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, colours)
        numbers = dataset.read(1)
    source = RasterSource(str(path))
    assert (source.info.bands, source.info.dtype) == (3, "uint8")
    assert np.array_equal(source.read(WHOLE)[0, ..., 1], 255 - numbers)
    assert source.thumbnail(30)[0].shape == (1, 20, 30, 3)


def test_a_thumbnail_comes_from_overviews(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, np.ones((1, 512, 1024), np.uint8), tiled=True, **UTM)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([4])
    with rasterio.open(path, OVERVIEW_LEVEL=0) as overview:
        assert overview.shape == (128, 256)
    pixels, valid = RasterSource(str(path)).thumbnail(256)
    assert pixels.shape == (1, 128, 256, 1)
    assert valid.shape == (1, 128, 256)
    assert RasterSource(str(path)).thumbnail(5000)[0].shape == (1, 512, 1024, 1)


def test_the_digest_changes_with_pixels_and_options(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif")
    first = RasterSource(str(path)).digest
    assert RasterSource(str(path)).digest == first
    assert RasterSource(str(path), bidx=[1]).digest != first
    assert RasterSource(str(path), nodata=3.0).digest != first
    with rasterio.open(path, "r+") as dataset:
        dataset.write(np.full((40, 60), 77, np.uint8), 2)
    assert RasterSource(str(path)).digest != first


def test_it_pickles_as_what_it_was_opened_with(tmp_path: Path) -> None:
    source = RasterSource(str(scene(tmp_path / "a.tif")), bidx=[2])
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 our own
    assert len(pickle.dumps(source)) < 500
    assert np.array_equal(again.read(WHOLE), source.read(WHOLE))
    assert again.digest == source.digest


def test_threads_read_at_once(tmp_path: Path) -> None:
    source = RasterSource(str(scene(tmp_path / "a.tif", compress="deflate")))
    expected, wrong = source.read(WHOLE), []

    def read() -> None:
        for row in range(40):
            window = Window(start=(0, row, 0), stop=(1, row + 1, 60))
            if not np.array_equal(source.read(window)[0, 0], expected[0, row]):
                wrong.append(row)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.close()
    assert not wrong


def test_no_crs_is_no_error_and_no_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((40, 60), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = RasterSource(str(path)).info
    assert info.crs is None
    assert info.index_to_world[0] == (1, 0, 0, 0)


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
def test_complex_pixels_are_refused(tmp_path: Path, dtype: str) -> None:
    pixels = np.ones((1, 4, 4), np.complex64)
    with pytest.raises(InputError, match=f"{dtype} pixels; expected real"):
        RasterSource(str(write(tmp_path / "a.tif", pixels, dtype=dtype)))


def test_what_is_no_raster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.tif").write_text("These are my notes.")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "bomb.tif").write_text(VRT_BOMB)
    for name, told in (
        ("none.tif", "there is no file"),
        ("", "got the directory"),
        ("notes.tif", "is not a raster"),
        ("empty.tif", "is empty"),
        ("bomb.tif", "is a VRT"),
    ):
        with pytest.raises(InputError, match=told):
            RasterFactory().open(str(tmp_path / name))


def test_unknown_options_and_paths_of_others(tmp_path: Path) -> None:
    factory = RasterFactory()
    with pytest.raises(InputError, match="got 'band'"):
        factory.open(str(tmp_path / "a.tif"), band=1)
    assert factory.accepts("https://example.org/scene?x=1")
    assert factory.accepts("s3://bucket/key")
    assert factory.accepts("/vsizip/a.zip/b.tif")
    assert factory.accepts("A.TIF")
    assert not factory.accepts("a.nii.gz")


def test_an_unusable_transform_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.ones((4, 4), np.uint8), driver="PNG")
    path.with_suffix(".pgw").write_text("1\n1\n1\n1\n5\n7\n")
    with pytest.raises(InputError, match="unusable geotransform"):
        RasterSource(str(path))


def test_a_world_file_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", np.ones((4, 4), np.uint8), driver="PNG")
    path.with_suffix(".pgw").write_text("2\n0\n0\n-2\n101\n199\n")
    info = RasterSource(str(path)).info
    assert info.index_to_world[:2] == ((2, 0, 0, 100), (0, -2, 0, 200))


@pytest.mark.parametrize("how", ["metadata", "overview", "mask"])
def test_companions_cannot_read_other_files(tmp_path: Path, how: str) -> None:
    secret = tmp_path / "elsewhere" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(b"s" * 100)
    path = write(tmp_path / "a.tif", np.zeros((20, 20), np.uint8), **UTM)
    spy = {"metadata": secret.parent / "o.vrt", "overview": tmp_path / "a.tif.ovr"}
    companion = spy.get(how, tmp_path / "a.tif.msk")
    companion.write_text(VRT_SPY.format(path=secret))
    if how == "metadata":
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(companion))
    with pytest.raises(InputError, match="not opened"):
        RasterSource(str(path))


def test_honest_companions_are_used(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, blobs((300, 400), 5).astype(np.uint8), **UTM)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.zeros((300, 400), bool))
    assert (tmp_path / "a.tif.ovr").exists()
    assert (tmp_path / "a.tif.msk").exists()
    source = RasterSource(str(path))
    assert not source.valid(Window(start=(0, 0, 0), stop=(1, 300, 400))).any()
    assert source.thumbnail(200)[0].shape == (1, 150, 200, 1)


def test_a_url_is_read_in_place(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif", tiled=True, compress="deflate")
    # in a process of its own: GDAL waits for an answer without letting other threads run
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/a.tif"
        source = RasterSource(url)
        assert np.array_equal(source.read(WHOLE), RasterSource(str(path)).read(WHOLE))
        assert source.digest == RasterSource(url).digest
        with pytest.raises(InputError, match="cannot open http://127.0.0.1"):
            RasterSource(url.replace("a.tif", "b.tif"))
        source.close()
        server.kill()

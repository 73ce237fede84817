"""Files as layers, against the libraries that others read them with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clicks.files import write_raster
from clicks.gui import seen, wait
from napari_sam import reading
from napari_sam.lazy import Lazy
from napari_sam.reading import get_reader, read_layers
from napari_sam.views import view_of
from samplat import InputError

BYTES = np.random.default_rng(5).integers(1, 250, (5, 70, 90)).astype(np.uint8)


@given(data=st.data())
def test_lazy_arrays_are_indexed_like_arrays(data: st.DataObject) -> None:
    pixels = np.arange(4 * 6 * 5).reshape(4, 6, 5)
    lazy = Lazy(pixels.shape, pixels.dtype, lambda window: pixels[window])
    ends = st.one_of(st.none(), st.integers(-8, 8))
    cut = st.builds(slice, ends, ends, st.one_of(st.none(), st.integers(1, 4)))
    index = [data.draw(st.one_of(cut, st.integers(-n, n - 1))) for n in pixels.shape]
    kept = data.draw(st.integers(0, 3))
    got = tuple(index[:kept]) + data.draw(st.sampled_from([(), (...,)]))
    np.testing.assert_array_equal(lazy[got], pixels[got])
    np.testing.assert_array_equal(np.asarray(lazy), pixels)


def test_only_every_nth_pixel_of_much_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_sam.lazy.AT_ONCE", 800)
    pixels, most = np.arange(100 * 20.0).reshape(100, 20), [0]

    def read(window: Any) -> Any:
        most[0] = max(most[0], pixels[window].nbytes)
        return pixels[window]

    np.testing.assert_array_equal(Lazy(pixels.shape, float, read)[::7, ::3], pixels[::7, ::3])
    assert most[0] <= 800
    with pytest.raises(IndexError):
        Lazy(pixels.shape, float, read)[::-1]
    with pytest.raises(IndexError):
        Lazy(pixels.shape, float, read)[0, 0, 0]


def test_grey_colours_and_other_bands(tmp_path: Path) -> None:
    ((grey, told, kind),) = read_layers(write_raster(tmp_path / "grey.tif", BYTES[:1]))
    np.testing.assert_array_equal(np.asarray(grey), BYTES[0])
    assert (kind, told["contrast_limits"], told["metadata"]["crs"][:6]) == (
        "image",
        (0.0, 255.0),
        "PROJCS",
    )
    ((rgb, told, _),) = read_layers(
        write_raster(tmp_path / "rgb.tif", BYTES[:3], photometric="RGB")
    )
    assert told["rgb"]
    np.testing.assert_array_equal(rgb[10:20, 5:8], BYTES[:3, 10:20, 5:8].transpose(1, 2, 0))

    clear = BYTES[:4].copy()
    clear[3] = np.where(clear[3] < 100, 0, 255)
    ((rgba, _, _),) = read_layers(
        write_raster(tmp_path / "rgba.tif", clear, photometric="RGB", alpha="yes")
    )
    np.testing.assert_array_equal(rgba[..., 3], clear[3])
    np.testing.assert_array_equal(
        np.asarray(rgba)[clear[3] > 0, :3], clear[:3].transpose(1, 2, 0)[clear[3] > 0]
    )

    five = read_layers(write_raster(tmp_path / "five.tif", BYTES.astype(np.uint16) * 9))
    assert [told["name"] for _, told, _ in five] == [f"five.tif band {n}" for n in range(1, 6)]
    for band, (data, told, _) in enumerate(five):
        np.testing.assert_array_equal(np.asarray(data), BYTES[band].astype(np.uint16) * 9)
        assert 0 < told["contrast_limits"][0] < told["contrast_limits"][1] < 9 * 250
    nir = read_layers(write_raster(tmp_path / "nir.tif", BYTES[:4], photometric="RGB", alpha="no"))
    assert [bool(told.get("rgb")) for _, told, _ in nir] == [True, False]
    np.testing.assert_array_equal(np.asarray(nir[1][0]), BYTES[3])

    many = np.concatenate([BYTES] * 4)
    ((data, told, _),) = read_layers(write_raster(tmp_path / "many.tif", many))
    np.testing.assert_array_equal(data[3:9, 7:20, 4], many[3:9, 7:20, 4])
    assert told["axis_labels"] == ("band", "south", "east")


def test_no_data_is_nan_where_it_can_be(tmp_path: Path) -> None:
    values = BYTES[:1].astype(np.float32)
    values[0, 5:9] = -9999
    path = write_raster(tmp_path / "dem.tif", values, nodata=-9999)
    ((data, told, _),) = read_layers(path)
    assert np.isnan(data[5:9]).all()
    np.testing.assert_array_equal(data[9:], values[0, 9:])
    assert told["contrast_limits"][0] > 0
    assert told["metadata"]["nodata"] == -9999


@pytest.mark.parametrize("turn", [0, 30], ids=["north up", "rotated"])
def test_rasters_of_one_crs_lie_over_each_other(tmp_path: Path, turn: float) -> None:
    import rasterio
    from napari.layers import Image
    from rasterio.transform import Affine

    placed = []
    for name, x, y, size in (("a", 334_000, 3_060_000, 0.3), ("b", 334_007, 3_060_004, 0.5)):
        where = Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(size, -size)
        path = write_raster(tmp_path / f"{name}.tif", BYTES[:1], transform=where)
        ((data, told, _),) = read_layers(path)
        layer = Image(data, **told)
        south, east = told["metadata"]["origin"]
        with rasterio.open(path) as file:
            for place in ((0, 0), (41, 13)):
                x, y = file.transform @ (place[1] + 0.5, place[0] + 0.5)
                found = np.add(layer.data_to_world(place), (south, east))
                np.testing.assert_allclose(found, (-y, x), atol=1e-6)
        assert np.abs(layer.data_to_world((0, 0))).max() < 2e4  # pixels are exact in 32 bits
        assert [str(unit) for unit in layer.units] == ["meter", "meter"]
        placed.append(told["metadata"]["origin"])
    assert placed[0] == placed[1]


def test_levels_are_the_overviews_and_what_is_not_looked_at_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rasterio

    from samplat_raster.source import RasterSource

    large = np.zeros((1, 2000, 1501), np.uint8)
    large[0, 900:1100, 700:900] = 200
    path = write_raster(tmp_path / "large.tif", large, overviews=(2, 4), tiled=True)
    read: list[Any] = []
    plain = RasterSource.read

    def counted(source: RasterSource, window: Any) -> Any:
        read.append(window.shape)
        return plain(source, window)

    monkeypatch.setattr(RasterSource, "read", counted)
    ((levels, told, _),) = read_layers(path)
    assert told["multiscale"]
    assert [level.shape for level in levels] == [(2000, 1501), (1000, 751), (500, 376)]
    assert not read
    with rasterio.open(path, OVERVIEW_LEVEL=0) as overview:
        np.testing.assert_array_equal(np.asarray(levels[1]), overview.read(1))
    assert levels[0][950:960, 750:760].min() == 200
    assert read == [(1, 1000, 751), (1, 10, 10)]

    ((levels, _, _),) = read_layers(write_raster(tmp_path / "plain.tif", large))
    assert [level.shape for level in levels] == [(2000, 1501), (1000, 751)]
    np.testing.assert_array_equal(np.asarray(levels[1])[455:545, 355:445], 200)


def test_volumes_lie_in_millimetres(tmp_path: Path) -> None:
    import nibabel
    from napari.layers import Image

    values = np.random.default_rng(1).integers(0, 999, (9, 8, 7)).astype(np.int16)
    turned = np.diag([-1.5, 2, 3, 1]) + 0.0
    turned[:3, 3] = (30, -20, 10)
    nibabel.save(nibabel.Nifti1Image(values, turned), tmp_path / "scan.nii")
    ((data, told, _),) = read_layers(str(tmp_path / "scan.nii"))
    np.testing.assert_array_equal(np.asarray(data), values.transpose())
    layer = Image(data, **told)
    np.testing.assert_allclose(layer.scale, (3, 2, 1.5), atol=1e-5)
    x, y, z = (turned @ (2, 3, 4, 1))[:3]
    np.testing.assert_allclose(layer.data_to_world((4, 3, 2)), (z, -y, -x), atol=1e-5)
    assert (told["axis_labels"], [str(u) for u in layer.units]) == (
        ("z", "y", "x"),
        ["millimeter"] * 3,
    )

    angle = np.radians(20)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    nibabel.save(nibabel.Nifti1Image(values, turned), tmp_path / "oblique.nii.gz")
    ((data, told, _),) = read_layers(str(tmp_path / "oblique.nii.gz"))
    np.testing.assert_allclose(told["scale"], (3, 1, 1), atol=1e-5)
    matrix = np.array(told["metadata"]["samplat"]["index_to_world"])
    np.testing.assert_allclose(matrix, np.diag([-1, -1, 1, 1]) @ turned, atol=1e-5)


def test_times_become_layers(tmp_path: Path) -> None:
    import nibabel

    values = np.random.default_rng(1).integers(0, 999, (5, 6, 7, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "bold.nii")
    layers = read_layers(str(tmp_path / "bold.nii"))
    assert len(layers) == 3
    for time, (data, _, _) in enumerate(layers):
        np.testing.assert_array_equal(np.asarray(data), values[..., time].transpose())


@pytest.mark.parametrize("version", [2, 3], ids=["0.4", "0.5"])
def test_levels_of_ome_zarr(tmp_path: Path, version: int) -> None:
    from clicks.files import write_ome_zarr

    values = np.random.default_rng(1).integers(0, 999, (4, 40, 60)).astype(np.uint16)
    path = write_ome_zarr(tmp_path / "image.ome.zarr", values, version)
    ((levels, told, _),) = read_layers(str(path))
    assert [level.shape for level in levels] == [(4, 40, 60), (4, 20, 30)]
    np.testing.assert_array_equal(levels[0][2, 5:9], values[2, 5:9])
    np.testing.assert_array_equal(levels[1][1], values[1, ::2, ::2])
    assert told["scale"] == [2.0, 0.5, 0.5]


def test_what_is_not_ours_is_left_to_others(tmp_path: Path) -> None:
    import zarr
    from tifffile import imwrite

    zarr.create_array(tmp_path / "labels.zarr", shape=(5, 5), dtype="uint8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("nothing")
    for name in ("labels.zarr", "notes", "notes/notes.txt"):
        assert get_reader(str(tmp_path / name)) is None
    assert get_reader([str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]) is None
    imwrite(tmp_path / "stack.tif", np.zeros((6, 20, 30), np.uint8))
    assert reading.factory_for(str(tmp_path / "stack.tif")).name == "volume"  # type: ignore[union-attr]
    ((stack, _, _),) = read_layers(str(tmp_path / "stack.tif"))
    assert stack.shape == (6, 20, 30)


def test_a_damaged_file_is_a_notification_and_no_layer(viewer: Any, tmp_path: Path) -> None:
    from napari.utils.notifications import notification_manager
    from qtpy.QtCore import QTimer

    whole = Path(write_raster(tmp_path / "whole.tif", BYTES[:1])).read_bytes()
    bad = tmp_path / "bad.tif"
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"bad\.tif is cut off"):
        read_layers(str(bad))
    before = len(notification_manager.records)
    drop = viewer.window._qt_viewer._qt_open
    with notification_manager, warnings.catch_warnings():
        QTimer.singleShot(0, lambda: drop([str(bad)], stack=False, plugin="samplat"))
        wait(lambda: len(notification_manager.records) > before)
    assert "bad.tif is cut off" in notification_manager.records[-1].message
    assert "\n" not in notification_manager.records[-1].message
    assert len(viewer.layers) == 0


def test_the_window_shows_a_raster_where_it_lies(viewer: Any, tmp_path: Path) -> None:
    pixels = np.zeros((1, 60, 60), np.uint8)
    pixels[0, 20, 30] = 255
    (layer,) = viewer.open(write_raster(tmp_path / "a.tif", pixels), plugin="samplat")
    viewer.reset_view()
    assert seen(viewer, layer.data_to_world((20, 30))).min() > 200
    assert seen(viewer, layer.data_to_world((19, 30))).max() < 50
    assert seen(viewer, layer.data_to_world((20, 31))).max() < 50


@pytest.mark.parametrize("kind", ["grey", pytest.param("colours", marks=pytest.mark.slow)])
def test_what_a_job_embedded_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A click in a tile of `tile-segment --cache`, on a raster that has to be stretched."""
    import subprocess
    import sys

    from napari.layers import Image
    from skimage import data

    from napari_sam.answering import Answerer
    from napari_sam.layers import picture_of

    ground = np.tile(data.coins(), (6, 5))[None, :1900, :1800].astype(np.uint16) * 7 + 100
    bands = ground if kind == "grey" else np.concatenate([ground, ground[:, ::-1], ground // 2])
    colours = {} if kind == "grey" else {"photometric": "RGB"}
    path = write_raster(tmp_path / "image.tif", bands, **colours)
    command = ["tile-segment", path, str(tmp_path / "out.tif"), "--points-per-side", "2"]
    tiles = ["--tile-size", "768", "--halo", "128", "--window", "768,768,768,768"]
    options = [*tiles, "--cache", str(tmp_path / "cache")]
    subprocess.run([sys.executable, "-m", "samplat", *command, *options], check=True)

    ((levels, told, _),) = read_layers(path)
    picture = picture_of(Image(levels, **told))
    answerer = Answerer("samplat-tiny", tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("samplat.cache.embed", None)  # would fail
        view = view_of(np.array([[1000.0, 1100.0]]), (1900, 1800))
        answerer.embedding(picture, (None, None), view)
    assert (view.rows, view.columns) == (slice(640, 1664), slice(640, 1664))

"""`samplat.xarray.segment`: lazy, the same labels as of a file, and what surrounds them."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import SimpleITK as sitk
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import samplat
from core.oracle import ArraySource, oracle_tools, paint, random_labels
from samplat.errors import InputError, JobError
from samplat.segmenters import ThresholdSegmenter
from samplat.xarray import segment

QUICK: dict[str, Any] = {"model": None, "segmenter": "threshold", "tile_size": 24, "halo": 6}


def picture(seed: int = 0, shape: tuple[int, int] = (50, 70)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def placed(pixels: NDArray[Any], **chunks: int) -> xr.DataArray:
    """As rioxarray opens a raster: bands first, a CRS, centres of pixels."""
    height, width = pixels.shape[:2]
    image = xr.DataArray(
        np.moveaxis(pixels, -1, 0),
        dims=("band", "y", "x"),
        coords={
            "band": [1, 2, 3],
            "y": 5_000_000 - 2.0 * np.arange(height) - 1,
            "x": 500_000 + 2.0 * np.arange(width) + 1,
            "spatial_ref": xr.DataArray(0, attrs={"crs_wkt": "EPSG:32633"}),
            "time": 3,
        },
        attrs={"units": "1"},
    )
    image.encoding["grid_mapping"] = "spatial_ref"
    return image.chunk(chunks) if chunks else image


def test_labels_are_those_of_a_file(tmp_path: Path) -> None:
    pixels = picture()
    shape = {"width": 70, "height": 50, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    place = Affine(2, 0, 500_000, 0, -2, 5_000_000)
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", transform=place, **shape) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    job = samplat.SegmentJob(
        source=samplat.SourceSpec(path=str(tmp_path / "a.tif"), factory="raster"),
        job_dir=str(tmp_path / "of-file"),
        **QUICK,
    )
    whole = samplat.Window(start=(0, 0, 0), stop=(1, 50, 70))
    wanted = samplat.segment(job).labels(whole)[0]
    found = segment(placed(pixels, y=17, x=31), job_dir=tmp_path / "of-array", **QUICK)
    np.testing.assert_array_equal(found.compute(), wanted)
    # the table of objects is in the directory
    with samplat.open_result(tmp_path / "of-array") as result:
        assert result.objects.num_rows == wanted.max()


def test_labels_of_a_volume_are_those_of_a_file(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(9, 30, 40)).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 0.75, 2.5))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    rules = samplat.StackRules(block=4, gap=2.5)
    job = samplat.SegmentJob(
        source=samplat.SourceSpec(path=str(tmp_path / "a.mha"), factory="volume"),
        job_dir=str(tmp_path / "of-file"),
        stacking=rules,
        min_extent=1.0,
        **QUICK,
    )
    whole = samplat.Window(start=(0, 0, 0), stop=(9, 30, 40))
    wanted = samplat.segment(job).labels(whole)
    coords = {"z": 2.5 * np.arange(9), "y": 0.75 * np.arange(30), "x": 0.5 * np.arange(40)}
    array = xr.DataArray(values, dims=("z", "y", "x"), coords=coords).chunk(z=5, y=11, x=40)
    found = segment(array, stacking=rules, min_extent=1.0, **QUICK)
    assert found.dims == ("z", "y", "x")
    np.testing.assert_array_equal(found.compute(), wanted)


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 99),
    chunks=st.tuples(st.integers(5, 60), st.integers(5, 60)),
    tile=st.integers(12, 40),
    dims=st.permutations(["y", "x", "band"]),
)
def test_labels_depend_on_chunks_tiles_and_the_order_of_dimensions_in_nothing(
    seed: int, chunks: tuple[int, int], tile: int, dims: list[str]
) -> None:
    """The oracle finds what was painted; ids count objects from the first tile on."""
    truth = random_labels(np.random.default_rng(seed), (40, 56), 10, 30)
    tools = oracle_tools(image=ArraySource(paint(truth)))
    image = xr.DataArray(paint(truth), dims=("y", "x", "band")).transpose(*dims)
    options: dict[str, Any] = {"model": None, "segmenter": "oracle", "rescaler": "none"}
    lazy = image.chunk(y=chunks[0], x=chunks[1])
    found = segment(lazy, tools=tools, tile_size=tile, halo=12, **options)
    assert found.dims == tuple(dim for dim in dims if dim != "band")
    got = found.compute(scheduler="synchronous").transpose("y", "x").to_numpy()
    pairs = set(zip(truth.ravel().tolist(), got.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(truth)) == len(np.unique(got))
    assert (0, 0) in pairs or not (truth == 0).any()


def test_nothing_is_computed_before_labels_are_and_then_each_chunk_twice() -> None:
    computed: list[int] = []
    lock = threading.Lock()

    def load(block: NDArray[Any]) -> NDArray[Any]:
        with lock:
            computed.append(1)
        return block

    # of bytes no rescaler would have to look at the image first
    source = da.from_array(picture().astype(np.int16), chunks=(13, 70, 3))
    source = da.map_blocks(load, source, dtype=np.int16, meta=np.empty((0, 0, 0), np.int16))
    image = xr.DataArray(source, dims=("y", "x", "band"))
    labels = segment(image, **QUICK)
    assert not computed
    assert labels.chunks == ((24, 24, 2), (24, 24, 22))
    assert labels.dtype == np.uint32
    labels.compute(scheduler="synchronous")
    # once for the stretch, which looks at the whole image before the first tile, and once for tiles
    assert len(computed) == 8
    computed.clear()
    fixed = segment(image, rescaler="none", **QUICK)
    fixed.compute(scheduler="synchronous")
    assert len(computed) == 4


@pytest.mark.parametrize("rescaler", ["percentile", "none"])
def test_few_chunks_are_kept_at_once(rescaler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samplat.xarray.THUMBNAIL", 48)
    alive: set[int] = set()
    most: list[int] = []

    def load(block: NDArray[Any]) -> NDArray[Any]:
        made, number = np.array(block), len(most)
        alive.add(number)
        weakref.finalize(made, alive.discard, number)
        most.append(len(alive))
        return made

    source = da.zeros((288, 288), chunks=24, dtype=np.int16)
    source = da.map_blocks(load, source, dtype=np.int16, meta=np.empty((0, 0), np.int16))
    labels = segment(xr.DataArray(source, dims=("y", "x")), rescaler=rescaler, **QUICK)
    labels.compute(scheduler="synchronous")
    assert len(most) == 144 * (2 if rescaler == "percentile" else 1)
    assert max(most) < 144 / 3


def test_an_image_in_memory_gives_labels_in_memory_and_one_on_disk_does_not(
    tmp_path: Path,
) -> None:
    image = placed(picture())
    eager = segment(image, **QUICK)
    assert eager.chunks is None
    image.drop_vars("spatial_ref").to_dataset(name="a").to_zarr(
        tmp_path / "a.zarr", consolidated=False
    )
    with xr.open_zarr(tmp_path / "a.zarr", chunks=None, consolidated=False) as opened:
        lazy = segment(opened["a"], **QUICK)
        assert lazy.chunks is not None
        np.testing.assert_array_equal(lazy.compute(), eager)


def test_what_surrounds_the_pixels_is_kept(tmp_path: Path) -> None:
    image = placed(picture(), y=25)
    image.attrs["_FillValue"] = 0
    labels = segment(image, **QUICK)
    assert list(labels.coords) == ["y", "x", "spatial_ref", "time"]
    xr.testing.assert_equal(labels["y"], image["y"])
    assert labels["spatial_ref"].attrs == {"crs_wkt": "EPSG:32633"}
    assert labels.encoding["grid_mapping"] == "spatial_ref"
    assert labels.attrs["_FillValue"] == samplat.HOLE
    assert labels.attrs["background"] == 0
    labels.to_dataset().to_zarr(tmp_path / "labels.zarr", consolidated=False)
    read = xr.open_zarr(
        tmp_path / "labels.zarr", decode_coords="all", mask_and_scale=False, consolidated=False
    )
    assert "spatial_ref" in read.coords
    np.testing.assert_array_equal(read["labels"], labels.compute())


def test_pixels_without_data_are_background() -> None:
    pixels = np.full((40, 40), 200.0, np.float32)
    pixels[:, 20:] = np.nan
    pixels[:10, :20] = -9999
    image = xr.DataArray(pixels, dims=("lat", "lon"), attrs={"_FillValue": -9999.0})
    labels = segment(image, rescaler="range", rescaler_options={"ranges": [[0, 255]]}, **QUICK)
    np.testing.assert_array_equal(labels > 0, pixels == 200)
    assert labels.max() == 1


@pytest.mark.filterwarnings("default:1 of 9 tiles failed")
def test_tiles_that_fail_are_holes_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = xr.DataArray(picture(), dims=("y", "x", "band")).chunk(y=24)
    whole = segment(image, **QUICK).compute()
    find = ThresholdSegmenter.__call__

    def lame(self: Any, pixels: NDArray[Any], valid: NDArray[Any]) -> Any:
        if pixels.shape[:2] == (32, 36):  # the tile in the middle
            raise ValueError("not today")
        return find(self, pixels, valid)

    with monkeypatch.context() as patch:
        patch.setattr(ThresholdSegmenter, "__call__", lame)
        labels = segment(image, job_dir=tmp_path / "job", **QUICK)
        with pytest.warns(UserWarning, match="1 of 9 tiles failed and are holes: 4"):
            holed = labels.compute()
    assert (holed[24:48, 24:48] == samplat.HOLE).all()
    assert (holed != samplat.HOLE).sum() == holed.size - 24 * 24
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "job/tiles").glob("*.json")}
    again = segment(image, job_dir=tmp_path / "job", **QUICK).compute()
    np.testing.assert_array_equal(again, whole)
    changed = [p.name for p in before if p.stat().st_mtime_ns != before[p]]
    assert changed == ["000004.json"]


def test_a_directory_of_another_image_is_refused(tmp_path: Path) -> None:
    first = xr.DataArray(picture(1)[..., 0], dims=("y", "x"))
    segment(first, job_dir=tmp_path / "job", **QUICK)
    other = xr.DataArray(picture(2)[..., 0], dims=("y", "x"))
    with pytest.raises(JobError, match="holds another job: image is"):
        segment(other, job_dir=tmp_path / "job", **QUICK)
    segment(other, job_dir=tmp_path / "job", overwrite=True, **QUICK)


def test_a_scheduler_of_threads_and_one_of_processes_agree(tmp_path: Path) -> None:
    image = placed(picture(), y=20, x=30)
    found = [
        segment(image, job_dir=tmp_path / name, **QUICK).compute(scheduler=name)
        for name in ("synchronous", "threads")
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("image", "options", "told"),
    [
        (np.zeros((4, 4)), {}, "expected a DataArray, got ndarray"),
        (xr.DataArray(np.zeros(4), dims="x"), {}, r"expected dimensions \(y, x\) or \(z, y, x\)"),
        (xr.DataArray(np.zeros((2, 4, 4, 5))), {}, "expected dimensions"),
        (xr.DataArray(np.zeros((4, 5, 5)), dims=("band", "y", "x")), {}, "three bands, got 4"),
        (xr.DataArray(np.zeros((5, 5), complex)), {}, "expected real numbers, got complex128"),
        (xr.DataArray(np.zeros((0, 5))), {}, "expected real numbers, got float64 of shape"),
        (xr.DataArray(np.zeros((5, 5))), {"prompts": 1}, "prompts is not taken here"),
        (xr.DataArray(np.zeros((5, 5))), {"tile_sise": 1}, "unknown option: .*tile_sise"),
        (xr.DataArray(np.zeros((5, 5))), {"at_once": 0}, "at_once must be at least 1, got 0"),
        (xr.DataArray(np.zeros((5, 5))), {"min_area": -1}, "min_area must be at least 0"),
        (xr.DataArray(np.zeros((5, 5))), {"segmenter": "steam"}, "no segmenter called 'steam'"),
        (xr.DataArray(np.zeros((5, 5))), {"rescaler": "steam"}, "no rescaler called 'steam'"),
    ],
)
def test_what_cannot_be_is_said_at_the_call(image: Any, options: dict[str, Any], told: str) -> None:
    if isinstance(image, xr.DataArray) and image.size:
        image = image.chunk()
    with dask.config.set(scheduler=None), pytest.raises(InputError, match=told):
        segment(image, **{"model": None, "segmenter": "threshold", **options})

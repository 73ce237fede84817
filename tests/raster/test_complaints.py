"""What people complain about in other tools, about inputs: each is a test (rows 16 and 17)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from scipy import ndimage

from raster.crafted import UTM, Bright, blobs, write
from samplat import JobResult, MaskSet, Registry, SegmentJob, SourceSpec, Window, registry, run_job
from samplat_raster.source import RasterFactory

Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--segmenter", "bright", "--tile-size", "64", "--halo", "32")
SHAPE = (150, 200)


@dataclass(frozen=True)
class Watched:
    """`Bright`, and what it was shown."""

    shown: list[NDArray[np.uint8]] = field(default_factory=list)

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        self.shown.append(pixels)
        return Bright()(pixels, valid)


@dataclass(frozen=True)
class WatchedFactory:
    made: Watched = field(default_factory=Watched)
    name: str = "watched"

    def create(self, model: str | None, **options: Any) -> Watched:
        return self.made

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


def segmented(
    path: Path, job_dir: Path, options: Mapping[str, Any] | None = None, **parameters: Any
) -> tuple[JobResult, list[NDArray[np.uint8]]]:
    """The result of a job over a raster, and all that its segmenter was shown."""
    factory, tools = WatchedFactory(), Registry()
    tools.add("sources", "test", RasterFactory())
    tools.add("segmenters", "test", factory)
    for name in ("percentile", "range", "none"):
        tools.add("rescalers", "test", registry().rescaler(name))
    source = SourceSpec(path=str(path), factory="raster", options=options or {})
    given = {"tile_size": 64, "halo": 32, **parameters}
    job = SegmentJob(source=source, job_dir=str(job_dir), model=None, segmenter="watched", **given)
    return run_job(job, tools=tools), factory.made.shown


def labels_of(result: JobResult) -> NDArray[np.uint32]:
    return result.labels(Window(start=(0, 0, 0), stop=result.info.shape))[0]


def same_partition(a: NDArray[Any], b: NDArray[Any]) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@functools.cache
def truth() -> NDArray[np.int64]:
    """Connected patches of 60 pixels or more, apart from each other."""
    return patches_of(blobs(SHAPE, 40, seed=2) > 0)


def patches_of(bright: NDArray[np.bool_]) -> NDArray[np.int64]:
    """What `Bright` is to find."""
    patches = ndimage.label(bright)[0]
    large = np.bincount(patches.ravel()) >= 60
    return np.where(large[patches], patches, 0)


def shaded(low: float, high: float, dtype: str) -> NDArray[Any]:
    """The truth, bright on dark, as one band."""
    return np.where(truth() > 0, high, low).astype(dtype)[None]


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("uint16", 300, 9000),
        ("int16", -700, 120),
        ("int32", 2_000_000_000, 2_000_000_900),
        ("uint32", 4_000_000_000, 4_000_000_900),
        ("float32", 0.01, 0.43),
        ("float64", -3e-9, 5e-9),
    ],
)
def test_samgeo_26_uint16_is_taken_and_every_other_real_type(
    tmp_path: Path, dtype: str, low: float, high: float
) -> None:
    scene = write(tmp_path / "scene.tif", shaded(low, high, dtype), **UTM)
    result, shown = segmented(scene, tmp_path / "job")
    assert same_partition(labels_of(result), truth())
    assert {int(v) for pixels in shown for v in np.unique(pixels)} == {0, 255}


@pytest.mark.parametrize("rescaler", ["percentile", "range"])
def test_samgeo_522_the_result_does_not_change_with_the_extent(
    tmp_path: Path, rescaler: str
) -> None:
    """A part that is darker than the rest looks as dark as in the whole scene."""
    rng = np.random.default_rng(4)
    pixels = shaded(300, 3000, "uint16") + rng.integers(0, 200, (1, *SHAPE)).astype(np.uint16)
    pixels[:, :, 120:] //= 4
    scene = write(tmp_path / "scene.tif", pixels, **UTM)
    options = {"ranges": [[100, 3300]]} if rescaler == "range" else {}
    how = {"rescaler": rescaler, "rescaler_options": options}
    whole, shown = segmented(scene, tmp_path / "whole", **how)
    seen = {pixels.tobytes() for pixels in shown}
    for box in ((90, 120, 40, 80), (63, 65, 127, 129), (100, 101, 199, 200)):
        y0, y1, x0, x1 = box
        window = Window(start=(0, y0, x0), stop=(1, y1, x1))
        part, shown = segmented(scene, tmp_path / str(box), window=window, **how)
        assert {pixels.tobytes() for pixels in shown} <= seen
        assert same_partition(labels_of(part), whole.labels(window)[0])


def test_samgeo_522_equal_values_look_equal_in_every_tile(tmp_path: Path) -> None:
    """A stretch per tile would make a dark tile as bright as all others."""
    pixels = np.full((1, 128, 256), 1000, np.uint16)
    pixels[:, :, 128:] = np.random.default_rng(0).integers(0, 8000, (1, 128, 128))
    scene = write(tmp_path / "scene.tif", pixels, **UTM)
    _, shown = segmented(scene, tmp_path / "job", halo=0)
    assert len({int(tile[0, 0, 0]) for tile in shown if len(np.unique(tile)) == 1}) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
@pytest.mark.parametrize("said", [True, False], ids=["in the file", "by option"])
def test_nodata_minus_9999_in_a_float_raster(tmp_path: Path, dtype: str, said: bool) -> None:
    pixels = shaded(100, 4000, dtype)
    pixels[:, :70, :90] = -9999
    scene = write(tmp_path / "scene.tif", pixels, nodata=-9999 if said else None, **UTM)
    options = {} if said else {"nodata": -9999.0}
    result, shown = segmented(scene, tmp_path / "job", options)
    expected = truth().copy()
    expected[:70, :90] = 0
    assert same_partition(labels_of(result), patches_of(expected > 0))
    assert result.skipped
    # the stretch knows nothing of it: there are black, white and nothing between
    assert {int(v) for tile in shown for v in np.unique(tile)} == {0, 255}


@pytest.mark.parametrize("kind", ["nodata", "nan", "infinity", "mask", "alpha"])
def test_nodata_is_used_and_not_only_read(tmp_path: Path, kind: str) -> None:
    bright = np.full((3, 100, 100), 4000, np.float32)
    bright[:, 40:60] = 1000
    missing = np.zeros((100, 100), bool)
    missing[:45] = True
    value = {"nodata": -1.0, "nan": np.nan, "infinity": np.inf}.get(kind, 9e9)
    bright[:, missing] = value
    profile: dict[str, Any] = {"nodata": -1.0} if kind == "nodata" else {}
    if kind == "alpha":
        bright = np.concatenate([bright, 255.0 * ~missing[None]]).astype(np.float32)
        profile = {"photometric": "RGB", "alpha": "YES"}
    scene = write(tmp_path / "scene.tif", bright, **profile, **UTM)
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(scene, "r+") as dataset:
            dataset.write_mask(~missing)
    result, _ = segmented(scene, tmp_path / "job", tile_size=128)
    labels = labels_of(result)
    assert not labels[:60].any()
    assert (labels[60:] == 1).all()


@pytest.mark.parametrize(
    ("shape", "tile", "calls"),
    [((1024, 1024), 512, 4), ((257, 512), 256, 4), ((250, 350), 256, 2)],
)
@pytest.mark.parametrize("halo", [0, 64])
def test_a_grid_never_overruns_and_its_last_tile_is_not_shifted_back(
    tmp_path: Path, shape: tuple[int, int], tile: int, calls: int, halo: int
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 100, (1, *shape)).astype(np.uint8)
    scene = write(tmp_path / "scene.tif", pixels, **UTM)
    _, shown = segmented(scene, tmp_path / "job", tile_size=tile, halo=halo)
    assert len(shown) == calls == -(-shape[0] // tile) * -(-shape[1] // tile)
    starts = [(y, x) for y in range(0, shape[0], tile) for x in range(0, shape[1], tile)]
    for seen, (y, x) in zip(shown, starts, strict=True):
        rows = slice(max(0, y - halo), min(shape[0], y + tile + halo))
        columns = slice(max(0, x - halo), min(shape[1], x + tile + halo))
        assert np.array_equal(seen[..., 0], pixels[0, rows, columns])


def test_samgeo_379_every_tile_is_kept_and_233_289_no_mask_is_lost(tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", shaded(0, 255, "uint8"), **UTM)
    result, _ = segmented(scene, tmp_path / "job")
    assert same_partition(labels_of(result), truth())
    assert result.objects.num_rows == len(np.unique(truth())) - 1
    painting = {tile for row in result.objects["tiles"].to_pylist() for tile in row}
    with_objects = {tile.index for tile in result.grid if truth()[tile.write.slices[1:]].any()}
    assert painting == with_objects > {0, 1}


CUSTOM = "+proj=laea +lat_0=10.5 +lon_0=-120.25 +x_0=17 +y_0=-3 +ellps=GRS80 +units=us-ft +no_defs"


@pytest.mark.parametrize("crs", ["EPSG:2225", "ESRI:54009", CUSTOM])
def test_samgeo_478_and_12_the_crs_is_kept(samplat: Cli, tmp_path: Path, crs: str) -> None:
    place = {"crs": crs, "transform": UTM["transform"]}
    scene = write(tmp_path / "scene.tif", shaded(0, 255, "uint8"), **place)
    code, _, err = samplat("tile-segment", scene, tmp_path / "out.tif", *QUICK)
    assert code == 0, err
    with rasterio.open(tmp_path / "out.tif") as labels, rasterio.open(scene) as given:
        assert labels.crs == given.crs
        assert labels.transform == given.transform


def test_samgeo_478_and_12_no_crs_is_a_warning_and_pixel_space(
    samplat: Cli, tmp_path: Path
) -> None:
    scene = write(tmp_path / "scene.tif", shaded(0, 255, "uint8"))
    code, _, err = samplat("tile-segment", scene, tmp_path / "out.tif", *QUICK)
    assert code == 0
    assert "warning: the CRS" in err
    answer = samplat("tile-segment", scene, tmp_path / "out2.tif", *QUICK, "--gsd", "1")
    assert answer[0] == 1
    assert "needs a CRS" in answer[2]


def test_geo_sam_13_a_dry_run_says_how_many_tiles_it_would_be(samplat: Cli, tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", shaded(0, 255, "uint8"), **UTM)
    grid = ("--segmenter", "bright", "--tile-size", "2", "--halo", "1", "--dry-run")
    code, out, _ = samplat("tile-segment", scene, tmp_path / "out.tif", *grid)
    assert code == 0
    assert "tiles: 7500 of 2 + 1 pixels" in out
    part = (*grid, "--window", "1,1,4,3")
    assert "tiles: 6 of 2 + 1 pixels" in samplat("tile-segment", scene, "out.tif", *part)[1]


def test_the_stretch_that_was_used_is_recorded(samplat: Cli, tmp_path: Path) -> None:
    ranges = ((5, 90), (6, 80), (7, 70))
    pixels = np.stack([shaded(low, high, "uint16")[0, :60, :60] for low, high in ranges])
    scene = write(tmp_path / "scene.tif", pixels, **UTM)
    for number, (stretch, low, high) in enumerate(
        (
            ("2,98", [5, 6, 7], [90, 80, 70]),
            ("10:60", [10] * 3, [60] * 3),
            ("1:60,2:70,-3:80.5", [1, 2, -3], [60, 70, 80.5]),
            ("none", [0] * 3, [255] * 3),
        )
    ):
        job = tmp_path / f"job{number}"
        options = (f"--stretch={stretch}", "--job-dir", job)
        code, _, err = samplat("tile-segment", scene, tmp_path / "o.tif", *QUICK, *options)
        assert code == 0, err
        run = json.loads((job / "run.json").read_bytes())["identity"]
        assert run["stretch"] == {"low": low, "high": high}


@pytest.mark.parametrize("given", ["nir,red,green", "NIR, Red ,GREEN", "4,1,2", "nir,1,Green"])
def test_bands_by_name(samplat: Cli, tmp_path: Path, given: str) -> None:
    pixels = np.stack([np.full((20, 20), v, np.uint16) for v in (50, 60, 70, 200)])
    scene = write(tmp_path / "scene.tif", pixels, photometric="minisblack", **UTM)
    with rasterio.open(scene, "r+") as dataset:
        dataset.descriptions = ("Red", "green", None, "nir")
    options = ("--bidx", given, "--stretch", "none", "--job-dir", tmp_path / "job")
    code, _, err = samplat("tile-segment", scene, tmp_path / "out.tif", *QUICK, *options)
    assert code == 0, err
    run = json.loads((tmp_path / "job" / "run.json").read_bytes())["identity"]
    source = RasterFactory().open(str(scene), **run["image_options"])
    whole = Window(start=(0, 0, 0), stop=source.info.shape)
    assert source.read(whole)[0].max(axis=(0, 1)).tolist() == [200, 50, 60]


def test_names_that_are_not_there_are_told_with_those_that_are(
    samplat: Cli, tmp_path: Path
) -> None:
    pixels = np.ones((4, 20, 20), np.uint8)
    scene = write(tmp_path / "scene.tif", pixels, photometric="minisblack", **UTM)
    with rasterio.open(scene, "r+") as dataset:
        dataset.descriptions = ("Red", "nir", None, "NIR")
    for name, told in (("swir", "no band called 'swir'"), ("nir", "several bands called 'nir'")):
        options = ("--bidx", f"red,{name}")
        code, _, err = samplat("tile-segment", scene, tmp_path / "out.tif", *QUICK, *options)
        assert code == 1
        assert told in err
        assert "there are: 1 Red, 2 nir, 3 undefined, 4 NIR" in err

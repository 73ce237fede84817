"""What people complain about in other tools: each is a test (rows 16 and 17 among them)."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.mosaics import write_mosaic
from core import killing
from core.test_prompted import ConnectedFactory
from raster import crafted
from raster.crafted import POISON, UTM, Bright, blobs, painted, write
from samplat import JobResult, MaskSet, Registry, SegmentJob, SourceSpec, Window, registry, run_job
from samplat.plugins import collect, load_plugins
from samplat.store import JobStore, TileRecord
from samplat.tiles import Tile
from samplat_raster import cog, source
from samplat_raster.source import RasterFactory, RasterSource

Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--segmenter", "bright", "--tile-size", "64", "--halo", "32")
SHAPE = (150, 200)


@pytest.fixture(scope="module")
def tools() -> Registry:
    """The installed plugins, `crafted`, and a segmenter that answers prompts without a model."""
    manager = load_plugins().manager
    manager.register(crafted, name="crafted")
    tools = collect(manager)
    tools.add("segmenters", "test", ConnectedFactory())
    return tools


@pytest.fixture(autouse=True)
def no_survivors() -> Iterator[None]:
    yield
    killing.kill_survivors()


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


# -- memory and time ---------------------------------------------------------------------------


def large_run(
    folder: Path, side: int, share: float, *, executor: str = "overlapping"
) -> killing.Running:
    """`tile-segment` by a threshold, of real textures; what is no texture is sparse."""
    folder.mkdir()
    scene = write_mosaic(folder / "scene.tif", side, share=share)
    options = ("--segmenter", "textures", "--stretch", "none", "--executor", executor)
    tiles = ("--tile-size", 1024, "--halo", 128, "--job-dir", folder / "job")
    outputs = (folder / "out.parquet", folder / "out.tif")
    return killing.start(folder, "tile-segment", scene, *outputs, *options, *tiles)


def peak_of(run: killing.Running) -> int:
    """Lets it run to its end; bytes of memory at most."""
    peak = 0
    while run.go_on_or_end() is not None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            peak = max(peak, run.peak())
    assert run.run_out() == (0, []), run.log.read_text()
    return peak


def test_samgeo_299_74_88_an_image_of_445_megabytes_takes_the_memory_of_a_small_one(
    tmp_path: Path,
) -> None:
    """Exports included: what it takes more are GDAL's caches, which the small one does not fill."""
    small = peak_of(large_run(tmp_path / "small", 4096, 1.0))
    large = peak_of(large_run(tmp_path / "large", 12_180, 0.1))
    with rasterio.open(tmp_path / "large" / "scene.tif") as scene:
        nominal = scene.width * scene.height * scene.count
    frame = geopandas.read_parquet(tmp_path / "large" / "out.parquet")
    assert nominal >= 445e6
    assert len(frame) > 1000
    assert large - small < cog.GDAL_CACHE_BYTES + source.GDAL_CACHE_BYTES < nominal / 2
    assert large < 1e9


@pytest.mark.slow
def test_samgeo_95_an_image_of_50_000_by_50_000_takes_minutes(tmp_path: Path) -> None:
    """They waited for 49 hours. A twentieth is texture; the rest is read, and skipped."""
    began = time.monotonic()
    peak = peak_of(large_run(tmp_path / "run", 50_000, 0.05))
    print(f"{time.monotonic() - began:.0f} s, {peak / 2**30:.2f} GiB")
    assert time.monotonic() - began < 15 * 60
    assert peak < 1.5e9
    assert len(geopandas.read_parquet(tmp_path / "run" / "out.parquet")) > 5000


@pytest.mark.parametrize("side", [256, 640])
def test_samgeo_95_no_pixel_and_no_tile_is_looked_at_more_often_in_a_larger_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """So time grows with the area, and not faster."""
    pixels, objects = Counter[str](), Counter[int]()
    read, read_objects = RasterSource.read, JobStore.read_objects

    def counted(source: RasterSource, window: Window) -> Any:
        pixels["read"] += int(np.prod(window.shape))
        return read(source, window)

    def counted_objects(store: JobStore, tile: Tile, record: TileRecord) -> Any:
        objects[tile.index] += 1
        return read_objects(store, tile, record)

    scene = write(
        tmp_path / "scene.tif",
        255 * (blobs((side, side), side // 4) > 0).astype(np.uint8)[None],
        **UTM,
    )
    monkeypatch.setattr(RasterSource, "read", counted)
    monkeypatch.setattr(JobStore, "read_objects", counted_objects)
    result, shown = segmented(scene, tmp_path / "job", halo=16, rescaler="none")
    assert result.objects.num_rows > 20
    once = (1 + 2 * 16 / 64) ** 2 * side**2
    assert sum(s.shape[0] * s.shape[1] for s in shown) <= once
    assert side**2 <= pixels["read"] <= once
    assert len(objects) > len(result.grid) // 2
    assert max(objects.values()) <= 3


# -- objects -----------------------------------------------------------------------------------


def test_samgeo_two_objects_over_three_tiles_are_two_ids_and_not_six(
    samplat: Cli, tmp_path: Path
) -> None:
    pixels = np.zeros((1, 100, 192), np.uint8)
    pixels[:, 10:40, 5:190], pixels[:, 60:90, 20:180] = 255, 255
    scene = write(tmp_path / "scene.tif", pixels, **UTM)
    outputs = (tmp_path / "out.tif", tmp_path / "out.parquet")
    tiles = ("--segmenter", "bright", "--tile-size", 64, "--halo", 16)
    code, _, err = samplat("tile-segment", scene, *outputs, *tiles)
    assert code == 0, err
    with rasterio.open(outputs[0]) as labels:
        assert same_partition(labels.read(1), ndimage.label(pixels[0])[0])
    frame = geopandas.read_parquet(outputs[1]).sort_values("id")
    assert frame["id"].tolist() == [1, 2]
    assert frame["tiles"].tolist() == ["0,1,2", "0,1,2,3,4,5"]


def test_samgeo_543_objects_have_attributes(samplat: Cli, eval_data: Path, tmp_path: Path) -> None:
    """By a model, on an aerial picture."""
    with rasterio.open(eval_data / "geo_nogt_naip_landsat" / "naip_20140720.tif") as whole:
        place = rasterio.windows.Window(300, 300, 160, 100)
        corner = whole.transform @ rasterio.Affine.translation(300, 300)
        pixels = whole.read((1, 2, 3), window=place)
        scene = write(tmp_path / "scene.tif", pixels, crs=whole.crs, transform=corner)
    options = ("--tile-size", 100, "--halo", 20, "--points-per-side", 6, "--offline")
    code, _, err = samplat("tile-segment", scene, tmp_path / "out.gpkg", *options)
    assert code == 0, err
    frame = geopandas.read_file(tmp_path / "out.gpkg")
    assert len(frame) > 3
    assert frame["id"].is_unique
    geod = pyproj.Geod(ellps="WGS84")
    for row in frame.to_crs("EPSG:4326").itertuples():
        metres = abs(geod.geometry_area_perimeter(row.geometry.segmentize(1e-5))[0])
        assert row.area_m2 == pytest.approx(metres, rel=2e-3)
    for score in ("predicted_iou", "stability"):
        assert frame[score].between(0.3, 1.01).all()
        assert frame[score].nunique() > 2
    points = geopandas.points_from_xy(frame["point_x"], frame["point_y"])
    assert shapely.distance(points, frame.geometry.to_numpy()).max() < 10 * 5
    assert {t for tiles in frame["tiles"] for t in tiles.split(",")} == {"0", "1"}
    assert frame["truncated"].dtype == bool
    assert frame["model"].unique().tolist() == ["samplat-tiny"]
    assert frame["weights"].str.len().min() >= 8
    assert frame["run"].nunique() == 1


def large_discs() -> tuple[NDArray[np.uint8], list[tuple[int, int, int]]]:
    """Bright discs, larger than a tile of 64 and its halo of 16; their y, x and radius."""
    places = [(90, 100, 75), (230, 240, 60), (60, 260, 50)]
    y, x = np.indices((310, 320))
    image = np.zeros((3, 310, 320), np.uint8)
    for cy, cx, radius in places:
        image[:, np.hypot(y - cy, x - cx) < radius] = 255
    return image, places


@pytest.mark.parametrize("asked", [False, True], ids=["everything", "boxes"])
def test_geo_sam_11_16_40_182_objects_are_not_clipped_to_squares(
    samplat: Cli, tmp_path: Path, asked: bool
) -> None:
    """Outlines do not know of tiles, nor of the windows of prompts, which are smaller, too."""
    image, places = large_discs()
    scene = write(tmp_path / "scene.tif", image, **UTM)
    options: tuple[Any, ...] = ("--segmenter", "bright", "--halo", 16)
    if asked:
        ground = UTM["transform"]
        corners = [(ground @ (x - r, y + r), ground @ (x + r, y - r)) for y, x, r in places]
        boxes = [shapely.box(*low, *high) for low, high in corners]
        geopandas.GeoDataFrame(geometry=boxes, crs=UTM["crs"]).to_file(tmp_path / "boxes.gpkg")
        options = ("--segmenter", "connected", "--prompts", tmp_path / "boxes.gpkg")
        options += ("--prompts-window", 64)
    found = []
    for size in (64, 1000):
        output = tmp_path / f"{size}.parquet"
        code, _, err = samplat("tile-segment", scene, output, *options, "--tile-size", size)
        assert code == 0, err
        found.append(geopandas.read_parquet(output).sort_values("area_px"))
    tiled, untiled = found
    assert len(tiled) == len(untiled) == 3
    assert not tiled["truncated"].any()
    assert tiled.geometry.geom_equals(untiled.geometry, align=False).all()
    radii = np.sqrt(tiled.area / np.pi) / 0.5
    assert radii.tolist() == pytest.approx(sorted(radius for *_, radius in places), rel=0.01)


def test_a_tile_that_fails_is_told_and_never_left_as_background(
    samplat: Cli, tmp_path: Path
) -> None:
    """Others go on with the next tile, and nobody learns of the hole."""
    labels = np.ones((100, 200), np.int64)
    labels[:, 110:] = 2
    labels[50:60, 150:160] = POISON
    scene = write(tmp_path / "scene.tif", painted(labels), **UTM)
    tiles = ("--segmenter", "colours", "--tile-size", 100, "--halo", 0)
    code, out, err = samplat("tile-segment", scene, tmp_path / "out.tif", *tiles)
    assert code == 3
    assert "1 of 2 tiles failed and are holes: 1" in err
    assert "ValueError: poison" in err
    assert "(1 failed)" in out
    with rasterio.open(tmp_path / "out.tif") as found:
        assert (found.read(1)[:, 100:] == found.nodata).all()
        assert (found.read(1)[:, :100] == 1).all()


def test_min_area_is_for_objects_and_not_for_their_parts(samplat: Cli, tmp_path: Path) -> None:
    """Elsewhere each tile drops its small parts, and objects get bites where tiles meet."""
    labels = np.zeros((128, 128), np.int64)
    labels[20:60, 61:104], labels[100:103, 100:103] = 1, 2
    scene = write(tmp_path / "scene.tif", painted(labels), **UTM)
    least = ("--min-area", 40)  # square metres, 160 pixels; 120 of the object lie in the left tile
    output = tmp_path / "out.tif"
    assert samplat("tile-segment", scene, output, *QUICK, *least, "--segmenter", "colours")[0] == 0
    with rasterio.open(output) as found:
        assert np.array_equal(found.read(1), labels == 1)

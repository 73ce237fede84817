"""Prompts of vector files: every format, any CRS, and what people complained of elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.warp
import shapely
import shapely.affinity
from numpy.typing import NDArray
from rasterio import Affine

from raster.crafted import UTM, write
from samplat import ImageInfo, InputError, ScenePrompts
from samplat.plugins import Registry
from samplat_raster.georeference import matrix_of
from samplat_raster.vector_prompts import VectorPrompter

Cli = Callable[..., tuple[int, str, str]]
SIZE = (150, 200)
TINY = ("--tile-size", 64, "--offline")


class Image:
    """A raster of which only its description is needed."""

    def __init__(
        self, transform: Affine = UTM["transform"], crs: str | None = UTM["crs"], size: Any = SIZE
    ) -> None:
        wkt = rasterio.CRS.from_user_input(crs).to_wkt() if crs else None
        matrix = matrix_of(transform)
        self.info = ImageInfo(
            shape=(1, *size), bands=3, dtype="uint8", index_to_world=matrix, crs=wkt
        )
        self.transform, self.crs = transform, crs

    def frame(self, geometries: list[Any], crs: str | None = None, **columns: Any) -> Any:
        """Geometries in pixels as a GeoDataFrame in a CRS, that of the image or another."""
        affine = [getattr(self.transform, n) for n in "abdecf"]
        world = [shapely.affinity.affine_transform(g, affine) for g in geometries]
        frame = geopandas.GeoDataFrame(columns, geometry=world, crs=self.crs)
        return frame if crs is None else frame.to_crs(crs)


def read(path: Path, image: Image | None = None, **options: Any) -> ScenePrompts:
    return VectorPrompter().prompts(image or Image(), str(path), **options)


GEOMETRIES = [
    shapely.Point(20.5, 30.25),
    shapely.box(50, 60, 90, 80),
    shapely.Polygon([(100, 20), (140, 40), (120, 70)]),
    shapely.MultiPoint([(10, 10), (12, 14)]),
]
BOXES = [[np.nan] * 4, [50, 60, 90, 80], [100, 20, 140, 70], [np.nan] * 4]


def save(frame: Any, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.assign(wkt=frame.geometry.to_wkt(rounding_precision=-1), crs="EPSG:4326").drop(
            columns="geometry"
        ).to_csv(path, index=False)
    else:
        # with its index a FlatGeobuf has an order of its own
        frame.to_file(path, **({"SPATIAL_INDEX": "NO"} if path.suffix == ".fgb" else {}))
    return path


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".fgb", ".parquet", ".csv"])
def test_every_format_says_the_same(tmp_path: Path, suffix: str) -> None:
    frame = Image().frame(GEOMETRIES, crs="EPSG:4326", name=["a", "b", "c", "d"], n=[1, 2, 3, 4])
    found = read(save(frame, tmp_path / f"prompts{suffix}"))
    # a box drawn in the raster's CRS and saved in degrees is only nearly one
    assert np.allclose(found.boxes, BOXES, atol=0.05, equal_nan=True)
    assert np.allclose(found.points, [(20.5, 30.25), (10, 10), (12, 14)], atol=0.01)
    assert found.owners.tolist() == [0, 3, 3]
    assert found.attributes["prompt_id"].to_pylist() == [1, 2, 3, 4]
    assert found.attributes["name"].to_pylist() == ["a", "b", "c", "d"]
    assert found.attributes["n"].to_pylist() == [1, 2, 3, 4]


@pytest.mark.parametrize("crs", ["EPSG:32614", "EPSG:3857", "EPSG:4326", "EPSG:32613"])
def test_points_are_the_same_from_any_crs(tmp_path: Path, crs: str) -> None:
    rng = np.random.default_rng(0)
    places = [shapely.Point(*xy) for xy in rng.uniform(0, 150, (50, 2)).round(1)]
    path = save(Image().frame(places, crs=crs), tmp_path / "prompts.gpkg")
    wanted = read(save(Image().frame(places), tmp_path / "own.gpkg"))
    assert np.allclose(read(path).points, wanted.points, atol=1 / 256)


def pixels_of(image: Image, world: NDArray[np.float64]) -> NDArray[np.float64]:
    """World x and y (2, N) as columns and rows."""
    rows, columns = rasterio.transform.rowcol(image.transform, *world, op=lambda value: value)
    return np.array([columns, rows], float)


def ring_oracle(box: Any, image: Image, crs: str) -> NDArray[np.float64]:
    """The pixel box of a box in another CRS, by ten thousand points along each side."""
    x0, y0, x1, y1 = box
    t = np.linspace(0, 1, 10_000)
    xs = np.concatenate([x0 + t * (x1 - x0), np.full_like(t, x1), x1 - t * (x1 - x0), t * 0 + x0])
    ys = np.concatenate([t * 0 + y0, y0 + t * (y1 - y0), t * 0 + y1, y1 - t * (y1 - y0)])
    moved = rasterio.warp.transform(crs, image.crs, xs, ys)
    columns, rows = pixels_of(image, np.array(moved))
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()])


@pytest.mark.parametrize(
    ("image", "box"),
    [
        (
            Image(Affine.translation(-2e6, 2e6) @ Affine.scale(2000, -2000), "EPSG:3413",
                  (2000, 2000)),
            (-60, 75, 0, 80),
        ),
        (
            Image(Affine.translation(5e5, 4e6) @ Affine.rotation(33) @ Affine.scale(10, -10),
                  "EPSG:32614", (3000, 3000)),
            (-98.94, 36.08, -98.88, 36.1),
        ),
        (
            Image(Affine.translation(-1e6, 1e6) @ Affine.scale(1000, -1000), "EPSG:3995",
                  (2000, 2000)),
            (-180, 85, 180, 90),
        ),
    ],
    ids=["polar", "rotated", "around the pole"],
)  # fmt: skip
def test_a_box_in_degrees_is_right_in_any_raster(tmp_path: Path, image: Image, box: Any) -> None:
    """Its sides are curves there: corners alone would lose a part of it."""
    path = tmp_path / "box.geojson"
    geopandas.GeoDataFrame(geometry=[shapely.box(*box)], crs="EPSG:4326").to_file(path)
    wanted = ring_oracle(box, image, "EPSG:4326")
    found = read(path, image).boxes[0]
    corners = shapely.get_coordinates(shapely.box(*box))
    moved = rasterio.warp.transform("EPSG:4326", image.crs, *corners.T)
    columns, rows = pixels_of(image, np.array(moved))
    by_corners = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
    size = max(wanted[2] - wanted[0], wanted[3] - wanted[1])
    assert np.abs(found - wanted).max() < 0.002 * size + 0.01
    if box[3] == 90:
        assert np.abs(by_corners - wanted).max() > 0.1 * size


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("x,y\n20.5,30.25\n", {"crs": "pixel"}),
        ("id;X;Y\n7;500010.25;3999984.875\n", {"crs": "image"}),
        ("x,y,crs\n500010.25,3999984.875,EPSG:32614\n", {}),
        ("x,y,srid\n500010.25,3999984.875,32614\n", {}),
        ('wkt\n"SRID=32614;POINT (500010.25 3999984.875)"\n', {}),
        ("\ufeffx,y\n500010.25,3999984.875\n", {"crs": "EPSG:32614"}),
        ("lat,lon\n{lat},{lon}\n", {}),
    ],
)
def test_csv_says_where_and_in_which_crs(tmp_path: Path, text: str, options: Any) -> None:
    ([lon], [lat]) = rasterio.warp.transform("EPSG:32614", "EPSG:4326", [500010.25], [3999984.875])
    (tmp_path / "p.csv").write_text(text.replace("{lon}", repr(lon)).replace("{lat}", repr(lat)))
    assert np.allclose(read(tmp_path / "p.csv", **options).points, [(20.5, 30.25)], atol=1 / 256)


def test_a_csv_may_mix_boxes_and_points(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("xmin,ymin,xmax,ymax,x,y,object\n10,20,30,40,,,a\n,,,,15,25,a\n,,,,1,2,b\n")
    found = read(path, crs="pixel")
    assert len(found) == 2
    assert found.boxes[0].tolist() == [10, 20, 30, 40]
    assert found.points.tolist() == [[15, 25], [1, 2]]
    assert found.attributes["prompt_id"].to_pylist() == ["a", "b"]
    assert found.features["fate"].to_pylist() == ["used", "merged", "used"]


def test_positive_and_negative_points_are_grouped_by_columns(tmp_path: Path) -> None:
    places = [shapely.Point(10 * k + 5, 5) for k in range(5)]
    columns = {"tree": [7, 7, 9, 7, 9], "kind": ["fg", "-", "Positive", "true", "0"]}
    path = save(Image().frame(places, **columns), tmp_path / "p.gpkg")
    found = read(path, object="tree", label="kind")
    assert found.attributes["prompt_id"].to_pylist() == [7, 9]
    assert [found[k].labels.tolist() for k in range(2)] == [[1, 0, 1], [1, 0]]
    assert [found[k].points[:, 0].tolist() for k in range(2)] == [[5, 15, 35], [25, 45]]


def test_a_label_that_is_a_class_is_an_attribute(tmp_path: Path) -> None:
    path = save(Image().frame([shapely.Point(3, 3)], label=["tree"]), tmp_path / "p.gpkg")
    found = read(path)
    assert found.labels.tolist() == [1]
    assert found.attributes["label"].to_pylist() == ["tree"]


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("", {}, "is no file of prompts"),
        ("x,y\n", {"crs": "pixel"}, "is empty"),
        ('{"type": "FeatureCollection", "features": []}', {}, "is empty|no geometries"),
        ('{"type": "FeatureCollection", "fea', {}, "cannot read the prompts"),
        ("<OGRVRTDataSource/>", {}, "is no file of prompts"),
        ("x,y\n1,2\n", {}, "does not say its CRS; name it with --prompts-crs"),
        ("x,y\n1,two\n", {"crs": "pixel"}, "are no numbers"),
        ("x,y\n1,2\n3,\n", {"crs": "pixel"}, "feature 2 has no geometry"),
        ("a,b\n1,2\n", {"crs": "pixel"}, "has the columns a, b; expected x and y"),
        ("wkt\nPOINT (1 2\n", {"crs": "pixel"}, "feature 1 is no WKT"),
        ('wkt\n"LINESTRING (1 2, 3 4)"\n', {"crs": "pixel"}, "feature 1 is a LineString"),
        ("x,y,crs\n1,2,EPSG:4326\n1,2,EPSG:3857\n", {}, "mixes the CRS"),
        ("x,y\n1,2\n", {"crs": "EPSG:1"}, "is no CRS that can be used"),
        ("x,y\n1,2\n", {"crs": "pixel", "object": "tree"}, "no column 'tree'; its columns: none"),
        ("x,y,k\n1,2,3\n", {"crs": "pixel", "label": "sign"}, "no column 'sign'; its columns: k"),
        ("x,y,label\n1,2,1\n3,4,maybe\n", {"crs": "pixel"}, "feature 2 has the label 'maybe'"),
        ("x,y,label\n1,2,0\n", {"crs": "pixel"}, "prompt 1 has only negative points"),
        ("x0,y0,x1,y1,label\n1,2,3,4,0\n", {"crs": "pixel"}, "only points can be negative"),
        ("x,y\n1,2\n", {"crs": "pixel", "layer": "a"}, "has no layers"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_a_line(
    tmp_path: Path, text: str, options: Any, told: str
) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        read(path, **options)


def test_layers_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "p.gpkg"
    for k, layer in enumerate(("one", "two")):
        Image().frame([shapely.Point(k + 1, 1)]).to_file(path, layer=layer)
    with pytest.raises(InputError, match="has the layers one, two; choose one"):
        read(path)
    with pytest.raises(InputError, match="no layer 'three', but one, two"):
        read(path, layer="three")
    assert read(path, layer="two").points.tolist() == [[2, 1]]


def test_a_missing_file_and_a_raster_without_crs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file of prompts"):
        read(tmp_path / "none.geojson")
    path = save(Image().frame([shapely.Point(1, 1)]), tmp_path / "p.gpkg")
    with pytest.raises(InputError, match="the image has no CRS"):
        read(path, Image(crs=None))
    assert read(path, Image(crs=None), crs="image").points.tolist() == [[1, 1]]


def test_a_file_of_another_crs_than_it_says_shows_both_extents(tmp_path: Path) -> None:
    """Metres that a GeoJSON cannot but call degrees."""
    frame = Image().frame([shapely.box(10, 10, 20, 20)])
    path = tmp_path / "p.geojson"
    path.write_text(frame.set_crs("EPSG:4326", allow_override=True).to_json())
    with pytest.raises(InputError) as caught:
        read(path)
    told = str(caught.value)
    assert "all 1 prompts" in told
    assert "they span x 500005 to 500010, y 3.99999e+06" in told
    assert "the image spans x -99 to -98.9989, y 36.144 to 36.1447 there" in told
    assert "--prompts-crs" in told
    assert read(path, crs="EPSG:32614").boxes.tolist() == [[10, 10, 20, 20]]


def test_geo_sam_5_7_401_prompts_outside_of_the_image_are_told(tmp_path: Path) -> None:
    """Geo-SAM's complaints: a prompt outside of the image raises, or is lost."""
    places = [shapely.Point(10, 10), shapely.Point(-40, 10), shapely.Point(10, 151)]
    found = read(save(Image().frame(places), tmp_path / "p.gpkg"))
    assert found.features["fate"].to_pylist() == ["used", "outside", "outside"]
    assert found.features["object"].to_pylist() == [0, None, None]


def test_boxes_out_of_bounds_are_clipped_and_not_dropped(tmp_path: Path) -> None:
    """samgeo's bug."""
    shapes = [shapely.box(-20, -10, 30, 40), shapely.box(190, 140, 260, 170)]
    found = read(save(Image().frame(shapes), tmp_path / "p.gpkg"))
    assert found.boxes.tolist() == [[0, 0, 30, 40], [190, 140, 200, 150]]
    assert found.features["fate"].to_pylist() == ["clipped", "clipped"]


def discs(size: tuple[int, int] = SIZE) -> tuple[NDArray[np.uint8], list[tuple[int, int, int]]]:
    """Bright discs on dark ground, and their x, y and radius."""
    places = [(30, 30, 12), (120, 40, 20), (70, 110, 16), (180, 130, 30)]
    y, x = np.indices(size)
    image = np.full((3, *size), 40, np.uint8)
    for cx, cy, radius in places:
        image[:, np.hypot(x - cx, y - cy) < radius] = np.array([[210], [190], [90]])
    return image, places


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write(tmp_path / "scene.tif", discs()[0], **UTM)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Boxes around the discs in degrees, and one far away."""
    shapes = [shapely.box(x - r, y - r, x + r, y + r) for x, y, r in discs()[1]]
    shapes.append(shapely.box(400, 400, 410, 410))
    columns = {"id": [11, 12, 13, 14, 15], "Area_M2": list("abcde"), "fid": [5, 6, 7, 8, 9]}
    frame = Image().frame(shapes, crs="EPSG:4326", **columns)
    path = tmp_path / "discs.geojson"
    frame.to_file(path)
    return path


def test_boxes_become_objects_with_their_attributes(
    samplat: Cli, scene: Path, prompts: Path, tmp_path: Path
) -> None:
    names = ["out.tif", "out.parquet", "out.gpkg"]
    outputs = [tmp_path / name for name in names]
    code, out, err = samplat("tile-segment", scene, *outputs, "--prompts", prompts, *TINY)
    assert code == 0
    assert "4 objects" in out
    report = tmp_path / "out.tif.samplat-job" / "answers" / "report.csv"
    assert f"prompts: 3 answered, 1 clipped, 1 outside; see {report}" in out
    assert "warning: 1 of 5 prompts: outside of the image: 5" in err
    assert pd.read_csv(report)["fate"].tolist().count("answered") == 3
    with rasterio.open(outputs[0]) as cog:
        labels = cog.read(1)
    y, x = np.indices(SIZE)
    for k, (cx, cy, radius) in enumerate(discs()[1], start=1):
        truth = np.hypot(x - cx, y - cy) < radius
        assert ((labels == k) & truth).sum() / ((labels == k) | truth).sum() > 0.9
    for path in outputs[1:]:
        frame = (
            geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
        )
        assert frame["prompt_id"].tolist() == [1, 2, 3, 4]
        assert frame["prompt_id_2"].tolist() == [11, 12, 13, 14]
        assert frame["prompt_fid"].tolist() == [5, 6, 7, 8]
        assert frame["prompt_Area_M2"].tolist() == ["a", "b", "c", "d"]
        assert frame["id"].tolist() == [1, 2, 3, 4]


def test_points_and_boxes_and_tiles_and_crs_agree(
    samplat: Cli, scene: Path, prompts: Path, tmp_path: Path
) -> None:
    """The same objects from other tiles, and from prompts in the raster's own CRS."""
    own = tmp_path / "own.gpkg"
    geopandas.read_file(prompts).drop(columns="fid").to_crs("EPSG:32614").to_file(own)
    labels = []
    for k, (file, size) in enumerate([(prompts, 64), (prompts, 512), (own, 33)]):
        output = tmp_path / f"{k}.tif"
        command = ("tile-segment", scene, output, "--prompts", file, "--tile-size", size)
        assert samplat(*command, "--offline", "--executor", "serial")[0] == 0
        with rasterio.open(output) as cog:
            labels.append(cog.read(1))
    assert np.array_equal(labels[0], labels[1])
    assert (labels[0] != labels[2]).mean() < 0.001


def test_embeddings_are_kept_between_runs(
    samplat: Cli, scene: Path, prompts: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for k in range(2):
        options = ("--prompts", prompts, "--cache", cache, *TINY)
        assert samplat("tile-segment", scene, tmp_path / f"{k}.tif", *options)[0] == 0
        assert len(list(cache.rglob("*.zarr.zip"))) == 1
    first, second = (rasterio.open(tmp_path / f"{k}.tif").read(1) for k in range(2))
    assert np.array_equal(first, second)


def test_a_dry_run_tells_of_prompts(
    samplat: Cli, scene: Path, prompts: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    options = ("--prompts", prompts, *TINY, "--dry-run")
    code, out, _ = samplat("tile-segment", scene, tmp_path / "out.tif", *options)
    assert code == 0
    assert "prompts: 5 (1 clipped, 1 outside, 3 used) of 4 objects" in out
    assert "windows: 1 of 512 pixels, 0 seen smaller" in out
    assert "one window:" in out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        (("--prompts-crs", "pixel"), 2, "--prompts-crs needs --prompts"),
        (("--prompts-window", 99), 2, "--prompts-window needs --prompts"),
        (("--prompts", "none.csv"), 1, "there is no file of prompts none.csv"),
        (("--segmenter", "prompted"), 1, "needs prompts"),
        (("--prompts", "{prompts}", "--segmenter", "automatic"), 1, "takes no prompts"),
        (("--prompts", "{prompts}", "--points-per-side", 9), 1, "points_per_side"),
        (("--prompts", "{prompts}", "--prompts-object", "tree"), 1, "no column 'tree'"),
    ],
)
def test_wrong_use_is_told_before_a_model_is_loaded(
    samplat: Cli,
    scene: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[Any, ...],
    status: int,
    told: str,
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("samplat.checkpoints.load_model", refuse)
    given = [str(o).replace("{prompts}", str(prompts)) for o in options]
    code, out, err = samplat("tile-segment", scene, tmp_path / "out.tif", *given, *TINY)
    assert (code, out) == (status, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out.tif.samplat-job").exists()


def test_json_tells_the_fates(samplat: Cli, scene: Path, prompts: Path, tmp_path: Path) -> None:
    options = ("--prompts", prompts, *TINY, "--log-json")
    code, out, _ = samplat("tile-segment", scene, tmp_path / "out.tif", *options)
    assert code == 0
    assert json.loads(out)["prompts"] == {"answered": 3, "clipped": 1, "outside": 1}


def test_the_prompter_is_registered(tools: Registry) -> None:
    assert tools.prompter("vector").name == "vector"


def test_buildings_of_atlanta_from_either_crs(
    samplat: Cli, eval_data: Path, tmp_path: Path
) -> None:
    """A real crop: the same answers for prompts in UTM and in degrees, whole and in tiles."""
    from benchmarks.prompted_buildings import crop_scene, per_building_iou

    folder = eval_data / "geo_atlanta_spacenet4"
    scene, buildings = crop_scene(folder, tmp_path, (0, 0, 420, 420))
    degrees = tmp_path / "degrees.geojson"
    buildings.to_crs("EPSG:4326").to_file(degrees)
    own = tmp_path / "own.gpkg"
    buildings.to_file(own)
    found = []
    for file, size in ((own, 1000), (degrees, 128)):
        output = tmp_path / f"{size}.tif"
        command = ("tile-segment", scene, output, "--prompts", file, "--tile-size", size)
        code, _, err = samplat(*command, "--offline")
        assert code == 0, err
        found.append(per_building_iou(output, buildings))
    assert len(found[0]) > 5
    assert found[0].mean() > 0.5
    assert np.allclose(found[0], found[1], atol=0.01)

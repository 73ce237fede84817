from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
import shapely.affinity
from numpy.typing import NDArray
from scipy import ndimage

from raster.crafted import UTM, painted, write
from samplat import JobResult, SegmentJob, SourceSpec, run_job
from samplat.plugins import Registry
from samplat_raster.drawing import Drawing
from samplat_raster.geoparquet import GeoParquetExporter
from samplat_raster.right_angles import with_right_angles
from samplat_raster.tracing import trace

Draw = Callable[..., Any]


@pytest.fixture
def draw(tools: Registry, tmp_path: Path) -> Draw:
    """Runs a job on labels (y, x) and draws it; what geopandas reads, by id."""
    results: dict[int, JobResult] = {}

    def run(labels: NDArray[Any], tile_size: int = 48, **drawing: Any) -> Any:
        source = write(tmp_path / "in.tif", painted(labels), **UTM)
        if tile_size not in results:
            job = SegmentJob(
                source=SourceSpec(path=str(source), factory="raster"),
                job_dir=str(tmp_path / f"{tile_size}.job"),
                model=None,
                segmenter="colours",
                tile_size=tile_size,
                halo=40,
            )
            results[tile_size] = run_job(job, tools=tools)
        exporter = GeoParquetExporter().with_options(drawing=Drawing(**drawing))
        exporter.export(results[tile_size], tmp_path / "out.parquet")
        return geopandas.read_parquet(tmp_path / "out.parquet").sort_values("id", ignore_index=True)

    return run


def mosaic(side: int, count: int, seed: int, gaps: bool = False) -> NDArray[np.int64]:
    """Labels that fill a square, each nearest to one of some points but for some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    points = rng.uniform(0, side, (count, 2))
    distance = np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1])
    labels = (distance + rng.normal(0, 0.7, (side, side, 1))).argmin(axis=-1) + 1
    labels = ndimage.median_filter(labels, 3)
    if gaps:
        labels[ndimage.gaussian_filter(rng.normal(size=labels.shape), 4) > 0.06] = 0
    return labels


@pytest.mark.parametrize("metres", [0.6, 2.0])
def test_a_simplified_mosaic_has_no_gaps_and_no_overlaps(draw: Draw, metres: float) -> None:
    labels = mosaic(140, 30, seed=1)
    exact, simple = draw(labels), draw(labels, simplify=metres)
    assert simple.is_valid.all()
    assert simple["id"].tolist() == exact["id"].tolist()
    assert simple["area_m2"].to_numpy() == pytest.approx(exact["area_m2"].to_numpy(), rel=1e-4)
    union = shapely.union_all(simple.geometry.array)
    assert union.area == pytest.approx(140 * 140 / 4, rel=1e-12)
    assert simple.area.sum() == pytest.approx(union.area, rel=1e-12)
    before, after = (shapely.get_num_coordinates(f.geometry.array).sum() for f in (exact, simple))
    assert after < before / 2


def test_neighbours_share_their_border_also_where_it_crosses_tiles(draw: Draw) -> None:
    simple = draw(mosaic(140, 12, seed=2), simplify=1.0)
    geometries = np.asarray(simple.geometry.array)
    lines = shapely.boundary(geometries)
    first, second = np.triu_indices(len(lines), 1)
    meet = shapely.distance(geometries[first], geometries[second]) == 0
    shared = shapely.intersection(lines[first[meet]], lines[second[meet]])
    outer = shapely.boundary(shapely.union_all(geometries))
    # every border is of two neighbours, or of one and the outside
    assert 2 * shapely.length(shared).sum() + outer.length == pytest.approx(
        shapely.length(lines).sum(), rel=1e-12
    )


def test_simplified_objects_amid_background_do_not_overlap(draw: Draw) -> None:
    simple = draw(mosaic(140, 40, seed=3, gaps=True), simplify=1.0)
    assert simple.is_valid.all()
    union = shapely.union_all(simple.geometry.array)
    assert simple.area.sum() == pytest.approx(union.area, rel=1e-12)


def test_edges_move_by_about_the_tolerance(draw: Draw) -> None:
    labels = mosaic(140, 30, seed=4, gaps=True)
    exact, simple = draw(labels), draw(labels, simplify=1.0)
    moved = shapely.hausdorff_distance(
        shapely.boundary(np.asarray(exact.geometry.array)),
        shapely.boundary(np.asarray(simple.geometry.array)),
    )
    assert 0 < np.median(moved) < 2.0


def test_tolerances_are_metres() -> None:
    from samplat import ImageInfo

    def degrees(size: float) -> Any:
        matrix = ((size, 0, 0, 85.0), (0, -size, 0, 28.0), (0, 0, 1, 0), (0, 0, 0, 1))
        crs = rasterio.crs.CRS.from_epsg(4326).to_wkt()
        return ImageInfo(shape=(1, 10, 10), bands=1, dtype="uint8", crs=crs, index_to_world=matrix)

    # a degree of latitude has some 111 km, and one of longitude there 98
    pixel = 1e-5 * np.sqrt(110_800 * 98_400)
    assert Drawing(simplify=3.0).tolerance(degrees(1e-5)) == pytest.approx(3 / pixel, rel=2e-3)
    plain = ImageInfo(shape=(1, 10, 10), bands=1, dtype="uint8")
    assert Drawing(simplify=3.0).tolerance(plain) == 3.0


def iou(a: Any, b: Any) -> float:
    return float(shapely.intersection(a, b).area / shapely.union(a, b).area)


def corner_angles(polygon: Any) -> NDArray[np.float64]:
    """Cosines at a polygon's corners."""
    found = []
    for ring in shapely.get_rings(polygon):
        xy = shapely.get_coordinates(ring)[:-1]
        edges = np.roll(xy, -1, axis=0) - xy
        edges /= np.hypot(*edges.T)[:, None]
        found.append((edges * np.roll(edges, 1, axis=0)).sum(axis=1))
    return np.concatenate(found)


@pytest.mark.parametrize("angle", [0, 12, 30, 45, 77])
def test_a_turned_house_gets_its_corners_back(angle: float) -> None:
    house = shapely.Polygon([(0, 0), (60, 0), (60, 25), (30, 25), (30, 40), (0, 40)])
    house = shapely.affinity.translate(shapely.affinity.rotate(house, angle), 60.3, 60.7)
    labels = rasterio.features.rasterize([(house, 1)], out_shape=(180, 180)).astype(np.uint32)
    traced = trace(labels).polygons.to_shapely()[0]
    drawn = with_right_angles(traced, 1.5)
    assert shapely.get_num_coordinates(drawn) == 7
    assert np.abs(corner_angles(drawn)).max() < 1e-9
    assert iou(drawn, house) > 0.96
    assert iou(drawn, house) > iou(traced, house) - 0.01


def test_what_has_no_right_angles_stays_as_it_is() -> None:
    disc = shapely.Point(50, 50).buffer(30)
    diamond = shapely.Polygon([(0, 50), (50, 40), (100, 50), (50, 60)])
    for shape in (disc, diamond):
        labels = rasterio.features.rasterize([(shape, 1)], out_shape=(110, 110))
        traced = trace(labels.astype(np.uint32)).polygons.to_shapely()[0]
        drawn = with_right_angles(traced, 1.5)
        assert drawn is traced or iou(drawn, traced) >= 0.85


def test_courtyards_stay() -> None:
    labels = np.zeros((60, 60), np.uint32)
    labels[5:50, 8:55] = 1
    labels[20:30, 20:40] = 0
    drawn = with_right_angles(trace(labels).polygons.to_shapely()[0], 1.5)
    court = shapely.box(20, 20, 40, 30)
    house = shapely.difference(shapely.box(8, 5, 55, 50), court)
    assert shapely.equals_exact(drawn, house, tolerance=1e-9, normalize=True)


def test_real_buildings_with_right_angles(eval_data: Path, draw: Draw) -> None:
    with rasterio.open(eval_data / "geo_banepa" / "labels" / "OAM-386693-220244-19.tif") as file:
        truth = file.read(1).astype(np.int64)
    exact, drawn = draw(truth, tile_size=200), draw(truth, tile_size=200, right_angles=True)
    pairs = list(zip(exact.geometry, drawn.geometry, strict=True))
    assert drawn.is_valid.all()
    shared = np.array([iou(*pair) for pair in pairs])
    changed = shared < 1 - 1e-6
    assert changed.mean() > 0.6
    assert shared.min() >= 0.849
    assert shared[changed].mean() > 0.93
    squared = shapely.get_parts(np.asarray(drawn.geometry.array)[changed])
    cosines = np.concatenate([corner_angles(part) for part in squared])
    assert np.abs(cosines).max() < 1e-6

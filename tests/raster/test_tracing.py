from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from raster.crafted import blobs
from samplat import HOLE
from samplat_raster.joining import Lines, Piece, joined
from samplat_raster.rings import Polygons
from samplat_raster.tracing import Regions, trace

SMALL = st.tuples(st.integers(1, 9), st.integers(1, 9))
LABELS = SMALL.flatmap(
    lambda shape: arrays(np.uint32, shape, elements=st.sampled_from([0, 1, 1, 2, 3, HOLE]))
)


def gdal(labels: NDArray[np.uint32]) -> list[tuple[int, bytes]]:
    """What GDAL traces, made valid where its rings touch themselves."""
    inside = (labels != 0) & (labels != HOLE)
    ids = np.where(inside, labels, 0).astype(np.int32)
    found = []
    for geometry, name in rasterio.features.shapes(ids, mask=inside, connectivity=4):
        rings = geometry["coordinates"]
        polygon = shapely.make_valid(shapely.Polygon(rings[0], rings[1:]))
        found.append((int(name), comparable(polygon)))
    return sorted(found)


def comparable(geometry: Any) -> bytes:
    return bytes(shapely.to_wkb(shapely.normalize(geometry)))


def by_label(regions: Regions) -> dict[int, Piece]:
    """What there is of each label: one traced geometry."""
    ids, starts = np.unique(regions.labels, return_index=True)
    objects = replace(regions.polygons, owners=np.append(starts, len(regions.labels)))
    return {
        int(name): Piece(polygons=objects.one(k), pinched=regions.pinched[objects.vertices_of(k)])
        for k, name in enumerate(ids)
    }


@settings(deadline=None)
@given(LABELS)
def test_regions_are_what_gdal_traces(labels: NDArray[np.uint32]) -> None:
    regions = trace(labels)
    polygons = regions.polygons.to_shapely()
    assert shapely.is_valid(polygons).all()
    found = zip(regions.labels.tolist(), map(comparable, polygons), strict=True)
    assert sorted(found) == gdal(labels)
    assert regions.areas.tolist() == shapely.area(polygons).tolist()


def in_tiles(
    labels: NDArray[np.uint32], step: tuple[int, int], first: tuple[int, int] = (0, 0)
) -> Polygons:
    """All labels, ascending, traced in tiles of (x, y) `step` pixels and joined."""
    pieces: dict[int, list[Piece]] = {}
    for y in range(first[1] - step[1], labels.shape[0], step[1]):
        for x in range(first[0] - step[0], labels.shape[1], step[0]):
            rows, columns = (
                slice(max(0, y), max(0, y + step[1])),
                slice(max(0, x), max(0, x + step[0])),
            )
            regions = trace(labels[rows, columns].copy(), origin=(columns.start, rows.start))
            for name, piece in by_label(regions).items():
                pieces.setdefault(name, []).append(piece)
    return joined([pieces[name] for name in sorted(pieces)], Lines(first=first, step=step))


def check_tiles(labels: NDArray[np.uint32], *arguments: Any) -> None:
    whole = by_label(trace(labels))
    together = in_tiles(labels, *arguments).to_shapely()
    assert shapely.is_valid(together).all()
    one_by_one = [whole[name].polygons.to_shapely()[0] for name in sorted(whole)]
    assert [comparable(g) for g in together] == [comparable(g) for g in one_by_one]


@settings(deadline=None)
@given(LABELS, st.integers(1, 8), st.integers(1, 8), st.data())
def test_tiles_join_to_what_one_tile_gives(
    labels: NDArray[np.uint32], width: int, height: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    check_tiles(labels, (width, height), first)


@pytest.mark.parametrize("share", [0.45, 0.55, 0.65, 0.9])
def test_noise_in_tiles_joins_to_what_one_tile_gives(share: float) -> None:
    noise = np.random.default_rng(7).random((150, 170)) < share
    check_tiles(noise.astype(np.uint32), (40, 30), (7, 11))


def test_regions_that_meet_at_a_corner_and_join_elsewhere_make_a_valid_polygon() -> None:
    """Both are regions of their own in the left tile, and one by way of the right one."""
    labels = np.array(
        [
            [0, 0, 1, 1, 1],
            [0, 1, 0, 0, 1],
            [0, 1, 1, 1, 1],
            [1, 0, 1, 1, 1],
        ],
        np.uint32,
    )
    for x in range(1, 5):
        for y in range(1, 4):
            check_tiles(labels, (x, y))


def test_two_combs_that_meet_at_corners_enclose_more_holes_than_there_were_rings() -> None:
    """They are one region by way of the right tile alone, where hardly an edge is on the border."""
    labels = np.ones((4, 404), np.uint32)
    labels[1:3, :400] = 0
    labels[1, :400:4] = labels[2, 1:400:4] = 1
    whole = by_label(trace(labels))[1].polygons.to_shapely()[0]
    assert len(shapely.get_parts(whole)) == 1
    assert shapely.get_num_interior_rings(shapely.get_parts(whole)[0]) == 100
    check_tiles(labels, (400, 4))


def test_joined_polygons_begin_alike_whatever_the_tiles() -> None:
    labels = (blobs((60, 60), 20, seed=2) > 0).astype(np.uint32)
    first, second = (in_tiles(labels, step) for step in ((30, 30), (13, 29)))
    assert first.wkb().equals(second.wkb())


def test_far_coordinates_and_large_objects_join() -> None:
    origin = 2**30 - 64
    left, right = np.ones((64, 64), np.uint32), np.ones((64, 32), np.uint32)
    pieces = [
        by_label(trace(part, origin=place))[1]
        for part, place in ((left, (origin, origin)), (right, (origin + 64, origin)))
    ]
    (polygon,) = joined([pieces], Lines(first=(0, 0), step=(64, 64))).to_shapely()
    assert polygon.equals(shapely.box(origin, origin, origin + 96, origin + 64))
    assert len(shapely.get_coordinates(polygon)) == 5


@settings(deadline=None)
@given(LABELS)
def test_everything_with_junctions_is_a_coverage(labels: NDArray[np.uint32]) -> None:
    regions = trace(labels, everything=True, junctions=True)
    assert regions.areas.sum() == labels.size
    assert shapely.coverage_is_valid(regions.polygons.to_shapely())


def test_shells_run_against_the_clock_where_y_points_up() -> None:
    ring = np.ones((5, 5), np.uint32)
    ring[2, 2] = 0
    (polygon,) = trace(ring).polygons.to_shapely()
    up = shapely.transform(polygon, lambda xy: xy * (1, -1))
    assert up.exterior.is_ccw
    assert not up.interiors[0].is_ccw


def test_many_regions_and_long_rings_need_more_room() -> None:
    chess = (np.indices((400, 400)).sum(axis=0) % 2).astype(np.uint32)
    assert len(trace(chess).polygons) == 80_000
    comb = np.zeros((700, 701), np.uint32)
    comb[:, ::2] = 1
    comb[0] = 1
    comb[1:, 1::2][::2] = 0
    assert trace(comb).polygons.measures().areas.sum() == comb.sum()
    spiral = np.zeros((1200, 1200), np.uint32)
    spiral[::2] = 1
    spiral[1::4, -1] = spiral[3::4, 0] = 1
    jagged = spiral.copy()
    jagged[1::2, 1::4] = 1
    polygons = trace(jagged).polygons.to_shapely()
    assert shapely.get_num_coordinates(polygons).max() > 65_536
    assert shapely.area(polygons).sum() == jagged.sum()

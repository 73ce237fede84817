from __future__ import annotations

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
from samplat_raster import tracing
from samplat_raster.tracing import joined, trace

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


def by_label(labels: NDArray[np.uint32]) -> dict[int, Any]:
    """One traced geometry per label."""
    regions = trace(labels)
    ids, starts = np.unique(regions.labels, return_index=True)
    parts = np.split(regions.polygons, starts[1:]) if len(ids) else []
    return {
        int(i): p[0] if len(p) == 1 else shapely.MultiPolygon(p)
        for i, p in zip(ids, parts, strict=True)
    }


@settings(deadline=None)
@given(LABELS)
def test_regions_are_what_gdal_traces(labels: NDArray[np.uint32]) -> None:
    regions = trace(labels)
    assert shapely.is_valid(regions.polygons).all()
    found = zip(regions.labels.tolist(), map(comparable, regions.polygons), strict=True)
    assert sorted(found) == gdal(labels)
    assert regions.areas.tolist() == shapely.area(regions.polygons).tolist()


@settings(deadline=None)
@given(LABELS, st.integers(1, 8), st.integers(1, 8))
def test_parts_of_shards_join_to_what_one_shard_gives(
    labels: NDArray[np.uint32], y: int, x: int
) -> None:
    whole = by_label(labels)
    parts: dict[int, list[Any]] = {name: [] for name in whole}
    for y0, x0 in ((0, 0), (0, x), (y, 0), (y, x)):
        shard = labels[y0 : y if y0 == 0 else None, x0 : x if x0 == 0 else None]
        if shard.size:
            regions = trace(shard, origin=(x0, y0))
            for name, polygon in zip(regions.labels.tolist(), regions.polygons, strict=True):
                parts[name].append(polygon)
    names = sorted(parts)
    if names:
        each = np.array([p for name in names for p in parts[name]], object)
        owners = np.repeat(np.arange(len(names)), [len(parts[name]) for name in names])
        together = joined(each, owners)
        assert shapely.is_valid(together).all()
        assert [comparable(g) for g in together] == [comparable(whole[n]) for n in names]


def test_far_parts_are_united_instead_of_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = (blobs((60, 60), 20, seed=2) > 0).astype(np.uint32)
    halves = [trace(labels[:, :30]), trace(labels[:, 30:], origin=(30, 0))]
    parts = np.concatenate([half.polygons for half in halves])
    owners = np.zeros(len(parts), np.int64)
    filled = joined(parts, owners)[0]
    monkeypatch.setattr(tracing, "LARGEST_FILL", 0)
    united = joined(parts, owners)[0]
    assert comparable(united) == comparable(filled)
    assert comparable(filled) == comparable(by_label(labels)[1])


@settings(deadline=None)
@given(LABELS)
def test_everything_with_junctions_is_a_coverage(labels: NDArray[np.uint32]) -> None:
    regions = trace(labels, everything=True, junctions=True)
    assert regions.areas.sum() == labels.size
    assert shapely.coverage_is_valid(regions.polygons)


def test_shells_run_against_the_clock_where_y_points_up() -> None:
    ring = np.ones((5, 5), np.uint32)
    ring[2, 2] = 0
    polygon = trace(ring).polygons[0]
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
    assert shapely.area(trace(comb).polygons).sum() == comb.sum()
    spiral = np.zeros((1200, 1200), np.uint32)
    spiral[::2] = 1
    spiral[1::4, -1] = spiral[3::4, 0] = 1
    jagged = spiral.copy()
    jagged[1::2, 1::4] = 1
    polygons = trace(jagged).polygons
    assert shapely.get_num_coordinates(polygons).max() > 65_536
    assert shapely.area(polygons).sum() == jagged.sum()

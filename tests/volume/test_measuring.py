"""Sizes, surfaces and intensities of objects, against formulas and other implementations."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, special
from scipy.spatial.transform import Rotation

from samplat import HOLE
from samplat_volume import labels as labels_module
from samplat_volume import measuring
from samplat_volume.crofton import lines
from samplat_volume.geometry import Geometry
from samplat_volume.labels import of_array
from samplat_volume.table import measured
from samplat_volume.writing import write_labels
from volume.labelled import balls, geometries, grid, some_labels

GRIDS = [(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.0, 1.0, 8.0), (2.5, 0.7, 0.8), (1.0, 2.0, 3.0)]
Spacing = tuple[float, float, float]


def voxelised(
    spacing: Spacing, turn: NDArray[np.float64], half: tuple[float, ...], box: bool
) -> NDArray[np.bool_]:
    """An ellipsoid, or a box, with these half axes in mm, turned, as voxels."""
    reach = np.linalg.norm(half) if box else max(half)
    shape = tuple(int(2 * reach / s) + 4 for s in spacing)
    middle = (np.array(shape) - 1) / 2
    places = (np.indices(shape).reshape(3, -1).T - middle) * spacing
    along = np.abs(places @ turn) / half
    inside = along.max(axis=1) < 1 if box else (along**2).sum(axis=1) < 1
    return inside.reshape(shape)


def ellipsoid_surface(half: tuple[float, ...]) -> float:
    a, b, c = sorted(half, reverse=True)
    if a == c:
        return float(4 * np.pi * a * a)
    x, y, z = 1 / (a * a), 1 / (b * b), 1 / (c * c)
    # area = 4 pi R_G of Carlson's symmetric integral
    return float(4 * np.pi * a * b * c * special.elliprg(x, y, z))


def measure(mask: NDArray[np.bool_], spacing: Spacing) -> dict[str, float]:
    geometry = grid(mask.shape, spacing)
    return {name: column[0] for name, column in measured(of_array(mask, geometry)).items()}


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("ratios", [(1.0, 1.0, 1.0), (1.0, 1.5, 2.0)])
def test_ellipsoids_have_their_surface_within_three_hundredths(
    spacing: Spacing, ratios: tuple[float, ...]
) -> None:
    half = tuple(r * 8 * max(spacing) / min(ratios) for r in ratios)  # 8 voxels or more everywhere
    turn = Rotation.random(random_state=3).as_matrix()
    found = measure(voxelised(spacing, turn, half, box=False), spacing)
    assert found["surface_mm2"] == pytest.approx(ellipsoid_surface(half), rel=0.03)
    volume = 4 / 3 * np.pi * np.prod(half)
    assert found["volume_mm3"] == pytest.approx(volume, rel=0.02)


@pytest.mark.parametrize("spacing", GRIDS)
def test_boxes_along_the_axes_are_the_worst_case(spacing: Spacing) -> None:
    shape = tuple(int(30 * max(spacing) / s) for s in spacing)
    sides = np.array(shape) * spacing
    true = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[2] * sides[0])
    found = measure(np.ones(shape, bool), spacing)
    assert 0.86 * true < found["surface_mm2"] < 0.95 * true
    assert found["volume_mm3"] == pytest.approx(np.prod(sides))
    extents = [found[f"extent_{axis}_mm"] for axis in "zyx"]
    np.testing.assert_allclose(extents, sides)


def test_turned_boxes_have_their_surface_on_average() -> None:
    half, spacing = (18.0, 24.0, 30.0), (2.0, 1.0, 1.0)
    true = 8 * (half[0] * half[1] + half[1] * half[2] + half[2] * half[0])
    ratios = [
        measure(voxelised(spacing, turn.as_matrix(), half, box=True), spacing)["surface_mm2"] / true
        for turn in Rotation.random(12, random_state=0)
    ]
    # lines step over the edges: a little is missing, the less the larger the box is
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)
    assert min(ratios) > 0.93
    assert max(ratios) < 1.04


@given(spacing=st.tuples(*[st.floats(-2, 1).map(lambda power: 10.0**power)] * 3))
@settings(max_examples=30, deadline=None)
def test_shares_of_the_lines_make_up_the_whole(spacing: Spacing) -> None:
    found = lines(spacing)
    lengths = np.linalg.norm(found.steps * spacing, axis=1)
    shares = found.areas * lengths / np.prod(spacing) / 2
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    opposite = {tuple(s) for s in found.steps} & {tuple(-s) for s in found.steps}
    assert not opposite


def surfaces_by_rolling(labels: NDArray[np.uint32], spacing: Spacing) -> dict[int, float]:
    """The same definition, a direction at a time over whole arrays."""
    crossed = lines(spacing)
    wide = np.pad(labels, int(np.abs(crossed.steps).max()))
    found = dict.fromkeys(map(int, np.unique(labels)), 0.0)
    for step, area in zip(crossed.steps, crossed.areas, strict=True):
        there = np.roll(wide, -step, axis=(0, 1, 2))
        for label in found:
            found[label] += area * int(((wide == label) != (there == label)).sum())
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(geometry=geometries(), seed=st.integers(0, 99), slices=st.integers(1, 4))
def test_one_pass_agrees_with_many(
    geometry: Geometry, seed: int, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = some_labels(geometry.shape, 4, seed)
    image = np.random.default_rng(seed).normal(1e5, 2, geometry.shape)
    monkeypatch.setattr(labels_module, "SLAB_VOXELS", slices * labels[0].size)
    monkeypatch.setattr(measuring, "VALUES_VOXELS", labels[0].size)
    found = measured(of_array(labels, geometry, image=image))
    ids = found["id"]
    assert ids.tolist() == [i for i in np.unique(labels) if i not in (0, HOLE)]
    surfaces = surfaces_by_rolling(labels, geometry.spacing)
    np.testing.assert_allclose(found["surface_mm2"], [surfaces[i] for i in ids], rtol=1e-9)
    np.testing.assert_array_equal(found["voxels"], [(labels == i).sum() for i in ids])
    for name in ("mean", "std", "min", "max"):
        # values far from 0 cost a plain sum its digits
        expected = [getattr(image[labels == i] - 1e5, name)() for i in ids]
        expected = np.array(expected) + (0 if name == "std" else 1e5)
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-7)
    boxes = ndimage.find_objects(labels.astype(np.int64), max_label=int(ids.max()))
    for row, i in enumerate(ids):
        box = boxes[i - 1]
        starts = [int(found[f"{axis}0"][row]) for axis in "zyx"]
        assert starts == [s.start for s in box]
        assert [int(found[f"{axis}1"][row]) for axis in "zyx"] == [s.stop for s in box]
        centre = np.argwhere(labels == i).mean(axis=0)
        position = [found[f"centroid_{axis}_mm"][row] for axis in "lps"]
        np.testing.assert_allclose(position, geometry.to_physical(centre[None])[0], atol=1e-9)


def test_slabs_change_no_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = balls((20, 30, 24), 8)
    image = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    texts = []
    for slices in (100, 7, 1):
        monkeypatch.setattr(labels_module, "SLAB_VOXELS", slices * 30 * 24)
        write_labels(tmp_path / "a.csv", labels, grid(labels.shape), image=image)
        texts.append((tmp_path / "a.csv").read_bytes())
    assert texts[0] == texts[1] == texts[2]


def test_rows_come_by_id_and_unknown_numbers_are_empty(tmp_path: Path) -> None:
    labels = np.zeros((2, 3, 4), np.uint32)
    labels[0, 0, :2], labels[1, 2, 3], labels[0, 2, 0], labels[1, 0, 0] = 70_000, 5, 9, HOLE
    image = np.full((2, 3, 4), 7.5)
    image[0, 2, 0] = np.nan
    write_labels(tmp_path / "a.csv", labels, grid(labels.shape, (2, 1, 1)), image=image)
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["5", "9", "70000"]
    assert [row["mean"] for row in rows] == ["7.5", "", "7.5"]
    assert rows[2]["volume_mm3"] == "4"
    assert "min_1" not in rows[0]


def test_bands_are_numbered_and_no_image_is_no_column() -> None:
    labels = np.ones((2, 2, 2), np.uint8)
    image = np.arange(16).reshape(2, 2, 2, 2)
    found = measured(of_array(labels, grid(labels.shape), image=image))
    assert (found["mean_1"][0], found["mean_2"][0]) == (7, 8)
    assert not any(name.startswith("mean") for name in measured(of_array(labels, grid((2, 2, 2)))))


def test_no_objects_are_a_table_without_rows(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.csv", np.zeros((2, 3, 4), bool), grid((2, 3, 4)))
    header = (tmp_path / "a.csv").read_text()
    assert header.startswith("id,voxels,volume_mm3,surface_mm2,extent_x_mm")
    assert header.count("\n") == 1

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from samplat import InputError, Stretch, Window
from samplat_volume.geometry import Geometry
from samplat_volume.planes import ANATOMICAL, plane_of, world_axes
from samplat_volume.source import VolumeSource
from samplat_volume.space import boxes_inside, from_index, points_inside, to_index
from volume.scans import image_of, noise, oblique, write


@st.composite
def geometries(draw: Any) -> Geometry:
    length = st.floats(1e-4, 50)
    place = st.floats(-1000, 1000)
    frame = oblique(draw(st.integers(0, 10**6)))
    if draw(st.booleans()):
        frame[:, draw(st.integers(0, 2))] *= -1  # left-handed grids exist
    return Geometry(
        shape=tuple(draw(st.tuples(*[st.integers(2, 300)] * 3))),
        spacing=draw(st.tuples(length, length, length)),
        origin=draw(st.tuples(place, place, place)),
        direction=frame,
    )


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), seed=st.integers(0, 10**6))
def test_points_come_back_from_every_frame(geometry: Geometry, seed: int) -> None:
    index = np.random.default_rng(seed).uniform(-0.5, np.array(geometry.shape) - 0.5, (20, 3))
    for frame in ("voxel", "lps", "ras"):
        points = from_index(geometry, index, frame)  # type: ignore[arg-type]
        step = min(geometry.spacing)
        # a double of 1000 mm is known to 1e-13 mm, of a farther point to less
        rounding = 1e-15 * max(1000, np.abs(points).max())
        assert np.abs(to_index(geometry, points, frame) - index).max() < 1e-9 + rounding / step
        back = from_index(geometry, to_index(geometry, points, frame), frame)  # type: ignore[arg-type]
        assert np.abs(back - points).max() < 1e-9


@settings(max_examples=40, deadline=None)
@given(geometry=geometries())
def test_positions_are_those_of_simpleitk(geometry: Geometry) -> None:
    image = sitk.Image(4, 4, 4, sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction.ravel().tolist())
    point = np.array([[1.25, 2.5, 0.75]])  # z, y, x
    expected = image.TransformContinuousIndexToPhysicalPoint((0.75, 2.5, 1.25))
    assert np.abs(geometry.to_physical(point)[0] - expected).max() < 1e-9
    assert np.abs(to_index(geometry, np.array([expected]), "lps") - point).max() < 1e-6
    assert Geometry.of_image(image).direction == pytest.approx(geometry.direction)


def test_ras_is_lps_turned_about(tmp_path: Path) -> None:
    geometry = Geometry.of_image(image_of(noise(), oblique()))
    index = np.array([[1.0, 2, 3]])
    lps, ras = (from_index(geometry, index, f)[0] for f in ("lps", "ras"))  # type: ignore[arg-type]
    assert ras.tolist() == [-lps[0], -lps[1], lps[2]]


def box_geometry() -> Geometry:
    return Geometry(
        shape=(10, 20, 30), spacing=(2.0, 1.0, 0.5), origin=(5.0, 6.0, 7.0), direction=np.eye(3)
    )


def test_points_outside_are_told_where_the_volume_is() -> None:
    with pytest.raises(InputError, match=r"point 3,4,10 \(voxel\) lies outside .* 29,19,9, lps 5,"):
        points_inside(box_geometry(), np.array([[0, 0, 0], [3, 4, 10.0]]), "voxel")
    assert points_inside(box_geometry(), np.array([[29.5, 19.5, 9.5]]), "voxel").shape == (1, 3)
    with pytest.raises(InputError, match="another frame, or of another scan"):
        points_inside(box_geometry(), np.array([[6.0, 7, 8]]), "ras")
    assert len(points_inside(box_geometry(), np.zeros((0, 3)), "ras")) == 0


def test_boxes_in_an_upright_volume() -> None:
    geometry = box_geometry()
    voxel = np.array([[2.0, 3, 4, 12, 13, 8]])
    index = boxes_inside(geometry, voxel, "voxel")
    assert index.tolist() == [[4, 3, 2, 8, 13, 12]]
    ends = from_index(geometry, index.reshape(2, 3), "lps")
    assert np.allclose(boxes_inside(geometry, ends.reshape(1, 6), "lps"), index, atol=1e-9)
    wide = boxes_inside(geometry, np.array([[-9.0, 3, 4, 99, 13, 8]]), "voxel")
    assert wide.tolist() == [[4, 3, -0.5, 8, 13, 29.5]]
    with pytest.raises(InputError, match=r"box 40,3,4,50,13,8 \(voxel\) lies outside"):
        boxes_inside(geometry, np.array([[40.0, 3, 4, 50, 13, 8]]), "voxel")
    with pytest.raises(InputError, match="x0 <= x1"):
        boxes_inside(geometry, np.array([[5.0, 3, 4, 2, 13, 8]]), "voxel")


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), seed=st.integers(0, 10**6))
def test_a_box_of_an_oblique_volume_holds_what_the_upright_one_holds(
    geometry: Geometry, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    inside = geometry.to_physical(rng.uniform(0.1, 0.9, (2, 3)) * (np.array(geometry.shape) - 1))
    box = np.concatenate([inside.min(axis=0), inside.max(axis=0)])[None]
    (found,) = boxes_inside(geometry, box, "lps")
    points = geometry.to_index(rng.uniform(box[0, :3], box[0, 3:], (50, 3)))
    points = points[((points >= -0.5) & (points <= np.array(geometry.shape) - 0.5)).all(axis=1)]
    assert ((points >= found[:3] - 1e-6) & (points <= found[3:] + 1e-6)).all()


@pytest.mark.parametrize(
    ("points", "told"),
    [
        ([[1, 2]], r"got an array of shape \(1, 2\)"),
        ([["a", "b", "c"]], "in numbers"),
        ([[1, 2, float("nan")]], "that are finite"),
    ],
)
def test_what_is_no_point_is_refused(points: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        to_index(box_geometry(), points, "lps")
    with pytest.raises(InputError, match="frame of voxel, lps, ras; got 'mni'"):
        to_index(box_geometry(), np.zeros((1, 3)), "mni")  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["LPS", "PIR", "SAR", "RAI", "ASL", "LIP"])
def test_anatomical_planes_of_every_orientation(order: str) -> None:
    image = sitk.DICOMOrient(image_of(noise(), np.eye(3)), order)
    geometry = Geometry.of_image(image)
    axes = {"sagittal": "LR", "coronal": "PA", "axial": "SI"}
    for name, letters in axes.items():
        plane = plane_of(geometry, name)
        assert order[2 - plane.axis] in letters  # index axes are x, y, z there
        assert plane.name == name
        assert str(plane).startswith("zyx"[plane.axis])


@settings(max_examples=60, deadline=None)
@given(geometry=geometries())
def test_every_oblique_volume_has_three_planes(geometry: Geometry) -> None:
    assert sorted(world_axes(geometry)) == [0, 1, 2]
    assert sorted(plane_of(geometry, name).axis for name in ANATOMICAL) == [0, 1, 2]


def test_real_orientations(eval_data: Path) -> None:
    cord = VolumeSource(str(eval_data / "med_sct_cord" / "t2.nii.gz"))
    # stored as slices from left to right
    assert [plane_of(cord.geometry, n).axis for n in ("sagittal", "coronal", "axial")] == [0, 2, 1]
    brain = VolumeSource(str(eval_data / "med_ms_lesions" / "patient26_gt.nii.gz"))
    assert [plane_of(brain.geometry, n).axis for n in ("axial", "coronal", "sagittal")] == [0, 1, 2]


def test_other_planes_are_refused() -> None:
    with pytest.raises(InputError, match="z, y, x, sagittal, coronal, axial; got 'oblique'"):
        plane_of(box_geometry(), "oblique")


@pytest.mark.parametrize("name", ["z", "y", "x"])
def test_slices_and_masks_of_every_axis(tmp_path: Path, name: str) -> None:
    values = noise("int16")
    source = VolumeSource(str(write(tmp_path / "a.nii", image_of(values, oblique()))))
    plane = plane_of(source.geometry, name)
    axis = "zyx".index(name)
    assert plane.count == values.shape[axis]
    assert plane.shape == plane.read(source, 0).shape[:2]
    assert (plane.thickness, *plane.spacing) == tuple(
        source.info.spacing[a] for a in (axis, *plane.axes)
    )
    marked = np.zeros(values.shape, bool)
    for k in range(plane.count):
        pixels = plane.read(source, k)[..., 0]
        assert np.array_equal(pixels, values.take(k, axis))
        assert plane.valid(source, k).all()
        plane.place(marked, k)[...] = pixels > 500
    assert np.array_equal(marked, values > 500)
    assert np.array_equal(plane.unstacked(plane.stacked(values)), values)
    with pytest.raises(InputError, match=f"slices 0 to {plane.count - 1} across {name} "):
        plane.read(source, plane.count)


@pytest.mark.parametrize("name", ["z", "y", "x"])
def test_points_of_slices(name: str) -> None:
    geometry = box_geometry()
    plane = plane_of(geometry, name)
    index = np.random.default_rng(0).integers(0, geometry.shape, (50, 3)).astype(float)
    numbers, points = plane.to_slice(index)
    assert np.array_equal(plane.to_index(numbers, points), index)
    values = np.random.default_rng(1).normal(size=geometry.shape)
    for k, (x, y), (i, j, m) in zip(numbers, points, index.astype(int), strict=True):
        assert plane.stacked(values)[k][int(y), int(x)] == values[i, j, m]


def test_an_empty_slice_is_not_prompted(tmp_path: Path) -> None:
    values = noise("float32")
    values[0], values[1], values[2] = 7.0, np.nan, 1e6
    source = VolumeSource(str(write(tmp_path / "a.nii", image_of(values))))
    plane, stretch = plane_of(source.geometry, "z"), Stretch(low=(-500.0,), high=(500.0,))
    for k in (0, 1, 2):
        with pytest.raises(InputError, match=f"slice {k} across z .* is empty"):
            plane.check_visible(source, k, stretch)
    plane.check_visible(source, 3, stretch)


def test_planes_read_only_their_slice(tmp_path: Path) -> None:
    source = VolumeSource(str(write(tmp_path / "a.nii", image_of(noise()))))
    asked = list[Window]()

    class Watched:
        def read(self, window: Window) -> Any:
            asked.append(window)
            return source.read(window)

    plane_of(source.geometry, "y").read(Watched(), 4)  # type: ignore[arg-type]
    assert [w.shape for w in asked] == [(6, 1, 17)]

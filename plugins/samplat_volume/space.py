"""Prompts in the frame in which somebody has them: voxels, LPS or RAS millimetres.

"voxel": indices (x, y, z) as ITK and most viewers show them; 0 is the centre of the first voxel.
"lps": millimetres (x, y, z) to the patient's left, back and head, as in DICOM and ITK.
"ras": millimetres to the right, front and head, as in NIfTI and its tools.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from samplat import InputError
from samplat_volume.geometry import Geometry

Frame = Literal["voxel", "lps", "ras"]
ROUNDED = 1e-6
"""Voxels by which millimetres may miss the volume's edge: they are rounded."""
TURNED = np.array([-1.0, -1.0, 1.0])
"""LPS to RAS and back."""


class OutsideError(InputError):
    """A point or a box that lies outside of the volume."""


def to_index(geometry: Geometry, points: NDArray[Any], frame: Frame) -> NDArray[np.float64]:
    """Fractional indices (N, 3) zyx of points (N, 3) xyz in a frame.

    Raises:
        InputError: not such points, not finite, or an unknown frame.
    """
    points = _checked(points, 3, "points x,y,z")
    if _known(frame) == "voxel":
        return np.ascontiguousarray(points[:, ::-1])
    return geometry.to_index(points if frame == "lps" else points * TURNED)


def from_index(geometry: Geometry, index: NDArray[Any], frame: Frame) -> NDArray[np.float64]:
    """Points (N, 3) xyz in a frame, of fractional indices (N, 3) zyx."""
    index = _checked(index, 3, "indices z,y,x")
    if _known(frame) == "voxel":
        return np.ascontiguousarray(index[:, ::-1])
    position = geometry.to_physical(index)
    return position if frame == "lps" else position * TURNED


def points_inside(geometry: Geometry, points: NDArray[Any], frame: Frame) -> NDArray[np.float64]:
    """Like `to_index`, of points that lie in the volume: at most half a voxel from a centre.

    Raises:
        OutsideError: a point lies outside; the message tells where the volume is.
    """
    index = to_index(geometry, points, frame)
    outside = ~((index >= -0.5) & (index <= np.asarray(geometry.shape) - 0.5)).all(axis=1)
    if outside.any():
        which = int(np.flatnonzero(outside)[0])
        told = _told(np.asarray(points, np.float64)[which])
        raise OutsideError(
            f"point {told} ({frame}) lies outside of the volume, which covers {extent(geometry)}; "
            "is it in another frame, or of another scan?"
        )
    return index


def boxes_inside(geometry: Geometry, boxes: NDArray[Any], frame: Frame) -> NDArray[np.float64]:
    """Index boxes (N, 6), z0 y0 x0 z1 y1 x1, around boxes (N, 6), x0 y0 z0 x1 y1 z1, of a frame.

    Corners are taken as they are given: a voxel box goes from the centre of one voxel to that of
    another. In an oblique volume an upright box of the patient's frame is a slanted one of voxels,
    and the result is the smallest one around it. What lies outside of the volume is cut away.

    Raises:
        InputError: a box has no extent, or is not in order.
        OutsideError: it lies outside altogether.
    """
    low, high = _around(geometry, boxes, frame)
    last = np.asarray(geometry.shape) - 0.5
    return np.concatenate([np.maximum(low, -0.5), np.minimum(high, last)], axis=1)


def sticks_out(geometry: Geometry, box: NDArray[Any], frame: Frame) -> bool:
    """Whether `boxes_inside` cuts something away from a box (6,)."""
    low, high = _around(geometry, box[None], frame)
    last = np.asarray(geometry.shape) - 0.5
    return bool((low < -0.5 - ROUNDED).any() or (high > last + ROUNDED).any())


def _around(
    geometry: Geometry, boxes: NDArray[Any], frame: Frame
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest indices (N, 3) zyx of boxes, none of which lies outside altogether."""
    boxes = _checked(boxes, 6, "boxes x0,y0,z0,x1,y1,z1")
    if (inverted := (boxes[:, 3:] < boxes[:, :3]).any(axis=1)).any():
        told = _told(boxes[np.flatnonzero(inverted)[0]])
        raise InputError(f"expected boxes x0,y0,z0,x1,y1,z1 with x0 <= x1 and so on; got {told}")
    if not len(boxes):
        return np.zeros((0, 3)), np.zeros((0, 3))
    sides = np.array(list(itertools.product((0, 1), repeat=3)))  # which corner, per axis
    ends = boxes.reshape(-1, 2, 3)
    corners = np.stack([ends[:, side, range(3)] for side in sides], axis=1)
    index = to_index(geometry, corners.reshape(-1, 3), frame).reshape(corners.shape)
    low, high = index.min(axis=1), index.max(axis=1)
    last = np.asarray(geometry.shape) - 0.5
    for box, outside in zip(boxes, ((high < -0.5) | (low > last)).any(axis=1), strict=True):
        if outside:
            raise OutsideError(
                f"box {_told(box)} ({frame}) lies outside of the volume, which covers "
                f"{extent(geometry)}; is it in another frame, or of another scan?"
            )
    return low, high


def extent(geometry: Geometry) -> str:
    """Where a volume is, for messages: in voxels, and in both frames of the patient."""
    z, y, x = geometry.shape
    ends = np.array(list(itertools.product(*((0, n - 1) for n in geometry.shape))), np.float64)
    parts = [f"voxels 0,0,0 to {x - 1},{y - 1},{z - 1}"]
    for frame in ("lps", "ras"):
        corners = from_index(geometry, ends, frame)
        parts.append(f"{frame} {_told(corners.min(axis=0))} to {_told(corners.max(axis=0))}")
    return ", ".join(parts)


def _told(numbers: NDArray[np.float64]) -> str:
    return ",".join(f"{n:.6g}" for n in numbers)


def _known(frame: str) -> str:
    if frame not in get_args(Frame):
        raise InputError(f"expected a frame of {', '.join(get_args(Frame))}; got {frame!r}")
    return frame


def _checked(numbers: NDArray[Any], width: int, what: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(numbers, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"expected {what} in numbers, got {numbers!r}") from None
    array = array.reshape(0, width) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != width:
        raise InputError(f"expected {what}, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"expected {what} that are finite, got {array[~np.isfinite(array)][0]}")
    return array

"""Parts of a raster that a user asks for: in pixels, or on the ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samplat import ImageInfo, InputError, Window
from samplat_raster.georeference import to_pixels, to_world

EDGE_POINTS = 33
"""Points along each side of a box: straight lines of one CRS are curves in another."""


def window_of_pixels(info: ImageInfo, box: tuple[int, int, int, int]) -> Window:
    """The window of x, y, width, height in pixels, as far as it lies in the image.

    Raises:
        InputError: nothing of it does.
    """
    x, y, width, height = box
    corners = np.array([[x, y], [x + width, y + height]], np.float64)
    return _clipped(info, corners, f"the window {x},{y},{width},{height}")


def window_of_box(
    info: ImageInfo, box: tuple[float, float, float, float], crs: str | None
) -> Window:
    """The pixels that a box on the ground touches, as far as they lie in the image.

    Args:
        info: the image.
        box: x0, y0, x1, y1, of which x0 and x1 may stand for a box across the antimeridian.
        crs: of the box, such as "EPSG:4326", longitude first; None for the image's own.

    Raises:
        InputError: the CRS is unknown, or nothing of the box lies in the image.
    """
    told = f"the box {','.join(f'{v:.10g}' for v in box)}"
    places = [to_pixels(info, edge) for edge in _outlines(info, box, crs)]
    windows = [_within(info, place) for place in places]
    best = max(windows, key=lambda window: window.size)
    if not best.size:
        return _clipped(info, places[0], told)
    return best


def _outlines(
    info: ImageInfo, box: tuple[float, float, float, float], crs: str | None
) -> list[NDArray[np.float64]]:
    """Outline of a box (N, 2) in the CRS of the image; where that has degrees, of each turn."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError

    if info.crs is None:
        if crs is not None:
            raise InputError("a box in a CRS needs an image with one, which this image has not")
        return [_outline(box)]
    own = CRS.from_wkt(info.crs)
    try:
        given = own if crs is None else CRS.from_user_input(crs)
    except CRSError:
        raise InputError(f"unknown CRS {crs!r}; expected one such as EPSG:4326") from None
    if given.is_geographic and box[0] > box[2]:
        box = (box[0], box[1], box[2] + 360, box[3])
    edge = _outline(box)
    if crs is not None:
        x, y = Transformer.from_crs(given, own, always_xy=True).transform(*edge.T)
        edge = np.stack([x, y], axis=1)[np.isfinite(x) & np.isfinite(y)]
    return _turned(info, edge) if own.is_geographic else [edge]


def _turned(info: ImageInfo, edge: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """An outline in degrees, moved by whole turns to where the image has its longitudes."""
    if not len(edge):
        return [edge]
    middle = to_world(info, np.array(info.shape[:0:-1]).reshape(1, 2) / 2)[0, 0]
    nearest = round((middle - edge[:, 0].mean()) / 360)
    return [edge + np.array([360 * turn, 0]) for turn in (nearest, nearest - 1, nearest + 1)]


def _outline(box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    x0, y0, x1, y1 = box
    steps = np.linspace(0, 1, EDGE_POINTS)
    x, y = x0 + (x1 - x0) * steps, y0 + (y1 - y0) * steps
    sides = [(x, np.full_like(x, y0)), (x, np.full_like(x, y1))]
    sides += [(np.full_like(y, x0), y), (np.full_like(y, x1), y)]
    return np.concatenate([np.stack(side, axis=1) for side in sides])


def _within(info: ImageInfo, points: NDArray[np.float64]) -> Window:
    """The pixels of the image between the outermost of some points (N, 2) x, y."""
    _, height, width = info.shape
    if not len(points):
        return Window(start=(0, 0, 0), stop=(1, 0, 0))
    # what lies on the edge of a pixel, but for rounding, does not touch the next one
    low, high = np.floor(points.min(axis=0) + 1e-6), np.ceil(points.max(axis=0) - 1e-6)
    x0, y0 = (int(v) for v in np.clip(low, 0, (width, height)))
    x1, y1 = (int(v) for v in np.clip(high, 0, (width, height)))
    return Window(start=(0, y0, x0), stop=(1, y1, x1))


def _clipped(info: ImageInfo, points: NDArray[np.float64], told: str) -> Window:
    window = _within(info, points)
    if not window.size:
        _, height, width = info.shape
        seen = "nowhere"
        if len(points):
            (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
            seen = f"at pixels {x0:.6g},{y0:.6g} to {x1:.6g},{y1:.6g}"
        raise InputError(f"{told} lies {seen}, outside of the image of {width} x {height} pixels")
    return window

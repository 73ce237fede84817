"""Layers of napari and what they mean: pixels to look at, prompts, labels.

Positions in a prompt are pixels of the image, whatever scale, rotation or affine its layer has.
Nothing of napari is imported here: layers come in, and are made by the viewer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.answering import Picture
from napari_sam.blocks import Window, mask_block
from napari_sam.sheets import Place
from napari_sam.state import Box, Plane, Point, Polygon, Prompt, Region, Scribble, plane_of
from samplat import InputError

POSITIVE, NEGATIVE, PREVIEW = "#2bd14f", "#f03a3a", "#ffd21f"
"""Colours of points on the object, of points beside it, and of the mask that is not committed."""
AFFORDABLE, PATCHES = 2**24, 8
"""Pixels of a slice that may be read to tell it from others, and patches a side of larger ones."""
DIGITS = 6
"""Of positions: what transforms there and back lose is not a move."""


def shape_of(image: Any) -> tuple[int, ...]:
    """Extent of an image layer in pixels at its finest level, without colour bands."""
    data = image.data[0] if image.multiscale else image.data
    return tuple(int(n) for n in data.shape[: image.ndim])


def picture_of(image: Any) -> Picture:
    """What the model sees of an image layer: what the screen shows, by its contrast limits.

    Raises:
        InputError: fewer than two axes, no pixels, complex numbers.
    """
    data = image.data[0] if image.multiscale else image.data
    shape = shape_of(image)
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"layer {image.name!r} has {shape} pixels; choose an image with two axes")
    kind = np.dtype(data.dtype)
    if kind.kind not in "buif":
        raise InputError(f"layer {image.name!r} holds {kind}; choose an image of real numbers")
    low, high = (float(each) for each in image.contrast_limits)
    plain = kind == np.uint8 and (image.rgb or (low, high) == (0.0, 255.0))
    if image.rgb and kind.kind == "f":
        low, high = 0.0, 1.0
    return Picture(
        data=data,
        shape=shape,
        bands=bool(image.rgb),
        limits=None if plain else (low, high),
        levels=tuple(image.data[1:]) if image.multiscale else (),
    )


def folder_of(home: Path, image: Any) -> Path:
    """The folder for work on an image: one for the same file, or the same pixels, by any name."""
    name = _name_of(image)
    return next(iter(sorted(home.glob(f"*{name[-13:]}"))), home / name)


def _name_of(image: Any) -> str:
    data = image.data[0] if image.multiscale else image.data
    path = getattr(image.source, "path", None)
    digest = hashlib.sha256(f"{shape_of(image)} {data.dtype}".encode())
    if path:
        digest.update(str(Path(path).absolute() if Path(path).exists() else path).encode())
    else:
        lead = tuple(n // 2 for n in shape_of(image)[:-2])
        for part in _telling(shape_of(image)[-2:]):
            digest.update(np.ascontiguousarray(data[(*lead, *part)]).tobytes())
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path or image.name).name).strip("-.")
    return f"{plain[:48] or 'image'}-{digest.hexdigest()[:12]}"


def _telling(size: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Pixels of a slice that tell images apart: a few hundred of each axis, or patches of more."""
    if prod(size) <= AFFORDABLE:
        rows, columns = (slice(None, None, max(1, n // 256)) for n in size)
        yield rows, columns
        return
    starts = [[n * k // PATCHES for k in range(PATCHES)] for n in size]
    for y, x in product(*starts):
        yield slice(y, y + 32), slice(x, x + 32)


def placed_like(image: Any) -> dict[str, Any]:
    """Arguments that put another layer onto an image, pixel for pixel."""
    placing = {
        "scale": image.scale,
        "translate": image.translate,
        "rotate": image.rotate,
        "shear": image.shear,
        "affine": image.affine.affine_matrix,
    }
    return placing | {k: getattr(image, k) for k in ("units", "axis_labels") if hasattr(image, k)}


def placed_on(image: Any, place: Place) -> dict[str, Any]:
    """Arguments that put a sheet of an image onto it."""
    zero = np.zeros(image.ndim)
    first = [w.start + (step - 1) / 2 for w, step in zip(place.window, place.steps, strict=True)]
    moved = np.subtract(image.data_to_world(first), image.data_to_world(zero))
    linear = np.asarray(image.affine.affine_matrix)[:-1, :-1]
    return placed_like(image) | {
        "scale": np.asarray(image.scale) * np.asarray(place.steps),
        "translate": np.asarray(image.translate) + np.linalg.solve(linear, moved),
    }


def screen_of(image: Any, axes: Sequence[int]) -> Window:
    """The pixels of an image that are on the screen, as of its last picture; all of other axes."""
    shape, factors = shape_of(image), np.ones(image.ndim)
    if image.multiscale:
        factors = np.asarray(image.downsample_factors)[image.data_level][: image.ndim]
    low, high = np.asarray(image.corner_pixels)[:, : image.ndim] * factors
    if not (high > low)[list(axes)].all():  # nothing was drawn yet
        return tuple(slice(0, n) for n in shape)
    return tuple(
        slice(max(0, int(low[n])), min(extent, int(high[n] + factors[n])))
        if n in axes
        else slice(0, extent)
        for n, extent in enumerate(shape)
    )


def shown_axes(viewer: Any, image: Any) -> tuple[int, int] | None:
    """The two axes of an image that the viewer shows, the smaller first; None in 3D."""
    lead = viewer.dims.ndim - image.ndim
    axes = sorted(n - lead for n in viewer.dims.displayed if n >= lead)
    return (axes[0], axes[1]) if len(axes) == 2 and viewer.dims.ndisplay == 2 else None


def pixel_of(image: Any, layer: Any, place: Sequence[float]) -> tuple[float, ...]:
    """A position in a layer's data as pixels of the image."""
    if layer is image or _placed_alike(image, layer):
        found = np.asarray(place, float)
    else:
        found = np.asarray(image.world_to_data(layer.data_to_world(place)), float)
    return tuple(float(v) for v in np.round(found, DIGITS))


def _placed_alike(image: Any, layer: Any) -> bool:
    if image.ndim != layer.ndim:
        return False
    ours, theirs = placed_like(image), placed_like(layer)
    return all(np.array_equal(ours[k], theirs[k]) for k in ("scale", "translate", "rotate")) and (
        np.array_equal(ours["shear"], theirs["shear"])
        and np.array_equal(ours["affine"], theirs["affine"])
    )


def points_in(image: Any, layer: Any, signs: Sequence[bool]) -> list[Point]:
    """The points of a layer, with the signs they have."""
    return [
        Point(position=pixel_of(image, layer, at), positive=bool(sign))
        for at, sign in zip(layer.data, signs, strict=True)
    ]


def shapes_in(image: Any, layer: Any, signs: Sequence[bool]) -> list[Prompt]:
    """The shapes of a layer as prompts; those without extent are none.

    Rectangles are boxes, paths and lines scribbles with the signs they have, polygons and ellipses
    outlines.
    """
    found: list[Prompt] = []
    for data, kind, sign in zip(layer.data, layer.shape_type, signs, strict=True):
        places = np.array([pixel_of(image, layer, at) for at in data])
        low, high = places.min(axis=0), places.max(axis=0)
        if kind in ("path", "line"):
            if (high > low).any():
                found.append(Scribble(places=_tuples(places), positive=bool(sign)))
        elif (high > low).sum() < 2:
            continue
        elif kind == "rectangle":
            found.append(Box(start=tuple(map(float, low)), stop=tuple(map(float, high))))
        else:
            corners = _around(places) if kind == "ellipse" else places
            found.append(Polygon(places=_tuples(corners)))
    return found


def _tuples(places: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(each) for each in np.round(places, DIGITS).tolist())


def _around(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places along the ellipse in a parallelogram."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    first, second = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    places: NDArray[np.float64] = (
        corners.mean(axis=0) + np.cos(turn) * first + np.sin(turn) * second
    )
    return places


def is_drawn(prompt: Prompt) -> bool:
    """Whether it is shown as a shape."""
    return isinstance(prompt, Box | Scribble | Polygon)


def shape_for(prompt: Prompt, axes: tuple[int, int]) -> tuple[NDArray[np.float64], str, str]:
    """Data, type and colour of the shape that shows a prompt."""
    match prompt:
        case Box():
            return corners_of(prompt, axes), "rectangle", PREVIEW
        case Polygon(places=places):
            return np.array(places), "polygon", PREVIEW
        case Scribble(places=places, positive=positive):
            return np.array(places), "path", POSITIVE if positive else NEGATIVE
    raise TypeError(prompt)


def merged(old: Iterable[Prompt], placed: Sequence[Prompt], axes: tuple[int, int]) -> list[Prompt]:
    """Prompts in the order in which they were placed: those that were there before come first.

    Of several boxes on a slice the newest is meant.
    """
    newest = {plane_of(p.place, axes): p for p in placed if isinstance(p, Box)}
    left = [p for p in placed if not isinstance(p, Box) or newest[plane_of(p.place, axes)] is p]
    kept = []
    for prompt in old:
        if prompt in left:
            left.remove(prompt)
            kept.append(prompt)
    return kept + left


def corners_of(box: Box, axes: tuple[int, int]) -> NDArray[np.float64]:
    """The four corners of a box, as a Shapes layer has them."""
    first, second = axes
    corners = np.array([box.start, box.start, box.stop, box.stop], float)
    corners[1, second] = box.stop[second]
    corners[3, first], corners[3, second] = box.stop[first], box.start[second]
    return corners


def region_in(image: Any, layer: Any, value: int, plane: Plane) -> Region:
    """The pixels of a slice that have a value in a Labels layer on the image.

    Raises:
        InputError: the layer lies elsewhere than the image, or none has it.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    if tuple(data.shape) != shape_of(image) or not _placed_alike(image, layer):
        raise InputError(
            f"layer {layer.name!r} does not lie on the image pixel for pixel; choose labels that do"
        )
    cut = tuple(slice(None) if at is None else slice(at, at + 1) for at in plane)
    pixels = mask_block(np.asarray(data[cut]) == value, [at or 0 for at in plane])
    if pixels is None:
        raise InputError(
            f"label {value} of layer {layer.name!r} has no pixels on this slice; go to one that it "
            "is on, or pick another label"
        )
    return Region(pixels=pixels)


def spacing_of(image: Any, axes: Sequence[int]) -> list[float]:
    """How far apart pixels lie along axes of an image, in the world's units."""
    origin = np.zeros(image.ndim)
    begin = np.asarray(image.data_to_world(origin))
    steps = np.eye(image.ndim)
    return [float(np.linalg.norm(image.data_to_world(steps[a]) - begin)) for a in axes]


def painted_window(atoms: Any, shape: Sequence[int]) -> Window:
    """The box of the pixels that an event of a Labels layer tells of; of all, if it is unclear."""
    parts = [_atom_window(atom) for atom in atoms]
    if not parts or any(part is None for part in parts):
        return tuple(slice(0, n) for n in shape)
    ends = np.array([[(p.start, p.stop) for p in part] for part in parts if part is not None])
    low, high = ends[..., 0].min(axis=0), ends[..., 1].max(axis=0)
    return tuple(
        slice(max(0, int(a)), min(int(b), n)) for a, b, n in zip(low, high, shape, strict=True)
    )


def _atom_window(atom: Any) -> Window | None:
    cut = getattr(atom, "slice_key", None)  # napari 0.9
    if cut is not None and all(isinstance(c, slice) and c.stop is not None for c in cut):
        return tuple(slice(c.start or 0, c.stop) for c in cut)
    if cut is None and isinstance(atom, tuple) and isinstance(atom[0], tuple):
        return tuple(slice(int(np.min(i)), int(np.max(i)) + 1) for i in atom[0])
    return None

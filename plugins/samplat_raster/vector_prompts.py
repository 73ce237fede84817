"""Points, boxes and polygons of a file as prompts of a raster, whatever CRS they are in."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import FeaturePrompt, InputError, ScenePrompts, gather_prompts
from samplat_raster.georeference import affine_of, to_world
from samplat_raster.prompt_files import IMAGE, PIXEL, PromptFile, read_prompts

if TYPE_CHECKING:
    from samplat import ImageInfo, ImageSource

SEGMENTS = 64
"""Into so many parts an edge as long as its geometry is cut before it is moved to another CRS: a
line that is straight in one is not in another."""
POSITIVE = frozenset({"1", "+", "true", "yes", "positive", "pos", "foreground", "fg"})
NEGATIVE = frozenset({"0", "-", "false", "no", "negative", "neg", "background", "bg"})
OBJECT, LABEL = "object", "label"
"""Columns that are taken where none are named."""
POINTS = (0, 4)
"""Type ids of shapely: point and multipoint."""


@dataclass(frozen=True, kw_only=True)
class VectorPrompter:
    """Reads GeoJSON, GeoPackage, FlatGeobuf, GeoParquet and CSV."""

    name: str = "vector"

    def prompts(
        self,
        source: ImageSource,
        path: str,
        *,
        crs: str | None = None,
        object: str | None = None,  # noqa: A002 named as the column
        label: str | None = None,
        layer: str | None = None,
    ) -> ScenePrompts:
        """The objects that a file points at, in the frame of a raster.

        Args:
            source: the raster.
            path: the file.
            crs: of the file, instead of what it says; `pixel` for pixels x, y from the raster's
                upper left corner, `image` for the raster's own coordinates.
            object: column whose equal values make one object of several features; `object` if
                there is one, else each feature is an object.
            label: column that tells points on the object from points that are not on it; `label` if
                there is one and it tells that, else all are.
            layer: of a GeoPackage with several.

        Raises:
            InputError: the file, a column or a CRS is unusable, or all prompts lie outside.
        """
        file = read_prompts(path, layer)
        objects = _objects(file, path, object)
        positive, told_by = _positive(file, path, label)
        move = _mover(file, path, crs, source.info)
        features = list(_features(file, move, objects, positive))
        _check_labels(file, path, positive)
        attributes = _attributes(file, {_column_of(file, object, OBJECT), told_by}, objects)
        found = gather_prompts(features, attributes, source.info.shape)
        if not len(found):
            raise _all_outside(file, path, crs, source.info)
        return found


def _column_of(file: PromptFile, given: str | None, default: str) -> str | None:
    return given or (default if default in file.columns else None)


def _values(file: PromptFile, path: str, column: str) -> Any:
    if column not in file.columns:
        there = ", ".join(map(str, file.columns.columns)) or "none"
        raise InputError(f"{path} has no column {column!r}; its columns: {there}")
    return file.columns[column]


def _objects(file: PromptFile, path: str, given: str | None) -> list[Hashable] | None:
    """What features of one object share; None: nothing is said of it."""
    column = _column_of(file, given, OBJECT)
    if column is None:
        return None
    values = _values(file, path, column)
    return [
        None if missing else _plain(v) for v, missing in zip(values, values.isna(), strict=True)
    ]


def _plain(value: Any) -> Any:
    """A value of a data frame as one of Python: 3.0, which a missing neighbour made of 3, is 3."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def _positive(
    file: PromptFile, path: str, given: str | None
) -> tuple[NDArray[np.bool_], str | None]:
    """Whether each feature's points are on its object, and the column that says so."""
    column = _column_of(file, given, LABEL)
    plain = np.ones(len(file.geometries), bool)
    if column is None:
        return plain, None
    values = _values(file, path, column)
    texts = np.array(
        ["" if missing else str(_plain(v)).strip().lower()
         for v, missing in zip(values, values.isna(), strict=True)]
    )  # fmt: skip
    negative = np.isin(texts, list(NEGATIVE))
    known = negative | np.isin(texts, [*POSITIVE, ""])
    if known.all():
        return ~negative, column
    if given is None and not known[texts != ""].any():
        return plain, None  # a class, such as "tree": an attribute like others
    row = int(np.flatnonzero(~known)[0])
    raise InputError(
        f"{path}: feature {row + 1} has the label {values.iloc[row]!r} in column {column!r}; "
        "expected 1 or 0, positive or negative, for all of them"
    )


def _check_labels(file: PromptFile, path: str, positive: NDArray[np.bool_]) -> None:
    import shapely

    boxes = ~np.isin(shapely.get_type_id(file.geometries), POINTS)
    if (boxes & ~positive).any():
        row = int(np.flatnonzero(boxes & ~positive)[0])
        raise InputError(
            f"{path}: feature {row + 1} is a negative {file.geometries[row].geom_type}; only "
            "points can be negative"
        )


Mover = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _mover(file: PromptFile, path: str, given: str | None, info: ImageInfo) -> Mover:
    """Coordinates (N, 2) of a file as pixels x, y of an image; not finite where there are none."""
    crs = given or file.crs
    if crs == PIXEL:
        return lambda xy: xy
    to_pixels = ~affine_of(info)
    if crs == IMAGE:
        return lambda xy: _applied(to_pixels, xy)
    if crs is None:
        raise InputError(
            f"{path} does not say its CRS; name it with --prompts-crs, such as EPSG:4326, or pixel"
        )
    if info.crs is None:
        raise InputError(
            f"the image has no CRS, and the prompts of {path} have one; say --prompts-crs image if "
            "they are in its coordinates, or pixel"
        )
    transformer = _transformer(crs, info.crs, path)

    def move(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return _applied(to_pixels, np.stack(transformer.transform(*xy.T), axis=1))

    return move


def _applied(affine: Any, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.array([[affine.a, affine.b], [affine.d, affine.e]])
    # where there is no place in a CRS there is none in pixels: infinity less infinity is NaN
    with np.errstate(invalid="ignore"):
        moved: NDArray[np.float64] = xy @ linear.T + np.array([affine.c, affine.f])
    return moved


def _transformer(crs: str, other: str, path: str) -> Any:
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError, ProjError

    try:
        return Transformer.from_crs(CRS.from_user_input(crs), other, always_xy=True)
    except (CRSError, ProjError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: {crs!r} is no CRS that can be used here: {reason}") from None


def _features(
    file: PromptFile,
    move: Mover,
    objects: Sequence[Hashable] | None,
    positive: NDArray[np.bool_],
) -> Iterator[FeaturePrompt]:
    import shapely

    kinds = shapely.get_type_id(file.geometries)
    coordinates, owner = shapely.get_coordinates(_densified(file.geometries), return_index=True)
    pixels = move(coordinates)
    rows = np.searchsorted(owner, np.arange(len(kinds) + 1))
    for row, (first, last) in enumerate(pairwise(rows.tolist())):
        place = pixels[first:last]
        own = None if objects is None else objects[row]
        finite = place[np.isfinite(place).all(axis=1)]
        if kinds[row] in POINTS or not len(finite):
            # a point that has no place in the image's CRS is as far away as can be
            points = np.nan_to_num(place, nan=np.inf, posinf=np.inf, neginf=np.inf)
            points = np.where(np.isfinite(points), points, -1e12)
            yield FeaturePrompt(points=points, positive=bool(positive[row]), object=own)
        else:
            box = np.concatenate([finite.min(axis=0), finite.max(axis=0)])
            yield FeaturePrompt(points=np.zeros((0, 2)), box=box, object=own)


def _densified(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    import shapely

    bounds = shapely.bounds(geometries)
    longest = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
    cut: NDArray[np.object_] = geometries.copy()
    some = longest > 0
    cut[some] = shapely.segmentize(geometries[some], longest[some] / SEGMENTS)
    return cut


def _attributes(file: PromptFile, used: set[str | None], objects: Sequence[Hashable] | None) -> Any:
    """`prompt_id`, and the columns of a file that say nothing to us, as Arrow."""
    import pyarrow as pa

    ids: list[Any] = list(range(1, len(file.geometries) + 1))
    if objects is not None:
        ids = [row if name is None else name for row, name in zip(ids, objects, strict=True)]
        if any(isinstance(name, str) for name in ids):
            ids = [str(name) for name in ids]
    columns = {"prompt_id": pa.array(ids)}
    for name in file.columns.columns:
        if name not in used:
            columns[_free(str(name), columns)] = _as_arrow(file.columns[name])
    return pa.table(columns)


def _free(name: str, taken: Any) -> str:
    """A name that no other column has, whatever the case: a GeoPackage knows none."""
    lower, found, number = {t.lower() for t in taken}, name, 2
    while found.lower() in lower:
        found, number = f"{name}_{number}", number + 1
    return found


def _as_arrow(values: Any) -> Any:
    """A column as Arrow; what is no plain value, such as a list, as JSON."""
    import pyarrow as pa

    def told(value: Any) -> str | None:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return None
        return value if isinstance(value, str) else json.dumps(value, default=str)

    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([told(value) for value in values], pa.string())
    if pa.types.is_nested(array.type):
        plain = [value.tolist() if hasattr(value, "tolist") else value for value in values]
        return pa.array([told(value) for value in plain], pa.string())
    if pa.types.is_null(array.type) or pa.types.is_dictionary(array.type):
        return array.cast(pa.string())
    return array


def _all_outside(file: PromptFile, path: str, given: str | None, info: ImageInfo) -> InputError:
    """Both extents in the CRS of the prompts, so that a person sees which of them is wrong."""
    import shapely

    stated = given or file.crs or ""
    west, south, east, north = shapely.total_bounds(file.geometries)
    told = (
        f"all {len(file.geometries)} prompts of {path} lie outside of the image: they span "
        f"x {west:g} to {east:g}, y {south:g} to {north:g}{_named(stated)}; "
    )
    x0, y0, x1, y1 = _extent_of(info, stated)
    return InputError(
        f"{told}the image spans x {x0:g} to {x1:g}, y {y0:g} to {y1:g} there. "
        "Is the CRS right? --prompts-crs overrides it"
    )


def _named(crs: str) -> str:
    from pyproj import CRS

    return f" ({crs})" if crs in (PIXEL, IMAGE) else f" in {CRS.from_user_input(crs).name}"


def _extent_of(info: ImageInfo, crs: str) -> tuple[float, float, float, float]:
    """Bounds of an image in the CRS of its prompts, from points along its edge."""
    import shapely

    _, height, width = info.shape
    edge = shapely.segmentize(shapely.box(0, 0, width, height), max(height, width) / SEGMENTS)
    xy = shapely.get_coordinates(edge)
    if crs != PIXEL:
        xy = to_world(info, xy)
    if crs not in (PIXEL, IMAGE):
        assert info.crs is not None  # noqa: S101 `_mover` refused it
        xy = np.stack(_transformer(info.crs, crs, "the image").transform(*xy.T), axis=1)
    xy = xy[np.isfinite(xy).all(axis=1)]
    (x0, y0), (x1, y1) = xy.min(axis=0), xy.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)

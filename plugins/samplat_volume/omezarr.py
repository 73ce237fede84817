"""OME-Zarr 0.4 and 0.5: images in chunks, here or behind a URL; only what is asked for is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError
from samplat_volume.geometry import Geometry
from samplat_volume.integrity import CONTRADICTION
from samplat_volume.ngff import MARK
from samplat_volume.stacks import ArrayVoxels
from samplat_volume.tiffs import UNITS, chosen_time
from samplat_volume.zarr_chunks import ReadChunks, note_missing, open_array, open_group

VERSIONS = ("0.4", "0.5")


@dataclass(frozen=True, kw_only=True)
class OmeImage:
    """An opened multiscale image."""

    levels: tuple[ArrayVoxels, ...]
    """From full resolution to coarsest."""
    geometry: Geometry
    """Of full resolution; axes without a unit count as millimetres."""
    facts: bytes
    """Metadata of the image and of its full resolution."""


def open_ome_zarr(path: str, time: int | None, *, flat: bool = False) -> OmeImage:
    """The image of a group.

    Args:
        path: directory or URL of the image's group.
        time: index along its time, where there are several.
        flat: take a picture without z, too.

    Raises:
        InputError: no OME-Zarr image of version 0.4 or 0.5, or one without depth in space or
            without any chunk.
    """
    group = open_group(path)
    try:
        return _opened(group, path, time, "yx" if flat else "zyx")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} has unusable metadata ({type(error).__name__}: {error}); write it again"
        ) from error


def _opened(group: Any, path: str, time: int | None, least: str) -> OmeImage:
    image = _multiscale(group, path)
    names = [str(axis.get("name") if isinstance(axis, Mapping) else axis) for axis in image["axes"]]
    axes = "".join(names)
    if not set(least) <= set(names) or set(names) - set("tczyx"):
        raise InputError(
            f"{path} has axes {', '.join(names)}; expected z, y, x and at most t and c"
        )
    arrays = [open_array(group, dataset["path"], path) for dataset in image["datasets"]]
    if any(len(array.shape) != len(axes) for array in arrays):
        raise InputError(f"{path} names {len(axes)} axes, its arrays have {len(arrays[0].shape)}")
    note_missing(arrays[0], path)
    index = chosen_time(axes, arrays[0].shape, time, path)
    levels = tuple(
        ArrayVoxels(
            array=ReadChunks(array=array, path=path),
            axes=axes,
            dtype=np.dtype(array.dtype).newbyteorder("="),
            time=index,
        )
        for array in arrays
    )
    facts = json.dumps([dict(group.attrs), str(arrays[0].metadata.to_dict())], default=str)
    return OmeImage(
        levels=levels,
        geometry=_turned(_place(image, axes, path), group, levels[0].shape[1:], path),
        facts=facts.encode(),
    )


def _multiscale(group: Any, path: str) -> Mapping[str, Any]:
    told = dict(group.attrs.get("ome", group.attrs))
    scales = told.get("multiscales")
    if not scales:
        inside = [name for name in ("0", "1") if "plate" not in told and name in group]
        hint = f"open {path}/{inside[0]}" if inside else "open the group of one image"
        raise InputError(f"{path} has no multiscales, it is no image; {hint}")
    version = str(told.get("version", scales[0].get("version", "0.4")))
    if version not in VERSIONS:
        raise InputError(f"{path} is OME-Zarr {version}; expected {' or '.join(VERSIONS)}")
    image = scales[0]
    if not image.get("axes") or not image.get("datasets"):
        raise InputError(f"{path} names no axes or no datasets; its metadata is damaged")
    found: Mapping[str, Any] = image
    return found


def _place(image: Mapping[str, Any], axes: str, path: str) -> Geometry:
    """Spacing and origin in mm, from the transformations of the first dataset and of all."""
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    for step in (
        *image["datasets"][0].get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        values = np.asarray(step.get(step.get("type"), ()), np.float64)
        if len(values) != len(axes):
            raise InputError(f"{path} has a {step.get('type')} of {len(values)} numbers, not axes")
        if step["type"] == "scale":
            scale, shift = scale * values, shift * values
        elif step["type"] == "translation":
            shift = shift + values
    millimetres = _millimetres(image["axes"], axes)
    spacing = {"z": 1.0, **dict(zip(axes, (scale * millimetres).tolist(), strict=True))}
    origin = {"z": 0.0, **dict(zip(axes, (shift * millimetres).tolist(), strict=True))}
    return Geometry(
        shape=(1, 1, 1),
        spacing=(spacing["z"], spacing["y"], spacing["x"]),
        origin=(origin["x"], origin["y"], origin["z"]),
        direction=np.eye(3),
    )


def _millimetres(told: Sequence[Any], axes: str) -> NDArray[np.float64]:
    units = [
        str(axis.get("unit", "")).lower() if isinstance(axis, Mapping) else "" for axis in told
    ]
    return np.asarray([UNITS.get(unit, 1.0) for unit in units[: len(axes)]])


def _turned(place: Geometry, group: Any, shape: tuple[int, int, int], path: str) -> Geometry:
    """The place that our own writer adds, since the format knows no rotation."""
    told = group.attrs.get(MARK, {}).get("index_to_world")
    if told is None:
        return replace(place, shape=shape)
    affine = np.asarray(told, np.float64).reshape(4, 4)
    x, y, z = (float(np.linalg.norm(affine[:3, axis])) for axis in range(3))
    if not np.allclose((z, y, x), place.spacing, rtol=CONTRADICTION):
        raise InputError(
            f"{path} says that voxels are {place.spacing} mm apart along z, y, x (scale) and "
            f"{(z, y, x)} mm ({MARK}.index_to_world); remove one of them"
        )
    return Geometry(
        shape=shape,
        spacing=(z, y, x),
        origin=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        direction=affine[:3, :3] / (x, y, z),
    )

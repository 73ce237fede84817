"""OME-Zarr 0.5: labels as an image-label in several resolutions, https://ngff.openmicroscopy.org/0.5.

Each shard is written once, from the windows it covers.
"""

from __future__ import annotations

import colorsys
import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, JobResult, Window, check_writable, narrowed, replacing
from samplat_volume.geometry import Geometry
from samplat_volume.labels import LabelVolume, of_result

MARK = "samplat"
"""Attribute of the group by which we know our own output, and may replace it."""

CHUNK_SIDES = (128, 96, 64, 80, 48, 32)
"""Sides of chunks in a slice: the first that divides the tiles' side, so that shards are tiles."""

CHUNK_DEPTH = 32

SHARD_VOXELS = 2**26
"""Most voxels of a shard: it is in memory while it is written."""

SMALLEST = 256
"""Resolutions are halved until no side is longer."""

MOST_LISTED = 10_000
"""Most objects whose colours and properties go into the metadata, which readers load whole."""

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Level:
    """One resolution: every `step`-th voxel of the labels."""

    path: str
    """Name of its array."""
    step: Triple
    """Voxels (z, y, x) of the first level per voxel of this one; powers of two."""
    shape: Triple
    """Extent in voxels (z, y, x)."""


@dataclass(frozen=True, kw_only=True)
class NgffWriter:
    """A group that is an image-label; sharded, zstd and crc32c, nearest neighbours.

    Written to IMAGE/labels/NAME, where IMAGE is an OME-Zarr image, it becomes one of its labels.
    0 is background. Voxels of tiles that failed have the largest value of the type, which is the
    fill value: a chunk that is missing is no background either.
    """

    name: str = "ome-zarr"
    suffixes: tuple[str, ...] = (".ome.zarr",)

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written, or that holds someone else's data."""
        inside = _image_of(output) is not None and not output.parent.exists()
        check_writable(output.parent if inside else output)
        if output.exists() and not _is_ours(output):
            raise InputError(
                f"cannot write {output}: it exists and was not written by samplat; "
                "remove it, or choose another name"
            )

    def export(self, result: JobResult, output: Path) -> None:
        """Write the labels of a job."""
        self.write(of_result(result), output)

    def write(self, volume: LabelVolume, output: Path) -> None:
        """Write labels, shard by shard."""
        import zarr

        image = _image_of(output)
        if image is not None:
            output.parent.mkdir(exist_ok=True)
        levels = levels_of(volume.geometry)
        with replacing(output) as written:
            group = zarr.create_group(str(written), zarr_format=3)
            finest = _create(group, levels[0], volume)
            _fill(finest, _read_labels(volume, finest))
            for finer, level in itertools.pairwise(levels):
                coarse = _create(group, level, volume)
                factors = tuple(b // a for a, b in zip(finer.step, level.step, strict=True))
                _fill(coarse, _read_coarser(group[finer.path], coarse, factors))
            group.attrs.update(_attributes(volume, levels, output, image))
        if image is not None:
            _list_label(output)


def levels_of(geometry: Geometry) -> list[Level]:
    """Resolutions, finest first; sides of long voxels are halved later than those of short ones."""
    shape, step = np.array(geometry.shape), np.ones(3, int)
    levels = [_level(0, step, shape)]
    while max(levels[-1].shape) > SMALLEST:
        long = np.array(levels[-1].shape) > 1
        size = step * np.asarray(geometry.spacing)
        step = np.where(long & (size < 2 * size[long].min()), 2 * step, step)
        levels.append(_level(len(levels), step, -(-shape // step)))
    return levels


def _level(number: int, step: NDArray[Any], shape: NDArray[Any]) -> Level:
    return Level(path=str(number), step=_triple(step), shape=_triple(shape))


def _triple(values: Any) -> Triple:
    z, y, x = map(int, values)
    return z, y, x


def _create(group: Any, level: Level, volume: LabelVolume) -> Any:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    chunks = chunk_shape(level.shape, volume.block)
    return group.create_array(
        level.path,
        shape=level.shape,
        dtype=volume.dtype.name,
        shards=shard_shape(level.shape, chunks, volume.block),
        chunks=chunks,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=volume.hole,
        dimension_names=["z", "y", "x"],
    )


def chunk_shape(shape: Triple, block: Triple) -> Triple:
    """Extent of a chunk, no larger than the array."""
    sides = (next((c for c in CHUNK_SIDES if b % c == 0), CHUNK_SIDES[0]) for b in block[1:])
    return _triple(map(min, shape, (CHUNK_DEPTH, *sides)))


def shard_shape(shape: Triple, chunks: Triple, block: Triple) -> Triple:
    """Extent of a shard: whole chunks, about a block where that fits in memory."""
    wanted = [max(1, round(b / c)) for b, c in zip(block, chunks, strict=True)]
    counts = [min(w, -(-n // c)) for w, n, c in zip(wanted, shape, chunks, strict=True)]
    for axis in (0, 1, 2):
        others = math.prod(chunks) * math.prod(counts) // counts[axis]
        counts[axis] = max(1, min(counts[axis], SHARD_VOXELS // others))
    return _triple(n * c for n, c in zip(counts, chunks, strict=True))


def _shard_windows(array: Any) -> Iterator[Window]:
    steps = (range(0, n, s) for n, s in zip(array.shape, array.shards, strict=True))
    for start in itertools.product(*steps):
        ends = zip(start, array.shards, array.shape, strict=True)
        yield Window(start=start, stop=tuple(min(a + s, n) for a, s, n in ends))


def _fill(array: Any, shards: Iterator[tuple[Window, NDArray[Any]]]) -> None:
    for window, labels in shards:
        array[window.slices] = labels


def _read_labels(volume: LabelVolume, array: Any) -> Iterator[tuple[Window, NDArray[Any]]]:
    for window in _shard_windows(array):
        yield window, narrowed(volume.read(window), volume.dtype)


def _read_coarser(
    finer: Any, array: Any, factors: tuple[int, ...]
) -> Iterator[tuple[Window, NDArray[Any]]]:
    """Every second voxel, a piece of a shard at a time, so that the finer ones fit in memory."""
    pieces = tuple(slice(None, None, f) for f in factors)
    for window in _shard_windows(array):
        labels = np.empty(window.shape, array.dtype)
        for start in range(0, window.shape[0], array.chunks[0]):
            stop = min(start + array.chunks[0], window.shape[0])
            begin = (window.start[0] + start, *window.start[1:])
            end = (window.start[0] + stop, *window.stop[1:])
            parts = zip(begin, end, factors, finer.shape, strict=True)
            wide = finer[tuple(slice(a * f, min(b * f, n)) for a, b, f, n in parts)]
            labels[start:stop] = wide[pieces]
        yield window, labels


def _attributes(
    volume: LabelVolume, levels: list[Level], output: Path, image: Path | None
) -> dict[str, Any]:
    name = output.name.removesuffix(NGFF.suffixes[0])
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [_multiscale(volume.geometry, levels, name)],
            "image-label": _image_label(volume, output, image),
        },
        MARK: {
            "made_by": volume.made_by,
            "background": 0,
            "hole": volume.hole,
            "space": "LPS",
            "index_to_world": volume.geometry.index_to_world.tolist(),
        },
    }


def _multiscale(geometry: Geometry, levels: list[Level], name: str) -> dict[str, Any]:
    """Scales and translations along the volume's own axes: the format knows no rotation.

    The first voxel of every level is the first voxel of the labels, so all have one translation.
    """
    along = np.asarray(geometry.direction).T @ np.asarray(geometry.origin)
    translation = [float(v) for v in along[::-1]]
    datasets = []
    for level in levels:
        scale = [float(s * m) for s, m in zip(level.step, geometry.spacing, strict=True)]
        transformations = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": translation},
        ]
        datasets.append({"path": level.path, "coordinateTransformations": transformations})
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    return {"name": name, "type": "nearest", "axes": axes, "datasets": datasets}


def _image_label(volume: LabelVolume, output: Path, image: Path | None) -> dict[str, Any]:
    described: dict[str, Any] = {"version": "0.5"}
    if (source := _source_image(volume, output, image)) is not None:
        described["source"] = {"image": source}
    values = [] if len(volume.ids) > MOST_LISTED else volume.ids.tolist()
    colors = [{"label-value": i, "rgba": _colour(i)} for i in values]
    properties = [{"label-value": i, **_known(volume, row)} for row, i in enumerate(values)]
    if volume.has_holes:
        colors.append({"label-value": volume.hole, "rgba": [128, 128, 128, 255]})
        properties.append({"label-value": volume.hole, "hole": True})
    if colors:
        described["colors"] = colors
    if any(len(known) > 1 for known in properties):
        described["properties"] = properties
    return described


def _colour(label: int) -> list[int]:
    """A colour unlike those of the ids next to it: hues go round by the golden section."""
    hue = label * 0.6180339887498949 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.15 * (label % 4), 0.95)
    return [round(255 * c) for c in (red, green, blue)] + [255]


def _known(volume: LabelVolume, row: int) -> dict[str, Any]:
    known = {name: column[row].item() for name, column in volume.properties.items()}
    return {name: value for name, value in known.items() if math.isfinite(value)}


def _source_image(volume: LabelVolume, output: Path, image: Path | None) -> str | None:
    """Where the image is, seen from the labels, if it is OME-Zarr on this computer."""
    if image is None and volume.source is not None and _is_image(Path(volume.source.path)):
        image = Path(volume.source.path)
    return None if image is None else os.path.relpath(image.resolve(), output.resolve())


def _image_of(output: Path) -> Path | None:
    """The image whose label the output is to be."""
    image = output.absolute().parent.parent
    return image if output.absolute().parent.name == "labels" and _is_image(image) else None


def _is_image(path: Path) -> bool:
    return "multiscales" in _group_attributes(path).get("ome", {})


def _is_ours(output: Path) -> bool:
    return MARK in _group_attributes(output)


def _group_attributes(path: Path) -> dict[str, Any]:
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return attributes if isinstance(attributes, dict) else {}


def _list_label(output: Path) -> None:
    """Add the labels to those that their image names."""
    import zarr

    group = zarr.open_group(str(output.parent), mode="a", zarr_format=3)
    ome: Any = group.attrs.get("ome", {})
    names = ome.get("labels", [])
    if output.name not in names:
        group.attrs["ome"] = {**ome, "version": "0.5", "labels": [*names, output.name]}


NGFF = NgffWriter()

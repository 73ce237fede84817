"""Labels of napari as files, through the exporters of the command line. No Qt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_sam.lazy import Indexed, Lazy
from napari_sam.sheets import Sheet
from napari_sam.state import Object
from samplat import InputError

if TYPE_CHECKING:
    from samplat import ImageInfo, SourceSpec


def write_labels(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """What napari calls to save a layer of labels; the suffix chooses the format.

    Raises:
        InputError: no exporter has the suffix, or can write this.
        JobError: the disk is full or failing; an older file is still there.
    """
    export_labels(Path(path), data, meta)
    return [path]


def export_labels(
    output: Path, data: Any, meta: Mapping[str, Any], objects: Mapping[int, Object] | None = None
) -> None:
    """Write labels to where their image lies.

    Args:
        output: its suffix chooses the exporter.
        data: of the layer.
        meta: of the layer: what our reader told of the image in `metadata`; scale and translation.
        objects: what is known of them, by number.

    Raises:
        InputError: as of the exporter, before any work.
        JobError: the disk is full or failing; an older file is still there.
    """
    from samplat import labels_result, registry

    labels = data.array if isinstance(data, Sheet) else data
    info, source = described(labels, meta)
    exporter = registry().exporter_for(output)
    exporter.check(output)
    for name, told in (("check_source", source), ("check_image", info)):
        if hasattr(exporter, name):
            getattr(exporter, name)(told)
    known = objects or {}
    result = labels_result(
        _in_space(labels, info),
        info,
        source,
        made_by="samplat in napari",
        scores={n: each.score for n, each in known.items() if each.score is not None},
        columns=_columns(known),
    )
    exporter.export(result, output)


def _columns(objects: Mapping[int, Object]) -> dict[str, dict[int, str]]:
    """Class, status and note, where somebody wrote them."""
    told: dict[str, dict[int, str]] = {
        "class": {n: each.kind for n, each in objects.items() if each.kind},
        "status": {n: each.status for n, each in objects.items()},
        "note": {n: each.note for n, each in objects.items() if each.note},
    }
    return {name: values for name, values in told.items() if values}


def described(labels: Any, meta: Mapping[str, Any]) -> tuple[ImageInfo, SourceSpec]:
    """The image that labels are of: what our reader told, or else what the layer's scale says.

    Raises:
        InputError: labels of other axes than an image or a volume has.
    """
    from samplat import ImageInfo, SourceSpec

    told = dict(meta.get("metadata") or {}).get("samplat")
    if told is not None:
        info = ImageInfo(
            shape=_three(told["shape"]),
            bands=1,
            dtype="uint32",
            index_to_world=_matrix(told["index_to_world"]),
            crs=told["crs"],
            spacing=_three(told["spacing"], float),
        )
        return info, SourceSpec(path=told["path"], factory=told["factory"])
    if labels.ndim not in (2, 3):
        raise InputError(
            f"expected labels of an image or a volume, got {labels.ndim} axes; save the slices of "
            "one time or band as a layer of their own"
        )
    name = str(meta.get("name") or "labels")
    return _by_scale(labels, meta), SourceSpec(path=name, factory="napari")


def _three(values: Any, kind: Any = int) -> Any:
    a, b, c = map(kind, values)
    return a, b, c


def _matrix(rows: Any) -> Any:
    return tuple(tuple(map(float, row)) for row in rows)


def _by_scale(labels: Any, meta: Mapping[str, Any]) -> ImageInfo:
    """Pixels of a picture; of a volume, millimetres, as far as the layer says any."""
    from samplat import ImageInfo

    if labels.ndim == 2:
        return ImageInfo(shape=(1, *labels.shape), bands=1, dtype="uint32")
    spacing = np.asarray(meta.get("scale", (1, 1, 1)), float)
    turned = [meta.get("rotate", np.eye(3)), meta.get("affine", np.eye(4))]
    if meta.get("shear") is not None and np.any(meta["shear"]):
        turned.append(np.zeros(1))
    if not all(np.array_equal(each, np.eye(len(np.atleast_1d(each)))) for each in turned):
        raise InputError(
            "the layer is turned or sheared, and nothing tells what its world is: open the volume "
            "with the reader samplat, and export labels of that"
        )
    if not (spacing > 0).all():
        raise InputError(f"expected a scale above 0, got {spacing.tolist()}; mirror the layer back")
    matrix = np.diag([*spacing[::-1], 1.0])
    matrix[:3, 3] = np.asarray(meta.get("translate", (0, 0, 0)), float)[::-1]
    return ImageInfo(
        shape=tuple(labels.shape),
        bands=1,
        dtype="uint32",
        index_to_world=_matrix(matrix.tolist()),
        spacing=_three(spacing, float),
    )


def _in_space(labels: Any, info: ImageInfo) -> Any:
    """The labels as (z, y, x), read when they are needed.

    Raises:
        InputError: they are not of the image's shape.
    """
    flat = labels.ndim == 2
    shape = (1, *labels.shape) if flat else tuple(labels.shape)
    if shape != info.shape:
        raise InputError(
            f"expected labels of the image's {info.shape} pixels, got {tuple(labels.shape)}; "
            "save those of one band, or of the whole image"
        )
    if not isinstance(labels, Indexed):
        return np.asarray(labels).reshape(shape)
    if not flat:
        return labels
    return Lazy(shape, labels.dtype, lambda window: labels[window[1:]][None])

"""One mask of a COCO-style annotation: polygons, run lengths, compressed run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

Size = tuple[int, int]


def decode_mask(segmentation: Any, size: Size, where: object) -> NDArray[np.bool_]:
    """The mask (H, W) of an annotation's `segmentation`.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], or {"size": [H, W], "counts": ...}
            with counts as a list or as COCO's compressed string.
        size: H, W of the picture.
        where: begins the message of errors.

    Raises:
        InputError: it is none of these, of another size, damaged, or outside the picture.
    """
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, size, where)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise InputError(
            f"{where}: expected polygons, or a run-length encoding with size and counts, "
            f"got {_brief(segmentation)}"
        )
    if segmentation["size"] != list(size):
        raise InputError(
            f"{where}: a mask of {_brief(segmentation['size'])} for an image of {list(size)}"
        )
    return _from_counts(segmentation["counts"], size, where)


def _from_counts(counts: Any, size: Size, where: object) -> NDArray[np.bool_]:
    from pycocotools import mask as coco

    if isinstance(counts, list):
        _check_runs(_as_runs(counts, where), size, where)
        encoded = coco.frPyObjects({"size": list(size), "counts": counts}, *size)
    elif isinstance(counts, str):
        # pycocotools takes runs that end early, and leaves what follows them to chance
        _check_runs(_runs_of(counts, where), size, where)
        encoded = {"size": list(size), "counts": counts}
    else:
        raise InputError(f"{where}: counts must be a list or a string, got {_brief(counts)}")
    mask: NDArray[np.bool_] = coco.decode(encoded).astype(bool)
    return mask


def _as_runs(counts: list[Any], where: object) -> NDArray[np.int64]:
    if not all(type(n) is int and 0 <= n < 2**32 for n in counts):
        raise InputError(
            f"{where}: corrupt run lengths: expected counts >= 0, got {_brief(counts)}"
        )
    return np.array(counts, np.int64)


def _check_runs(runs: NDArray[np.int64], size: Size, where: object) -> None:
    if runs.size and runs.min() < 0:
        raise InputError(f"{where}: corrupt run lengths: a run of {runs.min()} pixels")
    if (total := int(runs.sum())) != size[0] * size[1]:
        raise InputError(
            f"{where}: corrupt run lengths: {total} pixels for an image of "
            f"{size[0]} x {size[1]} = {size[0] * size[1]}"
        )


def _runs_of(text: str, where: object) -> NDArray[np.int64]:
    """Run lengths of a compressed string.

    Each character holds five bits of a number, lowest first, a sign, and whether more follow; from
    the fourth on, a number is the difference to the run two before (COCO API, `maskApi.c`).
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    spans = np.diff(last, prepend=-1)
    whole = last.size and last[-1] == codes.size - 1
    if not whole or codes.min() < 0 or codes.max() > 63 or spans.max() > 7:
        raise InputError(f"{where}: corrupt run lengths: {text[:20]!r} cannot be decoded")
    starts = last - spans + 1
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, spans))
    numbers = np.add.reduceat((codes & 31) << shifts, starts)
    numbers -= np.where(codes[last] & 16, np.int64(1) << (5 * spans), 0)
    for parity in (1, 2):
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers


def _from_polygons(polygons: list[Any], size: Size, where: object) -> NDArray[np.bool_]:
    from pycocotools import mask as coco

    if not polygons:
        raise InputError(f"{where}: no mask: the list of polygons is empty; remove the annotation")
    for polygon in polygons:
        _check_polygon(polygon, size, where)
    mask: NDArray[np.bool_] = coco.decode(coco.merge(coco.frPyObjects(polygons, *size))) > 0
    return mask


def _check_polygon(polygon: Any, size: Size, where: object) -> None:
    numbers = isinstance(polygon, list) and all(type(v) in (int, float) for v in polygon)
    if not numbers or len(polygon) < 6 or len(polygon) % 2:
        raise InputError(
            f"{where}: expected polygons [x0, y0, x1, y1, x2, y2, ...] of at least three points, "
            f"got {_brief(polygon)}"
        )
    points = np.array(polygon, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise InputError(f"{where}: a polygon with coordinates that are not finite")
    low, high = points.min(0), points.max(0)
    if (high < 0).any() or (low > size[::-1]).any():
        raise InputError(
            f"{where}: a polygon from x, y = {low.tolist()} to {high.tolist()} lies outside the "
            f"image of {size[1]} x {size[0]}"
        )


def check_ids(annotations: Sequence[dict[str, Any]], where: object) -> None:
    """Refuse annotations whose `id` is missing or there twice.

    Raises:
        InputError: names the id.
    """
    seen: set[Any] = set()
    for annotation in annotations:
        i = annotation.get("id") if isinstance(annotation, dict) else None
        if not isinstance(i, int | str):
            raise InputError(f"{where}: expected entries with an id, got {_brief(annotation)}")
        if i in seen:
            raise InputError(f"{where}: two entries have the id {i}; each needs its own")
        seen.add(i)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

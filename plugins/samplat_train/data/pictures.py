"""Labelled pictures, where they come from, and how a part of them is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, Stretch

PART = "#"
"""In a key, what follows it names a part of a file: a slice of a volume, a tile of a raster."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture and its objects."""

    name: str
    """Its key in the source it comes from."""
    image: NDArray[np.uint8]
    """(H, W, 3)."""
    labels: NDArray[Any]
    """(L, H, W) integers >= 0, L >= 1; 0 is nothing. Each level is a partition: objects that
    overlap or nest lie on different levels. An object is one id of one level."""

    def __post_init__(self) -> None:
        _check_image(self.image, self.name)
        _check_labels(self.labels, self.image.shape[:2], self.name)

    @property
    def objects(self) -> int:
        """Number of objects of all levels; 0 where nothing is labelled."""
        return sum(int(np.count_nonzero(np.unique(level))) for level in self.labels)


class PictureSource(Protocol):
    """Labelled pictures that are read one by one; opening one reads no pixels."""

    @property
    def name(self) -> str:
        """What to call it in reports: as a rule its path."""

    def __len__(self) -> int:
        """Number of pictures."""

    def key(self, i: int) -> str:
        """Stable name of picture i, known without reading it. `file#part` for a part of a file."""

    def read(self, i: int) -> Picture:
        """Picture i.

        Raises:
            InputError: it cannot be used; names file and fault.
        """


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Some pictures of a source, in its order."""

    source: PictureSource
    """The whole."""
    chosen: tuple[int, ...]
    """Which of its pictures, ascending."""
    name: str
    """What to call the part."""

    def __len__(self) -> int:
        return len(self.chosen)

    def key(self, i: int) -> str:
        """Key of the whole's picture."""
        return self.source.key(self.chosen[i])

    def read(self, i: int) -> Picture:
        """The whole's picture."""
        return self.source.read(self.chosen[i])


def split(
    source: PictureSource, *, share: float, seed: int = 0
) -> tuple[PictureSource, PictureSource]:
    """The pictures to train with, and those held out.

    A picture's side follows from `seed` and its key alone, so that it stays there when pictures
    come or go. Parts of one file are alike, so they stay together; only where a source is a single
    file are its parts divided. Should all pictures fall on one side, the one nearest to the other
    side changes.

    Args:
        source: at least two pictures.
        share: expected share of the pictures held out, between 0 and 1.
        seed: another one holds out other pictures.

    Raises:
        InputError: `share` is not between 0 and 1, or there are fewer than two pictures.
    """
    if not 0 < share < 1:
        raise InputError(f"the share held out must lie between 0 and 1, got {share}")
    if len(source) < 2:
        raise InputError(f"{source.name}: cannot hold out a part of {len(source)} picture")
    places = np.array([_place(group, seed) for group in _groups(source)])
    held = places < share
    if held.all():
        held = places < places.max()
    elif not held.any():
        held = places <= places.min()
    rest, part = (tuple(int(i) for i in np.flatnonzero(side)) for side in (~held, held))
    return (
        Subset(source=source, chosen=rest, name=source.name),
        Subset(source=source, chosen=part, name=f"{source.name} (held out)"),
    )


def _groups(source: PictureSource) -> list[str]:
    keys = [source.key(i) for i in range(len(source))]
    files = [key.partition(PART)[0] for key in keys]
    return files if len(set(files)) > 1 else keys


def _place(group: str, seed: int) -> float:
    """A number in [0, 1) drawn by seed and name."""
    digest = hashlib.sha256(f"{seed}\n{group}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def levels_of(masks: Iterable[NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[Any]:
    """Masks as levels of labels, each on the first level where it overlaps nothing, larger first.

    Args:
        masks: (H, W) each; consumed one by one.
        size: H, W.

    Returns:
        (L, H, W) uint16, or uint32 for more than 65 535 masks. L is 1 even without any mask.
        Mask i becomes id i + 1; empty masks have none.

    Raises:
        InputError: a mask of another size.
    """
    cuts = [_cut(mask, i + 1, size) for i, mask in enumerate(masks)]
    dtype = np.uint16 if len(cuts) < 2**16 else np.uint32
    levels = [np.zeros(size, dtype)]
    # sorted() is stable: of equals the first comes first
    for _, window, mask, i in sorted((c for c in cuts if c[0]), key=lambda c: -c[0]):
        _lay(levels, window, mask, i)
    return np.stack(levels)


Cut = tuple[int, tuple[slice, slice], NDArray[np.bool_], int]


def _cut(mask: NDArray[np.bool_], i: int, size: tuple[int, int]) -> Cut:
    """Area, bounding window, the mask in it, and its id."""
    if mask.shape != tuple(size):
        raise InputError(f"mask {i} is of {mask.shape}, the picture of {tuple(size)}")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, (slice(0, 0), slice(0, 0)), mask[:0, :0], i
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = np.array(mask[window], dtype=bool)
    return int(np.count_nonzero(inside)), window, inside, i


def _lay(
    levels: list[NDArray[Any]], window: tuple[slice, slice], mask: NDArray[np.bool_], i: int
) -> None:
    for level in levels:
        if not level[window][mask].any():
            level[window][mask] = i
            return
    levels.append(np.zeros_like(levels[0]))
    levels[-1][window][mask] = i


def as_image(array: NDArray[Any], where: object) -> NDArray[np.uint8]:
    """A picture (H, W), (H, W, 1), (H, W, 3) or (H, W, 4: alpha is dropped) as (H, W, 3) uint8.

    Other integers and floats are stretched from their 0.5 to their 99.5 percentile.

    Raises:
        InputError: another shape, no pixel, or numbers that are no intensities.
    """
    if array.ndim == 3 and array.shape[2] == 2:
        array = array[..., 0]  # grey and alpha
    bands = array[..., None] if array.ndim == 2 else array
    if bands.ndim != 3 or bands.shape[2] not in (1, 3, 4) or not bands.size:
        raise InputError(
            f"{where}: expected a picture (H, W), (H, W, 3) or (H, W, 4), got {array.shape}"
        )
    if bands.dtype != np.uint8:
        bands = stretched(bands, stretch_of(bands, 0.5, 99.5, where))
    out: NDArray[np.uint8] = np.broadcast_to(bands[..., :3], (*bands.shape[:2], 3))
    return out


def stretch_of(values: NDArray[Any], low: float, high: float, where: object) -> Stretch:
    """The map of one band that sends two percentiles of the finite values to 0 and 255.

    Raises:
        InputError: no value is finite, or they are no real numbers.
    """
    if values.dtype.kind not in "buif":
        raise InputError(f"{where}: expected integer or float intensities, got {values.dtype}")
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        raise InputError(f"{where}: not a single finite intensity")
    ends = np.percentile(finite, [low, high])
    return Stretch(low=(float(ends[0]),), high=(float(ends[1]),))


def stretched(bands: NDArray[Any], stretch: Stretch) -> NDArray[np.uint8]:
    """Bands (H, W, C) through a stretch of one band, as uint8; NaN becomes 0."""
    one_by_one = np.moveaxis(bands, 2, 0)[..., None]
    return np.moveaxis(stretch(one_by_one, np.isfinite(one_by_one[..., 0]))[..., 0], 0, 2)


def as_labels(array: NDArray[Any], size: Sequence[int], where: object) -> NDArray[Any]:
    """Labels (H, W) or (L, H, W) as (L, H, W), checked.

    Raises:
        InputError: another size than the image's, floats, or negative ids; begins with `where`.
    """
    labels = array[None] if array.ndim == 2 else array
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    _check_labels(labels, size, where)
    return labels


def _check_image(image: NDArray[Any], where: object) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(
            f"{where}: expected an image (H, W, 3) of uint8, got {image.shape} of {image.dtype}"
        )


def _check_labels(labels: NDArray[Any], size: Sequence[int], where: object) -> None:
    if labels.dtype.kind not in "ui":
        raise InputError(
            f"{where}: labels must be integers, 0 for nothing, got {labels.dtype}; "
            "save them as uint16 or uint32"
        )
    if labels.ndim != 3 or not len(labels) or labels.shape[1:] != tuple(size):
        raise InputError(
            f"{where}: labels of {labels.shape[-2:]} for an image of {tuple(size)}"
            if labels.ndim == 3
            else f"{where}: expected labels (H, W) or (L, H, W), got {labels.shape}"
        )
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise InputError(
            f"{where}: labels must be >= 0, got {labels.min()}; set what is not to be used to 0"
        )

"""From labelled pictures to batches of crops with prompted objects."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from samplat import InputError, SamplatError
from samplat_train.augment import recoloured, turned
from samplat_train.data.pictures import Picture, PictureSource
from samplat_train.recipe import Recipe

DENSE_STRIDE = 4
MIN_AREA, MAX_SHARE = 24, 0.8
"""Objects prompted: at least this many pixels of the crop, at most this share of it."""
ZOOMS = (0.35, 2.2)
"""Range of a window's side in pixels of its picture, relative to the crop's."""
FIT_ZOOMS = (0.5, 1.25)
"""Range of a fitting window's side, relative to what a model sees of the picture in use."""
PADDING_COLOUR = (124, 116, 104)
"""What becomes 0 when a model normalises it: the padding that it sees in use."""
TRIES = 1000
"""Crops without an object in a row after which the sources are taken to have none."""
CACHE_BYTES = 2**30
"""Decoded pictures that a process keeps. Those of `.npy` files stay on disk, but count."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B crops with P prompted objects each."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    masks: Tensor
    """(B, P, H, W) bool. True: the pixel belongs to the object."""
    labels: Tensor
    """(B, H / 4, W / 4) int32, 0 no object: all whole objects, for the dense loss."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            images=self.images.to(device),
            masks=self.masks.to(device),
            labels=self.labels.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Share:
    """A source of pictures, and how much of the training it gets."""

    source: PictureSource
    """The pictures."""
    weight: float = 1.0
    """Share of the crops that come from it, relative to the other sources'; > 0."""
    upright: bool = False
    """True: its crops are mirrored at most, never turned; for photographs, whose up is up."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise InputError(f"{self.source.name}: the weight must be > 0, got {self.weight}")


class CropBatches(Dataset[Batch]):
    """Batch `step` of a run: the same for the same recipe and sources, whatever came before.

    Args:
        shares: where the pictures come from.
        recipe: size and number of crops.
        cache_bytes: decoded pictures to keep in memory, by process.
    """

    def __init__(
        self, shares: Sequence[Share], recipe: Recipe, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.shares = tuple(shares)
        self.recipe = recipe
        total = sum(s.weight for s in shares)
        self.odds = [s.weight / total for s in shares]
        self.cache = PictureCache(cache_bytes)

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.accumulate

    @property
    def digest(self) -> str:
        """SHA-256 of which pictures there are, by key, and of their shares; not of their pixels."""
        parts = [f"{s.weight} {s.upright} {pictures_digest(s.source)}" for s in self.shares]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __getitem__(self, step: int) -> Batch:
        """Batch `step`.

        Raises:
            InputError: a picture cannot be used, or none has an object to prompt for.
        """
        rng = np.random.default_rng((self.recipe.seed, step))
        crops = [self._crop(rng) for _ in range(self.recipe.images)]
        images, masks, labels = (np.stack(parts) for parts in zip(*crops, strict=True))
        return Batch(
            images=torch.from_numpy(images),
            masks=torch.from_numpy(masks),
            labels=torch.from_numpy(labels),
        )

    def _crop(self, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        for _ in range(TRIES):
            image, labels = self._cut(rng)
            masks = choose_objects(labels, self.recipe.prompts, rng)
            if len(masks):
                break
        else:
            names = ", ".join(s.source.name for s in self.shares)
            raise InputError(
                f"{names}: no object to learn from in {TRIES} crops; expected labels > 0 that "
                f"cover at least {MIN_AREA} pixels and at most {MAX_SHARE:.0%} of a crop"
            )
        colour = recoloured(image, rng) if self.recipe.augment else image
        dense = labels[0, ::DENSE_STRIDE, ::DENSE_STRIDE].astype(np.int32)
        return np.ascontiguousarray(colour.transpose(2, 0, 1)), masks, dense

    def _cut(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        number = int(rng.choice(len(self.shares), p=self.odds))
        picture = self._picture(number, rng)
        image, labels = picture.image, picture.labels
        if self.recipe.augment:
            image, labels = turned(image, labels, rng, upright=self.shares[number].upright)
        if not self.recipe.fit:
            return cut(image, labels, self.recipe.crop_shape, rng)
        scale = self.recipe.input_scale(image.shape[:2])
        return cut_fitting(image, labels, self.recipe.crop_shape, scale, rng)

    def _picture(self, number: int, rng: np.random.Generator) -> Picture:
        source = self.shares[number].source
        i = int(rng.integers(len(source)))
        return self.cache.get((number, i), lambda: with_small_ids(source.read(i)))


def pictures_digest(source: PictureSource) -> str:
    """SHA-256 of the keys of a source's pictures."""
    digest = hashlib.sha256()
    for i in range(len(source)):
        digest.update(f"{source.key(i)}\n".encode())
    return digest.hexdigest()


class Reported(Dataset[Batch | SamplatError]):
    """Batches, or what keeps one from being made, as a value.

    What a loader's own process raises would arrive with its whole traceback.

    Args:
        batches: made here.
    """

    def __init__(self, batches: CropBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | SamplatError:
        """Batch `step`, or the error."""
        try:
            return self.batches[step]
        except SamplatError as error:
            return error


class PictureCache:
    """The pictures used last, as many as fit into `max_bytes`, and at least one.

    A copy in another process starts empty.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: OrderedDict[Hashable, Picture] = OrderedDict()

    def __reduce__(self) -> tuple[type[PictureCache], tuple[int]]:
        return PictureCache, (self.max_bytes,)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, load: Callable[[], Picture]) -> Picture:
        """The picture kept under a key; loaded, and kept, if there is none."""
        if key not in self._kept:
            self._keep(key, load())
        self._kept.move_to_end(key)
        return self._kept[key]

    def _keep(self, key: Hashable, picture: Picture) -> None:
        self._kept[key] = picture
        self.bytes += _size(picture)
        while self.bytes > self.max_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= _size(oldest)


def _size(picture: Picture) -> int:
    return int(picture.image.nbytes + picture.labels.nbytes)


def with_small_ids(picture: Picture) -> Picture:
    """The same objects; ids beyond 65 535, which nothing here could count, become 1, 2, 3, ..."""
    if picture.labels.dtype.itemsize <= 2 or picture.labels.max() < 2**16:
        return picture
    levels = [np.unique(level, return_inverse=True) for level in picture.labels]
    # where a level has no 0, its least id must not become 0
    dense = [inverse + (ids[0] != 0) for ids, inverse in levels]
    labels = np.stack(dense).reshape(picture.labels.shape).astype(np.uint32)
    return replace(picture, labels=labels)


def cut(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A random window around some object, at a random zoom and a little stretched.

    Args:
        image: (H, W, 3).
        labels: (L, H, W).
        shape: rows and columns of the result.
        rng: source of randomness.
    """
    limit = np.array(labels.shape[1:])
    side = np.array(shape) * np.exp(rng.uniform(*np.log(ZOOMS)))
    side = side * min(1.0, float((limit / side).min())) * np.exp(rng.normal(0, 0.12, 2))
    extent = np.clip(side, np.minimum(32, limit), limit).astype(int)
    start = _start(labels, extent, rng)
    return _shown(image, labels, start, extent, shape)


def cut_fitting(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    shape: tuple[int, int],
    scale: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A random window at about the zoom at which a model sees the picture in use.

    Proportions stay, and what lies beyond the picture is padded to the right and below as
    `samplat.embed` pads for a network that takes squares alone.

    Args:
        image: (H, W, 3).
        labels: (L, H, W).
        shape: rows and columns of the result.
        scale: pixels of the result per pixel of the picture at the zoom of use.
        rng: source of randomness.
    """
    limit = np.array(labels.shape[1:])
    zoom = scale / np.exp(rng.uniform(*np.log(FIT_ZOOMS)))
    extent = np.clip((np.array(shape) / zoom).astype(int), np.minimum(32, limit), limit)
    small = np.clip(np.round(extent * zoom).astype(int), 1, shape)
    pixels, inside = _shown(
        image, labels, _start(labels, extent, rng), extent, (int(small[0]), int(small[1]))
    )
    padded = np.empty((*shape, 3), np.uint8)
    padded[:] = PADDING_COLOUR
    padded[: small[0], : small[1]] = pixels
    ids = np.zeros((len(labels), *shape), labels.dtype)
    ids[:, : small[0], : small[1]] = inside
    return padded, ids


def _start(
    labels: NDArray[Any], extent: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Where a window of `extent` rows and columns begins, so that it holds some object."""
    last = np.array(labels.shape[1:]) - extent
    start: NDArray[np.int64] = _anchor(labels, rng) - (extent * rng.random(2)).astype(int)
    return np.clip(start, 0, last)


def _shown(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    start: NDArray[np.int64],
    extent: NDArray[np.int64],
    shape: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A window of a picture resized to `shape`, its labels by the nearest pixel."""
    (y, x), (h, w) = start, extent
    window = Image.fromarray(np.ascontiguousarray(image[y : y + h, x : x + w]))
    pixels = np.asarray(window.resize(shape[::-1], Image.Resampling.BILINEAR))
    rows = y + ((np.arange(shape[0]) + 0.5) * h / shape[0]).astype(int)
    columns = x + ((np.arange(shape[1]) + 0.5) * w / shape[1]).astype(int)
    return pixels, np.asarray(labels[:, rows][:, :, columns])


def _anchor(labels: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """A labelled pixel y, x if a few random looks find one, else any pixel."""
    tries = rng.integers(0, labels.shape[1:], (24, 2))
    found = np.flatnonzero(labels[0][tries[:, 0], tries[:, 1]])
    place: NDArray[np.int64] = tries[found[0] if found.size else 0]
    return place


def choose_objects(labels: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Masks (count, H, W) of objects of any level, larger ones likelier; (0, H, W) without any."""
    found = [(level, i, n) for level in range(len(labels)) for i, n in _areas(labels[level])]
    if not found:
        return np.zeros((0, *labels.shape[1:]), dtype=bool)
    weight = np.array([n for _, _, n in found], np.float64) ** 0.35
    fresh = min(count, len(found))
    chosen = rng.choice(len(found), fresh, replace=False, p=weight / weight.sum())
    chosen = np.resize(chosen, count)
    return np.stack([labels[found[k][0]] == found[k][1] for k in chosen])


def _areas(partition: NDArray[Any]) -> list[tuple[int, int]]:
    counts = np.bincount(partition.ravel())
    counts[0] = 0
    usable = (counts >= MIN_AREA) & (counts <= MAX_SHARE * partition.size)
    return [(int(i), int(counts[i])) for i in np.flatnonzero(usable)]

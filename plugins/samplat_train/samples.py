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
    """(B, 3, S, S) uint8."""
    masks: Tensor
    """(B, P, S, S) bool. True: the pixel belongs to the object."""
    labels: Tensor
    """(B, S / 4, S / 4) int32, 0 no object: all whole objects, for the dense loss."""

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
        parts = [f"{share.weight} {pictures_digest(share.source)}" for share in self.shares]
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
            picture = self._picture(rng)
            image, labels = self._cut(picture, rng)
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

    def _cut(
        self, picture: Picture, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        size = self.recipe.crop
        if not self.recipe.fit:
            image, labels = cut(picture.image, picture.labels, size, rng)
            return turned(image, labels, rng) if self.recipe.augment else (image, labels)
        reach = max(picture.image.shape[:2]) * size / self.recipe.image_size
        turn = self.recipe.augment
        return cut_fitting(picture.image, picture.labels, size, reach, rng, turn=turn)

    def _picture(self, rng: np.random.Generator) -> Picture:
        number = int(rng.choice(len(self.shares), p=self.odds))
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
    image: NDArray[np.uint8], labels: NDArray[Any], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A random window around some object, at a random zoom, as size x size pixels."""
    limit = np.array(labels.shape[1:])
    side = size * np.exp(rng.uniform(np.log(0.35), np.log(2.2))) * np.exp(rng.normal(0, 0.12, 2))
    side = np.clip(side, 32, limit).astype(int)
    start = np.clip(_anchor(labels, rng) - (side * rng.random(2)).astype(int), 0, limit - side)
    (y, x), (h, w) = start, side
    window = Image.fromarray(np.ascontiguousarray(image[y : y + h, x : x + w]))
    pixels = np.asarray(window.resize((size, size), Image.Resampling.BILINEAR))
    rows = y + ((np.arange(size) + 0.5) * h / size).astype(int)
    columns = x + ((np.arange(size) + 0.5) * w / size).astype(int)
    return pixels, np.asarray(labels[:, rows][:, :, columns])


def cut_fitting(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    size: int,
    reach: float,
    rng: np.random.Generator,
    *,
    turn: bool = True,
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A random window at about the zoom at which a model sees the picture in use.

    Proportions stay, and what lies beyond the picture is padded to the right and below, both as
    `samplat.embed` does.

    Args:
        image: (H, W, 3).
        labels: (L, H, W).
        size: side of the result.
        reach: pixels of the picture along its side at the zoom of use.
        rng: source of randomness.
        turn: turn and mirror what is seen.
    """
    limit = np.array(labels.shape[1:])
    side = max(32.0, reach * np.exp(rng.uniform(*np.log(FIT_ZOOMS))))
    extent = np.minimum(limit, int(side))
    start = np.clip(_anchor(labels, rng) - (extent * rng.random(2)).astype(int), 0, limit - extent)
    (y, x), (h, w) = start, extent
    window, inside = image[y : y + h, x : x + w], labels[:, y : y + h, x : x + w]
    if turn:
        window, inside = turned(window, inside, rng)
    h, w = (max(1, min(size, round(n * size / side))) for n in inside.shape[1:])
    pixels = np.empty((size, size, 3), np.uint8)
    pixels[:] = PADDING_COLOUR
    small = Image.fromarray(np.ascontiguousarray(window))
    pixels[:h, :w] = np.asarray(small.resize((w, h), Image.Resampling.BILINEAR))
    rows = ((np.arange(h) + 0.5) * inside.shape[1] / h).astype(int)
    columns = ((np.arange(w) + 0.5) * inside.shape[2] / w).astype(int)
    padded = np.zeros((len(labels), size, size), labels.dtype)
    padded[:, :h, :w] = inside[:, rows][:, :, columns]
    return pixels, padded


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

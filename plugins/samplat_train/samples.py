"""From folders of labelled pictures to batches of crops with prompted objects.

A folder holds `images/` and `labels/` with the same file stems: PNG, TIFF or JPEG pictures with
label images, or `.npy` arrays as `samplat train scenes` writes them (labels (L, H, W): one flat
partition per level of nesting). 0 is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from samplat import InputError
from samplat_train.augment import recoloured, turned
from samplat_train.recipe import Recipe

DENSE_STRIDE = 4
MIN_AREA, MAX_SHARE = 24, 0.8
"""Objects prompted: at least this many pixels of the crop, at most this share of it."""


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
class PictureFolder:
    """The labelled pictures of one folder, in order of name."""

    pairs: tuple[tuple[Path, Path], ...]
    """Image and label file of each picture."""
    weight: float = 1.0
    """Share of the crops that this folder gets, relative to the other folders'."""

    @classmethod
    def open(cls, path: Path, weight: float = 1.0) -> PictureFolder:
        """Pair the files of a folder.

        Raises:
            InputError: no `images/`, no labels, or an image without labels.
        """
        images = sorted(p for p in (path / "images").glob("**/*") if p.is_file())
        folders = sorted(p for p in path.glob("labels*") if p.is_dir() and "semantic" not in p.name)
        if not images or not folders:
            raise InputError(f"{path}: expected images/ and labels/ with files of the same names")
        labels = {p.relative_to(folders[0]).with_suffix(""): p for p in folders[0].glob("**/*")}
        names = [p.relative_to(path / "images").with_suffix("") for p in images]
        if missing := [str(n) for n in names if n not in labels]:
            raise InputError(f"{path}: no labels for {len(missing)} images, first {missing[0]}")
        pairs = ((p, labels[n]) for p, n in zip(images, names, strict=True))
        return cls(pairs=tuple(pairs), weight=weight)


@lru_cache(maxsize=512)
def read_picture(image_path: Path, label_path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """One picture (H, W, 3) uint8 and its labels (L, H, W) integer.

    Raises:
        InputError: a file cannot be read, or the two differ in size.
    """
    image, labels = _read(image_path), _read(label_path)
    image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]
    labels = labels[None] if labels.ndim == 2 else labels
    if image.shape[:2] != labels.shape[1:]:
        raise InputError(
            f"{label_path}: labels of {labels.shape[1:]} for an image of {image.shape[:2]}"
        )
    return image, labels


def _read(path: Path) -> NDArray[Any]:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        with Image.open(path) as opened:
            return np.asarray(opened)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a picture or labels: {error}") from error


class CropBatches(Dataset[Batch]):
    """Batch `step` of a run: the same for the same recipe and folders, whatever came before."""

    def __init__(self, folders: Sequence[PictureFolder], recipe: Recipe) -> None:
        self.folders = folders
        self.recipe = recipe
        total = sum(f.weight for f in folders)
        self.shares = [f.weight / total for f in folders]

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.recipe.seed, step))
        crops = [self._crop(rng) for _ in range(self.recipe.images)]
        images, masks, labels = (np.stack(parts) for parts in zip(*crops, strict=True))
        return Batch(
            images=torch.from_numpy(images),
            masks=torch.from_numpy(masks),
            labels=torch.from_numpy(labels),
        )

    def _crop(self, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        while True:
            folder = self.folders[rng.choice(len(self.folders), p=self.shares)]
            image, labels = read_picture(*folder.pairs[rng.integers(len(folder.pairs))])
            image, labels = cut(image, labels, self.recipe.crop, rng)
            masks = choose_objects(labels, self.recipe.prompts, rng)
            if len(masks):
                break
        colour = recoloured(image, rng)
        dense = labels[0, ::DENSE_STRIDE, ::DENSE_STRIDE].astype(np.int32)
        return np.ascontiguousarray(colour.transpose(2, 0, 1)), masks, dense


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
    return turned(pixels, np.asarray(labels[:, rows][:, :, columns]), rng)


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

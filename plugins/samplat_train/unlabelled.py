"""Pictures without labels: found in folders, cropped at random, damaged ones left out by name."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from samplat import InputError, Stretch

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
ASPECT = (3 / 4, 4 / 3)
"""Narrowest and widest crop, width to height."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Files of pictures, in order of name."""

    paths: tuple[Path, ...]
    """Pictures whose beginning, at least, can be read."""
    unreadable: Mapping[Path, str]
    """The others, with the reason."""
    digest: str
    """SHA-256 of names, inside of their folders, and sizes."""

    @classmethod
    def open(cls, folders: Iterable[Path]) -> Pictures:
        """Look for pictures in folders and in the folders inside of them.

        Raises:
            InputError: no such folder, no pictures there, or none of them readable.
        """
        folders = list(folders)
        found = [(root, path) for root in folders for path in _listing(root)]
        reasons = {path: _fault(path) for _, path in found}
        unreadable = {path: reason for path, reason in reasons.items() if reason}
        paths = tuple(path for _, path in found if path not in unreadable)
        if not paths:
            raise InputError(_nothing(folders, unreadable))
        lines = (f"{p.relative_to(root)} {p.stat().st_size}" for root, p in found)
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return cls(paths=paths, unreadable=unreadable, digest=digest)


@dataclass(frozen=True, kw_only=True)
class Crops:
    """One batch."""

    images: Tensor
    """(B, 3, S, S) uint8; B is 0 if no picture at all could be read to its end."""
    skipped: Mapping[Path, str] = field(default_factory=dict)
    """Pictures that turned out to be damaged when they were drawn, with the reason."""


class CropLoader(Dataset[Crops]):
    """Batch `i` of random resized crops: the same for the same arguments, whatever came before.

    Every picture is drawn once per epoch; in the place of a damaged one comes its successor.

    Args:
        pictures: where from.
        batches: number of batches.
        images: crops per batch.
        size: side of a crop in pixels.
        smallest: least share of a picture's area that a crop shows; 1 shows all of it.
        seed: of the order and of the crops.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        batches: int,
        images: int,
        size: int,
        smallest: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.pictures = pictures
        self.batches, self.images = batches, images
        self.size, self.smallest, self.seed = size, smallest, seed

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, batch: int) -> Crops:
        rng = np.random.default_rng((self.seed, 1, batch))
        skipped: dict[Path, str] = {}
        crops = []
        for place in range(batch * self.images, (batch + 1) * self.images):
            picture = self._picture(self._number(place), skipped)
            if picture is None:
                return Crops(images=torch.empty(0, 3, self.size, self.size), skipped=skipped)
            crops.append(random_crop(picture, self.size, self.smallest, rng))
        stacked = np.stack(crops).transpose(0, 3, 1, 2)
        return Crops(images=torch.from_numpy(np.ascontiguousarray(stacked)), skipped=skipped)

    def _number(self, place: int) -> int:
        """Which picture is the one at a place of the run."""
        count = len(self.pictures.paths)
        epoch, offset = divmod(place, count)
        return int(_shuffled(self.seed, epoch, count)[offset])

    def _picture(self, number: int, skipped: dict[Path, str]) -> Image.Image | None:
        """The picture of a number, or the next one after it that can be read."""
        paths = self.pictures.paths
        for i in range(number, number + len(paths)):
            path = paths[i % len(paths)]
            if path in skipped:
                continue
            try:
                return read_rgb(path)
            except InputError as error:
                skipped[path] = str(error)
        return None


def read_rgb(path: Path) -> Image.Image:
    """A picture in RGB; samples of more than eight bits are stretched, of several frames the first.

    Raises:
        InputError: it is damaged, too large, or of an unknown format.
    """
    with _opened(path) as picture:
        if picture.mode.startswith(("I", "F")):
            return Image.fromarray(_stretched(np.asarray(picture))).convert("RGB")
        return picture.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture while it is read; all that goes wrong is an InputError that names it."""
    try:
        # Odd metadata and large pictures are worth a warning of PIL's, but not here.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            yield picture
    except Exception as error:  # damaged files fail in any of the reader's layers
        raise InputError(f"{path}: {_one_line(error)}") from error


def random_crop(
    picture: Image.Image, size: int, smallest: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A window of random area and aspect, scaled to (size, size, 3), flipped half of the time."""
    share, aspect = rng.uniform(smallest, 1), np.exp(rng.uniform(*np.log(ASPECT)))
    if smallest == 1:
        aspect = picture.width / picture.height
    area = share * picture.width * picture.height
    w = min(picture.width, max(1.0, np.sqrt(area * aspect)))
    h = min(picture.height, max(1.0, np.sqrt(area / aspect)))
    x, y = rng.random(2) * (picture.width - w, picture.height - h)
    scaled = picture.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    pixels = np.asarray(scaled)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _listing(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; expected one with pictures")
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _fault(path: Path) -> str:
    """Why the beginning of a picture cannot be read; empty if it can."""
    try:
        with _opened(path):
            return ""
    except InputError as error:
        return str(error)


def _nothing(folders: list[Path], unreadable: Mapping[Path, str]) -> str:
    where = ", ".join(map(str, folders))
    if unreadable:
        return f"none of {len(unreadable)} pictures in {where} can be read; the first: " + next(
            iter(unreadable.values())
        )
    return f"no pictures in {where}; expected files ending in {', '.join(sorted(SUFFIXES))}"


def _stretched(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W) of any range to 0..255 between the 2nd and the 98th percentile."""
    finite = np.isfinite(values)
    low, high = np.percentile(values[finite], (2, 98)) if finite.any() else (0.0, 1.0)
    stretch = Stretch(low=(float(low),), high=(float(high),))
    return stretch(values[None, ..., None], finite[None])[0, ..., 0]


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

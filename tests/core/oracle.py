"""A plugin for tests: images that carry their own labels, and a segmenter that reads them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.hookspecs import hookimpl
from samplat.job import SegmentJob
from samplat.masks import MaskSet, mask_set
from samplat.pixels import IdentityRescaler, ImageInfo, SourceSpec
from samplat.plugins import Registry
from samplat.tiles import Window


def paint(labels: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Labels (y, x) as an RGB image: the id's bytes are the colour."""
    return np.stack([(labels >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


@dataclass
class ArraySource:
    """An image in memory (y, x, band)."""

    array: NDArray[Any]
    mask: NDArray[np.bool_] | None = None
    closed: bool = False

    @property
    def info(self) -> ImageInfo:
        height, width, bands = self.array.shape
        return ImageInfo(shape=(1, height, width), bands=bands, dtype=str(self.array.dtype))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.array.tobytes()).hexdigest()

    def read(self, window: Window) -> NDArray[Any]:
        return self.array[None][window.slices]

    def valid(self, window: Window) -> NDArray[np.bool_]:
        mask = np.ones(self.array.shape[:2], bool) if self.mask is None else self.mask
        return mask[None][window.slices]

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        whole = Window(start=(0, 0, 0), stop=self.info.shape)
        return self.read(whole), self.valid(whole)

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class NpyFactory:
    """Opens `.npy` files of labels (y, x), painted; or images that a test put in `memory`."""

    name: str = "npy"
    memory: dict[str, ArraySource] = field(default_factory=dict)

    def accepts(self, path: str) -> bool:
        return path.endswith(".npy")

    def open(self, path: str) -> ArraySource:
        return self.memory.get(path) or ArraySource(paint(np.load(path)))


@dataclass(frozen=True)
class Oracle:
    """The true objects of a tile, in the order of their ids."""

    delay: float = 0.0
    poison: int | None = None
    seen: list[tuple[int, ...]] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        self.seen.append(pixels.shape)
        self.digests.add(hashlib.sha256(pixels.tobytes()).hexdigest())
        if self.delay:
            time.sleep(self.delay)
        labels = (pixels.astype(np.int64) << np.array([0, 8, 16])).sum(axis=-1)
        ids = np.unique(labels[labels > 0])
        if self.poison is not None and self.poison in ids:
            raise ValueError(f"object {self.poison} is poison")
        return mask_set(labels[None] == ids[:, None, None])


@dataclass(frozen=True)
class OracleFactory:
    name: str = "oracle"
    made: list[Oracle] = field(default_factory=list)

    def create(self, model: str | None, **options: Any) -> Oracle:
        self.made.append(Oracle(**options))
        return self.made[-1]

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


@hookimpl
def register_sources(register: Any) -> None:
    register(NpyFactory())


@hookimpl
def register_segmenters(register: Any) -> None:
    register(OracleFactory())


def oracle_tools(**sources: ArraySource) -> Registry:
    """A registry of the oracle alone, with images in memory."""
    tools = Registry()
    tools.add("sources", "test", NpyFactory(memory=sources))
    tools.add("segmenters", "test", OracleFactory())
    tools.add("rescalers", "test", IdentityRescaler())
    return tools


def oracle_job(job_dir: Path, path: str = "image", **parameters: Any) -> SegmentJob:
    """A job over an image of `oracle_tools`."""
    given = {"tile_size": 16, "halo": 8, **parameters}
    return SegmentJob(
        source=SourceSpec(path=path, factory="npy"),
        job_dir=str(job_dir),
        model=None,
        segmenter="oracle",
        rescaler="none",
        **given,
    )


def random_labels(
    rng: np.random.Generator, shape: tuple[int, int], largest: int, count: int
) -> NDArray[np.int64]:
    """Touching objects of any shape, none wider or higher than `largest` pixels."""
    labels = np.zeros(shape, np.int64)
    for name in range(1, count + 1):
        h, w = (int(v) for v in rng.integers(1, largest + 1, 2))
        y, x = (int(rng.integers(0, n)) for n in shape)
        part = labels[y : y + h, x : x + w]
        part[rng.random(part.shape) < rng.uniform(0.3, 1.2)] = name
    return labels

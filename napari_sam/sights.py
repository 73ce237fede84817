"""What the process of the model is told of models and images: values that a line carries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_sam.answering import Picture


@dataclass(frozen=True, kw_only=True)
class Named:
    """Which model, with which embeddings."""

    model: str
    """A name, or a checkpoint's path."""
    cache: Path | None
    """Folder of a job's embeddings; None: the user's."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """An array that the window has."""

    shape: tuple[int, ...]
    """Its extent."""
    dtype: str
    """Of its pixels."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """An image that the window has, and what a model sees of it. See `Picture`."""

    number: int
    """Of the picture, in that window."""
    shape: tuple[int, ...]
    """Extent in pixels, without bands."""
    bands: bool
    """True: the last axis of the data is colour."""
    limits: tuple[float, float] | None
    """Values shown black and white."""
    levels: tuple[Level, ...]
    """Finest first."""


def sight_of(picture: Picture) -> Sight:
    """What a process is told of a picture."""
    data = (picture.data, *picture.levels)
    return Sight(
        number=picture.number,
        shape=picture.shape,
        bands=picture.bands,
        limits=picture.limits,
        levels=tuple(
            Level(shape=tuple(map(int, d.shape)), dtype=np.dtype(d.dtype).str) for d in data
        ),
    )

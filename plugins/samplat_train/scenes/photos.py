"""Patches of the public-domain and CC0 photographs inside scikit-image's wheel, as texture."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image
from skimage import data

from .canvas import Floats

NAMES = (
    "astronaut",
    "brick",
    "grass",
    "gravel",
    "camera",
    "chelsea",
    "coffee",
    "rocket",
    "hubble_deep_field",
    "retina",
    "cell",
    "clock",
)
GROUNDS = ("brick", "grass", "gravel")
"""Those that look like one surface throughout."""


@lru_cache(maxsize=len(NAMES))
def _photo(name: str) -> Floats:
    """(H, W, 3) photograph in [0, 1]."""
    picture = np.asarray(getattr(data, name)())
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, -1)
    return np.asarray(picture[..., :3], np.float32) / np.float32(255)


def photo_patch(
    rng: np.random.Generator, shape: tuple[int, int], names: Sequence[str] = NAMES
) -> Floats:
    """(h, w, 3) random patch in [0, 1]: zoomed, turned by quarter turns and mirrored."""
    picture = _photo(str(rng.choice(names)))
    if rng.random() < 0.5:
        picture = picture.transpose(1, 0, 2)
    picture = picture[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    zoom = np.exp(rng.uniform(-0.7, 0.7))
    sides = [int(np.clip(n / zoom, 2, m)) for n, m in zip(shape, picture.shape, strict=False)]
    top, left = (
        int(rng.integers(0, m - n + 1)) for n, m in zip(sides, picture.shape, strict=False)
    )
    patch = picture[top : top + sides[0], left : left + sides[1]]
    return _resize(patch, shape)


def _resize(picture: Floats, shape: tuple[int, int]) -> Floats:
    bytes_ = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(bytes_))
    resized = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / np.float32(255)

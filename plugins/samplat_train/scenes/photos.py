"""Patches of photographs as texture and backdrop.

They come from the public-domain and CC0 pictures inside scikit-image's wheel and, where there is
one, from a folder of photographs.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from samplat import InputError

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


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
LIBRARY_SHARE = 0.85
"""How often a patch comes from the folder, where there is one."""
LONGEST = 1600
"""Longer sides of a folder's photographs are reduced to it, in pixels."""
_library: list[Path] = []


def use_photos(folder: Path | None) -> None:
    """Let this process take patches out of a folder of photographs too; None ends it.

    Raises:
        InputError: the folder holds none.
    """
    _library.clear()
    if folder is None:
        return
    _library.extend(pictures_below(folder, SUFFIXES, "photographs"))


def pictures_below(folder: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """The files below a folder that have one of the suffixes, sorted.

    Raises:
        InputError: there are none; `what` was expected.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    if not found:
        raise InputError(f"{folder}: expected {what} ({', '.join(suffixes)}), found none")
    return found


def has_photos() -> bool:
    """Whether there is a folder of photographs."""
    return bool(_library)


@lru_cache(maxsize=len(NAMES))
def _photo(name: str) -> Floats:
    """(H, W, 3) photograph in [0, 1]."""
    return _as_floats(np.asarray(getattr(data, name)()))


@lru_cache(maxsize=24)
def _own_photo(path: Path) -> Floats:
    """(H, W, 3) photograph of the folder in [0, 1]."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (LONGEST, LONGEST))
            rgb = image.convert("RGB")
            rgb.thumbnail((LONGEST, LONGEST))
            return _as_floats(np.asarray(rgb))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a photograph: {error}") from error


def _as_floats(picture: np.ndarray) -> Floats:
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, -1)
    return np.asarray(picture[..., :3], np.float32) / np.float32(255)


def photo_patch(
    rng: np.random.Generator, shape: tuple[int, int], names: Sequence[str] = NAMES
) -> Floats:
    """(h, w, 3) random patch in [0, 1]: zoomed, turned by quarter turns and mirrored."""
    if _library and names is NAMES and rng.random() < LIBRARY_SHARE:
        picture = _own_photo(_library[int(rng.integers(len(_library)))])
    else:
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


def photo_view(rng: np.random.Generator, size: int) -> Floats:
    """(size, size, 3) in [0, 1]: a large upright part of a photograph of the folder."""
    picture = _own_photo(_library[int(rng.integers(len(_library)))])
    picture = picture[:, :: rng.choice([-1, 1])]
    side = int(min(picture.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(0, n - side + 1)) for n in picture.shape[:2])
    return _resize(picture[top : top + side, left : left + side], (size, size))


def _resize(picture: Floats, shape: tuple[int, int]) -> Floats:
    bytes_ = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(bytes_))
    resized = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / np.float32(255)

"""Photometric and geometric changes that keep a mask a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def turned(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    rng: np.random.Generator,
    *,
    upright: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A random one of the eight symmetries of the square: image (H, W, 3), labels (L, H, W).

    What is `upright` is mirrored left to right at most.
    """
    k = 0 if upright else int(rng.integers(4))
    image, labels = np.rot90(image, k, (0, 1)), np.rot90(labels, k, (1, 2))
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, :, ::-1]
    return image, labels


def recoloured(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random grey, inversion, channel gain, gamma, contrast, shading, blur and noise."""
    x: NDArray[np.float32] = image.astype(np.float32) / np.float32(255)
    if rng.random() < 0.25:
        grey: NDArray[np.float32] = x @ rng.dirichlet((2, 2, 2)).astype(np.float32)[:, None]
        x = np.repeat(grey, 3, axis=2)
    if rng.random() < 0.1:
        x = 1 - x
    if rng.random() < 0.5:
        x = _tinted(x, rng)
    if rng.random() < 0.6:
        x = _toned(x, rng)
    if rng.random() < 0.25:
        x = x * _shading(x.shape[0], x.shape[1], rng)
    if rng.random() < 0.25:
        x = ndimage.uniform_filter(x, (int(rng.integers(2, 4)),) * 2 + (1,), mode="nearest")
    if rng.random() < 0.35:
        x = x + rng.normal(size=(*x.shape[:2], 1)).astype(np.float32) * rng.uniform(0.01, 0.08)
    out: NDArray[np.uint8] = np.clip(x * 255 + 0.5, 0, 255).astype(np.uint8)
    return out


def _tinted(x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    gain = rng.uniform(0.75, 1.25, 3).astype(np.float32)
    order = rng.permutation(3) if rng.random() < 0.3 else np.arange(3)
    return x[..., order] * gain


def _toned(x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    contrast, brightness = rng.uniform(0.6, 1.5), rng.uniform(-0.15, 0.15)
    gamma = np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    toned = np.clip((x - 0.5) * contrast + 0.5 + brightness, 0, 1)
    out: NDArray[np.float32] = toned.astype(np.float32) ** gamma
    return out


def _shading(h: int, w: int, rng: np.random.Generator) -> NDArray[np.float32]:
    coarse = rng.uniform(0.6, 1.3, (3, 3)).astype(np.float32)
    smooth = ndimage.zoom(coarse, (h / 3, w / 3), order=1, mode="nearest", grid_mode=True)
    out: NDArray[np.float32] = smooth[:h, :w, None]
    return out

"""What a camera does to a picture: light, blur, noise, tone and compression."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from .canvas import Floats
from .shapes import enlarge
from .textures import fractal


@dataclass(frozen=True, kw_only=True)
class Camera:
    """How strongly each defect may show."""

    blur: float = 1.2
    """Greatest deviation of the blur, pixels."""
    noise: float = 0.05
    """Greatest deviation of the noise."""
    light: float = 0.2
    """Greatest amplitude of uneven light over the picture."""
    tone: float = 0.35
    """Greatest log2 gamma."""
    grey: float = 0.1
    """Probability of a panchromatic picture."""
    cast: float = 0.08
    """Deviation of the gain of each channel."""
    invert: float = 0.0
    """Probability of a negative."""
    jpeg: float = 0.5
    """Probability of JPEG compression."""


def expose(rng: np.random.Generator, image: Floats, camera: Camera) -> NDArray[np.uint8]:
    """(H, W, 3) bytes of the picture as the camera shows it."""
    image = _light(rng, image, camera.light)
    image = _optics(rng, image, camera.blur)
    image = _channels(rng, image, camera)
    image = _tone(rng, image, camera.tone)
    image = _noise(rng, image, camera.noise)
    if rng.random() < camera.invert:
        image = 1 - image
    bytes_ = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return compress(bytes_, int(rng.integers(25, 95))) if rng.random() < camera.jpeg else bytes_


def _light(rng: np.random.Generator, image: Floats, strength: float) -> Floats:
    """Multiply by a smooth field: a gradient, a vignette or clouds' shadows."""
    h, w = image.shape[:2]
    y, x = np.mgrid[-1:1:17j, -1:1:17j].astype(np.float32)
    choice = rng.integers(3)
    angle = rng.uniform(0, 2 * np.pi)
    if choice == 0:
        small = np.cos(angle) * x + np.sin(angle) * y
    elif choice == 1:
        small = 0.3 - (x**2 + y**2)
    else:
        small = ndimage.gaussian_filter(rng.normal(size=(17, 17)), 3) * 6
    gain = 1 + rng.uniform(0, strength) * small
    return image * enlarge(gain.astype(np.float32), h, w)[..., None]


def _optics(rng: np.random.Generator, image: Floats, strength: float) -> Floats:
    """Out of focus, sometimes oversharpened."""
    sigma = strength * rng.beta(1, 2)
    if sigma < 0.3:
        return image
    soft: Floats = ndimage.gaussian_filter(image, (sigma, sigma, 0))
    if rng.random() < 0.25:
        return np.asarray(image + (image - soft) * np.float32(rng.uniform(0.3, 1.2)))
    return soft


def _channels(rng: np.random.Generator, image: Floats, camera: Camera) -> Floats:
    if rng.random() < camera.grey:
        weights = rng.dirichlet([2, 3, 1.5]).astype(np.float32)
        return np.repeat((image @ weights)[..., None], 3, -1)
    gain = 1 + camera.cast * rng.normal(size=3)
    return image * gain.astype(np.float32)


def _tone(rng: np.random.Generator, image: Floats, strength: float) -> Floats:
    """Gamma, contrast and black level."""
    gamma = 2 ** rng.uniform(-strength, strength)
    image = np.clip(image, 0, 1.2) ** np.float32(gamma)
    contrast = rng.uniform(1 - strength, 1 + strength / 2)
    middle = np.float32(image[::8, ::8].mean())
    return np.asarray((image - middle) * np.float32(contrast) + middle, np.float32)


def _noise(rng: np.random.Generator, image: Floats, strength: float) -> Floats:
    """Read noise plus shot noise, grey or coloured, from single pixels or small grains."""
    h, w = image.shape[:2]
    sigma = np.float32(strength * rng.beta(1, 3))
    grain = 1.0 if rng.random() < 0.6 else float(rng.uniform(1, 2))
    coloured = rng.random() < 0.4
    fields = [fractal(rng, (h, w), slope=0.0, grain=grain) for _ in range(3 if coloured else 1)]
    noise = np.stack(fields, -1) * sigma
    shot = np.sqrt(np.clip(image, 0.02, 1)) * np.float32(1.4) if rng.random() < 0.5 else 1.0
    return np.asarray(image + noise * shot, np.float32)


def compress(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The picture after a JPEG round trip."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB")).copy()

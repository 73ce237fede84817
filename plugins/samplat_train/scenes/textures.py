"""Fields of noise and pattern, and the materials that colour them.

Noise comes from banks: periodic 1024-pixel fields computed once from fixed seeds. A texture is
a random window of a bank, magnified at random, so it costs a gather instead of a transform.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import fft
from scipy.spatial import cKDTree

from .canvas import Floats
from .photos import has_photos, photo_patch

BANK = 1024


@lru_cache(maxsize=16)
def _fractal_bank(slope: float) -> Floats:
    """Periodic noise with amplitude falling as frequency**-slope, zero mean, unit deviation."""
    white = np.random.default_rng(int(100 * slope)).normal(size=(BANK, BANK)).astype(np.float32)
    spectrum = fft.rfft2(white)
    frequency = np.hypot(np.fft.fftfreq(BANK)[:, None], np.fft.rfftfreq(BANK)[None])
    frequency[0, 0] = np.inf
    shaped = fft.irfft2(spectrum * np.maximum(frequency, 2 / BANK) ** -slope, (BANK, BANK))
    return np.asarray((shaped - shaped.mean()) / shaped.std(), np.float32)


@lru_cache(maxsize=2)
def _cell_bank() -> tuple[Floats, Floats, Floats]:
    """Distance to the nearest seed, distance to the cell's border, and a random value per cell."""
    rng = np.random.default_rng(7)
    seeds = rng.uniform(0, BANK, (4000, 2))
    grid = np.argwhere(np.ones((BANK, BANK), bool))
    distance, index = cKDTree(seeds, boxsize=BANK).query(grid, k=2)
    near = distance[:, 0].reshape(BANK, BANK)
    border = (distance[:, 1] - distance[:, 0]).reshape(BANK, BANK)
    value = rng.normal(size=len(seeds))[index[:, 0]].reshape(BANK, BANK)
    return _unit(near), _unit(border), np.asarray(value, np.float32)


def _unit(field: Floats) -> Floats:
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), np.float32)


def _window(
    rng: np.random.Generator, bank: Floats, shape: tuple[int, int], grain: tuple[float, float]
) -> Floats:
    """A random (h, w) window of a periodic bank, turned, magnified by `grain` (rows, columns)."""
    if rng.random() < 0.5:
        bank = bank.T
    bank = bank[:: 1 - 2 * int(rng.integers(2)), :: 1 - 2 * int(rng.integers(2))]
    top, left = rng.integers(0, BANK, 2)
    if max(grain) <= 1 or min(grain) < 1:
        rows, columns = (np.arange(n) / g for n, g in zip(shape, grain, strict=True))
        return bank[np.ix_((top + rows.astype(int)) % BANK, (left + columns.astype(int)) % BANK)]
    sides = [int(n / g) + 2 for n, g in zip(shape, grain, strict=True)]
    rows, columns = (top + np.arange(sides[0])) % BANK, (left + np.arange(sides[1])) % BANK
    return _magnified(bank[np.ix_(rows, columns)], shape, grain)


def _magnified(small: Floats, shape: tuple[int, int], grain: tuple[float, float]) -> Floats:
    height, width = shape
    box = (0.5, 0.5, 0.5 + width / grain[1], 0.5 + height / grain[0])
    picture = Image.fromarray(np.ascontiguousarray(small))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))


def fractal(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    slope: float = 1.0,
    grain: float | tuple[float, float] = 1.0,
) -> Floats:
    """(h, w) noise of unit deviation; slope 0 is white, 1 rough, 2 cloudy; `grain` magnifies."""
    pair = grain if isinstance(grain, tuple) else (grain, grain)
    return _window(rng, _fractal_bank(round(2 * slope) / 2), shape, pair)


def cells(
    rng: np.random.Generator, shape: tuple[int, int], *, which: str, grain: float = 1.0
) -> Floats:
    """(h, w) cellular field: 'near' bumps, 'border' cracks between cells or 'value' flat facets."""
    bank = _cell_bank()[("near", "border", "value").index(which)]
    return _window(rng, bank, shape, (grain, grain))


def stripes(
    shape: tuple[int, int], *, angle: float, period: float, sharp: float = 0.0, phase: float = 0.0
) -> Floats:
    """(h, w) waves in [-1, 1] whose crests run along `angle`; `sharp` > 0 makes them square."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    across = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32)
    wave = np.sin(across * np.float32(2 * np.pi / period) + np.float32(phase))
    return np.asarray(np.tanh(wave * sharp) if sharp else wave, np.float32)


Pattern = Callable[[np.random.Generator, tuple[int, int], "Material"], Floats]


@dataclass(frozen=True, kw_only=True)
class Material:
    """How a surface looks; several objects may share one."""

    base: Floats
    """(3,), RGB in [0, 1]."""
    other: Floats
    """(3,), the colour the pattern leads to."""
    pattern: str = "rough"
    grain: float = 1.0
    """Size of the pattern's features, about pixels."""
    angle: float = 0.0
    """Radians, direction of directed patterns."""
    contrast: float = 0.3
    """Share of the way from base to other, per deviation of the pattern."""
    noise: float = 0.03
    """Deviation of fine luminance noise on top."""

    def turned(self, angle: float) -> "Material":
        """The same material with its pattern along `angle` radians."""
        return replace(self, angle=angle)


def _rough(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    return fractal(rng, shape, slope=1.0, grain=max(1.0, m.grain / 4))


def _cloud(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    return fractal(rng, shape, slope=1.5, grain=max(1.0, m.grain / 6))


def _speckle(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    return fractal(rng, shape, slope=0.5, grain=max(1.0, m.grain / 5))


def _blotch(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    field = fractal(rng, shape, slope=1.5, grain=max(1.0, m.grain / 5))
    return np.tanh(4 * field) * np.float32(1.2)


def _ridge(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    field = fractal(rng, shape, slope=1.5, grain=max(1.0, m.grain / 6))
    return np.float32(1.2) - 2 * np.abs(field)


def _streak(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    along = rng.uniform(4, 12)
    pair = (1.0, along) if abs(np.cos(m.angle)) > 0.7 else (along, 1.0)
    return fractal(rng, shape, slope=0.5, grain=pair)


def _stripe(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    sharp = rng.choice([0.0, 2.0, 6.0])
    wave = stripes(shape, angle=m.angle, period=max(2.5, m.grain), sharp=sharp)
    return wave + 0.3 * fractal(rng, shape, slope=1.0)


def _wavy(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    y, x = np.ogrid[: shape[0], : shape[1]]
    across = (y * np.cos(m.angle) - x * np.sin(m.angle)) / max(3.0, m.grain) * 2 * np.pi
    bend = rng.uniform(0.5, 3) * fractal(rng, shape, slope=2.0)
    return np.asarray(np.sin(across + bend), np.float32)


def _plaid(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    period = max(4.0, m.grain)
    one = stripes(shape, angle=m.angle, period=period, sharp=3)
    two = stripes(shape, angle=m.angle + np.pi / 2, period=period * rng.uniform(0.7, 1.4), sharp=3)
    return one * two if rng.random() < 0.4 else (one + two) * 0.7


def _brick(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    height = max(3, round(m.grain / 2))
    width = round(height * rng.uniform(1.5, 3))
    y, x = np.ogrid[: shape[0], : shape[1]]
    row = y // height
    x = x + (row % 2) * (width // 2)
    mortar = (y % height == 0) | (x % width == 0)
    tone = rng.normal(size=(97, 89))[row % 97, x // width % 89]
    return np.where(mortar, 1.8, 0.5 * tone).astype(np.float32)


def _dots(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    near = cells(rng, shape, which="near", grain=max(0.4, m.grain / 16))
    return np.asarray(np.tanh(3 * (-0.9 - near)) + 0.5)


def _crack(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    return np.tanh(2 * cells(rng, shape, which="border", grain=max(0.4, m.grain / 16)) + 1)


def _facet(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    return cells(rng, shape, which="value", grain=max(0.4, m.grain / 16))


def _plain(rng: np.random.Generator, shape: tuple[int, int], m: Material) -> Floats:
    return 0.25 * fractal(rng, shape, slope=2.0)


PHOTO_SHARE = 0.8
"""How often a surface is a photograph's, where there is a folder of them."""
PATTERNS: dict[str, Pattern] = {
    "rough": _rough,
    "cloud": _cloud,
    "speckle": _speckle,
    "blotch": _blotch,
    "ridge": _ridge,
    "streak": _streak,
    "stripe": _stripe,
    "wavy": _wavy,
    "plaid": _plaid,
    "brick": _brick,
    "dots": _dots,
    "crack": _crack,
    "facet": _facet,
    "plain": _plain,
}


def render(rng: np.random.Generator, material: Material, shape: tuple[int, int]) -> Floats:
    """(h, w, 3) picture of a material."""
    if min(shape) == 0:
        return np.zeros((*shape, 3), np.float32)
    if material.pattern == "photo":
        return _photo(rng, material, shape)
    field = PATTERNS[material.pattern](rng, shape, material)
    step = (material.other - material.base) * np.float32(material.contrast)
    picture = material.base + field[..., None].astype(np.float32) * step
    if material.noise:
        picture += np.float32(material.noise) * fractal(rng, shape, slope=0.0)[..., None]
    return np.asarray(picture, np.float32)


def _photo(rng: np.random.Generator, material: Material, shape: tuple[int, int]) -> Floats:
    """A patch of a real photograph pulled towards the material's colour."""
    patch = photo_patch(rng, shape)
    grey = patch.mean(-1, keepdims=True)
    tinted = material.base + (grey - grey.mean()) * np.float32(0.3 + 2 * material.contrast)
    keep = np.float32(rng.choice([0.0, 0.5, 1.0]))
    return np.asarray(keep * patch + (1 - keep) * tinted, np.float32)


def colour(rng: np.random.Generator, *, vivid: float = 0.5) -> Floats:
    """(3,) random RGB; `vivid` is the greatest saturation."""
    value, saturation = rng.uniform(0.06, 0.95), vivid * rng.beta(1.0, 2.0)
    hue = (rng.uniform(0, 6) + np.array([0, 4, 2])) % 6
    ramp = np.clip(np.abs(hue - 3) - 1, 0, 1)
    return np.asarray(value * (1 - saturation + saturation * ramp), np.float32)


def near_colour(rng: np.random.Generator, base: Floats, spread: float = 0.06) -> Floats:
    """(3,) a colour near `base`: mostly another brightness, a little another hue."""
    gain = 1 + rng.normal() * spread * 2
    return np.asarray(np.clip(base * gain + rng.normal(size=3) * spread / 3, 0.01, 1), np.float32)


def material(
    rng: np.random.Generator, base: Floats | None = None, *, photo: float = 0.12, vivid: float = 0.6
) -> Material:
    """A random surface of any pattern, with colour `base` or a random one."""
    # A photograph behind drawn figures would tell them apart by texture alone: a model that learns
    # this takes real objects for background.
    photo = max(photo, PHOTO_SHARE) if has_photos() else photo
    base = colour(rng, vivid=vivid) if base is None else base
    strong = rng.random() < 0.35
    names = [name for name in PATTERNS if name != "plain"]
    pattern = "photo" if rng.random() < photo else str(rng.choice(names))
    return Material(
        base=base,
        other=colour(rng, vivid=vivid) if strong else near_colour(rng, base, 0.25),
        pattern="plain" if rng.random() < 0.2 and not has_photos() else pattern,
        grain=float(np.exp(rng.uniform(np.log(3), np.log(48)))),
        angle=float(rng.uniform(0, np.pi)),
        contrast=float(rng.uniform(0.1, 0.6)),
        noise=float(rng.uniform(0, 0.05)),
    )

"""Objects cut out of photographs, to be set into scenes: pictures with an alpha channel.

What is cut out well from a plain background becomes a hard object before another one.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from samplat import InputError

from .canvas import Canvas, Floats, Stamp, Vector
from .photos import pictures_below

SUFFIXES = (".png", ".webp", ".tif", ".tiff")
LONGEST = 800
"""Longer sides of cut-outs are reduced to it, in pixels."""
TURN, MIRRORED = 0.25, 0.5
"""Deviation of the turn in radians, and how often a cut-out is mirrored."""
_library: list[Path] = []


def use_cutouts(folder: Path | None) -> None:
    """Let this process set objects of a folder into natural scenes; None ends it.

    Raises:
        InputError: the folder holds none.
    """
    _library.clear()
    if folder is None:
        return
    _library.extend(pictures_below(folder, SUFFIXES, "cut-outs with an alpha channel"))


def has_cutouts() -> bool:
    """Whether there is a folder of cut-outs."""
    return bool(_library)


@lru_cache(maxsize=64)
def _cutout(path: Path) -> tuple[Floats, Floats]:
    """Colours (h, w, 3) and alpha (h, w) in [0, 1], as small as the object."""
    try:
        with Image.open(path) as image:
            if "A" not in image.getbands():
                raise ValueError(f"it has the bands {image.getbands()}, none of them alpha")
            rgba = image.convert("RGBA")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a cut-out: {error}") from error
    box = rgba.getchannel("A").getbbox()
    if box is None:
        raise InputError(f"{path} cannot be read as a cut-out: all of it is transparent")
    rgba = rgba.crop(box)
    rgba.thumbnail((LONGEST, LONGEST))
    values = np.asarray(rgba, np.float32) / np.float32(255)
    return values[..., :3], values[..., 3]


def set_cutout(rng: np.random.Generator, canvas: Canvas, centre: Vector, length: float) -> Stamp:
    """Draw some cut-out, `length` pixels along its longer side; a new object of the canvas."""
    colours, alpha = _cutout(_library[int(rng.integers(len(_library)))])
    colours, alpha = _posed(rng, colours, alpha, length)
    colours = _relit(rng, colours)
    stamp, shown = _clipped(colours, alpha, centre, canvas.size)
    if stamp.alpha.size:
        canvas.paint(stamp, shown)
        canvas.claim(stamp)
    return stamp


def _posed(
    rng: np.random.Generator, colours: Floats, alpha: Floats, length: float
) -> tuple[Floats, Floats]:
    """Resized, perhaps mirrored, turned a little and stretched; a thin rim is taken off."""
    scale = length / max(alpha.shape)
    sides = [max(2, round(n * scale * np.exp(rng.normal() * 0.08))) for n in alpha.shape]
    premultiplied = np.dstack([colours * alpha[..., None], alpha])
    layers = [_resized(premultiplied[..., i], (sides[0], sides[1])) for i in range(4)]
    posed = np.dstack(layers)
    if rng.random() < MIRRORED:
        posed = posed[:, ::-1]
    turn = float(np.degrees(rng.normal() * TURN))
    posed = ndimage.rotate(posed, turn, order=1, reshape=True)
    cover = np.clip(posed[..., 3], 0, 1)
    colour = posed[..., :3] / np.maximum(cover, 1e-3)[..., None]
    # what was behind the object shines through at its edge
    rim = ndimage.gaussian_filter(ndimage.grey_erosion(cover, (3, 3)), rng.uniform(0.3, 1.0))
    return np.clip(colour, 0, 1).astype(np.float32), rim.astype(np.float32)


def _resized(layer: Floats, shape: tuple[int, int]) -> Floats:
    image = Image.fromarray(layer.astype(np.float32), mode="F")
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), np.float32)


def _relit(rng: np.random.Generator, colours: Floats) -> Floats:
    """Another light: gain, gamma and a cast of colour."""
    gamma = np.exp(rng.normal() * 0.25)
    gain = np.exp(rng.normal(size=3) * 0.08 + rng.normal() * 0.15)
    return np.asarray(np.clip(colours**gamma * gain, 0, 1), np.float32)


def _clipped(colours: Floats, alpha: Floats, centre: Vector, size: int) -> tuple[Stamp, Floats]:
    """What of the cut-out lies on the canvas."""
    height, width = alpha.shape
    top, left = round(float(centre[1]) - height / 2), round(float(centre[0]) - width / 2)
    y0, x0 = max(0, -top), max(0, -left)
    y1, x1 = max(y0, min(height, size - top)), max(x0, min(width, size - left))
    rows, columns = slice(y0, y1), slice(x0, x1)
    stamp = Stamp(top=max(0, top), left=max(0, left), alpha=alpha[rows, columns])
    return stamp, colours[rows, columns]

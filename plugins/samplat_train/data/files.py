"""Files that several formats share: pictures, arrays, JSON, and names given by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samplat import InputError, SourceSpec, Window, registry

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""Pictures that Pillow reads."""
TIFF = (".tif", ".tiff")
BITS_PER_SAMPLE = 258
"""Tag of TIFF files."""


def read_array(path: Path) -> NDArray[Any]:
    """A picture (H, W) or (H, W, C) with its palette looked up, or the array of a `.npy` file.

    Raises:
        InputError: missing, or cannot be read.
    """
    return _read(path, colours=True)


def read_ids(path: Path) -> NDArray[Any]:
    """A label picture (H, W), a palette's numbers as they are; or the array of a `.npy` file.

    Raises:
        InputError: missing, cannot be read, or a picture with colours.
    """
    ids = _read(path, colours=False)
    if path.suffix != ".npy" and ids.ndim != 2:
        raise InputError(
            f"{path}: expected one number per pixel, got a picture of {ids.shape[2]} channels; "
            "save the labels as a 16-bit PNG or TIFF"
        )
    return ids


def _read(path: Path, *, colours: bool) -> NDArray[Any]:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        with Image.open(path) as opened:
            _refuse_deep_colours(opened)
            coloured = opened.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV") and colours
            return np.asarray(opened.convert("RGB") if coloured else opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if path.suffix.lower() in TIFF and path.is_file() and registry().names("sources"):
            return _read_raster(path)
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"{path}: cannot be read as a picture or labels: {reason}") from error


def _refuse_deep_colours(opened: Image.Image) -> None:
    """Of a TIFF's 16-bit colours Pillow keeps the upper eight bits: often nothing but black."""
    bits = getattr(opened, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
    if len(opened.getbands()) > 1 and max(bits) > 8:
        raise ValueError(f"colours of {max(bits)} bits; pip install 'samplat[raster]' to read them")


def _read_raster(path: Path) -> NDArray[Any]:
    """What Pillow cannot: 16-bit colours, tiles, rarer compressions."""
    spec = SourceSpec(path=str(path), factory=registry().source_for(str(path)).name)
    source = registry().open_source(spec)
    try:
        pixels: NDArray[Any] = source.read(Window(start=(0, 0, 0), stop=source.info.shape))[0]
    finally:
        source.close()
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: missing, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error


def child(root: Path, name: str, where: object) -> Path:
    """The file of that relative name below `root`.

    Raises:
        InputError: the name leads out of it, or there is no such file.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{where}: names {name!r}, which lies outside {root}")
    if not path.is_file():
        raise InputError(f"{where}: the picture {path} is missing")
    return path

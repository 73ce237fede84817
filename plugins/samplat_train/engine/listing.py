"""The pictures of a project: listed once with their digests, and checked at every reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samplat import InputError
from samplat_train.data.pictures import as_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""Files that a folder of pictures is searched for."""


@dataclass(frozen=True, kw_only=True)
class PictureEntry:
    """One line of a project's list of pictures."""

    index: int
    """Place in the list, from 0; names its records."""
    path: Path
    """Absolute path of the file."""
    sha256: str
    """Hexadecimal SHA-256 of the file."""
    size: tuple[int, int]
    """Height and width in pixels."""

    @property
    def key(self) -> str:
        """A name that other pictures do not share, whatever the order of the list."""
        return f"{self.path.stem}-{self.sha256[:12]}"

    def read(self) -> NDArray[np.uint8]:
        """The picture (H, W, 3); deeper than 8 bits, it is stretched.

        Raises:
            InputError: the file is gone, was changed since it was listed, or cannot be read.
        """
        if not self.path.is_file():
            raise InputError(f"{self.path} is gone; put it back, its records refer to it")
        if file_sha256(self.path) != self.sha256:
            raise InputError(
                f"{self.path} was changed since it was listed (its SHA-256 is no longer "
                f"{self.sha256[:12]}…); put the old file back, masks were drawn on that one"
            )
        image = read_rgb(self.path)
        if image.shape[:2] != self.size:
            raise InputError(f"{self.path}: expected {self.size} pixels, got {image.shape[:2]}")
        return image


def list_pictures(paths: Iterable[Path]) -> tuple[tuple[PictureEntry, ...], tuple[Path, ...]]:
    """Entries for files and for all pictures below folders, in the order given, folders sorted.

    Returns:
        the entries, and files left out because an earlier one holds the same bytes: their masks
        would be counted twice.

    Raises:
        InputError: no picture at all, or one that cannot be opened.
    """
    files = [file.resolve() for path in paths for file in _expanded(Path(path))]
    if not files:
        raise InputError(f"expected pictures ({', '.join(SUFFIXES)}), found none")
    first: dict[str, Path] = {}
    for path in files:
        first.setdefault(file_sha256(path), path)
    entries = tuple(_entry(i, path, digest) for i, (digest, path) in enumerate(first.items()))
    kept = set(first.values())
    return entries, tuple(path for path in dict.fromkeys(files) if path not in kept)


def dump_listing(entries: Iterable[PictureEntry]) -> bytes:
    """JSON lines."""
    lines = [json.dumps({**asdict(e), "path": str(e.path), "size": list(e.size)}) for e in entries]
    return "".join(line + "\n" for line in lines).encode()


def load_listing(path: Path) -> tuple[PictureEntry, ...]:
    """Entries from JSON lines.

    Raises:
        InputError: missing or damaged.
    """
    try:
        facts = [json.loads(line) for line in path.read_text().splitlines()]
        entries = tuple(
            PictureEntry(
                index=int(f["index"]),
                path=Path(f["path"]),
                sha256=str(f["sha256"]),
                size=(int(f["size"][0]), int(f["size"][1])),
            )
            for f in facts
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: expected a list of pictures, one JSON a line: {error}") from None
    if [e.index for e in entries] != list(range(len(entries))):
        raise InputError(f"{path}: expected pictures numbered 0, 1, 2, …; lines are missing")
    return entries


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture file as (H, W, 3) uint8, its pixels as stored: no rotation by EXIF.

    Raises:
        InputError: it cannot be decoded.
    """
    try:
        with Image.open(path) as opened:
            deep = opened.mode[0] in "IF"
            values = np.asarray(opened if deep else opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture: {error}") from error
    return as_image(values, path)


def _expanded(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not path.is_file():
        raise InputError(f"{path}: expected a picture or a folder of pictures, found nothing there")
    return [path]


def _entry(index: int, path: Path, digest: str) -> PictureEntry:
    try:
        with Image.open(path) as opened:
            width, height = opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture: {error}") from error
    return PictureEntry(index=index, path=path, sha256=digest, size=(height, width))

"""Folders of pictures and label pictures: `images/` and `labels/` with the same file stems.

PNG, TIFF or JPEG pictures with label pictures, or `.npy` arrays as `samplat draw-scenes` writes
them (labels (L, H, W): one flat partition per level of nesting). 0 is background.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from samplat import InputError
from samplat_train.data.files import IMAGE_SUFFIXES, read_array, read_ids
from samplat_train.data.pictures import Picture, as_image, as_labels

SUFFIXES = (*IMAGE_SUFFIXES, ".npy")


@dataclass(frozen=True, kw_only=True)
class PictureFolder:
    """The labelled pictures of one folder, in order of name."""

    folder: Path
    """Holds `images/` and the labels."""
    pairs: tuple[tuple[Path, Path], ...]
    """Image and label file of each picture."""

    @classmethod
    def open(cls, folder: Path) -> PictureFolder:
        """Pair the files of a folder; none is read.

        Raises:
            InputError: no `images/`, no labels, or an image without labels.
        """
        return cls(folder=folder, pairs=paired(folder, SUFFIXES))

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, i: int) -> str:
        """Path of the picture below `images/`, without suffix."""
        image = self.pairs[i][0].relative_to(self.folder / "images")
        return image.with_suffix("").as_posix()

    def read(self, i: int) -> Picture:
        """Picture i.

        Raises:
            InputError: a file cannot be read, the two differ in size, or the labels are floats,
                negative or coloured.
        """
        image_path, label_path = self.pairs[i]
        image = as_image(read_array(image_path), image_path)
        labels = as_labels(read_ids(label_path), image.shape[:2], label_path)
        return Picture(name=self.key(i), image=image, labels=labels)


def paired(folder: Path, suffixes: tuple[str, ...]) -> tuple[tuple[Path, Path], ...]:
    """Files of `images/` and of `labels/` (or the first `labels*/` that is not semantic) by stem.

    Raises:
        InputError: no images, no labels, an image without labels, or two of one stem.
    """
    homes = sorted(p for p in folder.glob("labels*") if p.is_dir() and "semantic" not in p.name)
    images = by_stem(folder / "images", suffixes)
    if not images or not homes:
        raise InputError(f"{folder}: expected images/ and labels/ with files of the same names")
    labels = by_stem(homes[0], suffixes)
    if missing := [stem for stem in images if stem not in labels]:
        raise InputError(f"{folder}: no labels for {len(missing)} images, first {missing[0]}")
    return tuple((images[stem], labels[stem]) for stem in images)


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files below a folder that end so, by relative path without suffix, in order.

    Raises:
        InputError: two of one stem.
    """
    found: dict[str, Path] = {}
    for path in files_of(folder, suffixes):
        suffix = next(s for s in suffixes if path.name.lower().endswith(s))
        stem = path.relative_to(folder).as_posix()[: -len(suffix)]
        if stem in found:
            raise InputError(f"{path} and {found[stem].name} are of one name: remove one of them")
        found[stem] = path
    return found


def files_of(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files below a folder with one of these suffixes, sorted; none that is hidden."""
    ends = tuple(suffixes)
    return sorted(
        p
        for p in folder.glob("**/*")
        if p.name.lower().endswith(ends) and not p.name.startswith(".") and p.is_file()
    )

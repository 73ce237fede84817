"""Volumes with label volumes: `images/` and `labels/` of NIfTI, NRRD or MetaImage files.

A picture is a slice across the axis of the coarsest spacing, where the pixels within a slice are
the finest, that has an object. Numbers are stretched once for the whole volume: computed tomography
to the window -160..240 HU of soft tissue, anything else from its 0.5 to its 99.5 percentile.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, PluginError, Stretch
from samplat_train.data.folders import paired
from samplat_train.data.pictures import PART, Picture, as_image, stretch_of, stretched

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
AIR = -200
"""A volume with smaller numbers is taken for computed tomography, in Hounsfield units."""
SOFT_TISSUE = Stretch(low=(-160.0,), high=(240.0,))


@dataclass(frozen=True, kw_only=True)
class VolumeFolder:
    """The slices with an object of all volumes of a folder, in order of name."""

    folder: Path
    """Holds `images/` and the labels."""
    pairs: tuple[tuple[Path, Path], ...]
    """Image and label file of each volume."""
    slices: tuple[tuple[int, int], ...]
    """Of each picture: its volume, and its place along the axis of the coarsest spacing."""

    @classmethod
    def open(cls, folder: Path) -> VolumeFolder:
        """Pair the files, and read the labels to learn which slices have objects.

        Raises:
            InputError: no pairs, labels that cannot be used, or not a single object.
        """
        pairs = paired(folder, SUFFIXES)
        slices = [
            (number, int(place))
            for number, (_, path) in enumerate(pairs)
            for place in np.flatnonzero(_read_labels(path).any(axis=(1, 2)))
        ]
        if not slices:
            raise InputError(f"{folder}: not a single object in {len(pairs)} label volumes")
        return cls(folder=folder, pairs=pairs, slices=tuple(slices))

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def __len__(self) -> int:
        return len(self.slices)

    def key(self, i: int) -> str:
        """`volume#slice`."""
        number, place = self.slices[i]
        image = self.pairs[number][0].relative_to(self.folder / "images")
        return f"{image.as_posix()}{PART}{place}"

    def read(self, i: int) -> Picture:
        """Picture i.

        Raises:
            InputError: a file cannot be read or is cut off, or the two do not cover the same
                place.
        """
        number, place = self.slices[i]
        image, labels = _read_pair(*self.pairs[number])
        return Picture(
            name=self.key(i),
            image=as_image(image[place], self.key(i)),
            labels=labels[None, place],
        )


@lru_cache(maxsize=4)
def _read_pair(image_path: Path, label_path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Numbers as uint8, and labels: (slice, H, W). Kept, as a picture is one of many slices."""
    image, labels = _load(image_path), _load(label_path)
    _check_same_place(image, labels, image_path, label_path)
    numbers = _across(image)
    if not np.isfinite(numbers).any():
        raise InputError(f"{image_path}: not a single finite number")
    air = np.nanmin(numbers) < AIR
    stretch = SOFT_TISSUE if air else stretch_of(numbers, 0.5, 99.5, image_path)
    return stretched(numbers, stretch), _as_ids(_across(labels, image), label_path)


def _read_labels(path: Path) -> NDArray[Any]:
    return _as_ids(_across(_load(path)), path)


def _as_ids(numbers: NDArray[Any], path: Path) -> NDArray[Any]:
    """Integers; NIfTI files often hold them as floats."""
    if numbers.dtype.kind == "f":
        if not (np.isfinite(numbers) & (numbers == np.rint(numbers))).all():
            raise InputError(f"{path}: labels must be whole numbers, 0 for nothing, got fractions")
        numbers = numbers.astype(np.int64)
    if numbers.size and numbers.min() < 0:
        raise InputError(f"{path}: labels must be >= 0, got {numbers.min()}")
    return numbers


def _across(volume: Any, like: Any = None) -> NDArray[Any]:
    """The numbers (slice, H, W), slices across the axis of the coarsest spacing, of `like`'s."""
    spacing = (volume if like is None else like).GetSpacing()[::-1]
    return np.moveaxis(_sitk().GetArrayFromImage(volume), int(np.argmax(spacing)), 0)


def _sitk() -> Any:
    """SimpleITK, once a volume is opened."""
    try:
        import SimpleITK
    except ModuleNotFoundError as error:
        raise PluginError("volumes need SimpleITK: pip install 'samplat[train]'") from error
    return SimpleITK


def _load(path: Path) -> Any:
    """A volume of SimpleITK, known to be whole.

    Raises:
        InputError: it cannot be read, is cut off, or has not three axes of single numbers.
    """
    reader = _sitk().ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_kind(reader, path)
        _check_whole(reader, path)
        return reader.Execute()
    except (RuntimeError, OSError, EOFError) as error:
        reason = str(error).strip().splitlines()[-1][-200:]
        raise InputError(f"{path}: cannot be read as a volume: {reason}") from error


def _check_kind(reader: Any, path: Path) -> None:
    size = reader.GetSize()
    if len(size) != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path}: expected a volume of three axes with one number per voxel, got "
            f"{'x'.join(map(str, size))} of {reader.GetNumberOfComponents()}"
        )


def _check_whole(reader: Any, path: Path) -> None:
    """Refuse a NIfTI file that was cut off: ITK fills what is missing without a word."""
    if not reader.HasMetaDataKey("bitpix"):
        return
    bits, offset = (float(reader.GetMetaData(k)) for k in ("bitpix", "vox_offset"))
    expected = offset + math.prod(reader.GetSize()) * bits / 8
    found = 0
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        while block := file.read(2**20):
            found += len(block)
    if found < expected:
        raise InputError(f"{path}: cut off: {found} of {expected:.0f} bytes; get the file again")


def _check_same_place(image: Any, labels: Any, image_path: Path, label_path: Path) -> None:
    if image.GetSize() != labels.GetSize():
        raise InputError(
            f"{label_path}: labels of {labels.GetSize()} for a volume of {image.GetSize()}"
        )
    last = tuple(n - 1 for n in image.GetSize())
    for index in ((0, 0, 0), last):
        here, there = (v.TransformIndexToPhysicalPoint(index) for v in (image, labels))
        if math.dist(here, there) > 0.5 * min(image.GetSpacing()):
            raise InputError(
                f"{label_path}: lies elsewhere than {image_path.name}: voxel {index} is at "
                f"{_point(there)}, there at {_point(here)}; resample the labels first"
            )


def _point(point: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in point) + ")"

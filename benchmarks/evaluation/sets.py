"""The labelled sets of an evaluation folder, read one picture at a time, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.volumes import CT_SOFT_TISSUE, read_pairs, read_twins
from samplat.errors import InputError
from samplat.pixels import as_uint8

CROP = 512
"""Side of the crops that large micrographs are cut into."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})


@dataclass(frozen=True, kw_only=True)
class LabelledPicture:
    """One picture and its objects."""

    name: str
    """The file, and the crop or slice of it."""
    image: NDArray[np.uint8]
    """(H, W, 3)."""
    labels: NDArray[np.integer[Any]]
    """(H, W), 0 is background."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """A folder of the evaluation data and how it is asked."""

    name: str
    """The folder's name."""
    read: Callable[[Path], Iterator[LabelledPicture]]
    """All its pictures in a fixed order."""
    every: int = 1
    """By default only every n-th of them is used, the first included."""
    box_only: bool = False
    """True: no point or click prompts."""


def select_pictures(
    evaluation_set: EvaluationSet, root: Path, *, every: int | None, limit: int | None
) -> Iterator[LabelledPicture]:
    """Every n-th picture of a set under `root`, at most `limit` of them."""
    pictures = evaluation_set.read(root / evaluation_set.name)
    thinned = islice(pictures, 0, None, every or evaluation_set.every)
    return islice(thinned, limit)


def read_folder(folder: Path, labels: str = "labels") -> Iterator[LabelledPicture]:
    """Pairs `images/**/NAME.*` and `labels/**/NAME.*`, sorted by path."""
    for path in sorted((folder / "images").rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield _checked_pair(folder, path, _label_path(folder, path, labels))


def read_crops(folder: Path, labels: str) -> Iterator[LabelledPicture]:
    """The pairs of a folder, cut into crops in reading order."""
    for picture in read_folder(folder, labels):
        for rows, columns in crop_grid(picture.labels.shape):
            yield LabelledPicture(
                name=f"{picture.name} [{rows.start}, {columns.start}]",
                image=picture.image[rows, columns],
                labels=picture.labels[rows, columns],
            )


def crop_grid(size: tuple[int, ...], side: int = CROP) -> list[tuple[slice, slice]]:
    """Disjoint squares from the top left corner; rests at the right and bottom are left out.

    A picture smaller than a square along one axis is used whole along it.
    """
    rows, columns = (
        [slice(i * side, (i + 1) * side) for i in range(max(1, length // side))] for length in size
    )
    return [(row, column) for row in rows for column in columns]


def read_array(path: Path) -> NDArray[Any]:
    """Pixels (H, W) or (H, W, band) of a PNG, JPEG or TIFF file."""
    if path.suffix.lower() in (".tif", ".tiff"):
        return _read_tiff(path)
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def _read_tiff(path: Path) -> NDArray[Any]:
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            bands: NDArray[Any] = source.read()
    return bands[0] if len(bands) == 1 else np.moveaxis(bands, 0, -1)


def _label_path(folder: Path, image: Path, labels: str) -> Path:
    place = folder / labels / image.relative_to(folder / "images")
    found = sorted(p for p in place.parent.glob("*") if p.stem == place.stem)
    if not found:
        raise InputError(f"{image} has no labels: expected {place.with_suffix('.*')}")
    return found[0]


def _checked_pair(folder: Path, path: Path, label_path: Path) -> LabelledPicture:
    image, labels = as_uint8(read_array(path)), read_array(label_path)
    if labels.shape != image.shape[:2]:
        raise InputError(
            f"{label_path} is {labels.shape}, its picture {path.name} {image.shape[:2]}; "
            "labels must be one band of the picture's size"
        )
    name = str(path.relative_to(folder / "images"))
    return LabelledPicture(name=name, image=image, labels=labels)


def _slices(
    volumes: Callable[[Path], Iterator[tuple[str, NDArray[np.uint8], NDArray[Any]]]],
) -> Callable[[Path], Iterator[LabelledPicture]]:
    def read(folder: Path) -> Iterator[LabelledPicture]:
        for name, image, labels in volumes(folder):
            yield LabelledPicture(name=name, image=as_uint8(image), labels=labels)

    return read


SETS = (
    EvaluationSet(name="bio_dsb2018", read=read_folder, every=4),
    EvaluationSet(
        name="bio_axon_sem", read=lambda folder: read_crops(folder, "labels_axon_instances")
    ),
    EvaluationSet(name="nat_davis2016", read=read_folder, every=2),
    EvaluationSet(name="geo_banepa", read=read_folder),
    EvaluationSet(name="med_hippocampus", read=_slices(read_twins), every=5, box_only=True),
    EvaluationSet(
        name="med_ct_spleen_msd",
        read=_slices(lambda folder: read_pairs(folder, window=CT_SOFT_TISSUE)),
        box_only=True,
    ),
    EvaluationSet(name="med_sct_cord", read=_slices(read_pairs), box_only=True),
    EvaluationSet(name="med_pyradiomics_brain", read=_slices(read_pairs), box_only=True),
)
"""In the order of the table."""

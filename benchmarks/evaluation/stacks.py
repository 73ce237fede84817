"""Labelled volumes and their objects, whole: what is followed through slices, and from where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.volumes import (
    CT_SOFT_TISSUE,
    match_labels,
    read_volume,
    slice_axis,
    stretch,
    volume_paths,
)
from samplat.errors import InputError

LEAST_LESION = 1000.0
"""mm³ of a lesion that is followed: 1 ml."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledObject:
    """One object of one volume."""

    name: str
    """The file, and the number of the object where there are several."""
    pixels: NDArray[np.uint8]
    """(z, y, x) of the volume, windowed as a whole."""
    truth: NDArray[np.bool_]
    """(z, y, x)."""
    spacing: tuple[float, float, float]
    """(z, y, x) mm."""
    axis: int
    """Across which slices follow each other."""

    @property
    def stack(self) -> NDArray[np.bool_]:
        """The truth as (slices, rows, columns)."""
        return np.moveaxis(self.truth, self.axis, 0)

    @property
    def extent(self) -> tuple[int, int]:
        """The first slice in which the object is, and the last."""
        inside = np.flatnonzero(self.stack.any(axis=(1, 2)))
        return int(inside[0]), int(inside[-1])

    @property
    def middle(self) -> int:
        """The slice that halves the object: half of its voxels lie before it or in it."""
        voxels = np.cumsum(self.stack.sum(axis=(1, 2)))
        return int(np.searchsorted(voxels, voxels[-1] / 2))


@dataclass(frozen=True, kw_only=True)
class VolumeSet:
    """Volumes of one kind."""

    name: str
    """As it is printed."""
    folder: str
    """In the evaluation folder."""
    read: Callable[[Path], Iterator[LabelledObject]]
    """All objects in a fixed order."""


def read_twins(folder: Path) -> Iterator[LabelledObject]:
    """Pairs `images/NAME` and `labels/NAME`; all labels together are one object."""
    for path in volume_paths(folder / "images"):
        yield from objects_of(path, folder / "labels" / path.name)


def read_pairs(folder: Path, window: tuple[float, float] | None = None) -> Iterator[LabelledObject]:
    """Pairs of which names tell what belongs together; all labels together are one object."""
    for image, labels in match_labels(volume_paths(folder)):
        yield from objects_of(image, labels, window=window)


def read_lesions(folder: Path) -> Iterator[LabelledObject]:
    """Connected lesions of at least 1 ml, largest first, in FLAIR volumes, which show them."""
    for labels in sorted(folder.glob("*_gt.nii.gz")):
        image = labels.with_name(labels.name.replace("_gt", "_FLAIR"))
        yield from objects_of(image, labels, connected=True)


def objects_of(
    image: Path,
    labels: Path,
    *,
    window: tuple[float, float] | None = None,
    connected: bool = False,
) -> Iterator[LabelledObject]:
    """The objects of one labelled volume; none where it holds no label.

    Raises:
        InputError: the two differ in shape.
    """
    values, spacing = read_volume(image)
    marked, _ = read_volume(labels)
    if values.shape != marked.shape:
        raise InputError(f"{labels} is {marked.shape}, its volume {image} {values.shape}")
    pixels, axis = stretch(values, window), slice_axis(values.shape, spacing)
    truths = lesions(marked > 0, spacing) if connected else [marked > 0]
    for number, truth in enumerate(truths):
        if truth.any():
            yield LabelledObject(
                name=f"{labels.name} [{number}]",
                pixels=pixels,
                truth=truth,
                spacing=(spacing[0], spacing[1], spacing[2]),
                axis=axis,
            )


def lesions(
    marked: NDArray[np.bool_], spacing: tuple[float, ...], least: float = LEAST_LESION
) -> list[NDArray[np.bool_]]:
    """The pieces, joined at faces, edges or corners, of at least `least` mm³, largest first."""
    from scipy.ndimage import label

    pieces: NDArray[Any]
    pieces, count = label(marked, np.ones((3, 3, 3)))
    volumes = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * np.prod(spacing)
    ranked = np.argsort(-volumes, kind="stable")
    return [pieces == i + 1 for i in ranked if volumes[i] >= least]


SETS = (
    VolumeSet(name="hippocampus", folder="med_hippocampus", read=read_twins),
    VolumeSet(
        name="spleen", folder="med_ct_spleen_msd", read=lambda f: read_pairs(f, CT_SOFT_TISSUE)
    ),
    VolumeSet(name="ms_lesions", folder="med_ms_lesions", read=read_lesions),
    VolumeSet(name="spinal_cord", folder="med_sct_cord", read=read_pairs),
    VolumeSet(name="brain_tumour", folder="med_pyradiomics_brain", read=read_pairs),
)
"""In the order of the table."""

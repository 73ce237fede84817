"""Recorded masks as data for others: SA-1B folders, and pictures to train on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samplat import InputError, MaskSet
from samplat_train.data.pictures import Picture, levels_of
from samplat_train.data.sa1b import write_sa1b
from samplat_train.engine.listing import PictureEntry
from samplat_train.engine.project import Project
from samplat_train.engine.records import MaskRecord, decoded
from samplat_train.engine.settings import STAGES, Stage

CHOICES: dict[str, tuple[Stage, ...]] = {
    "accepted": ("assisted", "semi-automatic"),
    "automatic": ("fully-automatic",),
    "all": STAGES,
}
"""Stages whose masks are meant: accepted are those that a person took, drew or corrected."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Masks of a project at one moment, as a `PictureSource`; later records do not change it."""

    name: str
    """What to call it."""
    pictures: tuple[PictureEntry, ...]
    """Pictures that have a mask."""
    rles: tuple[tuple[bytes, ...], ...]
    """The masks of each, as COCO compressed run-length counts."""

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def masks(self) -> int:
        """Number of masks of all pictures."""
        return sum(len(r) for r in self.rles)

    def key(self, i: int) -> str:
        """File name and digest."""
        return self.pictures[i].key

    def read(self, i: int) -> Picture:
        """Picture i with its masks.

        Raises:
            InputError: the picture is gone or was changed.
        """
        entry = self.pictures[i]
        labels = levels_of((decoded(rle, entry.size) for rle in self.rles[i]), entry.size)
        return Picture(name=self.key(i), image=entry.read(), labels=labels)

    def dump(self) -> bytes:
        """JSON lines that name every picture by its digest: equal data give equal bytes."""
        lines = (
            json.dumps({"picture": e.sha256, "masks": [r.decode("ascii") for r in rles]})
            for e, rles in zip(self.pictures, self.rles, strict=True)
        )
        return "".join(line + "\n" for line in lines).encode()


def snapshot(project: Project, choice: str = "accepted") -> Snapshot:
    """The masks of a project as they are now.

    Args:
        project: to look at.
        choice: accepted, automatic or all.

    Raises:
        InputError: an unknown choice, or not a single mask.
    """
    stages = _stages(choice)
    masks = {entry: state.of_stages(stages) for entry, state in project.states()}
    chosen = {entry: found for entry, found in masks.items() if found}
    if not chosen:
        raise InputError(f"{project.folder} has no {choice} masks yet; annotate pictures first")
    return Snapshot(
        name=f"{project.folder} ({choice})",
        pictures=tuple(chosen),
        rles=tuple(tuple(m.rle.encode("ascii") for m in found) for found in chosen.values()),
    )


def export_sa1b(project: Project, folder: Path, choice: str = "accepted") -> int:
    """Write masks as an SA-1B folder; returns the number of pictures.

    Raises:
        InputError: an unknown choice, no mask, or a picture that is gone or was changed.
        SamplatError: the folder cannot be written.
    """
    stages = _stages(choice)
    count = 0
    for entry, state in project.states():
        if masks := state.of_stages(stages):
            write_sa1b(folder, sa1b_name(entry), entry.read(), mask_set_of(masks, entry.size))
            count += 1
    if not count:
        raise InputError(f"{project.folder} has no {choice} masks yet; nothing was written")
    return count


def sa1b_name(entry: PictureEntry) -> str:
    """`sa_` and the number of the picture, from 1 as in SA-1B."""
    return f"sa_{entry.index + 1}"


def mask_set_of(masks: Sequence[MaskRecord], size: tuple[int, int]) -> MaskSet:
    """Recorded masks of one picture; scores of what a person drew are 1."""
    n, whole = len(masks), (0, 0, size[1], size[0])
    return MaskSet(
        size=size,
        rles=tuple(m.rle.encode("ascii") for m in masks),
        boxes=np.array([m.box for m in masks], np.float32).reshape(n, 4),
        areas=np.array([m.area for m in masks], np.int64),
        predicted_iou=_scores(m.predicted_iou for m in masks),
        stability=_scores(m.stability for m in masks),
        points=np.array([_first_point(m) for m in masks], np.float32).reshape(n, 2),
        crop_boxes=np.array([m.crop or whole for m in masks], np.int32).reshape(n, 4),
    )


def _stages(choice: str) -> tuple[Stage, ...]:
    if choice not in CHOICES:
        raise InputError(f"expected masks to be one of {', '.join(CHOICES)}, got {choice!r}")
    return CHOICES[choice]


def _scores(values: Iterable[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array([1.0 if v is None else v for v in values], np.float32)


def _first_point(mask: MaskRecord) -> tuple[float, float]:
    points = mask.prompts.points if mask.prompts else ()
    return points[0] if points else (float("nan"), float("nan"))

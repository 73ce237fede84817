"""What the paper reports of its data engine: effort per stage (section 4), shapes (section 5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat_train.engine.listing import PictureEntry
from samplat_train.engine.project import Project
from samplat_train.engine.records import MaskRecord, PictureState
from samplat_train.engine.retraining import Round, rounds
from samplat_train.engine.settings import STAGES, Stage

BINS = 10
"""Of the histograms of relative size and concavity, over 0..1."""
GRID = 5
"""Cells along each side of the grid that mask centres are counted in."""
MASK_COUNTS = (1, 11, 51, 101, 201)
"""Where the bins of masks per picture begin; the last one has no end."""
SOURCES = ("person", "model", "corrected")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What the masks of one stage, or of one model in it, took a person.

    Masks that the model pre-filled and nobody touched took nobody's time and are left out.
    """

    masks: int
    """Masks that a person worked on."""
    seconds_mean: float | None
    """Per mask, over all that was done to it; None without masks."""
    seconds_median: float | None
    """The same."""
    clicks_mean: float | None
    """Per mask: one per point, two per box."""
    clicks_median: float | None
    """The same."""


@dataclass(frozen=True, kw_only=True)
class Properties:
    """Shapes and places of masks (paper, section 5, "Mask properties")."""

    relative_size_mean: float | None
    """Of sqrt(mask area / picture area); None without masks."""
    relative_size: tuple[int, ...]
    """Masks per tenth of 0..1."""
    concavity_mean: float | None
    """Of 1 - mask area / area of its convex hull."""
    concavity: tuple[int, ...]
    """Masks per tenth of 0..1."""
    masks_per_picture: dict[str, int]
    """Pictures by how many masks they have."""
    centres: tuple[tuple[int, ...], ...]
    """Masks by the cell that their centre of mass lies in, of a grid over the picture; rows from
    the top."""


@dataclass(frozen=True, kw_only=True)
class StageFigures:
    """One stage of the project."""

    stage: Stage
    """Which."""
    pictures_finished: int
    """Pictures with nothing left to do in it."""
    pictures: int
    """Pictures that have a mask of it."""
    masks: int
    """Masks that are there."""
    masks_per_picture: float | None
    """Mean over pictures that have one."""
    sources: dict[str, float]
    """Share of the masks by whose outline they are: person, model, corrected."""
    prefilled: int
    """Masks that the model proposed and a person left as they are."""
    rejected_seconds: float
    """Time of a person spent on masks that were taken away in this stage."""
    effort: Effort
    """What they took."""
    effort_by_model: dict[str, Effort]
    """The same by the model in use: better models take less."""
    properties: Properties
    """Shapes and places."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A project in numbers."""

    pictures: int
    """Pictures listed."""
    masks: int
    """Masks that are there, of all stages."""
    stages: tuple[StageFigures, ...]
    """Each of the three, in order."""
    properties: Properties
    """Of the masks of all stages together."""
    rounds: tuple[Round, ...]
    """Every retraining with its figures before and after."""
    notes: tuple[str, ...]
    """What was wrong with the records and could be mended."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def statistics(project: Project) -> Statistics:
    """Read all records of a project.

    Raises:
        InputError: a record is damaged.
    """
    states = list(project.states())
    return Statistics(
        pictures=len(states),
        masks=sum(len(state.masks) for _, state in states),
        stages=tuple(stage_figures(stage, states) for stage in STAGES),
        properties=properties([(e, list(s.masks.values())) for e, s in states]),
        rounds=rounds(project),
        notes=tuple(note for _, state in states for note in state.notes),
    )


def stage_figures(
    stage: Stage, states: Sequence[tuple[PictureEntry, PictureState]]
) -> StageFigures:
    """The figures of one stage."""
    groups = [(entry, list(state.of_stages([stage]))) for entry, state in states]
    masks = [m for _, group in groups for m in group]
    used = sum(bool(group) for _, group in groups)
    counted: Counter[str] = Counter(m.source for m in masks)
    return StageFigures(
        stage=stage,
        pictures_finished=sum(stage in state.finished for _, state in states),
        pictures=used,
        masks=len(masks),
        masks_per_picture=len(masks) / used if used else None,
        sources={s: counted[s] / len(masks) if masks else 0.0 for s in SOURCES},
        prefilled=sum(_untouched(m) for m in masks),
        rejected_seconds=sum(_rejected_seconds(state, stage) for _, state in states),
        effort=_effort(_worked_on(stage, states)),
        effort_by_model=_by_model(_worked_on(stage, states)),
        properties=properties(groups),
    )


def effort_of(project: Project, stage: Stage) -> Effort:
    """What the masks of a stage took a person, without a look at their shapes."""
    return _effort(_worked_on(stage, list(project.states())))


def properties(groups: Sequence[tuple[PictureEntry, Sequence[MaskRecord]]]) -> Properties:
    """Shapes and places of the masks of some pictures."""
    masks = [m for _, group in groups for m in group]
    rows = np.array([_shape_of(m) for m in masks], np.float64).reshape(-1, 4)
    size, concavity, y, x = rows.T
    return Properties(
        relative_size_mean=_mean(size),
        relative_size=_histogram(size),
        concavity_mean=_mean(concavity),
        concavity=_histogram(concavity),
        masks_per_picture=_mask_counts(len(group) for _, group in groups),
        centres=_grid(y, x),
    )


def relative_size(mask: NDArray[np.bool_]) -> float:
    """sqrt(mask area / picture area) of a mask (H, W)."""
    return float(np.sqrt(mask.sum() / mask.size))


def concavity(mask: NDArray[np.bool_]) -> float:
    """1 - area / area of the convex hull of a mask (H, W), pixels being unit squares."""
    from scipy.spatial import ConvexHull

    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    # Each row of pixels spans a rectangle; the hull of their corners is that of the mask.
    x = np.concatenate([left, left, right, right])
    y = np.concatenate([rows, rows + 1, rows, rows + 1])
    hull = ConvexHull(np.stack([x, y], axis=1).astype(np.float64))
    return 1.0 - float(mask.sum()) / float(hull.volume)


def _shape_of(record: MaskRecord) -> tuple[float, float, float, float]:
    """Relative size, concavity, and the centre of mass y, x in 0..1."""
    mask = record.mask()
    ys, xs = np.nonzero(mask)
    height, width = mask.shape
    centre = (ys.mean() + 0.5) / height, (xs.mean() + 0.5) / width
    return relative_size(mask), concavity(mask), float(centre[0]), float(centre[1])


Work = tuple[MaskRecord, float, int]
"""A mask that a person worked on, its seconds, its clicks."""


def _worked_on(stage: Stage, states: Sequence[tuple[PictureEntry, PictureState]]) -> list[Work]:
    if stage == "fully-automatic":
        return []
    return [
        (mask, state.seconds[mask.id], state.clicks.get(mask.id, 0))
        for _, state in states
        for mask in state.of_stages([stage])
        if not _untouched(mask)
    ]


def _untouched(mask: MaskRecord) -> bool:
    return mask.prefilled and mask.action == "accepted"


def _rejected_seconds(state: PictureState, stage: Stage) -> float:
    return sum(state.seconds[i] for i, where in state.rejected.items() if where == stage)


def _by_model(work: Sequence[Work]) -> dict[str, Effort]:
    models = dict.fromkeys(mask.model for mask, _, _ in work)
    return {model: _effort([w for w in work if w[0].model == model]) for model in models}


def _effort(work: Sequence[Work]) -> Effort:
    seconds = np.array([w[1] for w in work], np.float64)
    clicks = np.array([w[2] for w in work], np.float64)
    return Effort(
        masks=len(work),
        seconds_mean=_mean(seconds),
        seconds_median=_median(seconds),
        clicks_mean=_mean(clicks),
        clicks_median=_median(clicks),
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if values.size else None


def _histogram(values: NDArray[np.float64]) -> tuple[int, ...]:
    counts, _ = np.histogram(values, bins=BINS, range=(0.0, 1.0))
    return tuple(int(c) for c in counts)


def _mask_counts(counts: Iterable[int]) -> dict[str, int]:
    names = [f"{a}-{b - 1}" for a, b in pairwise(MASK_COUNTS)]
    names.append(f">{MASK_COUNTS[-1] - 1}")
    places = np.searchsorted(MASK_COUNTS, [c for c in counts if c], side="right") - 1
    found = Counter(places.tolist())
    return {name: found[i] for i, name in enumerate(names)}


def _grid(y: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[tuple[int, ...], ...]:
    limits = ((0.0, 1.0), (0.0, 1.0))
    counts, _, _ = np.histogram2d(y, x, bins=GRID, range=limits)
    return tuple(tuple(int(c) for c in row) for row in counts)

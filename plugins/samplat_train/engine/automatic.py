"""The fully automatic stage: every picture through the grid, into an SA-1B folder.

The grid of 32 × 32 points, the crops, the thresholds and the clean-up are those of the paper's
appendix B, "Automatic mask generation details". Masks are recorded first; the SA-1B files are made
from the records, so that an interrupted run goes on and ends with the same files.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from samplat import InputError, MaskSet, Progress
from samplat_train.data.sa1b import write_sa1b
from samplat_train.engine.exporting import mask_set_of, sa1b_name
from samplat_train.engine.listing import PictureEntry
from samplat_train.engine.project import Project
from samplat_train.engine.records import EventRecord, MaskRecord, PromptRecord, Record, now
from samplat_train.engine.settings import ModelReference, Parameters, Settings, Stage

STAGE: Stage = "fully-automatic"
OUTPUT = "sa1b"
"""Folder of the results, in the project."""
DECIDING = (
    "pred_iou_thresh",
    "stability_score_thresh",
    "points_per_side",
    "crop_layers",
    "nms_thresh",
    "min_region_area",
    "max_cover",
)
"""Parameters that the masks depend on; another value makes what is there stale."""


@dataclass(frozen=True, kw_only=True)
class AutomaticReport:
    """What a run did."""

    done: int
    """Pictures segmented by this run."""
    kept: int
    """Pictures that were done before."""
    held: tuple[int, ...]
    """Pictures that others work on; run again when they are given back."""
    failed: dict[int, str]
    """Pictures that could not be used, and why."""


def run_automatic(
    project: Project, *, progress: Progress, clock: Callable[[], float] = time.monotonic
) -> AutomaticReport:
    """Segment every picture that is not done with this model and these parameters.

    Several processes can share the work: each claims the picture it is at. A picture that is gone,
    changed or unreadable does not stop the others.

    Args:
        project: its model and parameters are used.
        progress: told about the pictures.
        clock: seconds that never run backwards.

    Raises:
        SamplatError: the model is missing, or the disk is full; the same command resumes.
    """
    settings = project.settings
    key = run_key(settings)
    counts: Counter[str] = Counter()
    held, failed = [], {}
    progress.start("pictures", len(project.pictures))
    try:
        for entry in project.pictures:
            try:
                outcome = _one(project, entry, settings, key, clock)
            except InputError as error:
                outcome, failed[entry.index] = "failed", str(error)
                progress.message(f"picture {entry.index} is left out: {error}")
            counts[outcome] += 1
            if outcome == "held":
                held.append(entry.index)
            progress.advance("pictures")
    finally:
        progress.finish("pictures")
    return AutomaticReport(
        done=counts["done"], kept=counts["kept"], held=tuple(held), failed=failed
    )


def run_key(settings: Settings) -> str:
    """Digest of all that the automatic masks of a picture depend on, but for the picture."""
    numbers = asdict(settings.parameters)
    deciding = {"model": settings.model.sha256, **{name: numbers[name] for name in DECIDING}}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def filtered(found: MaskSet, parameters: Parameters) -> MaskSet:
    """Without masks of nearly the whole picture, and without those too small to be an object."""
    limit = parameters.max_cover * found.size[0] * found.size[1]
    return found.select((found.areas < limit) & (found.areas >= parameters.min_region_area))


def output_path(project: Project, entry: PictureEntry) -> Path:
    """The SA-1B record of a picture."""
    return project.folder / OUTPUT / f"{sa1b_name(entry)}.json"


def _one(
    project: Project,
    entry: PictureEntry,
    settings: Settings,
    key: str,
    clock: Callable[[], float],
) -> str:
    """done, kept (it was done before), or held (by somebody else)."""
    if _is_done(project, entry, key) and output_path(project, entry).exists():
        return "kept"
    if not project.desk.take(entry.index):
        return "held"
    try:
        outcome = "kept"
        if not _is_done(project, entry, key):
            _segment(project, entry, settings, key, clock)
            outcome = "done"
        _write(project, entry)
    finally:
        project.desk.release(entry.index)
    return outcome


def _is_done(project: Project, entry: PictureEntry, key: str) -> bool:
    return project.state(entry).finished.get(STAGE) == key


def _segment(
    project: Project,
    entry: PictureEntry,
    settings: Settings,
    key: str,
    clock: Callable[[], float],
) -> None:
    began = clock()
    image = entry.read()
    assistant = project.assistant_of(settings.model)
    found = filtered(assistant.everything(image, settings.parameters), settings.parameters)
    who = project.desk.annotator
    start = EventRecord(event="started", stage=STAGE, key=key, time=now(), annotator=who)
    masks = _lines(found, settings.model, who, first=project.state(entry).lines)
    end = EventRecord(
        event="finished", stage=STAGE, key=key, seconds=clock() - began, time=now(), annotator=who
    )
    # What lies there was made of older records; it must not be taken for the output of these.
    output_path(project, entry).unlink(missing_ok=True)
    project.record(entry, [start, *masks, end])


def _lines(found: MaskSet, model: ModelReference, annotator: str, *, first: int) -> list[Record]:
    """Mask lines; ids count on from the lines there, since a person may keep an older mask."""
    when = now()
    return [
        MaskRecord(
            id=f"a{first + i:06}",
            action="added",
            source="model",
            stage=STAGE,
            rle=found.rles[i].decode("ascii"),
            size=found.size,
            box=_four(found.boxes[i]),
            area=int(found.areas[i]),
            model=model.name,
            model_sha256=model.sha256,
            predicted_iou=float(found.predicted_iou[i]),
            stability=float(found.stability[i]),
            prompts=_prompt(found, i),
            crop=_four(found.crop_boxes[i]),
            time=when,
            annotator=annotator,
        )
        for i in range(len(found))
    ]


def _prompt(found: MaskSet, i: int) -> PromptRecord | None:
    x, y = (float(v) for v in found.points[i])
    return PromptRecord(points=((x, y),), labels=(1,)) if np.isfinite(x) else None


def _write(project: Project, entry: PictureEntry) -> None:
    masks = project.state(entry).of_stages([STAGE])
    folder = project.folder / OUTPUT
    write_sa1b(folder, sa1b_name(entry), entry.read(), mask_set_of(masks, entry.size))


def _four(
    values: np.ndarray[tuple[int], np.dtype[np.generic]],
) -> tuple[float, float, float, float]:
    a, b, c, d = (float(v) for v in values)
    return a, b, c, d

"""One person at one picture: prompts, proposals, and what becomes of the masks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, MaskChange, MaskSet, Prompts, SamplatError
from samplat_train.engine.assistants import Candidate
from samplat_train.engine.records import (
    Action,
    EventRecord,
    MaskRecord,
    PictureState,
    PromptRecord,
    Record,
    Source,
    decoded,
    described,
    highest_iou,
    now,
)

if TYPE_CHECKING:
    from samplat_train.engine.listing import PictureEntry
    from samplat_train.engine.project import Project
    from samplat_train.engine.settings import Stage


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A confident mask that the picture is pre-filled with."""

    id: str
    """Names it for `edit` and `reject`; the same at every opening with the same model."""
    rle: bytes
    """COCO compressed run-length counts."""
    size: tuple[int, int]
    """Height and width of the picture."""
    predicted_iou: float
    """The model's own estimate."""
    stability: float
    """Stability score."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W). True: the pixel belongs to the object."""
        return decoded(self.rle, self.size)


Outline = Candidate | Proposal | NDArray[np.bool_]
"""What can become a mask: an answer of the model, a proposal, or an array (H, W) of booleans."""


class Session:
    """Annotation of one claimed picture; made by `Project.annotate`.

    Everything is recorded at once and durably, so that a crash loses at most the mask that is
    being drawn. As a context manager it gives the picture back at the end, unfinished unless
    `finish` was called.

    Args:
        project: that the picture is of, claimed by this project's annotator.
        entry: the picture.
        stage: what is recorded with the masks.
        clock: seconds that never run backwards.
        prompted: False: the picture is not encoded before `prompt` is used.
    """

    def __init__(
        self,
        project: Project,
        entry: PictureEntry,
        stage: Stage,
        clock: Callable[[], float] = time.monotonic,
        *,
        prompted: bool = True,
    ) -> None:
        self.project, self.entry, self.stage, self._clock = project, entry, stage, clock
        self.image: NDArray[np.uint8] = entry.read()
        self._model = project.settings.model
        self._assistant = project.assistant_of(self._model)
        self._prepared = self._assistant.prepare(self.image) if prompted else None
        self._offered = self._propose() if stage == "semi-automatic" else {}
        self.over = False
        self._began = self._since = clock()

    @property
    def state(self) -> PictureState:
        """What is recorded of the picture so far."""
        return self.project.state(self.entry)

    @property
    def masks(self) -> dict[str, MaskRecord]:
        """The masks that are there, by id; `record.mask()` is the array."""
        return self.state.masks

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        """Pre-filled masks that nothing was done to yet; `finish` takes them as they are."""
        state = self.state
        gone = {*state.rejected, *state.masks}
        return tuple(p for i, p in self._offered.items() if i not in gone)

    def prompt(self, prompts: Prompts) -> tuple[Candidate, ...]:
        """What the model answers to the prompts of one object, the best mask first.

        Raises:
            InputError: prompts of several objects, or outside of the picture.
        """
        self._check_open()
        if self._prepared is None:
            self._prepared = self._assistant.prepare(self.image)
        return self._assistant.answer(self._prepared, prompts)

    def accept(
        self, mask: Outline, *, prompts: Prompts | None = None, seconds: float | None = None
    ) -> str:
        """Record a new mask; returns its id.

        Args:
            mask: an answer of `prompt`, a proposal, or an array (H, W). An array that comes with
                prompts is the model's; one that comes without was drawn by the person.
            prompts: what the mask answers; an answer of `prompt` knows it.
            seconds: spent on it; measured since the last thing recorded if not given.

        Raises:
            InputError: an empty mask, or one of another size than the picture.
            SamplatError: the claim was lost, or the disk is full.
        """
        given = _prompt_record(mask, prompts)
        drawn = isinstance(mask, np.ndarray) and given is None
        action: Action = "added" if drawn else "accepted"
        name = mask.id if isinstance(mask, Proposal) else f"m{self.state.lines:06}"
        if isinstance(mask, Proposal):
            self._known_shape(name)
        source: Source = "person" if drawn else "model"
        self._record(self._line(name, action, source, mask, given, seconds))
        return name

    def edit(
        self,
        mask_id: str,
        mask: Candidate | NDArray[np.bool_],
        *,
        prompts: Prompts | None = None,
        seconds: float | None = None,
    ) -> None:
        """Replace the outline of a mask or of a proposal.

        Raises:
            InputError: an unknown id, an empty mask, or one of another size.
            SamplatError: the claim was lost, or the disk is full.
        """
        self._known_shape(mask_id)
        before = self.masks.get(mask_id)
        source: Source = "person" if before and before.source == "person" else "corrected"
        given = _prompt_record(mask, prompts)
        self._record(self._line(mask_id, "edited", source, mask, given, seconds))

    def reject(self, mask_id: str, *, seconds: float | None = None) -> None:
        """Take a mask or a proposal away.

        Raises:
            InputError: an unknown id.
            SamplatError: the claim was lost, or the disk is full.
        """
        shape = self._known_shape(mask_id)
        before = self.masks.get(mask_id)
        source: Source = before.source if before else "model"
        self._record(self._line(mask_id, "rejected", source, shape, None, seconds))

    def change(self, changes: Sequence[MaskChange]) -> None:
        """Record what a person did in a window, all of it or nothing.

        A name that the picture does not have is a new mask, and one that was rejected is there
        again.

        Raises:
            InputError: an unknown id to reject, an empty mask, or one of another size.
            SamplatError: the claim was lost, or the disk is full.
        """
        if changes:
            self._record(*[self._changed_line(change) for change in changes])

    def finish(self) -> None:
        """Nothing is left to do: untouched proposals are accepted, the picture is given back.

        Raises:
            SamplatError: the claim was lost, or the disk is full; the picture is not finished.
        """
        taken = [self._line(p.id, "accepted", "model", p, None, 0.0) for p in self.proposals]
        ended = EventRecord(
            event="finished",
            stage=self.stage,
            seconds=self._clock() - self._began,
            time=now(),
            annotator=self.project.desk.annotator,
        )
        self._record(*taken, ended)
        self.close()

    def close(self) -> None:
        """Give the picture back as it is; another annotator may go on with it."""
        self.over = True
        self.project.desk.release(self.entry.index)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.over:
            self.close()

    def _propose(self) -> dict[str, Proposal]:
        parameters = self.project.settings.parameters
        found = self._assistant.confident(self.image, parameters)
        overlap = highest_iou(found.rles, [m.rle.encode() for m in self.masks.values()], found.size)
        wanted = (overlap < parameters.proposal_overlap) & (found.areas > 0)
        return {p.id: p for p in proposals_of(found.select(wanted))}

    def _changed_line(self, change: MaskChange) -> MaskRecord:
        before = self.masks.get(change.id)
        if change.mask is None:
            shape = self._known_shape(change.id)
            source: Source = before.source if before else "model"
            return self._line(change.id, "rejected", source, shape, None, change.seconds)
        offered = None if before else self._offered.get(change.id)
        if offered is not None and np.array_equal(offered.mask, change.mask):
            return self._line(change.id, "accepted", "model", offered, None, change.seconds)
        given = None if change.prompts is None else PromptRecord.of(change.prompts)
        action, source = _deed(before, offered, drawn=change.score is None)
        line = self._line(change.id, action, source, change.mask, given, change.seconds)
        return replace(line, predicted_iou=change.score)

    def _line(
        self,
        mask_id: str,
        action: Action,
        source: Source,
        outline: Outline | MaskRecord,
        prompts: PromptRecord | None,
        seconds: float | None,
    ) -> MaskRecord:
        spent = self._clock() - self._since if seconds is None else seconds
        if not 0 <= spent < float("inf"):
            raise InputError(f"expected seconds >= 0, got {spent}")
        return MaskRecord(
            id=mask_id,
            action=action,
            source=source,
            stage=self.stage,
            model=self._model.name,
            model_sha256=self._model.sha256,
            prompts=prompts,
            prefilled=mask_id in self._offered and action == "accepted",
            seconds=spent,
            time=now(),
            annotator=self.project.desk.annotator,
            **self._shape(outline),
            **_scores(outline),
        )

    def _shape(self, outline: Outline | MaskRecord) -> dict[str, Any]:
        if isinstance(outline, MaskRecord):
            return {name: getattr(outline, name) for name in ("rle", "size", "box", "area")}
        array = outline if isinstance(outline, np.ndarray) else outline.mask
        return described(_checked_mask(array, self.entry.size))

    def _record(self, *lines: Record) -> None:
        self._check_open()
        self.project.record(self.entry, lines)
        self._since = self._clock()

    def _known_shape(self, mask_id: str) -> MaskRecord | Proposal:
        """The mask of this id as it is now."""
        if found := self.masks.get(mask_id):
            return found
        if mask_id in self._offered and mask_id not in self.state.rejected:
            return self._offered[mask_id]
        there = [*self.masks, *(p.id for p in self.proposals)]
        raise InputError(
            f"picture {self.entry.index} has no mask {mask_id!r}; "
            f"it has {', '.join(there) if there else 'none'}"
        )

    def _check_open(self) -> None:
        if self.over:
            raise SamplatError(
                f"the session with picture {self.entry.index} is over; "
                "begin another one with `Project.annotate`"
            )


def _deed(
    before: MaskRecord | None, offered: Proposal | None, *, drawn: bool
) -> tuple[Action, Source]:
    """What a person did who made this mask of the one before, and whose outline it is."""
    if before is not None:
        return "edited", "person" if before.source == "person" else "corrected"
    if offered is not None:
        return "edited", "corrected"
    return ("added", "person") if drawn else ("accepted", "model")


def proposals_of(found: MaskSet) -> tuple[Proposal, ...]:
    """Masks as proposals, named by their shapes."""
    parts = zip(found.rles, found.predicted_iou, found.stability, strict=True)
    return tuple(
        Proposal(
            id=f"p{hashlib.sha256(rle).hexdigest()[:12]}",
            rle=rle,
            size=found.size,
            predicted_iou=float(iou),
            stability=float(stability),
        )
        for rle, iou, stability in parts
    )


def _checked_mask(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    if mask.dtype != bool:
        raise InputError(f"expected a mask of booleans, got {mask.dtype}; pass `mask > 0`")
    if mask.shape != size:
        raise InputError(f"expected a mask of {size} as the picture, got one of {mask.shape}")
    if not mask.any():
        raise InputError("expected a mask with at least one pixel; use `reject` to remove one")
    return mask


def _prompt_record(outline: Outline, prompts: Prompts | None) -> PromptRecord | None:
    if prompts is None and isinstance(outline, Candidate):
        prompts = outline.prompts
    return None if prompts is None else PromptRecord.of(prompts)


def _scores(outline: Outline | MaskRecord) -> dict[str, Any]:
    if isinstance(outline, np.ndarray):
        return {"predicted_iou": None, "stability": None}
    return {"predicted_iou": outline.predicted_iou, "stability": outline.stability}

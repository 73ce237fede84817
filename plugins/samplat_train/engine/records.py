"""What was done to the masks of one picture: lines that are only ever added, and replayed.

A line is a JSON object with the CRC-32 of its content. Mask lines say what became of one mask;
event lines that a stage began or ended with the picture.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, Prompts, mask_set
from samplat_train.engine.durable import append_lines, whole_lines
from samplat_train.engine.settings import STAGES, Stage

Source = Literal["person", "model", "corrected"]
Action = Literal["accepted", "edited", "added", "rejected"]
ACTIONS: tuple[Action, ...] = ("accepted", "edited", "added", "rejected")


@dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """The prompts that gave a mask."""

    points: tuple[tuple[float, float], ...] = ()
    """x, y in pixels of the picture."""
    labels: tuple[int, ...] = ()
    """1 object, 0 background; one per point."""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1; None without a box."""

    @property
    def clicks(self) -> int:
        """What a person did: one click per point, two for a box."""
        return len(self.points) + (2 if self.box else 0)

    @classmethod
    def of(cls, prompts: Prompts) -> PromptRecord:
        """A single prompt without its padding and its mask logits.

        Raises:
            InputError: several prompts at once.
        """
        if len(prompts) != 1:
            raise InputError(f"expected the prompts of one mask, got those of {len(prompts)}")
        used = [] if prompts.points is None else np.flatnonzero(prompts.labels[0] >= 0).tolist()
        return cls(
            points=tuple((float(x), float(y)) for x, y in (prompts.points[0][k] for k in used)),
            labels=tuple(int(prompts.labels[0][k]) for k in used),
            box=None if prompts.boxes is None else _four(prompts.boxes[0]),
        )


@dataclass(frozen=True, kw_only=True)
class MaskRecord:
    """One line about one mask."""

    id: str
    """Names the mask within its picture."""
    action: Action
    """accepted: a person took the model's mask; edited: changed one that was there; added: new
    without a proposal; rejected: taken away."""
    source: Source
    """Whose outline it is: a person's, the model's, or the model's corrected by a person."""
    stage: Stage
    """In which it was recorded."""
    rle: str
    """COCO compressed run-length counts."""
    size: tuple[int, int]
    """Height and width of the picture."""
    box: tuple[float, float, float, float]
    """Tight box x0, y0, x1, y1, half-open."""
    area: int
    """Pixels."""
    model: str
    """Name of the model in use."""
    model_sha256: str
    """Digest of its weights."""
    predicted_iou: float | None = None
    """The model's estimate; None where a person drew."""
    stability: float | None = None
    """Stability score; None where a person drew."""
    prompts: PromptRecord | None = None
    """What the mask answers; None where nothing was prompted."""
    crop: tuple[float, float, float, float] | None = None
    """The crop x0, y0, x1, y1 in which an automatic mask was found; None: the whole picture."""
    prefilled: bool = False
    """True: the model proposed the mask before the person did anything."""
    seconds: float = 0.0
    """Time of the person spent on this line."""
    time: str = ""
    """When, as ISO 8601 in UTC."""
    annotator: str = ""
    """Who."""

    def mask(self) -> NDArray[np.bool_]:
        """(H, W). True: the pixel belongs to the object."""
        return decoded(self.rle.encode("ascii"), self.size)


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """One line about the picture as a whole."""

    event: Literal["started", "finished"]
    """started: masks of this automatic run follow and replace those of earlier ones; finished:
    nothing is left to do in this stage."""
    stage: Stage
    """Of which stage."""
    key: str = ""
    """Of an automatic run: digest of model and parameters."""
    seconds: float = 0.0
    """Wall time from claim to end."""
    time: str = ""
    """When, as ISO 8601 in UTC."""
    annotator: str = ""
    """Who."""


Record = MaskRecord | EventRecord


@dataclass(frozen=True, kw_only=True)
class PictureState:
    """What the records of a picture amount to."""

    masks: dict[str, MaskRecord] = field(default_factory=dict)
    """The last line of each mask that is there, in order of first appearance."""
    rejected: dict[str, Stage] = field(default_factory=dict)
    """Masks that were taken away, and in which stage."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of a person spent on each mask, over all of its lines, rejected ones included."""
    clicks: dict[str, int] = field(default_factory=dict)
    """Clicks of a person on each mask, over all of its lines."""
    finished: dict[Stage, str] = field(default_factory=dict)
    """Stages that are done with the picture, and the key of each."""
    lines: int = 0
    """How many lines there are."""
    notes: tuple[str, ...] = ()
    """What was wrong with the file and could be mended."""

    def of_stages(self, stages: Iterable[Stage]) -> tuple[MaskRecord, ...]:
        """The masks recorded in some of the stages."""
        wanted = set(stages)
        return tuple(m for m in self.masks.values() if m.stage in wanted)


def append(path: Path, records: Sequence[Record]) -> None:
    """Add lines to a picture's file, all of them or none.

    Raises:
        SamplatError: the disk is full or failing; earlier lines are untouched.
    """
    append_lines(path, [dump(record) for record in records])


def read(path: Path) -> PictureState:
    """Replay a picture's file; one that is missing is a picture without masks.

    Raises:
        InputError: a line in it is damaged.
    """
    data = path.read_bytes() if path.exists() else b""
    lines, dropped = whole_lines(data)
    records = [_parsed(line, path, number) for number, line in enumerate(lines, 1)]
    state = replay(records)
    if not dropped:
        return state
    note = f"{path.name}: half a line of {dropped} bytes at the end was dropped; a crash left it"
    return replace(state, notes=(note,))


def replay(records: Sequence[Record]) -> PictureState:
    """The state after these lines, oldest first."""
    state = PictureState(lines=len(records))
    for record in records:
        if isinstance(record, EventRecord):
            _apply_event(state, record)
        else:
            _apply_mask(state, record)
    return state


def dump(record: Record) -> bytes:
    """One line, without its line break."""
    facts = {k: v for k, v in asdict(record).items() if v is not None}
    return _canonical({**facts, "crc32": zlib.crc32(_canonical(facts))})


def parse(line: bytes) -> Record:
    """The record of one line.

    Raises:
        ValueError: it is not one, or its checksum does not match.
    """
    facts = json.loads(line)
    if not isinstance(facts, dict) or zlib.crc32(_canonical(_without_crc(facts))) != facts["crc32"]:
        raise ValueError("its checksum does not match")
    facts = _without_crc(facts)
    if facts["stage"] not in STAGES:
        raise ValueError(f"unknown stage {facts['stage']!r}")
    return EventRecord(**facts) if "event" in facts else _mask_record(facts)


def described(mask: NDArray[Any]) -> dict[str, Any]:
    """What a line says about the shape of a mask (H, W): rle, size, box, area."""
    only = mask_set(np.asarray(mask, dtype=bool)[None])
    return {
        "rle": only.rles[0].decode("ascii"),
        "size": only.size,
        "box": _four(only.boxes[0]),
        "area": int(only.areas[0]),
    }


def decoded(rle: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of COCO compressed run-length counts."""
    from pycocotools import mask as coco

    out: NDArray[np.bool_] = coco.decode({"size": list(size), "counts": rle}).astype(bool)
    return out


def highest_iou(
    rles: Sequence[bytes], others: Sequence[bytes], size: tuple[int, int]
) -> NDArray[np.float64]:
    """(N,) the highest IoU of each mask with any of the others; 0 where there are none."""
    from pycocotools import mask as coco

    if not rles or not others:
        return np.zeros(len(rles))
    ours, theirs = ([{"size": list(size), "counts": c} for c in s] for s in (rles, others))
    table: NDArray[np.float64] = coco.iou(ours, theirs, [0] * len(theirs))
    highest: NDArray[np.float64] = table.max(axis=1)
    return highest


def now() -> str:
    """The time as it is recorded."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _apply_event(state: PictureState, record: EventRecord) -> None:
    state.finished.pop(record.stage, None)
    if record.event == "finished":
        state.finished[record.stage] = record.key
        return
    for mask in state.of_stages([record.stage]):
        del state.masks[mask.id]


def _apply_mask(state: PictureState, record: MaskRecord) -> None:
    state.seconds[record.id] = state.seconds.get(record.id, 0.0) + record.seconds
    if not record.prefilled:
        state.clicks[record.id] = state.clicks.get(record.id, 0) + _clicks(record)
    if record.action == "rejected":
        state.masks.pop(record.id, None)
        state.rejected[record.id] = record.stage
    else:
        state.rejected.pop(record.id, None)  # it was taken back
        state.masks[record.id] = record


def _clicks(record: MaskRecord) -> int:
    return record.prompts.clicks if record.prompts else 0


def _parsed(line: bytes, path: Path, number: int) -> Record:
    try:
        return parse(line)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}, line {number}: damaged ({error}); restore the file from a copy, "
            "or remove that line"
        ) from error


def _mask_record(facts: dict[str, Any]) -> MaskRecord:
    if facts["action"] not in ACTIONS:
        raise ValueError(f"unknown action {facts['action']!r}")
    shaped = {**facts, "size": tuple(facts["size"]), "box": _four(facts["box"])}
    if "crop" in facts:
        shaped["crop"] = _four(facts["crop"])
    if "prompts" in facts:
        shaped["prompts"] = _prompt_record(facts["prompts"])
    return MaskRecord(**shaped)


def _prompt_record(facts: dict[str, Any]) -> PromptRecord:
    return PromptRecord(
        points=tuple((float(x), float(y)) for x, y in facts["points"]),
        labels=tuple(int(v) for v in facts["labels"]),
        box=None if facts["box"] is None else _four(facts["box"]),
    )


def _without_crc(facts: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in facts.items() if k != "crc32"}


def _canonical(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()


def _four(values: Any) -> tuple[float, float, float, float]:
    a, b, c, d = (float(v) for v in values)
    return a, b, c, d

"""Retraining between rounds: what the model learned from, what came of it, and the switch to it.

::

    PROJECT/rounds/001/data.jsonl          the masks it is trained on, frozen
    PROJECT/rounds/001/plan.json           parent model, digest of the data, recipe
    PROJECT/rounds/001/run/                checkpoint and log; an interrupted round goes on here
    PROJECT/rounds/001/model.safetensors   the result
    PROJECT/rounds/001/round.json          the plan, the result, figures before and after
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock, Timeout

from samplat import InputError, SamplatError
from samplat_train.data.pictures import PictureSource
from samplat_train.engine.assistants import load_assistant
from samplat_train.engine.durable import replace_file
from samplat_train.engine.exporting import Snapshot, snapshot
from samplat_train.engine.listing import file_sha256
from samplat_train.engine.project import Project
from samplat_train.engine.records import now
from samplat_train.engine.settings import ModelReference

if TYPE_CHECKING:
    from samplat_train.finetune import FinetuneSettings

MODEL, PLAN, DATA, RESULT = "model.safetensors", "plan.json", "data.jsonl", "round.json"


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """What a retrainer hands back."""

    path: Path
    """File of weights."""
    figures: dict[str, Any] = field(default_factory=dict)
    """"before" and "after": figures on pictures held out; empty if nothing was measured."""
    better: bool = True
    """False: the parent did better on them, and the project should keep it."""


class Retrainer(Protocol):
    """Makes a better model out of a parent and accepted masks."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """All that decides the result besides parent and data; recorded in the lineage."""
        ...

    def __call__(self, parent: ModelReference, source: PictureSource, folder: Path) -> Retrained:
        """Train, or go on with what an interrupted call left in the folder."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finetuner:
    """Fine-tunes the parent on the masks, and judges both on pictures held out."""

    settings: FinetuneSettings
    """What a fine-tuning does."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The settings."""
        return {"method": "finetune", **asdict(self.settings)}

    def __call__(self, parent: ModelReference, source: PictureSource, folder: Path) -> Retrained:
        """The only place where the data engine meets the trainer."""
        from samplat import save_model
        from samplat_train.finetune import finetune

        model = load_assistant(parent).model
        tuned = finetune(model, source, folder / "run", self.settings)
        metadata = {
            "parent": parent.sha256,
            "grid_defaults": json.dumps(dict(model.grid_defaults)),
        }
        save_model(
            tuned.sam,
            folder / MODEL,
            name=f"round-{folder.name}",
            architecture=model.architecture,
            metadata=metadata,
        )
        figures = {"before": tuned.before.as_dict(), "after": tuned.after.as_dict()}
        better = tuned.after.score >= tuned.before.score
        return Retrained(path=folder / MODEL, figures=figures, better=better)


@dataclass(frozen=True, kw_only=True)
class Round:
    """The lineage of one retraining, as `round.json` holds it."""

    number: int
    """From 1."""
    parent: ModelReference
    """The model that it began with."""
    model: ModelReference
    """The result."""
    data_sha256: str
    """Digest of `data.jsonl`: every picture and every mask it learned from."""
    choice: str
    """Which masks: accepted, automatic or all."""
    pictures: int
    """Pictures that it learned from or was judged on."""
    masks: int
    """Their masks."""
    recipe: dict[str, Any]
    """How it was trained."""
    figures: dict[str, Any]
    """"before" and "after", on pictures held out."""
    adopted: bool
    """True: the project went on with it; False: the parent did better."""
    seconds: float
    """Wall time of the last call; an interrupted one before it is not counted."""
    finished: str
    """When, as ISO 8601 in UTC."""


def retrain(project: Project, retrainer: Retrainer, *, choice: str = "accepted") -> Round:
    """Train a model on the recorded masks and make it the project's, unless the parent is better.

    A round that was interrupted goes on if model, masks and recipe are still the same.

    Args:
        project: whose masks and whose model.
        retrainer: what trains.
        choice: which masks: accepted, automatic or all.

    Raises:
        InputError: there are no such masks.
        SamplatError: another retraining of this project is running, or the training failed.
    """
    lock = FileLock(project.folder / "rounds" / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SamplatError(
            f"{project.folder} is being retrained by another process; wait for it"
        ) from None
    try:
        return _unswitched(project) or _round(project, retrainer, choice)
    finally:
        lock.release()


def rounds(project: Project) -> tuple[Round, ...]:
    """The finished rounds, oldest first.

    Raises:
        InputError: a `round.json` is damaged.
    """
    return tuple(_load(path) for path in sorted(project.folder.glob(f"rounds/[0-9]*/{RESULT}")))


def _unswitched(project: Project) -> Round | None:
    """A round that was finished, but killed before the project took its model."""
    last = next((r for r in reversed(rounds(project)) if r.adopted), None)
    if last is None or last.number <= project.settings.round:
        return None
    _switch(project, last)
    return last


def _round(project: Project, retrainer: Retrainer, choice: str) -> Round:
    began = time.monotonic()
    parent, data = project.settings.model, snapshot(project, choice)
    plan = _plan(parent, data, retrainer.recipe, choice)
    folder = _folder(project, plan)
    replace_file(folder / DATA, data.dump())
    replace_file(folder / PLAN, _json(plan))
    result = retrainer(project.located(parent), data, folder)
    name = str(result.path.resolve().relative_to(project.folder.resolve()))
    done = Round(
        number=int(folder.name),
        parent=parent,
        model=ModelReference(name=name, sha256=file_sha256(result.path)),
        figures=result.figures,
        adopted=result.better,
        seconds=time.monotonic() - began,
        finished=now(),
        **{k: v for k, v in plan.items() if k != "parent"},
    )
    replace_file(folder / RESULT, _json(asdict(done)))
    if done.adopted:
        _switch(project, done)
    return done


def _plan(
    parent: ModelReference, data: Snapshot, recipe: Mapping[str, Any], choice: str
) -> dict[str, Any]:
    return {
        "parent": asdict(parent),
        "data_sha256": hashlib.sha256(data.dump()).hexdigest(),
        "choice": choice,
        "pictures": len(data),
        "masks": data.masks,
        "recipe": dict(recipe),
    }


def _folder(project: Project, plan: dict[str, Any]) -> Path:
    """The folder of an interrupted round of the same plan, else a new one."""
    there = sorted(p for p in (project.folder / "rounds").glob("[0-9]*") if p.is_dir())
    unfinished = (p for p in there if not (p / RESULT).exists())
    if same := [p for p in unfinished if _holds(p / PLAN, plan)]:
        return same[-1]
    number = 1 + max((int(p.name) for p in there), default=0)
    folder = project.folder / "rounds" / f"{number:03}"
    folder.mkdir()
    return folder


def _holds(path: Path, plan: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_bytes()) == json.loads(_json(plan)))
    except (OSError, ValueError):
        return False


def _switch(project: Project, done: Round) -> None:
    project.use_model(project.folder / done.model.name, round_number=done.number)


def _load(path: Path) -> Round:
    try:
        facts = json.loads(path.read_bytes())
        parent, model = (ModelReference(**facts.pop(name)) for name in ("parent", "model"))
        return Round(parent=parent, model=model, **facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}; restore it from a copy") from error


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"

"""A project folder: the pictures, the model in use, the queue, and what was recorded.

::

    PROJECT/project.json          stage, model in use, parameters
    PROJECT/pictures.jsonl        every picture: path, SHA-256, size
    PROJECT/records/000012.jsonl  what was done to the masks of one picture, line by line
    PROJECT/claims/000012.json    who works on it
    PROJECT/rounds/001/           one retraining: its data, its lineage, its model
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from samplat import InputError, SamplatError
from samplat_train.engine import records
from samplat_train.engine.assistants import Assistant, durable_name, load_assistant
from samplat_train.engine.claims import ClaimDesk, default_annotator
from samplat_train.engine.durable import replace_file
from samplat_train.engine.listing import PictureEntry, dump_listing, list_pictures, load_listing
from samplat_train.engine.records import PictureState, Record
from samplat_train.engine.settings import ModelReference, Parameters, Settings, Stage, checked_stage

if TYPE_CHECKING:
    from samplat_train.engine.session import Session

SETTINGS, LISTING = "project.json", "pictures.jsonl"
FOLDERS = ("records", "claims", "rounds")
Load = Callable[[ModelReference], Assistant]


class Project:
    """A data engine project, as one annotator or one process sees it.

    Use `Project.create` or `Project.open`. Nothing is kept in memory that another process could
    change: settings and records are looked up when they are asked for.
    """

    def __init__(
        self,
        folder: Path,
        *,
        annotator: str = "",
        load: Load = load_assistant,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.load = load
        self.pictures: tuple[PictureEntry, ...] = load_listing(folder / LISTING)
        lease = self.settings.parameters.lease_seconds
        self.desk = ClaimDesk(folder, annotator or default_annotator(), lease, clock)
        self.twins: tuple[Path, ...] = ()
        """After `create`: files left out because another one holds the same bytes."""
        self._assistant: tuple[ModelReference, Assistant] | None = None
        self._states: dict[int, tuple[tuple[int, int], PictureState]] = {}

    @classmethod
    def create(
        cls,
        folder: str | Path,
        pictures: Iterable[str | Path],
        *,
        model: str | Path = "samplat-tiny",
        parameters: Parameters | None = None,
        annotator: str = "",
        load: Load = load_assistant,
    ) -> Project:
        """A new project in the assisted stage.

        Args:
            folder: to be made; must not hold anything yet.
            pictures: files, and folders that are searched for pictures. They stay where they are.
            model: a name that `load_model` knows, or a file of weights.
            parameters: numbers of the stages.
            annotator: who works; user@host when empty.
            load: what turns a model's name into an assistant.

        Raises:
            InputError: the folder is in use, or there is no usable picture.
            SamplatError: the model is missing, or the folder cannot be written.
        """
        path = Path(folder)
        _refuse_used(path)
        entries, twins = list_pictures(Path(p) for p in pictures)
        reference = load(ModelReference(name=durable_name(model), sha256="")).reference
        for name in FOLDERS:
            (path / name).mkdir(parents=True, exist_ok=True)
        replace_file(path / LISTING, dump_listing(entries))
        # The settings come last: their presence says that the project is whole.
        settings = Settings(model=reference, parameters=parameters or Parameters())
        settings.save(path / SETTINGS)
        project = cls(path, annotator=annotator, load=load)
        project.twins = twins
        return project

    @classmethod
    def open(
        cls, folder: str | Path, *, annotator: str = "", load: Load = load_assistant
    ) -> Project:
        """A project that is there.

        Raises:
            InputError: the folder is none, or its files are damaged.
        """
        Settings.load(Path(folder) / SETTINGS)
        return cls(Path(folder), annotator=annotator, load=load)

    @property
    def settings(self) -> Settings:
        """What the project is set to right now."""
        return Settings.load(self.folder / SETTINGS)

    @property
    def assistant(self) -> Assistant:
        """The model in use, loaded once.

        Raises:
            SamplatError: it is missing, or has other weights by now.
        """
        return self.assistant_of(self.settings.model)

    def assistant_of(self, reference: ModelReference) -> Assistant:
        """The assistant of a model that this project refers to.

        Raises:
            SamplatError: it is missing, or has other weights by now.
        """
        if self._assistant is None or self._assistant[0] != reference:
            self._assistant = reference, self.load(self.located(reference))
        return self._assistant[1]

    def located(self, reference: ModelReference) -> ModelReference:
        """The same with an absolute path if the model lies in the project."""
        inside = self.folder / reference.name
        return replace(reference, name=str(inside.resolve())) if inside.is_file() else reference

    def set_stage(self, stage: str) -> None:
        """Serve pictures for another stage from now on.

        Raises:
            InputError: there is no such stage.
        """
        self._change(lambda s: replace(s, stage=checked_stage(stage)))

    def set_parameters(self, **changes: float | None) -> None:
        """Change numbers of the stages; None leaves one as it is.

        Raises:
            InputError: an unknown name, or a value out of its range.
        """
        self._change(lambda s: replace(s, parameters=s.parameters.changed(**changes)))

    def use_model(self, model: str | Path, *, round_number: int | None = None) -> None:
        """Switch to another model; masks recorded before keep the name of the one that made them.

        Raises:
            SamplatError: it cannot be loaded.
        """
        loaded = self.load(ModelReference(name=durable_name(model), sha256="")).reference
        reference = replace(loaded, name=_name_within(self.folder, loaded.name))
        self._change(
            lambda s: replace(
                s, model=reference, round=s.round if round_number is None else round_number
            )
        )

    def state(self, picture: PictureEntry | int) -> PictureState:
        """What the records of a picture amount to.

        Raises:
            InputError: a line is damaged.
        """
        index = self.entry(picture).index
        stamp = _stamp(self.record_path(index))
        known = self._states.get(index)
        if known is None or known[0] != stamp:
            known = stamp, records.read(self.record_path(index))
            self._states[index] = known
        return known[1]

    def states(self) -> Iterator[tuple[PictureEntry, PictureState]]:
        """Every picture with its state, in order."""
        return ((entry, self.state(entry)) for entry in self.pictures)

    def next_picture(self, skip: Collection[int] = ()) -> PictureEntry | None:
        """Claim the next picture that this stage has to do; None when there is none left.

        Pictures that no person has finished in any stage come first, each in the order of the
        list. The claim is renewed with everything that is recorded, and given back by
        `Session.finish` and `Session.close`.

        Args:
            skip: indices of pictures not wanted now.

        Raises:
            InputError: the stage is fully automatic: nobody is needed.
        """
        stage = self._stage_of_people()
        open_ones = [e for e, s in self.states() if stage not in s.finished and e.index not in skip]
        fresh_first = sorted(open_ones, key=lambda e: bool(self._finished_by_people(e)))
        return next((e for e in fresh_first if self._claim(e, stage)), None)

    def annotate(
        self,
        picture: PictureEntry | int,
        *,
        clock: Callable[[], float] = time.monotonic,
        prompted: bool = True,
    ) -> Session:
        """Begin or go on with a picture; the clock of the first mask starts when this returns.

        Args:
            picture: as a rule from `next_picture`.
            clock: seconds that never run backwards; measures the time per mask.
            prompted: False: the picture is not encoded before `Session.prompt` is used.

        Raises:
            InputError: the picture is gone or changed, or not of this project.
            SamplatError: another annotator has it.
        """
        from samplat_train.engine.session import Session

        entry, stage = self.entry(picture), self._stage_of_people()
        with self.claimed(entry):
            return Session(self, entry, stage, clock, prompted=prompted)

    def record(self, picture: PictureEntry | int, lines: Sequence[Record]) -> PictureState:
        """Add lines to the records of a picture that is claimed; returns its new state.

        Raises:
            SamplatError: the claim was lost, or the disk is full; earlier lines are kept.
        """
        index = self.entry(picture).index
        with self.desk.locked():
            self.desk.renew(index)
            records.append(self.record_path(index), lines)
        return self.state(index)

    @contextmanager
    def claimed(self, picture: PictureEntry | int) -> Iterator[None]:
        """Hold a picture; it is given back when the body fails, else stays held.

        Raises:
            SamplatError: another annotator has it.
        """
        index = self.entry(picture).index
        if not self.desk.take(index):
            holder = self.desk.holder(index)
            raise SamplatError(
                f"picture {index} is claimed by {holder.annotator if holder else 'somebody else'}; "
                "take another one, or wait until the claim is given back or runs out"
            )
        try:
            yield
        except BaseException:
            self.desk.release(index)
            raise

    def entry(self, picture: PictureEntry | int) -> PictureEntry:
        """The entry of a picture or of its number.

        Raises:
            InputError: it is not of this project.
        """
        index = picture if isinstance(picture, int) else picture.index
        if not 0 <= index < len(self.pictures):
            raise InputError(f"expected a picture 0..{len(self.pictures) - 1}, got {index}")
        entry = self.pictures[index]
        if isinstance(picture, PictureEntry) and picture != entry:
            raise InputError(f"{picture.path} is not picture {index} of {self.folder}")
        return entry

    def record_path(self, index: int) -> Path:
        """The file of a picture's records."""
        return self.folder / "records" / f"{index:06}.jsonl"

    def _stage_of_people(self) -> Stage:
        stage = self.settings.stage
        if stage == "fully-automatic":
            raise InputError(
                "the stage fully-automatic needs nobody: run `samplat engine auto`, or go back "
                "with `samplat engine stage PROJECT assisted`"
            )
        return stage

    def _claim(self, entry: PictureEntry, stage: Stage) -> bool:
        """Take a picture unless somebody has it, or finished it since it was looked up."""
        if not self.desk.take(entry.index):
            return False
        if stage in self.state(entry).finished:
            self.desk.release(entry.index)
            return False
        return True

    def _finished_by_people(self, entry: PictureEntry) -> set[Stage]:
        return set(self.state(entry).finished) - {"fully-automatic"}

    def _change(self, change: Callable[[Settings], Settings]) -> None:
        with self.desk.locked():
            change(self.settings).save(self.folder / SETTINGS)


def _refuse_used(path: Path) -> None:
    if (path / SETTINGS).exists():
        raise InputError(f"{path} is a project already; open it, or choose another folder")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; expected a folder to be made")
    ours = {*FOLDERS, LISTING, ".lock"}
    if path.is_dir() and (foreign := sorted(p.name for p in path.iterdir() if p.name not in ours)):
        raise InputError(f"{path} holds other files, such as {foreign[0]}; choose an empty folder")


def _name_within(folder: Path, name: str) -> str:
    """Relative if the file lies in the project, so that the folder can be moved."""
    path, root = Path(name), folder.resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else name


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns

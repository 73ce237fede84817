"""What is done in a window and what a queue of pictures keeps of it are always the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from napari_sam import state as steps
from napari_sam.recording import Recording
from napari_sam.session import Session
from napari_sam.stopwatch import Stopwatch
from samplat import InputError, MaskChange, SamplatError
from samplat_train.engine import Project
from samplat_train.queues import EngineQueues
from train.engine_oracle import SIZE, load_oracle, truth_of, write_pictures


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Person:
    """One who opens a project, as a window does, and may be killed."""

    def __init__(self, folder: Path, name: str = "ada") -> None:
        self.clock = Clock()
        self.watch = Stopwatch(self.clock)
        self.queue = EngineQueues(load_oracle).open(folder, annotator=name)

    def take(self) -> None:
        picture = self.queue.next()
        assert picture is not None
        self.work = self.queue.begin(picture)
        self.recording = Recording(self.work, self.watch)
        self.recording.prepare()
        self.session = Session(self.recording.folder, picture.size)
        self.recording.attach(self.session)

    def leave(self) -> None:
        self.session.close()
        self.work.close()

    def kept(self) -> dict[str, Any]:
        """What the project has, proposals included."""
        return {each.id: each.mask for each in self.work.masks()}

    def shown(self) -> dict[str, Any]:
        """What the labels of the window show."""
        return {
            each.origin or f"w{n:06}": self.session.labels[...] == n
            for n, each in self.session.state.objects.items()
        }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    write_pictures(tmp_path / "pictures", 2)
    made = Project.create(tmp_path / "p", [tmp_path / "pictures"], model="oracle", load=load_oracle)
    made.set_stage("semi-automatic")
    return made


def square(person: Person, at: tuple[int, int], value: int) -> None:
    person.session.paint(at, np.full((3, 3), value))
    person.recording.tell()


class Sessions(RuleBasedStateMachine):
    """Strokes, rejections, undo and redo, kills before and after the project is told."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        root = Path(self.place.name)
        write_pictures(root / "pictures", 1)
        made = Project.create(root / "p", [root / "pictures"], model="oracle", load=load_oracle)
        made.set_stage("semi-automatic")
        self.person = Person(root / "p")
        self.person.take()

    def attempt(self, step: Any) -> None:
        """What the state refuses is no step."""
        try:
            step()
        except InputError:
            return

    def tell(self) -> None:
        self.person.recording.tell()

    @rule(y=st.integers(0, SIZE[0] - 5), x=st.integers(0, SIZE[1] - 5), value=st.integers(0, 4))
    def paint(self, y: int, x: int, value: int) -> None:
        self.attempt(lambda: self.person.session.paint((y, x), np.full((5, 5), value)))
        self.tell()

    @rule(number=st.integers(1, 4))
    def reject(self, number: int) -> None:
        self.attempt(lambda: self.person.recording.withdrawal(self.person.session, number))
        self.tell()

    @rule(number=st.integers(1, 4))
    def reopen_object(self, number: int) -> None:
        self.attempt(lambda: self.person.session.do(steps.described, number, status="open"))
        self.tell()

    @rule()
    def undo(self) -> None:
        self.attempt(self.person.session.undo)
        self.tell()

    @rule()
    def redo(self) -> None:
        self.attempt(self.person.session.redo)
        self.tell()

    @rule(kind=st.sampled_from(["nothing", "paint", "undo", "redo", "reject"]))
    def kill(self, kind: str) -> None:
        """A last step is in the journal, and the project was not told."""
        person = self.person
        actions: dict[str, Any] = {
            "nothing": lambda: None,
            "paint": lambda: person.session.paint((1, 40), np.full((6, 6), 3)),
            "undo": person.session.undo,
            "redo": person.session.redo,
            "reject": lambda: person.recording.withdrawal(person.session, 1),
        }
        self.attempt(actions[kind])
        before = person.shown()
        person.leave()
        person.take()
        after = person.shown()
        some = {name: mask for name, mask in before.items() if mask.any()}
        assert {n for n, mask in after.items() if mask.any()} == set(some)
        assert all((after[name] == mask).all() for name, mask in some.items())

    @invariant()
    def the_project_has_what_is_shown(self) -> None:
        kept, shown = self.person.kept(), self.person.shown()
        some = {name: mask for name, mask in shown.items() if mask.any()}
        assert set(kept) == set(some)
        assert all((kept[name] == mask).all() for name, mask in some.items())

    def teardown(self) -> None:
        self.person.leave()
        self.place.cleanup()


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)


def test_the_time_of_a_mask_is_work_without_pauses(project: Project) -> None:
    person = Person(project.folder)
    person.take()
    for seconds in (4.0, 100.0, 3.0):  # the second is a pause
        person.clock.now += seconds
        person.watch.sign()
    square(person, (36, 0), 7)
    person.watch.hold()
    person.clock.now += 5
    person.watch.go()
    person.clock.now += 2
    square(person, (36, 10), 8)
    state = person.queue.project.state(0)
    assert [state.seconds[f"w{n:06}"] for n in (7, 8)] == [7.0, 2.0]
    assert person.queue.status().seconds == 4.5
    person.leave()


def test_whose_masks_they_are(project: Project) -> None:
    """Drawn, corrected, clicked, kept as they were."""
    person = Person(project.folder)
    person.take()
    (proposal,) = person.shown()
    mask = np.zeros(SIZE, bool)
    mask[30:36, 40:50] = True
    point = steps.Point(position=(32.0, 44.0))
    person.session.do(steps.prompted, [point], (0, 1))
    asked = steps.question(person.session.state)
    assert asked is not None
    from napari_sam.blocks import mask_block

    block = mask_block(mask, (0, 0))
    assert block is not None
    found = steps.Candidate(mask=block, score=0.75)
    person.session.show(steps.Preview(question=asked, candidates=(found,)))
    person.session.do(steps.committed, person.session.read)
    assert person.recording.tell() == 1
    masks = person.queue.project.state(0).masks
    assert (masks["w000002"].action, masks["w000002"].source) == ("accepted", "model")
    assert masks["w000002"].predicted_iou == 0.75
    assert masks["w000002"].prompts is not None
    assert masks["w000002"].prompts.points == ((44.0, 32.0),)

    square(person, (31, 42), 0)  # the eraser
    square(person, (37, 0), 5)
    person.session.do(steps.described, 1, status="open")
    at = tuple(int(n) for n in np.argwhere(person.shown()[proposal])[0])
    square(person, (at[0], at[1]), 0)
    masks = person.queue.project.state(0).masks
    told = {name: (each.action, each.source) for name, each in masks.items()}
    assert told == {
        "w000002": ("edited", "corrected"),
        "w000005": ("added", "person"),
        proposal: ("edited", "corrected"),
    }
    person.work.finish()
    assert person.queue.project.state(0).finished == {"semi-automatic": ""}
    person.session.close()


def test_masks_that_cover_each_other_are_kept_whole(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small, other = (np.zeros(SIZE, bool) for _ in range(3))
    large[2:22, 2:22], small[5:9, 5:9], other[30:35, 30:35] = True, True, True
    with project.annotate(0) as session:
        names = [session.accept(m) for m in (small, large, other)]
        session.finish()
    project.set_stage("assisted")
    person = Person(project.folder)
    everything = {e.index for e in person.queue.project.pictures}
    monkeypatch.setattr(  # fresh ones come first otherwise
        person.queue, "next", lambda: next_of(person, everything - {0})
    )
    person.take()
    assert person.session.labels[6, 6] != person.session.labels[3, 3] != 0
    lines = person.work.version
    square(person, (36, 0), 9)
    assert person.work.version == lines + 1  # nothing is told of what is covered
    kept = person.kept()
    for name, mask in zip(names, (small, large, other), strict=True):
        np.testing.assert_array_equal(kept[name], mask)
    number = int(person.session.labels[6, 6])
    person.recording.withdrawal(person.session, number)
    assert person.recording.tell() == 1
    np.testing.assert_array_equal(person.shown()[names[1]], large)  # what lay below is seen
    np.testing.assert_array_equal(person.kept()[names[1]], large)
    person.leave()


def next_of(person: Person, skip: set[int]) -> Any:
    entry = person.queue.project.next_picture(skip)
    assert entry is not None
    from samplat import QueuedPicture

    return QueuedPicture(index=entry.index, path=entry.path, size=entry.size)


def test_what_others_recorded_is_shown_and_not_undone(project: Project) -> None:
    ada = Person(project.folder)
    ada.take()
    square(ada, (36, 0), 7)
    ada.leave()
    bob = Project.open(project.folder, annotator="bob", load=load_oracle)
    with bob.annotate(0) as session:
        session.reject("w000007")
        drawn = session.accept(truth_of(session.image)[0])
    ada.take()
    assert drawn in ada.shown()
    assert "w000007" not in ada.shown()
    with pytest.raises(InputError, match="nothing to undo"):
        ada.session.undo()
    square(ada, (36, 0), 20)
    assert set(ada.kept()) == {name for name, mask in ada.shown().items() if mask.any()}
    ada.leave()


def test_a_lost_picture_is_told_and_the_journal_has_the_step(project: Project) -> None:
    ada = Person(project.folder)
    ada.take()
    claim = project.folder / "claims" / "000000.json"
    claim.unlink()
    bob = Project.open(project.folder, annotator="bob", load=load_oracle)
    assert bob.desk.take(0)
    ada.session.paint((36, 0), np.full((3, 3), 7))
    with pytest.raises(SamplatError, match="bob"):
        ada.recording.tell()
    assert ada.session.labels[36, 0] == 7
    bob.desk.release(0)
    ada.leave()
    ada.take()
    assert ada.queue.project.state(0).masks["w000007"].area == 9
    ada.leave()


def test_work_that_was_left_comes_first_and_stages_have_rooms_of_their_own(
    project: Project,
) -> None:
    ada = Person(project.folder)
    picture = ada.queue.next(skip={0})
    assert picture is not None
    assert picture.index == 1
    ada.work = ada.queue.begin(picture)
    Recording(ada.work, ada.watch).prepare()
    room = ada.work.room
    ada.work.close()
    again = Person(project.folder).queue.next()
    assert again is not None
    assert again.index == 1
    project.set_stage("assisted")
    eve = Person(project.folder, "eve")
    eve.take()
    assert eve.work.picture.index == 0
    assert eve.work.room.name != room.name.replace("000001", "000000")
    eve.leave()


def test_changes_are_recorded_all_or_none(project: Project) -> None:
    ada = Person(project.folder)
    ada.take()
    good, lines = np.ones(SIZE, bool), ada.work.version
    for bad in (np.zeros(SIZE, bool), np.ones((2, 2), bool), None):
        with pytest.raises(InputError):
            ada.work.record([MaskChange(id="a", mask=good), MaskChange(id="b", mask=bad)])
    assert ada.work.version == lines
    ada.leave()

"""A session against a plain model of it, killed at any point; its journal cut at any byte."""

from __future__ import annotations

import copy
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from napari_sam.blocks import block_of
from napari_sam.journal import history_of, read_journal
from napari_sam.session import JOURNAL, LABELS, Session, replay
from napari_sam.state import (
    Box,
    Candidate,
    Point,
    Polygon,
    Preview,
    Region,
    Scribble,
    StackPreview,
    added,
    cleared,
    committed,
    deleted,
    described,
    gathered,
    next_candidate,
    question,
    refining,
    removed,
    stack_question,
    suggested,
)
from samplat import InputError, JobError

SHAPE = (3, 12, 14)
AXES = (1, 2)
answers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=3)
inside = st.tuples(*(st.integers(0, n - 1) for n in SHAPE))


def preview_of(session: Session, *boxes: tuple[int, int, int, int]) -> None:
    """An answer to the present question: rectangles y0, x0, y1, x1 of its slice, best first."""
    asked = question(session.state)
    assert asked is not None
    z = asked.plane[0]
    found = tuple(
        Candidate(mask=block_of(np.ones((1, y1 - y0, x1 - x0)), (z, y0, x0)), score=0.9 - n / 10)
        for n, (y0, x0, y1, x1) in enumerate(boxes)
    )
    session.show(Preview(question=asked, candidates=found))


def click(session: Session, *position: float, positive: bool = True) -> None:
    session.do(added, Point(position=position, positive=positive), AXES)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Plain:
    """The same, as nobody would write it: everything copied at each step."""

    def __init__(self) -> None:
        self.labels = np.zeros(SHAPE, int)
        self.prompts: list[Any] = []
        self.target: int | None = None
        self.chosen = 0
        self.objects: dict[int, dict[str, Any]] = {}
        self.following = 1

    def finished(self) -> list[int]:
        return [n for n, o in self.objects.items() if o["status"] == "finished"]

    def seen(self) -> tuple[Any, ...]:
        areas = {n: int((self.labels == n).sum()) for n in self.objects}
        return (self.prompts, self.target, self.chosen, self.objects, self.following, areas)


class Sessions(RuleBasedStateMachine):
    """Random clicking, with undo, redo and a kill at any moment."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "session"
        self.session = Session(self.path, SHAPE)
        self.model, self.past, self.future = Plain(), [], []
        self.boxes: list[tuple[int, int, int, int]] = []
        self.asked: Any = None
        self.stack: Any = None

    def teardown(self) -> None:
        self.session.close()
        self.folder.cleanup()

    def prune(self) -> None:
        """A followed object is the answer to all prompts and the target, and to no others."""
        if self.stack is not None and self.stack[:2] != (self.model.prompts, self.model.target):
            self.stack = None

    def step(self) -> None:
        self.past.append(copy.deepcopy(self.model))
        self.future.clear()

    @rule(position=inside, positive=st.booleans())
    def point(self, position: Any, positive: bool) -> None:
        self.prune()
        click(self.session, *position, positive=positive)
        self.step()
        self.model.prompts.append(Point(position=position, positive=positive))
        self.model.chosen = 0

    @rule(position=inside, size=st.tuples(st.integers(1, 4), st.integers(1, 4)))
    def box(self, position: Any, size: Any) -> None:
        z, y, x = position
        box = Box(start=position, stop=(z, y + size[0], x + size[1]))
        self.session.do(added, box, AXES)
        self.step()
        self.model.prompts.append(box)
        self.model.chosen = 0

    @rule(
        kind=st.sampled_from(["scribble", "polygon", "region"]),
        position=inside,
        positive=st.booleans(),
    )
    def draw(self, kind: str, position: Any, positive: bool) -> None:
        z, y, x = position
        places = ((z, y, x), (z, y + 1.25, x), (z, y, x + 2.5))
        drawn = {
            "scribble": Scribble(places=places, positive=positive),
            "polygon": Polygon(places=places),
            "region": Region(pixels=block_of(np.array([[[1, 0], [1, 1]]]), position)),
        }[kind]
        self.session.do(added, drawn, AXES)
        self.step()
        self.model.prompts.append(drawn)
        self.model.chosen = 0

    @rule(slices=st.dictionaries(st.integers(0, SHAPE[0] - 1), answers, max_size=3))
    def follow(self, slices: Any) -> None:
        """An object in several slices: of each, the first rectangle."""
        try:
            asked = stack_question(self.session.state)
        except InputError:
            return
        found = {z: (y, x, y + 5, x + 7) for z, ((y, x), *_) in sorted(slices.items())}
        masks = {z: np.ones((1, 5, 7)) for z in found}
        candidates = tuple(
            (z, Candidate(mask=block_of(masks[z], (z, y, x)), score=0.5))
            for z, (y, x, _, _) in found.items()
        )
        self.session.follow(StackPreview(question=asked, slices=candidates))
        self.stack = (list(self.model.prompts), self.model.target, found)

    @rule()
    def unfollow(self) -> None:
        self.session.follow(None)
        self.stack = None

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, 3))
        if index >= len(self.model.prompts):
            with pytest.raises(InputError):
                self.session.do(removed, index)
            return
        self.session.do(removed, index)
        self.step()
        del self.model.prompts[index]
        self.model.chosen = 0

    @precondition(lambda self: question(self.session.state) is not None)
    @rule(boxes=answers)
    def answer(self, boxes: Any) -> None:
        self.boxes = [(y, x, y + 5, x + 7) for y, x in boxes]
        self.asked = question(self.session.state)
        preview_of(self.session, *self.boxes)

    def answered(self) -> bool:
        return self.session.state.preview is not None

    @rule()
    def another(self) -> None:
        if not self.answered():
            with pytest.raises(InputError):
                self.session.do(next_candidate)
            return
        self.session.do(next_candidate)
        self.step()
        self.model.chosen = (self.model.chosen + 1) % len(self.boxes)

    @rule(over=st.booleans(), boxes=answers)
    def commit(self, over: bool, boxes: Any) -> None:
        self.prune()
        model, session = self.model, self.session
        if question(session.state) is not None and not self.answered():
            self.answer(boxes)
        number = model.following if model.target is None else model.target
        found: dict[int, Any] = {}
        if self.stack is not None:
            found, slices = self.stack[2], range(SHAPE[0])
        elif self.answered():
            z = self.asked.plane[0]
            found, slices = {z: self.boxes[model.chosen % len(self.boxes)]}, range(z, z + 1)
        fails = not found or number in model.finished()
        if not fails:
            labels = model.labels.copy()
            part = labels[slices.start : slices.stop]
            part[part == number] = 0
            for z, (y0, x0, y1, x1) in found.items():
                part = labels[z, y0:y1, x0:x1]  # cut to the image, as masks are by the model
                part[~np.isin(part, model.finished()) if over else part == 0] = number
            changed = labels[slices.start : slices.stop]
            fails = not (changed == number).any()  # though the object is on other slices
        if fails:
            with pytest.raises(InputError):
                session.do(committed, session.read, over=over)
            return
        session.do(committed, session.read, over=over)
        self.step()
        model.labels = labels
        here = [p for p in model.prompts if self.z(p) in slices]
        known = model.objects.get(number, {"kind": "", "status": "open", "note": "", "prompts": []})
        kept = [p for p in known["prompts"] if self.z(p) not in slices]
        model.objects[number] = {**known, "prompts": kept + here}
        model.prompts = [p for p in model.prompts if self.z(p) not in slices]
        model.target, model.chosen = None, 0
        model.following = max(model.following, number + 1)

    @staticmethod
    def z(prompt: Any) -> int:
        return int(prompt.place[0])

    @rule(number=st.integers(1, 4), position=inside)
    def suggest(self, number: int, position: Any) -> None:
        """A label's pixels as a prompt: of an object to refine it, of nobody's for the draft."""
        self.prune()
        region = Region(pixels=block_of(np.ones((1, 1, 2)), position))
        target = number if number < 4 else None
        unknown = target is not None and target not in self.model.objects
        if target not in (None, self.model.target) and (unknown or number in self.model.finished()):
            with pytest.raises(InputError):
                self.session.do(suggested, region, AXES, target)
            return
        self.session.do(suggested, region, AXES, target)
        self.step()
        if target not in (None, self.model.target):
            self.model.prompts, self.model.target = [], target
        self.model.prompts.append(region)
        self.model.chosen = 0

    @rule(z=st.integers(0, SHAPE[0] - 1), boxes=answers, over=st.booleans())
    def gather(self, z: int, boxes: Any, over: bool) -> None:
        """Masks without prompts, of which the first has the pixels that several cover."""
        self.prune()
        found = np.zeros(SHAPE[1:], int)
        for n, (y, x) in reversed(list(enumerate(boxes, 1))):
            found[y : y + 5, x : x + 7] = n
        block, scores = block_of(found[None], (z, 0, 0)), [0.5] * len(boxes)
        part = self.model.labels[z]
        found[np.isin(part, self.model.finished()) if over else part != 0] = 0
        if not found.any():
            with pytest.raises(InputError):
                self.session.do(gathered, block, scores, AXES, self.session.read, over=over)
            return
        self.session.do(gathered, block, scores, AXES, self.session.read, over=over)
        self.step()
        for n in sorted(set(found[found > 0].tolist())):
            self.model.labels[z][found == n] = self.model.following
            plain = {"kind": "", "status": "open", "note": "", "prompts": []}
            self.model.objects[self.model.following] = plain
            self.model.following += 1

    @rule(number=st.integers(1, 3))
    def refine(self, number: int) -> None:
        self.prune()
        if number not in self.model.objects or number in self.model.finished():
            with pytest.raises(InputError):
                self.session.do(refining, number)
            return
        self.session.do(refining, number)
        self.step()
        self.model.prompts = list(self.model.objects[number]["prompts"])
        self.model.target, self.model.chosen = number, 0

    @precondition(lambda self: self.model.objects)
    @rule(data=st.data(), position=inside, boxes=answers)
    def correct(self, data: st.DataObject, position: Any, boxes: Any) -> None:
        """Refine what there is, with one more point."""
        self.refine(data.draw(st.sampled_from(sorted(self.model.objects))))
        self.point(position, True)
        self.commit(False, boxes)

    @precondition(lambda self: self.model.objects)
    @rule(
        data=st.data(),
        position=inside,
        slices=st.dictionaries(st.integers(0, SHAPE[0] - 1), answers, min_size=1, max_size=3),
    )
    def correct_volume(self, data: st.DataObject, position: Any, slices: Any) -> None:
        """Refine what there is, and follow it: on slices where it is not found it is no more."""
        self.refine(data.draw(st.sampled_from(sorted(self.model.objects))))
        self.point(position, True)
        self.follow(slices)
        self.commit(False, [(0, 0)])

    @precondition(lambda self: self.model.objects)
    @rule(data=st.data(), start=inside)
    def touch_finished(self, data: st.DataObject, start: Any) -> None:
        """Finish an object, then paint with its number."""
        number = data.draw(st.sampled_from(sorted(self.model.objects)))
        self.describe(number, "finished", "")
        self.paint(start, number, 3)

    @rule(number=st.integers(1, 3))
    def delete(self, number: int) -> None:
        if number not in self.model.objects or number in self.model.finished():
            with pytest.raises(InputError):
                self.session.do(deleted, number, self.session.read)
            return
        self.session.do(deleted, number, self.session.read)
        self.step()
        self.model.labels[self.model.labels == number] = 0
        del self.model.objects[number]
        if self.model.target == number:
            self.model.prompts, self.model.target, self.model.chosen = [], None, 0

    @rule(
        number=st.integers(1, 3),
        status=st.sampled_from(["open", "review", "finished"]),
        note=st.text(max_size=3),
    )
    def describe(self, number: int, status: Any, note: str) -> None:
        self.prune()
        if number not in self.model.objects:
            with pytest.raises(InputError):
                self.session.do(described, number, status=status)
            return
        self.session.do(described, number, status=status, kind="tree", note=note)
        self.step()
        self.model.objects[number] |= {"status": status, "kind": "tree", "note": note}

    @rule(start=inside, value=st.integers(0, 5), height=st.integers(1, 5))
    def paint(self, start: Any, value: int, height: int) -> None:
        self.prune()
        z, y, x = start
        window = (slice(z, z + 1), slice(y, min(y + height, SHAPE[1])), slice(x, x + 1))
        under = self.session.read(window)
        values = np.full_like(under, value)
        kept = np.isin(under, self.model.finished()) | (value in self.model.finished())
        after = np.where(kept, under, values)
        if (after == under).all():
            with pytest.raises(InputError):
                self.session.paint(start, values)
            return
        self.session.paint(start, values)
        self.step()
        self.model.labels[window] = after
        if value and value not in self.model.objects:
            self.model.objects[value] = {"kind": "", "status": "open", "note": "", "prompts": []}
            self.model.following = max(self.model.following, value + 1)

    @rule()
    def clear(self) -> None:
        if not self.model.prompts and self.model.target is None:
            return
        self.session.do(cleared)
        self.step()
        self.model.prompts, self.model.target, self.model.chosen = [], None, 0

    @rule(times=st.integers(1, 4))
    def undo(self, times: int) -> None:
        for _ in range(times):
            if not self.past:
                with pytest.raises(InputError):
                    self.session.undo()
                return
            self.session.undo()
            self.future.append(self.model)
            self.model = self.past.pop()
            self.prune()

    @rule(times=st.integers(1, 4))
    def redo(self, times: int) -> None:
        for _ in range(times):
            if not self.future:
                with pytest.raises(InputError):
                    self.session.redo()
                return
            self.session.redo()
            self.past.append(self.model)
            self.model = self.future.pop()
            self.prune()

    @rule(data=st.data(), stale=st.booleans())
    def kill(self, data: st.DataObject, stale: bool) -> None:
        """Within the next line, or before the labels of the last one were written."""
        self.session.close()
        if stale:
            chunks = [p for p in (self.path / LABELS).rglob("c/*") if p.is_file()]
            for chunk in chunks:
                chunk.write_bytes(chunk.read_bytes()[:-1])
        with (self.path / JOURNAL).open("ab") as file:
            file.write(b'{"do":{"name":"prompts"'[: data.draw(st.integers(0, 23))])
        self.session = Session(self.path, SHAPE)
        self.stack = None

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "session"):
            return
        self.prune()
        state, model = self.session.state, self.model
        assert (state.stack is not None) == (self.stack is not None)
        np.testing.assert_array_equal(self.session.labels, model.labels)
        objects = {
            n: {
                "kind": o.kind,
                "status": o.status,
                "note": o.note,
                "prompts": list(o.prompts),
            }
            for n, o in state.objects.items()
        }
        areas = {n: o.area for n, o in state.objects.items()}
        draft = state.draft
        assert (
            list(draft.prompts),
            draft.target,
            draft.chosen,
            objects,
            state.following,
            areas,
        ) == model.seen()
        for number, each in state.objects.items():
            held = (self.session.labels == number).sum()
            assert held == (self.session.labels[each.window] == number).sum() if held else True

    @rule()
    def replayed(self) -> None:
        output = self.path.parent / "replayed.zarr"
        replay(self.path, output)
        assert files(output) == files(self.path / LABELS)


Sessions.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSessions = Sessions.TestCase


class LongSessions(Sessions):
    """The same, more often."""


LongSessions.TestCase.settings = settings(Sessions.TestCase.settings, max_examples=200)
TestLongSessions = pytest.mark.slow(LongSessions.TestCase)


@pytest.fixture
def worked(tmp_path: Path) -> Path:
    """A folder after a commit, a refinement, an undo and a second object."""
    session = Session(tmp_path / "worked", SHAPE)
    click(session, 1, 3, 3)
    preview_of(session, (1, 1, 6, 6))
    session.do(committed, session.read)
    session.do(refining, 1)
    click(session, 1, 8, 8, positive=False)
    session.undo()
    session.do(cleared)
    click(session, 1, 9, 9)
    preview_of(session, (4, 4, 11, 11), (8, 8, 11, 11))
    session.do(next_candidate)
    session.do(committed, session.read)
    session.close()
    return session.folder


def test_a_journal_cut_at_any_byte_ends_with_its_last_whole_line(worked: Path) -> None:
    data = (worked / JOURNAL).read_bytes()
    ends = [n + 1 for n, byte in enumerate(data) if byte == ord("\n")]
    cut = worked.parent / "cut.jsonl"
    for size in range(ends[0], len(data) + 1, 7):
        cut.write_bytes(data[:size])
        written = read_journal(cut)
        whole = [end for end in ends if end <= size]
        assert (written.size, len(written.lines)) == (whole[-1], len(whole) - 1)
        history_of(written.lines)


def test_work_goes_on_after_a_cut(worked: Path) -> None:
    path = worked / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    session = Session(worked, SHAPE)
    assert set(np.unique(session.labels)) == {0, 1}
    click(session, 0, 1, 1)
    session.close()
    again = Session(worked, SHAPE)
    assert len(read_journal(path).lines) == 3
    assert again.state.draft.prompts[0].place == (0, 1, 1)
    again.close()


def test_a_journal_that_was_killed_in_its_first_line_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    Session(folder, SHAPE).close()
    (folder / JOURNAL).write_bytes((folder / JOURNAL).read_bytes()[:20])
    Session(folder, SHAPE).close()
    assert read_journal(folder / JOURNAL).header["shape"] == list(SHAPE)


@pytest.mark.parametrize("fault", ["flip", "swap", "lack"])
def test_other_damage_is_named(worked: Path, fault: str) -> None:
    path = worked / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    if fault == "flip":
        lines[3] = lines[3].replace(b'"following":2', b'"following":3')
    elif fault == "swap":
        lines[3], lines[4] = lines[4], lines[3]
    else:
        del lines[3]
    path.write_bytes(b"".join(lines))
    with pytest.raises(JobError, match="line 4"):
        Session(worked, SHAPE)
    with pytest.raises(JobError, match="line 4"):
        replay(worked, worked.parent / "out.zarr")
    assert not (worked.parent / "out.zarr").exists()


def test_damaged_labels_are_made_again(worked: Path) -> None:
    good = files(worked / LABELS)
    for path in (worked / LABELS).rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 4
            path.write_bytes(data)
    Session(worked, SHAPE).close()
    assert files(worked / LABELS) == good


def test_a_full_disk_changes_nothing(worked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(worked, SHAPE)
    before, state = (worked / JOURNAL).read_bytes(), session.state
    real = session._journal._file

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def write(self, data: memoryview) -> int:
            if real.tell() > len(before):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(real.write(data[:10]))

    monkeypatch.setattr(session._journal, "_file", Full())
    window = (slice(0, 1), slice(0, 2), slice(0, 2))
    with pytest.raises(JobError, match="No space left"):
        session.paint((0, 0, 0), np.full((1, 2, 2), 9))
    assert session.state == state
    assert not session.labels[window].any()
    assert (worked / JOURNAL).read_bytes() == before
    monkeypatch.undo()
    click(session, 0, 0, 0)
    session.close()
    history, _ = history_of(read_journal(worked / JOURNAL).lines)
    assert history.state.draft.prompts == (Point(position=(0, 0, 0)),)


def test_labels_that_could_not_be_written_follow(
    worked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(worked, SHAPE)
    real = session.labels._array

    class Full:
        chunks, shape = real.chunks, real.shape

        def __setitem__(self, part: Any, values: Any) -> None:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(session.labels, "_array", Full())
    session.paint((0, 0, 0), np.full((1, 2, 2), 7))
    monkeypatch.undo()
    session.paint((2, 0, 0), np.full((1, 2, 2), 8))
    np.testing.assert_array_equal(real[:], session.labels)
    session.close()


def test_two_windows_cannot_have_one_session(worked: Path) -> None:
    first = Session(worked, SHAPE)
    with pytest.raises(JobError, match="open in another"):
        Session(worked, SHAPE)
    first.close()
    Session(worked, SHAPE).close()


def test_another_image_is_refused_and_the_folder_stays_free(worked: Path) -> None:
    with pytest.raises(JobError, match=r"\[3, 12, 14\]"):
        Session(worked, (12, 14))
    with pytest.raises(InputError, match="with pixels"):
        Session(worked, (0, 40))
    Session(worked, SHAPE).close()


WORK = """
import sys, itertools, numpy as np
from clicks.test_session import SHAPE, Session, click, preview_of, committed
from pathlib import Path
session = Session(Path(sys.argv[1]), SHAPE)
for n in itertools.count():
    click(session, n % 3, n % 12, n % 14)
    preview_of(session, (n % 6, n % 5, n % 6 + 5, n % 5 + 7))
    session.do(committed, session.read, over=True)
    if n % 3 == 0:
        session.undo()
    print(n, flush=True)
"""


def test_kill_9_leaves_the_last_completed_step(tmp_path: Path) -> None:
    """What the process told to have done is there; the labels are those of the journal."""
    folder = tmp_path / "session"
    tests = Path(__file__).parents[1]
    search = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder)],
        env={**os.environ, "PYTHONPATH": search},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(4)]
    time.sleep(0.037)
    child.send_signal(signal.SIGKILL)
    told += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    rounds = int([line for line in told if line.endswith("\n")][-1]) + 1
    least = 2 * rounds + (rounds + 2) // 3
    lines = read_journal(folder / JOURNAL).lines
    assert least <= len(lines) <= least + 3
    history, pixels = history_of(lines)
    session = Session(folder, SHAPE)
    plain = np.zeros(SHAPE, int)
    for block in pixels:
        plain[block.window] = block.array()
    np.testing.assert_array_equal(session.labels, plain)
    assert session.state == history.state
    session.close()
    replay(folder / JOURNAL, tmp_path / "out.zarr")
    assert files(tmp_path / "out.zarr") == files(folder / LABELS)


def test_the_command_replays(worked: Path) -> None:
    output = worked.parent / "out.zarr"
    done = subprocess.run(
        [sys.executable, "-m", "samplat", "replay", str(worked / JOURNAL), "-o", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 objects after 9 steps" in done.stdout
    assert files(output) == files(worked / LABELS)
    own = ["replay", str(worked), "-o", str(worked / LABELS)]
    refused = subprocess.run(
        [sys.executable, "-m", "samplat", *own], capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "session's own labels" in refused.stderr


def test_the_journal_is_plain_json(worked: Path) -> None:
    first, *rest = (json.loads(line) for line in (worked / JOURNAL).read_text().splitlines())
    assert first["shape"] == list(SHAPE)
    assert [line["do"]["name"] if "do" in line else "undo" for line in rest] == [
        "prompts",
        "commit 1",
        "refine 1",
        "prompts",
        "undo",
        "clear",
        "prompts",
        "next mask",
        "commit 2",
    ]

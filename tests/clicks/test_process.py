"""The process of the model: what it says, who ends it, and what it leaves the window."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clicks.adding import Verbs
from clicks.near import Near
from napari_sam.answering import Answerer, Picture
from napari_sam.asking import Asker
from napari_sam.hosting import PROGRAM, Host
from napari_sam.lines import Line
from napari_sam.sights import sight_of
from napari_sam.state import Box, Point, Question
from napari_sam.views import view_of
from napari_sam.worker import Latest, Superseded
from samplat import InputError, JobError


def never() -> bool:
    return False


def picture_of(pixels: Any, limits: Any = None, **options: Any) -> Picture:
    return Picture(data=pixels, shape=pixels.shape[:2], bands=False, limits=limits, **options)


def asked(*prompts: Any) -> Question:
    return Question(prompts=prompts, plane=(None, None), target=None)


def disk(side: int = 96) -> Any:
    y, x = np.ogrid[:side, :side]
    inside = (y - 50) ** 2 + (x - 40) ** 2 < 20**2
    return np.where(inside, 900.0, 300.0) + np.random.default_rng(0).normal(0, 9, (side, side))


@pytest.fixture(scope="module")
def near() -> Iterator[Host]:
    host = Host(Near)
    yield host
    host.close()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A real process, with a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPLAT_HOME", str(tmp_path_factory.mktemp("home")))
        host = Host()
        Asker(host, "samplat-tiny").load(never)
    yield host
    host.close()


@pytest.fixture
def verbs() -> Verbs:
    return Verbs()


@pytest.fixture
def line(verbs: Verbs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setattr("clicks.near.Served", lambda: verbs)
    host = Host(Near)
    yield host.lines[0]
    host.close()


def test_the_model_asks_back_and_errors_arrive(line: Line) -> None:
    assert line.ask("add", 3, stale=never, other=lambda n: 10 * n) == 33
    with pytest.raises(InputError, match="so it is"):
        line.ask("fail", InputError("so it is"), stale=never)

    class Strange(Exception):
        """Known to the model alone, as errors of torch are."""

    with pytest.raises(RuntimeError, match="Strange: how"):
        line.ask("fail", RuntimeError("Strange: how"), stale=never)
    with pytest.raises(RuntimeError, match="pickle"):
        line.ask("odd", stale=never)

    def broken(number: int) -> int:
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):  # no broken line, though
        line.ask("add", 3, stale=never, other=broken)
    assert line.ask("add", 1, stale=never, other=lambda n: n) == 2


def test_what_is_not_wanted_ends_and_leaves_nothing_on_the_line(line: Line, verbs: Verbs) -> None:
    for _ in range(20):
        verbs.began.clear()
        with pytest.raises(Superseded):
            line.ask("wait", stale=verbs.began.is_set)
        with pytest.raises(Superseded):
            line.ask("add", 1, stale=lambda: True, other=lambda n: n)
        assert line.ask("add", 5, stale=never, other=lambda n: n) == 10
    assert verbs.ended == ["early"] * 20


def test_the_latest_request_wins_over_a_line(line: Line, verbs: Verbs) -> None:
    worker, found, done = Latest(lambda function: function()), [], threading.Event()
    worker.ask(lambda stale: line.ask("wait", stale=stale), found.append, found.append)
    assert verbs.began.wait(20)
    for number in range(5):
        worker.ask(
            lambda stale, n=number: line.ask("add", n, stale=stale, other=lambda n: n),
            lambda value: (found.append(value), done.set()),
            found.append,
        )
    assert done.wait(20)
    worker.close()
    assert found == [8]
    assert verbs.ended == ["early"]


def test_two_widgets_share_a_line(line: Line, verbs: Verbs) -> None:
    first = threading.Thread(target=lambda: line.ask("wait", stale=never))
    first.start()
    assert verbs.began.wait(20)
    until = time.monotonic() + 0.05
    with pytest.raises(Superseded):
        line.ask("add", 1, stale=lambda: time.monotonic() > until, other=lambda n: n)
    verbs.free.set()
    first.join()
    assert line.ask("add", 1, stale=never, other=lambda n: n) == 2


def alike(one: Any, other: Any) -> bool:
    """But for the last bits of a score: sums of other numbers of threads round otherwise."""
    scores = [[c.score for c in each.candidates] for each in (one, other)]
    masks = [[c.mask for c in each.candidates] for each in (one, other)]
    return masks[0] == masks[1] and bool(np.allclose(*scores, atol=1e-3))


def test_masks_of_the_process_are_those_of_a_script(far: Host) -> None:
    pixels = disk()
    limits = (250.0, 950.0)
    here, there = Answerer("samplat-tiny"), Asker(far, "samplat-tiny")
    drafts: list[Any] = []
    for prompts in ([Point(position=(50.0, 40.0))], [Box(start=(29, 19), stop=(71, 61))]):
        picture, question = picture_of(pixels, limits), asked(*prompts)
        own: list[Any] = []
        mine = here.answer(picture, question, None, never, own.append)
        theirs = there.answer(picture, question, None, drafts.append, never)
        assert alike(theirs, mine)
        assert len(own[0].candidates) == 1
        assert alike(drafts[-1], own[0])
    with pytest.raises(InputError, match="outside"):
        there.answer(picture, asked(Point(position=(50.0, 400.0))), None, drafts.append, never)


def test_only_what_is_looked_at_crosses_the_line(near: Host) -> None:
    read: list[Any] = []

    class Counted:
        shape, dtype = (40_000, 40_000), np.dtype(np.uint8)

        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return np.zeros([len(range(*each.indices(40_000))) for each in index], np.uint8)

    picture = picture_of(Counted())
    assert sight_of(picture).levels[0].shape == (40_000, 40_000)
    place = (30_000.0, 20_000.0)
    view = view_of(np.array([place]), picture.shape)
    asker = Asker(near, "samplat-tiny")
    for _ in range(2):
        asker.answer(picture, asked(Point(position=place)), None, lambda _: None, never)
    assert read == [view.cut]


def test_a_process_that_is_killed_is_told_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = PROGRAM.replace("napari_sam.serving", "clicks.adding")
    monkeypatch.setattr("napari_sam.hosting.PROGRAM", program)
    host = Host()
    pids: list[int] = []

    def other(number: int) -> int:
        pids.append(host._running._process.pid)  # type: ignore[union-attr]
        if number == 4:
            os.kill(pids[-1], signal.SIGKILL)
        return number

    first, second, _ = host.lines
    assert first.ask("add", 3, stale=never, other=other) == 6
    with pytest.raises(JobError, match=r"ended by SIGKILL.*next click starts it again"):
        first.ask("add", 4, stale=never, other=other)
    assert second.ask("add", 5, stale=never, other=other) == 10
    assert first.ask("add", 6, stale=never, other=other) == 12
    assert pids[0] == pids[1] != pids[2] == pids[3]
    os.kill(pids[-1], signal.SIGKILL)  # while it does nothing: no question is lost
    until = time.monotonic() + 20
    while host._running.runs() and time.monotonic() < until:  # type: ignore[union-attr]
        time.sleep(0.001)
    assert first.ask("add", 7, stale=never, other=other) == 14
    host.close()
    assert not any(map(_runs, pids))


def test_a_process_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_sam.hosting.PROGRAM", "raise SystemExit(7)")
    host = Host()
    for _ in range(2):
        with pytest.raises(JobError, match="ended with status 7"):
            Asker(host, "samplat-tiny").load(never)
    host.close()


def test_closing_ends_what_the_process_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_sam.hosting.PROGRAM", "input(); input(); input()")
    host, failed = Host(), []

    def load() -> None:
        try:
            Asker(host, "samplat-tiny").load(never)
        except (JobError, Superseded) as error:
            failed.append(error)

    thread = threading.Thread(target=load)  # waits for a process that never says where it is
    thread.start()
    while host._running is None:
        time.sleep(0.001)
    host.close()
    thread.join(10)
    assert len(failed) == 1
    with pytest.raises(Superseded):
        host.lines[0].ask("prepare", stale=never)


WINDOW = """
    import os, sys, time
    from pathlib import Path
    import napari
    import numpy as np
    from benchmarks.evaluation.hands import click, wait
    from napari_sam.widget import SegmentWidget

    end, folder = sys.argv[1], Path(sys.argv[2])
    y, x = np.ogrid[:96, :96]
    pixels = np.where((y - 50) ** 2 + (x - 40) ** 2 < 400, 220, 40).astype(np.uint8)
    viewer = napari.Viewer(show=True)
    viewer.add_image(pixels)
    widget = SegmentWidget(viewer, folder)
    viewer.window.add_dock_widget(widget, name="samplat")
    viewer.reset_view()
    widget.open()
    mine, host = widget.annotation, widget._host
    if end == "encoding":
        wait(lambda: host._running is not None)
    else:
        wait(lambda: not mine.busy)
        click(viewer, (50, 40))
        wait(lambda: mine.session.state.candidate is not None and not mine.busy)
        assert mine.session.state.candidate.mask.shape[0] > 30
        mine.commit()
        wait(lambda: 1 in mine.session.state.objects)
    assert "torch" not in sys.modules, "torch is in the window"
    process = host._running._process
    print(process.pid, flush=True)
    if end == "killed":
        time.sleep(60)
    viewer.close()
    wait(lambda: process.poll() is not None)
    print("closed", flush=True)
"""


@pytest.mark.parametrize("end", ["killed", pytest.param("encoding", marks=pytest.mark.slow)])
def test_the_window_has_no_torch_and_its_process_ends_with_it(
    display: None, tmp_path: Path, end: str
) -> None:
    (tmp_path / "page.py").write_text(textwrap.dedent(WINDOW))
    window = subprocess.Popen(
        [sys.executable, str(tmp_path / "page.py"), end, str(tmp_path / "sessions")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
            "NAPARI_CONFIG": str(tmp_path / "settings.yaml"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "SAMPLAT_HOME": str(tmp_path / "home"),
        },
    )
    assert window.stdout is not None
    with window:
        pid = int(window.stdout.readline())
        if end == "killed":
            window.kill()
        else:
            assert window.stdout.readline() == "closed\n"
    until = time.monotonic() + 20
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

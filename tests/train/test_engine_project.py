"""Project, queue and session: a scripted annotator, two annotators, kills, and every fault."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from samplat import InputError, Prompts, SamplatError
from samplat_train.engine import Parameters, Project
from samplat_train.engine import durable as durable_files
from train.engine_oracle import (
    SIZE,
    annotate_all,
    iou,
    load_oracle,
    outlines,
    picture,
    race,
    truth_of,
    work,
    write_pictures,
)

TESTS = Path(__file__).parent.parent
PICTURES = 3


def create(tmp_path, *, count=PICTURES, name="project", **options):
    pictures = tmp_path / "pictures"
    if not pictures.exists():
        write_pictures(pictures, count)
    return Project.create(tmp_path / name, [pictures], model="oracle", load=load_oracle, **options)


def reopen(project, annotator="another"):
    return Project.open(project.folder, annotator=annotator, load=load_oracle)


class Ticking:
    """A monotonic clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_scripted_annotator_finds_every_object(tmp_path):
    project = create(tmp_path)
    assert work(project.folder, "scripted") == [0, 1, 2]
    assert project.next_picture() is None
    for entry, state in project.states():
        truth = truth_of(entry.read())
        found = [m.mask() for m in state.masks.values()]
        assert len(found) == len(truth)
        assert all(max(iou(m, t) for m in found) == 1 for t in truth)
        assert "assisted" in state.finished
    sources = {m.source for _, s in project.states() for m in s.masks.values()}
    assert sources == {"model", "corrected"}


def test_a_corrected_mask_keeps_its_prompts_and_its_time(tmp_path):
    project = create(tmp_path, count=1)
    work(project.folder, "scripted")
    lines = [json.loads(t) for t in project.record_path(0).read_text().splitlines()]
    edits = [line for line in lines if line.get("action") == "edited"]
    accepted = {line["id"]: line for line in lines if line.get("action") == "accepted"}
    assert edits
    for line in edits:
        assert accepted[line["id"]]["prompts"]["points"]
        assert project.state(0).seconds[line["id"]] == 5.0
        assert project.state(0).clicks[line["id"]] == 1
    assert lines[-1]["event"] == "finished"
    assert {line["annotator"] for line in lines} == {"scripted"}


def test_time_per_mask_is_measured_from_record_to_record(tmp_path):
    project, clock = create(tmp_path), Ticking()
    with project.annotate(0, clock=clock) as session:
        clock.now += 4
        answer = session.prompt(Prompts(points=[(5, 5)]))[0]
        first = session.accept(answer)
        clock.now += 2.5
        drawn = session.accept(truth_of(session.image)[1])
        clock.now += 1
        session.edit(first, truth_of(session.image)[0])
        clock.now += 9
        session.reject(drawn, seconds=0.5)
    seconds = project.state(0).seconds
    assert seconds == {first: 5.0, drawn: 3.0}
    assert project.state(0).masks[first].source == "corrected"
    assert list(project.state(0).rejected) == [drawn]


def test_a_drawn_mask_is_the_persons_and_stays_so(tmp_path):
    with create(tmp_path).annotate(0) as session:
        truth = truth_of(session.image)
        drawn = session.accept(truth[0])
        session.edit(drawn, truth[1])
        prompted = session.accept(truth[2], prompts=Prompts(boxes=[1, 1, 9, 9]))
        masks = session.masks
    assert (masks[drawn].source, masks[drawn].action) == ("person", "edited")
    assert (masks[drawn].prompts, masks[drawn].predicted_iou) == (None, None)
    assert (masks[prompted].source, masks[prompted].action) == ("model", "accepted")
    assert masks[prompted].prompts.clicks == 2


def test_confident_masks_are_pre_filled_and_kept_unless_rejected(tmp_path):
    project = create(tmp_path)
    project.set_stage("semi-automatic")
    entry = next(e for e in project.pictures if len(even_objects(e)) >= 2)
    with project.annotate(entry) as session:
        proposals = session.proposals
        assert len(proposals) == len(even_objects(entry))
        session.reject(proposals[0].id)
        assert session.proposals == proposals[1:]
    with project.annotate(entry) as session:
        assert [p.id for p in session.proposals] == [p.id for p in proposals[1:]]
        session.finish()
    state = project.state(entry)
    assert set(state.masks) == {p.id for p in proposals[1:]}
    assert all(m.prefilled and m.seconds == 0 for m in state.masks.values())
    assert all(m.stage == "semi-automatic" for m in state.masks.values())


def even_objects(entry):
    image = entry.read()
    return [m for m in truth_of(image) if image[m][0, 0] % 2 == 0]


def test_a_proposal_can_be_corrected_or_taken_at_once(tmp_path):
    project = create(tmp_path)
    project.set_stage("semi-automatic")
    entry = next(e for e in project.pictures if len(even_objects(e)) >= 2)
    with project.annotate(entry) as session:
        first, second = session.proposals[:2]
        session.edit(first.id, first.mask | second.mask)
        assert session.accept(second, seconds=0.0) == second.id
        masks = session.masks
    assert (masks[first.id].source, masks[first.id].prefilled) == ("corrected", False)
    assert (masks[second.id].action, masks[second.id].prefilled) == ("accepted", True)


def test_proposals_leave_out_what_is_there(tmp_path):
    project = create(tmp_path)
    work(project.folder, "assisted first")
    project.set_stage("semi-automatic")
    with project.annotate(project.next_picture()) as session:
        assert session.proposals == ()


def test_pictures_that_nobody_finished_come_first(tmp_path):
    project = create(tmp_path)
    annotate_all(project.annotate(project.next_picture()))
    project.set_stage("semi-automatic")
    order = work(project.folder, "second stage")
    assert order == [1, 2, 0]
    assert all(
        set(s.finished) == {"assisted", "semi-automatic"} for _, s in [*project.states()][:1]
    )


def test_the_same_picture_comes_again_until_it_is_finished_or_skipped(tmp_path):
    project = create(tmp_path)
    assert project.next_picture() == project.next_picture() == project.pictures[0]
    assert project.next_picture(skip=[0]) == project.pictures[1]


# two annotators


def test_two_annotators_never_get_one_picture(tmp_path):
    first = create(tmp_path)
    second = reopen(first)
    assert first.next_picture().index == 0
    assert second.next_picture().index == 1
    with pytest.raises(SamplatError, match=r"picture 0 is claimed by .+; take another"):
        second.annotate(0)
    first.annotate(0).close()
    second.annotate(0).finish()
    assert first.next_picture().index == 2


def test_racing_processes_share_the_pictures(tmp_path):
    project = create(tmp_path, count=8)
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(3), context.Queue()
    racers = [
        context.Process(target=race, args=(str(project.folder), gate, answers)) for _ in range(3)
    ]
    for racer in racers:
        racer.start()
    taken = [index for _ in racers for index in answers.get(timeout=120)]
    for racer in racers:
        racer.join(60)
    assert sorted(taken) == list(range(8))


def test_a_claim_that_ran_out_is_given_to_the_next(tmp_path):
    project = create(tmp_path, parameters=Parameters(lease_seconds=50))
    slow = project.annotate(0)
    slow.accept(truth_of(slow.image)[0])
    later = reopen(project)
    later.desk.clock = lambda: time.time() + 60
    assert later.next_picture().index == 0
    lines = project.record_path(0).read_bytes()
    with pytest.raises(SamplatError, match=r"no longer claimed by .* but by another.*is kept"):
        slow.accept(truth_of(slow.image)[1])
    assert project.record_path(0).read_bytes() == lines


def test_a_claim_holds_while_its_owner_records(tmp_path):
    project = create(tmp_path, parameters=Parameters(lease_seconds=50))
    now = [1000.0]
    project.desk.clock = lambda: now[0]
    session = project.annotate(0)
    other = reopen(project)
    other.desk.clock = lambda: now[0]
    for mask in truth_of(session.image):
        now[0] += 40
        session.accept(mask)
        assert not other.desk.take(0)


def test_the_claims_of_a_dead_process_are_free_at_once(tmp_path):
    project = create(tmp_path)
    program = (
        "import sys; from train.engine_oracle import load_oracle\n"
        "from samplat_train.engine import Project\n"
        "p = Project.open(sys.argv[1], load=load_oracle); print(p.next_picture().index)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(project.folder)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "0\n", done.stderr
    assert (project.folder / "claims" / "000000.json").exists()
    assert project.next_picture().index == 0


# kills


class Killed(BaseException):
    """Stands for the end of the process."""


@given(writes=st.integers(0, 40), part=st.sampled_from([0.0, 0.5, 1.0]))
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_an_end_at_any_write_loses_at_most_the_unfinished_mask(
    tmp_path_factory, reference, writes, part
):
    """The process ends before, within or after its n-th write; the next one goes on."""
    tmp_path = tmp_path_factory.mktemp("killed")
    project = create(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable_files.os, "pwrite", _deadly(writes, part))
        with suppress(Killed):
            work(project.folder, "killed")
    before = [len(_whole_lines(project, i)) for i in range(PICTURES)]
    assert sum(before) == min(writes + (part == 1.0), reference["writes"])
    _expire_claims(project)
    work(project.folder, "goes on")
    assert outlines(project) == reference["outlines"]
    for i in range(PICTURES):
        assert len(_whole_lines(project, i)) == reference["lines"][i]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    project = create(tmp_path_factory.mktemp("reference"))
    work(project.folder, "uninterrupted")
    lines = [len(_whole_lines(project, i)) for i in range(PICTURES)]
    return {"outlines": outlines(project), "lines": lines, "writes": sum(lines)}


def _deadly(writes, part):
    real, left = os.pwrite, writes

    def pwrite(handle, data, offset):
        nonlocal left
        if left == 0:
            real(handle, data[: int(part * len(data))], offset)
            raise Killed
        left -= 1
        return real(handle, data, offset)

    return pwrite


def _expire_claims(project):
    """The killed process is this one, which lives: let its claims run out instead."""
    for path in (project.folder / "claims").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "expires": 0.0}))


def _whole_lines(project, index):
    path = project.record_path(index)
    return durable_files.whole_lines(path.read_bytes())[0] if path.exists() else []


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.08])
def test_kill_minus_nine(tmp_path, reference, delay):
    project = create(tmp_path)
    command = [sys.executable, "-m", "train.engine_oracle", str(project.folder)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    work(project.folder, "goes on")
    assert outlines(project) == reference["outlines"]


def environment():
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


# faults


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((5, 5), bool), r"expected a mask of \(40, 56\) as the picture"),
        (np.zeros(SIZE, bool), "at least one pixel"),
        (np.ones(SIZE, np.uint8), "mask of booleans, got uint8"),
    ],
)
def test_masks_that_are_none_are_refused(tmp_path, mask, message):
    project = create(tmp_path)
    with project.annotate(0) as session:
        name = session.accept(truth_of(session.image)[0])
        for action in (session.accept, lambda m: session.edit(name, m)):
            with pytest.raises(InputError, match=message):
                action(mask)
    assert project.state(0).lines == 1


def test_unknown_masks_and_negative_times(tmp_path):
    with create(tmp_path).annotate(0) as session:
        with pytest.raises(InputError, match="has no mask 'm7'; it has none"):
            session.reject("m7")
        name = session.accept(truth_of(session.image)[0])
        with pytest.raises(InputError, match=f"has no mask 'm7'; it has {name}"):
            session.edit("m7", truth_of(session.image)[0])
        with pytest.raises(InputError, match="seconds >= 0"):
            session.accept(truth_of(session.image)[1], seconds=-1)
        session.reject(name)
        with pytest.raises(InputError, match="it has none"):
            session.reject(name)


def test_prompts_outside_of_the_picture(tmp_path):
    with create(tmp_path).annotate(0) as session, pytest.raises(InputError, match="outside"):
        session.prompt(Prompts(points=[(500, 5)]))


def test_nothing_is_recorded_after_the_end(tmp_path):
    session = create(tmp_path).annotate(0)
    session.finish()
    with pytest.raises(SamplatError, match="session with picture 0 is over"):
        session.accept(truth_of(session.image)[0])


def test_a_picture_that_is_gone_or_changed(tmp_path):
    project = create(tmp_path)
    project.pictures[0].path.unlink()
    Image.fromarray(picture(77)).save(project.pictures[1].path)
    with pytest.raises(InputError, match="is gone; put it back"):
        project.annotate(0)
    with pytest.raises(InputError, match="was changed since it was listed"):
        project.annotate(1)
    assert all(reopen(project).desk.take(i) for i in (0, 1))


def test_folders_that_are_no_project(tmp_path):
    with pytest.raises(InputError, match=r"is no data engine project .*engine create"):
        Project.open(tmp_path, load=load_oracle)
    project = create(tmp_path)
    with pytest.raises(InputError, match="is a project already"):
        create(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds other files, such as thesis\.tex"):
        create(tmp_path, name="other")
    (project.folder / "project.json").write_text('{"format": "something else"}')
    with pytest.raises(InputError, match="expected format 'samplat data engine 1'"):
        reopen(project)
    (project.folder / "project.json").write_text("{")
    with pytest.raises(InputError, match=r"project\.json is damaged"):
        reopen(project)


def test_a_listing_that_is_damaged(tmp_path):
    project = create(tmp_path)
    listing = project.folder / "pictures.jsonl"
    lines = listing.read_text().splitlines()
    listing.write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match="numbered 0, 1, 2"):
        reopen(project)
    listing.write_text("no JSON")
    with pytest.raises(InputError, match="expected a list of pictures"):
        reopen(project)


def test_pictures_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.png").write_text("no picture")
    for given_path, message in (
        ("empty", "expected pictures"),
        ("note.png", "cannot be read as a picture"),
        ("missing.png", "found nothing there"),
    ):
        with pytest.raises(InputError, match=message):
            Project.create(
                tmp_path / "p", [tmp_path / given_path], model="oracle", load=load_oracle
            )
    assert not (tmp_path / "p").exists()


def test_twins_are_listed_once(tmp_path):
    first, second = write_pictures(tmp_path / "pictures", 2)
    second.write_bytes(first.read_bytes())
    project = create(tmp_path)
    assert [e.path for e in project.pictures] == [first]
    assert project.twins == (second,)


def test_deep_and_grey_pictures_become_rgb(tmp_path):
    deep = np.linspace(1000, 40000, 30 * 20).reshape(30, 20).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    Image.fromarray((deep // 256).astype(np.uint8)).save(tmp_path / "grey.png")
    project = Project.create(tmp_path / "p", [tmp_path], model="oracle", load=load_oracle)
    for entry in project.pictures:
        image = entry.read()
        assert (image.shape, image.dtype) == ((30, 20, 3), np.uint8)
    assert image.max() > 100


def test_a_model_that_is_missing_or_another_by_now(tmp_path):
    write_pictures(tmp_path / "pictures", 1)
    with pytest.raises(InputError, match="no model called 'none'"):
        Project.create(tmp_path / "p", [tmp_path / "pictures"], model="none", load=load_oracle)
    project = Project.create(tmp_path / "q", [tmp_path / "pictures"])
    facts = json.loads((project.folder / "project.json").read_text())
    facts["model"]["sha256"] = "ab" * 32
    (project.folder / "project.json").write_text(json.dumps(facts))
    with pytest.raises(SamplatError, match=r"the project was made with abab.*put those back"):
        Project.open(project.folder).annotate(0)


def test_settings_are_checked(tmp_path):
    project = create(tmp_path)
    with pytest.raises(InputError, match="expected a stage out of assisted, semi-automatic"):
        project.set_stage("manual")
    with pytest.raises(InputError, match="pred_iou_thresh must lie in 0..1, got 88"):
        project.set_parameters(pred_iou_thresh=88)
    with pytest.raises(InputError, match="unknown parameter 'points'"):
        project.set_parameters(points=3)
    project.set_stage("fully-automatic")
    for asked in (project.next_picture, lambda: project.annotate(0)):
        with pytest.raises(InputError, match="needs nobody"):
            asked()
    with pytest.raises(InputError, match=r"picture 0\.\.2, got 3"):
        project.state(3)
    assert reopen(project).settings.stage == "fully-automatic"


def test_thresholds_come_from_the_project_then_the_model_then_the_paper():
    plain = Parameters()
    assert plain.thresholds({}) == {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.95}
    bundled = {"pred_iou_thresh": 0.5, "stability_score_offset": 0.3}
    assert plain.thresholds(bundled) == {**bundled, "stability_score_thresh": 0.95}
    chosen = plain.changed(pred_iou_thresh=0.7, stability_score_thresh=None)
    assert chosen.thresholds(bundled)["pred_iou_thresh"] == 0.7


def test_a_full_disk_ends_the_mask_and_not_the_project(tmp_path, monkeypatch):
    project = create(tmp_path)
    session = project.annotate(0)
    kept = session.accept(truth_of(session.image)[0])
    with monkeypatch.context() as patch:
        patch.setattr(durable_files.os, "pwrite", _full)
        with pytest.raises(SamplatError, match="No space left"):
            session.accept(truth_of(session.image)[1])
    assert list(session.masks) == [kept]
    session.accept(truth_of(session.image)[1])
    session.finish()
    assert len(reopen(project).state(0).masks) == 2


def _full(handle, data, offset):
    raise OSError(28, "No space left on device")


def test_the_bundled_model_proposes(tmp_path):
    """The one test here with a network: a dark disc on a bright, noisy ground."""
    y, x = np.mgrid[:256, :256]
    disc = (y - 128) ** 2 + (x - 128) ** 2 < 25**2
    noise = np.random.default_rng(0).normal(0, 8, disc.shape)
    image = np.clip(np.where(disc, 60, 200) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "disc.png")
    project = Project.create(tmp_path / "p", [tmp_path / "disc.png"])
    project.set_parameters(proposal_points_per_side=1)
    project.set_stage("semi-automatic")
    with project.annotate(0) as session:
        answers = session.prompt(Prompts(points=[(128, 128)]))
        assert len(answers) == 3
        scores = [a.predicted_iou for a in answers]
        assert scores == sorted(scores, reverse=True)
        assert max(iou(a.mask, disc) for a in answers) > 0.7
        assert all(0 <= a.stability <= 1 for a in answers)
        refined = Prompts(points=[(128, 128), (5, 5)], labels=[1, 0], masks=answers[0].logits)
        assert len(session.prompt(refined)) == 1
        assert any(iou(p.mask, disc) > 0.7 for p in session.proposals)
        two = Prompts(points=[[(128, 128)], [(5, 5)]])
        with pytest.raises(InputError, match="prompts of one object"):
            session.prompt(two)

"""The window onto a project of the data engine, judged by what the project says afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clicks.gui import answered, click, drag, press, seen, wait
from napari_sam.commands import napari
from napari_sam.queue_widget import QueueWidget
from napari_sam.widget import SegmentWidget
from samplat import InputError
from samplat_train.engine import Parameters, Project, export_sa1b, statistics

COIN, OTHER = (48, 48), (121, 91)
"""Row and column of coins of the first picture."""
GROUND = (5, 5)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    from skimage import data, io

    (tmp_path / "pictures").mkdir()
    for i, (y, x) in enumerate([(73, 223), (0, 0), (150, 0)]):
        part = data.coins()[y : y + 150, x : x + 160]
        io.imsave(tmp_path / f"pictures/coins-{i}.png", part, check_contrast=False)
    few = Parameters(proposal_points_per_side=4)
    return Project.create(tmp_path / "project", [tmp_path / "pictures"], parameters=few)


def opened(viewer: Any, folder: Path) -> QueueWidget:
    segment = SegmentWidget(viewer, folder / "unused")
    widget = QueueWidget(viewer, segment)
    viewer.window.add_dock_widget(widget, name="engine")
    viewer.window.add_dock_widget(segment, name="samplat")
    widget.open(folder)
    wait(lambda: widget.recording is not None)
    return widget


def again(project: Project) -> Project:
    """As any other program sees it."""
    return Project.open(project.folder, annotator="another")


def test_a_picture_from_the_queue_to_the_project_and_the_next(
    viewer: Any, project: Project, tmp_path: Path
) -> None:
    widget = opened(viewer, project.folder)
    assert widget.segment.annotation is not None
    assert again(project).desk.holder(0) is not None
    assert viewer.layers[0].name == "coins-0.png"
    click(viewer, COIN)
    wait(lambda: answered(widget.segment))
    press(viewer, "C")
    (mask,) = again(project).state(0).masks.values()
    assert (mask.action, mask.source, mask.stage) == ("accepted", "model", "assisted")
    assert mask.mask()[COIN]
    assert not mask.mask()[GROUND]
    assert mask.predicted_iou is not None
    assert mask.prompts is not None
    np.testing.assert_allclose(mask.prompts.points, [COIN[::-1]], atol=1)
    assert 0 < mask.seconds < 60

    labels = widget.segment.annotation.layers["labels"]
    viewer.layers.selection.active = labels
    labels.mode, labels.brush_size, labels.selected_label = "paint", 8, 5
    drag(viewer, (5, 100), (5, 130))
    labels.selected_label = 1
    drag(viewer, (5, 40), (5, 60))
    masks = again(project).state(0).masks
    assert {name: (m.action, m.source) for name, m in masks.items()} == {
        "w000001": ("edited", "corrected"),
        "w000005": ("added", "person"),
    }
    press(viewer, "Control-Z")
    assert again(project).state(0).masks["w000001"].rle == mask.rle
    wait(lambda: "2 masks" in widget.stage.text())

    widget.finish()
    wait(lambda: widget.recording is not None)
    assert again(project).state(0).finished == {"assisted": ""}
    assert widget.recording is not None
    assert widget.recording.work.picture.index == 1
    assert widget.bar.value() == 1
    assert viewer.layers[0].name == "coins-1.png"
    figures = statistics(again(project)).stages[0]
    assert (figures.masks, figures.pictures_finished, figures.effort.clicks_mean) == (2, 1, 0.5)
    assert export_sa1b(again(project), tmp_path / "sa1b") == 1  # what `samplat finetune` reads

    widget.skip()
    wait(lambda: widget.recording is not None)
    assert widget.recording.work.picture.index == 2
    assert again(project).desk.holder(1) is None
    widget.finish()
    wait(lambda: widget.recording is not None)
    assert widget.recording.work.picture.index == 1  # the one that was skipped
    widget.finish()
    wait(lambda: "no picture left" in widget.told.text())
    assert len(viewer.layers) == 0


@pytest.mark.slow
def test_a_killed_window_goes_on_with_the_same_picture_as_it_was(
    viewer: Any, project: Project
) -> None:
    widget = opened(viewer, project.folder)
    widget.skip()
    wait(lambda: widget.recording is not None)
    assert widget.segment.annotation is not None
    session = widget.segment.annotation.session
    session.paint((20, 20), np.full((9, 9), 1))
    widget.segment.annotation.attempt(lambda s: s.paint((60, 60), np.full((9, 9), 2)))
    viewer.layers["points"].add(COIN)
    held = session.labels[...]
    # what is left of a process that was killed: its locks are free, its claims are stale
    session.paint((80, 80), np.full((9, 9), 3))  # was in the journal, and not in the project
    session._lock.release()
    (project.folder / "claims" / "000001.json").unlink()
    assert widget.recording is not None
    widget.recording.work.close()
    widget.recording = None
    widget.segment.close_session()
    viewer.layers.clear()
    for each in (widget, widget.segment):
        each.shutdown()

    later = opened(viewer, project.folder)
    assert later.recording is not None
    assert later.recording.work.picture.index == 1
    assert later.segment.annotation is not None
    state = later.segment.annotation.session.state
    assert list(state.objects) == [1, 2, 3]
    assert (later.segment.annotation.session.labels[...][held > 0] == held[held > 0]).all()
    assert len(state.draft.prompts) == 1
    assert {m.area for m in again(project).state(1).masks.values()} == {81}
    assert len(again(project).state(1).masks) == 3
    for _ in range(4):
        press(viewer, "Control-Z")
    assert not again(project).state(1).masks


def test_confident_masks_are_filled_in_protected_rejected_and_corrected(
    viewer: Any, project: Project
) -> None:
    project.set_stage("semi-automatic")
    widget = opened(viewer, project.folder)
    annotation = widget.segment.annotation
    assert annotation is not None
    objects = annotation.session.state.objects
    assert len(objects) >= 3
    assert {each.status for each in objects.values()} == {"finished"}
    assert not again(project).state(0).masks  # nobody has said anything of them
    labels = annotation.session.labels
    assert labels[COIN] != 0
    assert np.ptp(seen(viewer, COIN)) > 30  # a label's colour over grey
    held = labels[...]
    annotation.layers["labels"].selected_label = max(objects) + 1
    viewer.layers.selection.active = annotation.layers["labels"]
    annotation.layers["labels"].mode = "paint"
    drag(viewer, COIN, (48, 60))
    np.testing.assert_array_equal(labels[...], held)

    rejected, corrected = int(labels[OTHER]), int(labels[COIN])
    table = widget.segment.table
    table.setCurrentCell(list(objects).index(rejected), 0)
    widget.reject()
    assert labels[OTHER] == 0
    state = again(project).state(0)
    assert list(state.rejected) == [objects[rejected].origin]
    press(viewer, "Control-Z")
    assert list(again(project).state(0).masks) == [objects[rejected].origin]
    press(viewer, "Control-Shift-Z")
    assert not again(project).state(0).masks

    table.setCurrentCell(list(annotation.session.state.objects).index(corrected), 0)
    widget.correct()
    assert annotation.session.state.objects[corrected].status == "open"
    assert annotation.session.state.draft.target == corrected  # clicks are for it, too
    annotation.layers["labels"].mode = "erase"
    viewer.layers.selection.active = annotation.layers["labels"]
    drag(viewer, COIN, (48, 56))
    mask = again(project).state(0).masks[objects[corrected].origin]
    assert (mask.action, mask.source, mask.prefilled) == ("edited", "corrected", False)
    assert not mask.mask()[COIN]

    widget.finish()
    wait(lambda: widget.recording is not None)
    state = again(project).state(0)
    assert len(state.masks) == len(objects) - 1
    others = [m for name, m in state.masks.items() if name != mask.id]
    assert all(m.prefilled and m.seconds == 0 for m in others)
    figures = statistics(again(project)).stages[1]
    assert (figures.prefilled, figures.effort.masks) == (len(others), 1)


@pytest.mark.slow
def test_what_goes_wrong_is_told(viewer: Any, project: Project) -> None:
    widget = opened(viewer, project.folder)
    viewer.layers.remove("coins-0.png")
    wait(lambda: widget.recording is None)
    assert "is kept" in widget.told.text()
    assert again(project).desk.holder(0) is None  # it was given back
    widget.open(project.folder / "records")
    wait(lambda: "samplat engine create" in widget.told.text())
    (project.folder.parent / "pictures" / "coins-0.png").write_bytes(b"other")
    widget.open(project.folder)
    wait(lambda: widget.recording is not None)
    assert "coins-0.png was changed" in widget.told.text()
    assert widget.recording is not None
    assert widget.recording.work.picture.index == 1  # the others can be annotated
    reference = project.settings.model
    other = replace(project.settings, model=replace(reference, sha256="0" * 64))
    other.save(project.folder / "project.json")
    widget.open(project.folder)
    wait(lambda: "has the weights" in widget.told.text())
    project.set_stage("fully-automatic")
    widget.open(project.folder)
    wait(lambda: "needs nobody" in widget.told.text())
    assert widget.queue is None
    assert not widget.done.isEnabled()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "one of them"),
        ({"image": Path("picture.png"), "project": Path("p")}, "one of them"),
        ({"project": Path("p"), "session": Path("s")}, "--session"),
        ({"project": Path("p")}, "engine create"),
    ],
)
def test_what_the_command_refuses(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        napari(**{"image": None, **arguments})


@pytest.mark.slow
def test_a_project_opens_ready(
    viewer: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_sam.opening import open_project

    monkeypatch.setattr("napari.Viewer", lambda show: viewer)
    window = open_project(project.folder)
    queue = window.queue
    assert queue is not None
    wait(lambda: queue.recording is not None)
    assert window.widget.annotation is not None
    queue.shutdown()
    assert again(project).desk.holder(0) is None

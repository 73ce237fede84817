"""The fully automatic stage: the paper's filters, SA-1B that others read, resume, shared work."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from samplat import InputError, SamplatError, choose_progress, mask_set
from samplat_train.data.sa1b import Sa1bFolder
from samplat_train.engine import Parameters, Project, export_sa1b, run_automatic
from samplat_train.engine import automatic as stage
from samplat_train.engine import durable as durable_files
from train.engine_oracle import Oracle, load_oracle, picture, truth_of, work, write_pictures
from train.test_engine_project import environment

QUIET = choose_progress(sys.stderr, quiet=True)
PICTURES = 4


def create(tmp_path, name="project", **options):
    if not (tmp_path / "pictures").exists():
        write_pictures(tmp_path / "pictures", PICTURES)
    options.setdefault("load", load_oracle)
    return Project.create(tmp_path / name, [tmp_path / "pictures"], model="oracle", **options)


def run(project, progress=QUIET):
    return run_automatic(project, progress=progress)


def digest(project):
    """What the SA-1B folder holds, byte by byte."""
    found = sorted((project.folder / stage.OUTPUT).iterdir())
    assert not [p for p in found if "partial" in p.name]
    return {p.name: p.read_bytes() for p in found}


class Counting(Oracle):
    """Counts the pictures that it segments, and stops the run at one of them."""

    def __init__(self, stop_at=None, stop_with=KeyboardInterrupt):
        super().__init__()
        self.stop_at, self.stop_with = stop_at, stop_with

    def everything(self, image, parameters):
        if self.calls == self.stop_at:
            raise self.stop_with
        return super().everything(image, parameters)


def reopen(project, oracle, annotator="other"):
    return Project.open(project.folder, annotator=annotator, load=lambda reference: oracle)


def test_the_output_is_read_by_pycocotools(tmp_path):
    project = create(tmp_path)
    report = run(project)
    assert (report.done, report.kept, report.held, report.failed) == (PICTURES, 0, (), {})
    for entry in project.pictures:
        record = json.loads((project.folder / f"sa1b/sa_{entry.index + 1}.json").read_bytes())
        image = record["image"]
        assert (image["height"], image["width"]) == entry.size
        found = [coco.decode(a["segmentation"]).astype(bool) for a in record["annotations"]]
        truth = truth_of(entry.read())
        assert sorted(m.tobytes() for m in found) == sorted(m.tobytes() for m in truth)
        for annotation, mask in zip(record["annotations"], found, strict=True):
            assert annotation["area"] == mask.sum() == coco.area(annotation["segmentation"])
            assert annotation["bbox"] == list(coco.toBbox(annotation["segmentation"]))
            (x, y), *_ = annotation["point_coords"]
            assert mask[int(y), int(x)]
            assert annotation["crop_box"] == [0, 0, entry.size[1], entry.size[0]]
            assert 0.9 <= annotation["predicted_iou"] <= 0.95
        with Image.open(project.folder / "sa1b" / image["file_name"]) as written:
            assert written.size == entry.size[::-1]
    assert len(Sa1bFolder.open(project.folder / "sa1b")) == PICTURES


def test_filters_of_the_paper():
    """Appendix B: nothing that covers 95 % of the picture, nothing of less than 100 pixels."""
    masks = np.zeros((5, 100, 100), bool)
    for mask, rows in zip(masks, (1, 2, 94, 95, 100), strict=True):
        mask[:rows] = True
    masks[0, 0, 99] = False
    kept = stage.filtered(mask_set(masks), Parameters())
    assert kept.areas.tolist() == [200, 9400]
    lenient = stage.filtered(mask_set(masks), Parameters(max_cover=1.0, min_region_area=0))
    assert lenient.areas.tolist() == [99, 200, 9400, 9500]


def test_what_the_model_is_asked_for(tmp_path, monkeypatch):
    """32 × 32 points, crops of 2 × 2 and 4 × 4 with half the points each, 0.88, 0.95, 0.7, 100."""
    asked = {}

    def generate(model, image, **options):
        asked.update(options)
        return mask_set(np.zeros((0, *image.shape[:2]), bool))

    monkeypatch.setattr("samplat.generate_masks", generate)
    project = create(tmp_path, load=_paper_model)
    run(project)
    assert asked == {
        "points_per_side": 32,
        "crop_n_layers": 2,
        "crop_n_points_downscale_factor": 2,
        "pred_iou_thresh": 0.88,
        "stability_score_thresh": 0.95,
        "box_nms_thresh": 0.7,
        "crop_nms_thresh": 0.7,
        "min_mask_region_area": 100,
    }


def _paper_model(reference):
    from samplat_train.engine import ModelAssistant

    class Model:
        grid_defaults = {}  # noqa: RUF012

    known = replace(reference, sha256="0" * 64)
    return ModelAssistant(model=Model(), reference=known)


def test_a_second_run_has_nothing_to_do(tmp_path):
    project = create(tmp_path)
    run(project)
    before, lines = digest(project), project.record_path(0).read_bytes()
    oracle = Counting()
    report = run(reopen(project, oracle))
    assert (report.done, report.kept, oracle.calls) == (0, PICTURES, 0)
    assert digest(project) == before
    assert project.record_path(0).read_bytes() == lines


@pytest.mark.parametrize("stop_at", range(PICTURES))
def test_an_interrupted_run_goes_on_to_the_same_files(tmp_path, stop_at):
    whole = create(tmp_path, name="whole")
    run(whole)
    project = create(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(reopen(project, Counting(stop_at)))
    rest = Counting()
    report = run(reopen(project, rest))
    assert (report.done, report.kept) == (PICTURES - stop_at, stop_at)
    assert rest.calls == PICTURES - stop_at
    assert digest(project) == digest(whole)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_half_a_picture_in_the_records_is_done_again(tmp_path, share):
    whole = create(tmp_path, name="whole")
    run(whole)
    project = create(tmp_path)
    run(project)
    path = project.record_path(1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    (project.folder / "sa1b" / "sa_2.json").unlink()
    report = run(reopen(project, Counting()))
    assert (report.done, report.kept) == (1, PICTURES - 1)
    assert digest(project) == digest(whole)
    assert len(project.state(1).masks) == len(truth_of(picture(1)))


def test_lost_output_is_made_of_the_records_without_the_model(tmp_path):
    project = create(tmp_path)
    run(project)
    before = digest(project)
    (project.folder / "sa1b" / "sa_1.json").unlink()
    oracle = Counting()
    run(reopen(project, oracle))
    assert oracle.calls == 0
    assert digest(project) == before


def test_other_thresholds_and_other_models_make_it_stale(tmp_path):
    project = create(tmp_path)
    run(project)
    assert len(project.state(0).masks) > 0
    project.set_parameters(max_cover=0.01)
    assert run(project).done == PICTURES
    assert all(not s.masks for _, s in project.states())
    assert json.loads((project.folder / "sa1b" / "sa_1.json").read_bytes())["annotations"] == []
    project.set_parameters(max_cover=0.95, lease_seconds=77)
    assert run(project).done == PICTURES
    (tmp_path / "better.bin").write_bytes(b"better")
    project.use_model(tmp_path / "better.bin")
    assert run(project).done == PICTURES
    models = {m.model_sha256 for m in project.state(0).masks.values()}
    assert models == {project.settings.model.sha256}


def test_numbers_that_masks_do_not_depend_on_keep_them(tmp_path):
    project = create(tmp_path)
    run(project)
    project.set_parameters(lease_seconds=77, proposal_overlap=0.1)
    assert run(project).kept == PICTURES


def test_a_mask_that_a_person_corrected_outlives_the_next_run(tmp_path):
    project = create(tmp_path)
    run(project)
    with project.annotate(0) as session:
        name = next(iter(session.masks))
        session.edit(name, np.ones(project.pictures[0].size, bool))
    project.set_parameters(max_cover=0.9)
    run(project)
    mine = project.state(0).masks[name]
    assert (mine.source, mine.stage, mine.area) == ("corrected", "assisted", 40 * 56)


def test_pictures_that_cannot_be_used_do_not_stop_the_others(tmp_path, capsys):
    project = create(tmp_path)
    project.pictures[1].path.unlink()
    Image.fromarray(picture(99)).save(project.pictures[2].path)
    report = run(project, progress=choose_progress(sys.stderr))
    assert report.done == PICTURES - 2
    assert "is gone" in report.failed[1]
    assert "was changed" in report.failed[2]
    told = capsys.readouterr().err
    assert "picture 1 is left out" in told
    assert "pictures: 4/4" in told


def test_pictures_in_other_hands_are_left_to_them(tmp_path):
    project = create(tmp_path)
    person = reopen(project, Oracle(), annotator="person")
    session = person.annotate(2)
    report = run(project)
    assert (report.done, report.held) == (PICTURES - 1, (2,))
    session.close()
    assert run(project).done == 1


def test_two_processes_share_the_work(tmp_path):
    project = create(tmp_path)
    program = (
        "import sys; from samplat import choose_progress\n"
        "from samplat_train.engine import Project, run_automatic\n"
        "from train.engine_oracle import load_oracle\n"
        "p = Project.open(sys.argv[1], load=load_oracle)\n"
        "print(run_automatic(p, progress=choose_progress(sys.stderr, quiet=True)).done)\n"
    )
    command = [sys.executable, "-c", program, str(project.folder)]
    both = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    done = [int(p.communicate(timeout=120)[0]) for p in both]
    assert sum(done) + run(project).done == PICTURES
    lines = [json.loads(t) for i in range(PICTURES) for t in _lines(project, i)]
    assert sum(line.get("event") == "finished" for line in lines) == PICTURES
    whole = create(tmp_path, name="whole")
    run(whole)
    assert digest(project) == digest(whole)


def _lines(project, index):
    return project.record_path(index).read_text().splitlines()


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(tmp_path, monkeypatch):
    project = create(tmp_path)
    real, left = durable_files.os.pwrite, 2

    def crowded(handle, data, offset):
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        left -= 1
        return real(handle, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(durable_files.os, "pwrite", crowded)
        with pytest.raises(SamplatError, match="No space left"):
            run(project)
    report = run(project)
    assert (report.done, report.kept) == (PICTURES - 2, 2)


def test_export_of_what_people_accepted(tmp_path):
    project = create(tmp_path)
    with pytest.raises(InputError, match="has no accepted masks yet"):
        export_sa1b(project, tmp_path / "out")
    work(project.folder, "scripted")
    run(project)
    with pytest.raises(InputError, match="one of accepted, automatic, all, got 'some'"):
        export_sa1b(project, tmp_path / "out", "some")
    assert export_sa1b(project, tmp_path / "out") == PICTURES
    assert export_sa1b(project, tmp_path / "all", "all") == PICTURES
    for entry in project.pictures:
        name = f"sa_{entry.index + 1}.json"
        ours, all_of_them = (
            json.loads((tmp_path / folder / name).read_bytes())["annotations"]
            for folder in ("out", "all")
        )
        truth = truth_of(entry.read())
        assert len(ours) == len(truth)
        assert len(all_of_them) == 2 * len(truth)
        for annotation in ours:
            mask = coco.decode(annotation["segmentation"]).astype(bool)
            assert any((mask == t).all() for t in truth)


def test_the_bundled_model_and_crops(tmp_path):
    """The one test here with a network: the grid, a layer of crops, small numbers."""
    Image.fromarray(picture(3, (96, 96))).save(tmp_path / "one.png")
    project = Project.create(tmp_path / "p", [tmp_path / "one.png"])
    project.set_parameters(points_per_side=2, crop_layers=1, min_region_area=4)
    project.set_parameters(pred_iou_thresh=0.0, stability_score_thresh=0.0)
    assert run(project).done == 1
    found = list(project.state(0).masks.values())
    assert found
    for mask in found:
        assert 4 <= mask.area < 0.95 * 96 * 96
        assert mask.crop[2] - mask.crop[0] in (96, 64, 65)

"""`samplat engine ...` through the real command line, with the bundled model on tiny pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from samplat import cli
from samplat_train import engine
from samplat_train.engine import Project


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        image = np.full((64, 64), 200, np.uint8)
        image[20 + i : 44, 18:46] = 60
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def project(tmp_path, pictures, capsys):
    assert run("engine", "create", tmp_path / "p", pictures) == 0
    assert "2 pictures, model samplat-tiny" in capsys.readouterr().out
    return Project.open(tmp_path / "p")


def test_from_pictures_to_statistics(project, capsys):
    quick = ["--points-per-side", 1, "--crop-layers", 0]
    assert run("engine", "auto", project.folder, *quick) == 0
    said = capsys.readouterr()
    assert "sa1b: 2 pictures done, 0 were there" in said.out
    assert "pictures: 2/2" in said.err
    assert project.settings.parameters.points_per_side == 1
    assert run("engine", "auto", project.folder) == 0
    assert "0 pictures done, 2 were there" in capsys.readouterr().out
    with project.annotate(0) as session:
        session.accept(session.image[..., 0] < 100, seconds=5.0)
        session.finish()
    assert run("engine", "status", project.folder) == 0
    status = capsys.readouterr().out
    assert "stage assisted, model samplat-tiny, round 0" in status
    assert "assisted         1/2 pictures finished, 1 masks" in status
    assert run("engine", "stats", project.folder, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["stages"][0]["effort"]["seconds_mean"] == 5.0
    assert run("engine", "stats", project.folder) == 0
    table = capsys.readouterr().out
    assert "seconds per mask, mean" in table
    assert "5.00" in table
    assert run("engine", "export", project.folder, project.folder.parent / "out") == 0
    assert "1 pictures in" in capsys.readouterr().out
    assert (project.folder.parent / "out" / "sa_1.json").exists()


def test_the_stage_and_its_numbers(project, capsys):
    change = ["semi-automatic", "--pred-iou-thresh", 0.6, "--proposal-points-per-side", 4]
    assert run("engine", "stage", project.folder, *change) == 0
    assert "stage semi-automatic, model samplat-tiny" in capsys.readouterr().out
    numbers = project.settings.parameters
    assert (numbers.pred_iou_thresh, numbers.proposal_points_per_side) == (0.6, 4)
    assert run("engine", "stage", project.folder) == 0
    assert "stage semi-automatic" in capsys.readouterr().out


def test_retrain_says_what_came_of_it(project, capsys, monkeypatch):
    asked = {}

    def pretend(opened, retrainer, *, choice):
        asked.update(retrainer.recipe, choice=choice)
        model = engine.ModelReference(name="rounds/001/model.safetensors", sha256="0")
        figures = {"before": {"point": 0.25}, "after": {"point": 0.5}}
        return engine.Round(
            number=1, parent=model, model=model, data_sha256="0", choice=choice, pictures=2,
            masks=7, recipe={}, figures=figures, adopted=False, seconds=1.0, finished="",
        )  # fmt: skip

    monkeypatch.setattr(engine, "retrain", pretend)
    assert run("engine", "retrain", project.folder, "--steps", 5, "--masks", "all") == 0
    said = capsys.readouterr()
    assert "round 1: rounds/001/model.safetensors, 7 masks" in said.out
    assert "before point 0.250\nafter  point 0.500" in said.out
    assert "the model before did better" in said.err
    assert (asked["steps"], asked["part"], asked["choice"]) == (5, "decoder", "all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "{}/nothing"], "is no data engine project"),
        (["auto", "{}/nothing"], "is no data engine project"),
        (["stage", "{}/p", "manual"], "expected a stage out of assisted"),
        (["stage", "{}/p", "--model", "sam-9000"], "there is no model called 'sam-9000'"),
        (["auto", "{}/p", "--pred-iou-thresh", "88"], "must lie in 0..1, got 88"),
        (["retrain", "{}/p"], "has no accepted masks yet"),
        (["retrain", "{}/p", "--part", "head"], "part must be one of decoder, lora, all"),
        (["export", "{}/p", "{}/out"], "has no accepted masks yet"),
        (["create", "{}/p", "{}/pictures"], "is a project already"),
        (["create", "{}/q", "{}/none"], "found nothing there"),
    ],
)
def test_errors_are_one_line(project, tmp_path, capsys, arguments, message):
    assert run("engine", *(a.format(tmp_path) for a in arguments)) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_pictures_left_out_end_with_status_3(project, capsys):
    project.pictures[0].path.unlink()
    quick = ["--points-per-side", 1, "--crop-layers", 0]
    assert run("engine", "auto", project.folder, *quick) == 3
    said = capsys.readouterr()
    assert "1 pictures done" in said.out
    assert "1 could not be used" in said.err

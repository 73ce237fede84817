"""Retraining between rounds: what it learns from, lineage, resume, and one real round."""

import hashlib
import shutil

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

import samplat
from samplat import InputError, Prompts, SamplatError
from samplat_train.engine import Finetuner, Project, Retrained, retrain, rounds, snapshot
from samplat_train.engine import retraining as module
from train.engine_oracle import load_oracle, truth_of, work, write_pictures

PICTURES = 3


@pytest.fixture
def project(tmp_path):
    write_pictures(tmp_path / "pictures", PICTURES)
    made = Project.create(
        tmp_path / "project", [tmp_path / "pictures"], model="oracle", load=load_oracle
    )
    work(made.folder, "scripted")
    return made


class Fake:
    """Stands for training: remembers what it was given; may end half way."""

    def __init__(self, steps=1, *, ends=False, better=True):
        self.recipe = {"steps": steps}
        self.ends, self.better = ends, better
        self.seen = []

    def __call__(self, parent, source, folder):
        self.seen.append((parent, source, folder.name))
        if self.ends:
            raise KeyboardInterrupt
        content = f"{parent.sha256} {len(source)} {self.recipe}".encode()
        (folder / "model.safetensors").write_bytes(content)
        figures = {"before": {"point": 0.4}, "after": {"point": 0.6}}
        return Retrained(path=folder / "model.safetensors", figures=figures, better=self.better)


def test_the_source_holds_the_accepted_masks(project):
    fake = Fake()
    retrain(project, fake)
    source = fake.seen[0][1]
    assert len(source) == PICTURES
    assert len({source.key(i) for i in range(PICTURES)}) == PICTURES
    for i, entry in enumerate(project.pictures):
        read = source.read(i)
        assert np.array_equal(read.image, entry.read())
        found = [read.labels[0] == k for k in range(1, int(read.labels.max()) + 1)]
        truth = truth_of(read.image)
        assert sorted(m.tobytes() for m in found) == sorted(m.tobytes() for m in truth)


def test_lineage_is_recorded_and_the_model_switched(project):
    parent = project.settings.model
    first = retrain(project, Fake())
    second = retrain(project, Fake())
    assert (first.number, second.number) == (1, 2)
    assert (first.parent, second.parent) == (parent, first.model)
    assert project.settings.model == second.model
    assert project.settings.round == 2
    assert second.model.name == "rounds/002/model.safetensors"
    data = (project.folder / "rounds/001/data.jsonl").read_bytes()
    assert first.data_sha256 == hashlib.sha256(data).hexdigest() == second.data_sha256
    assert (first.pictures, first.masks) == (
        PICTURES,
        sum(len(s.masks) for _, s in project.states()),
    )
    assert first.figures["after"] == {"point": 0.6}
    assert rounds(project) == (first, second)
    weights = (project.folder / second.model.name).read_bytes()
    assert second.model.sha256 == hashlib.sha256(weights).hexdigest()


def test_a_round_that_made_it_worse_is_recorded_and_not_used(project):
    parent = project.settings.model
    worse = retrain(project, Fake(better=False))
    assert not worse.adopted
    assert (project.settings.model, project.settings.round) == (parent, 0)
    better = retrain(project, Fake(steps=2))
    assert (better.number, better.parent) == (2, parent)
    assert project.settings.round == 2
    project.use_model(project.folder / worse.model.name)
    assert project.settings.model == worse.model


def test_other_masks_are_other_data(project):
    before = snapshot(project).dump()
    assert snapshot(project).dump() == before
    with project.annotate(0) as session:
        session.reject(next(iter(session.masks)))
    assert snapshot(project).dump() != before


def test_records_name_the_model_that_was_in_use(project):
    done = retrain(project, Fake())
    with project.annotate(0) as session:
        name = session.accept(session.prompt(Prompts(points=[(5, 5)]))[0])
        line = session.masks[name]
    assert (line.model, line.model_sha256) == (done.model.name, done.model.sha256)


def test_a_moved_project_finds_its_model(project, tmp_path):
    retrain(project, Fake())
    shutil.move(project.folder, tmp_path / "elsewhere")
    moved = Project.open(tmp_path / "elsewhere", load=load_oracle)
    assert moved.assistant.reference.sha256 == moved.settings.model.sha256


def test_an_interrupted_round_goes_on_in_its_folder(project):
    with pytest.raises(KeyboardInterrupt):
        retrain(project, Fake(ends=True))
    assert project.settings.round == 0
    assert rounds(project) == ()
    fake = Fake()
    assert retrain(project, fake).number == 1
    assert fake.seen[0][2] == "001"


@pytest.mark.parametrize("change", ["recipe", "masks", "model"])
def test_an_interrupted_round_of_something_else_is_left_alone(project, tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        retrain(project, Fake(ends=True))
    if change == "masks":
        with project.annotate(0) as session:
            session.reject(next(iter(session.masks)))
    if change == "model":
        (tmp_path / "other.bin").write_bytes(b"other")
        project.use_model(tmp_path / "other.bin")
    assert retrain(project, Fake(steps=2 if change == "recipe" else 1)).number == 2


def test_an_end_between_round_and_switch_is_made_good(project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_switch", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            retrain(project, Fake())
    assert project.settings.round == 0
    again = Fake()
    assert retrain(project, again).number == 1
    assert again.seen == []
    assert project.settings.model == rounds(project)[0].model


def _interrupt(*_):
    raise KeyboardInterrupt


def test_one_retraining_at_a_time(project):
    with (
        FileLock(project.folder / "rounds" / ".lock"),
        pytest.raises(SamplatError, match="being retrained by another process"),
    ):
        retrain(project, Fake())


def test_nothing_to_learn_from(tmp_path):
    write_pictures(tmp_path / "pictures", 1)
    project = Project.create(
        tmp_path / "p", [tmp_path / "pictures"], model="oracle", load=load_oracle
    )
    with pytest.raises(InputError, match="has no accepted masks yet; annotate"):
        retrain(project, Fake())
    assert not list(project.folder.glob("rounds/0*"))


def test_a_damaged_lineage_is_named(project):
    retrain(project, Fake())
    (project.folder / "rounds/001/round.json").write_text("{}")
    with pytest.raises(InputError, match=r"round\.json is damaged"):
        rounds(project)


def test_a_model_that_was_lost(project):
    retrain(project, Fake())
    (project.folder / "rounds/001/model.safetensors").unlink()
    with pytest.raises(InputError, match="no model called 'rounds/001/model.safetensors'"):
        project.annotate(0)


def test_a_real_round_makes_a_model_that_the_project_uses(tmp_path):
    """The one test here with a network: two steps of fine-tuning on three small pictures."""
    from samplat_train.finetune import FinetuneSettings

    for i, path in enumerate(write_pictures(tmp_path / "pictures", PICTURES)):
        small = np.zeros((64, 64, 3), np.uint8)
        small[10 + i : 40, 8:36] = 180
        Image.fromarray(small).save(path)
    project = Project.create(tmp_path / "p", [tmp_path / "pictures"])
    for entry in project.pictures:
        with project.annotate(entry) as session:
            session.accept(session.image[..., 0] > 0, seconds=1.0)
            session.finish()
    settings = FinetuneSettings(steps=2, images=1, prompts=1, validate_every=1)
    done = retrain(project, Finetuner(settings=settings))
    assert set(done.figures) == {"before", "after"}
    assert done.recipe["steps"] == 2
    assert done.adopted == (_score(done, "after") >= _score(done, "before"))
    project.use_model(project.folder / done.model.name)
    assert project.settings.model == done.model
    loaded = samplat.load_model(project.folder / done.model.name)
    assert loaded.weights_sha256 == done.model.sha256
    assert loaded.grid_defaults == samplat.load_model("samplat-tiny").grid_defaults
    with project.annotate(0) as session:
        assert session.prompt(Prompts(points=[(20, 20)]))
    assert rounds(project) == (done,)


def _score(done, when):
    return done.figures[when]["point"] + done.figures[when]["box"]

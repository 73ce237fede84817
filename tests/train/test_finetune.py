"""Fine-tuning: what learns, what stays, what is held out, and what is kept."""

import copy
import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image

import samplat
from samplat import CheckpointError, InputError, cli
from samplat_train.data.joined import join
from samplat_train.data.pictures import Picture, split
from samplat_train.finetune import FinetuneSettings, finetune, merged, prepare
from samplat_train.samples import cut_fitting
from samplat_train.validation import centre, chosen_objects, iou, measure, tight_box

QUICK = FinetuneSettings(steps=2, images=1, prompts=2, held_out=0.4, validate_every=1, rank=2)


@dataclass
class Discs:
    """Pictures of one bright disc each, in memory; remembers which were read."""

    count: int = 5
    name: str = "discs"
    read_keys: list = field(default_factory=list)

    def __len__(self):
        return self.count

    def key(self, i):
        return f"disc{i}.png"

    def read(self, i):
        self.read_keys.append(self.key(i))
        rng = np.random.default_rng(i)
        y, x = np.mgrid[:60, :80]
        labels = ((y - 30) ** 2 + (x - 30 - 3 * i) ** 2 < 15**2).astype(np.uint16)
        tone = np.array([70, 190])[labels] + rng.normal(0, 8, labels.shape)
        image = np.repeat(np.clip(tone, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return Picture(name=self.key(i), image=image, labels=labels[None])


@pytest.fixture(scope="module")
def model():
    return samplat.load_model("samplat-tiny", image_size=128, precision="fp32")


def changed(before, after):
    new = after.state_dict()
    return {n for n, t in before.state_dict().items() if not torch.equal(t, new[n])}


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning of the decoder, as everybody gets it."""

    folder: object
    result: object
    before: dict
    """The model's weights as they were."""
    figures: dict
    """As they were told on the way."""


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    folder, figures = tmp_path_factory.mktemp("finetune") / "run", {}
    before = {n: t.clone() for n, t in model.sam.state_dict().items()}
    tell = lambda when, each: figures.update({when: each})  # noqa: E731
    result = finetune(model, Discs(), folder, QUICK, on_figures=tell)
    return Tuned(folder=folder, result=result, before=before, figures=figures)


def test_the_decoder_alone_learns(model, tuned):
    result = tuned.result
    touched = changed(model.sam, result.sam)
    assert touched
    assert all(n.startswith(("prompt_encoder.", "mask_decoder.", "mask_refiner.")) for n in touched)
    assert result.learned < sum(p.numel() for p in model.sam.parameters()) / 3
    assert (result.trained_on, result.held_out) == (len(Discs()) - result.held_out, result.held_out)


def test_adapters_become_plain_weights(model, tmp_path):
    result = finetune(model, Discs(), tmp_path / "run", replace(QUICK, part="lora"))
    assert set(result.sam.state_dict()) == set(model.sam.state_dict())
    touched = changed(model.sam, result.sam)
    assert any(n.startswith("image_encoder.") for n in touched)
    assert not any("running_" in n or "num_batches" in n for n in touched)


def test_everything_may_learn_but_statistics_and_the_model_that_was_given_stay(
    model, tuned, tmp_path
):
    result = finetune(model, Discs(), tmp_path / "run", replace(QUICK, part="all"))
    touched = changed(model.sam, result.sam)
    assert any(n.startswith("image_encoder.stem") for n in touched)
    assert not any("running_" in n or "num_batches" in n for n in touched)
    assert all(torch.equal(tuned.before[n], t) for n, t in model.sam.state_dict().items())
    assert not any(p.requires_grad for p in model.sam.parameters())


def test_figures_are_of_the_pictures_held_out(model, tuned):
    result, seen = tuned.result, tuned.figures
    _, held = split(Discs(), share=QUICK.held_out, seed=QUICK.seed)
    assert result.before == measure(model, held) == seen["before"]
    after = replace(model, sam=result.sam, weights_sha256="")
    assert result.after == measure(after, held) == seen["after"]


@pytest.mark.slow
def test_a_fine_tuning_resumes_to_equal_bits(model, tmp_path):
    settings = replace(QUICK, steps=3, part="lora", patience=9)
    whole = finetune(model, Discs(), tmp_path / "whole", settings)

    def stop(report):
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(model, Discs(), tmp_path / "cut", settings, on_step=stop, save_every=1)
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 1
    again = finetune(model, Discs(), tmp_path / "cut", settings, save_every=1)
    assert not changed(whole.sam, again.sam)


def test_another_parent_or_share_does_not_go_on_with_a_run(model, tuned):
    with pytest.raises(samplat.InputError, match="other data"):
        finetune(model, Discs(count=9), tuned.folder, QUICK)
    other = copy.deepcopy(model.sam)
    with torch.no_grad():
        next(other.parameters()).add_(0.5)
    with pytest.raises(samplat.InputError, match="other starting weights"):
        finetune(replace(model, sam=other), Discs(), tuned.folder, QUICK)


def test_merging_changes_no_answer(model):
    sam = samplat.load_model("samplat-tiny", image_size=128, precision="fp32").sam
    prepare(sam, replace(QUICK, part="lora"))
    for name, parameter in sam.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.01)
    picture = Discs().read(0).image
    with torch.no_grad():
        adapted = replace(model, sam=sam.eval())
        plain = replace(model, sam=merged(sam, model.sam))
        first, second = (samplat.embed(m, picture).features[0] for m in (adapted, plain))
    assert float((first - second).norm() / first.norm()) < 1e-5


@pytest.mark.parametrize("bad", [{"part": "head"}, {"steps": 0}, {"rank": 0}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        replace(QUICK, **bad)


def test_a_single_picture_is_too_few(model, tmp_path):
    with pytest.raises(InputError, match="cannot hold out"):
        finetune(model, Discs(count=1), tmp_path / "run", QUICK)


def test_fitting_crops_keep_proportions_and_pad():
    image = np.full((100, 200, 3), 50, np.uint8)
    labels = np.ones((1, 100, 200), np.uint16)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        pixels, inside = cut_fitting(image, labels, (64, 64), 64 / 200, rng)
        rows, columns = inside[0].any(1).sum(), inside[0].any(0).sum()
        assert (pixels[inside[0] == 0] == (124, 116, 104)).all()
        assert (pixels[inside[0] == 1] == 50).all()
        assert inside[0, :rows, :columns].all()
        assert max(rows, columns) <= 64


def test_joined_sources_keep_order_and_names_apart():
    both = join([Discs(count=2), Discs(count=3, name="more")])
    assert len(both) == 5
    assert [both.key(i) for i in (1, 2)] == ["discs/disc1.png", "more/disc0.png"]
    assert np.array_equal(both.read(4).image, Discs().read(2).image)
    with pytest.raises(IndexError):
        both.key(5)


def test_objects_are_chosen_evenly_by_size():
    labels = np.zeros((2, 40, 200), np.int32)
    for k in range(19):
        labels[k % 2, : 10 + k, 10 * k : 10 * k + 9] = k + 1
    sizes = [int(m.sum()) for m in chosen_objects(labels)]
    assert len(sizes) == 10
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 9 * 28
    assert sizes[-1] == 9 * 10


def test_centres_boxes_and_iou_by_hand():
    mask = np.zeros((9, 12), bool)
    mask[2:7, 3:10] = True
    x, y = centre(mask)
    assert y == 4
    assert 5 <= x <= 7
    assert tight_box(mask) == (3, 2, 10, 7)
    other = np.zeros_like(mask)
    other[2:7, 3:5] = True
    assert iou(mask, other) == 10 / 35
    assert iou(mask & False, other & False) == 1.0


@pytest.fixture
def folder(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    source = Discs()
    for i in range(len(source)):
        picture = source.read(i)
        Image.fromarray(picture.image).save(tmp_path / "data" / "images" / f"{i}.png")
        Image.fromarray(picture.labels[0]).save(tmp_path / "data" / "labels" / f"{i}.png")
    return tmp_path / "data"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "home"))


def test_the_command_keeps_a_model_by_name(folder, tmp_path, home, capsys):
    options = ["--steps", 1, "--held-out", 0.4, "--force", "--json", tmp_path / "figures.json"]
    place = ["--run-dir", tmp_path / "run"]
    assert run("finetune", "samplat-tiny", folder, "--name", "discs", *options, *place) == 0
    said = capsys.readouterr().out
    assert "before: one point" in said
    assert "discs is ready for --model discs" in said
    model = samplat.load_model("discs", precision="fp32")
    assert model.grid_defaults == samplat.load_model("samplat-tiny").grid_defaults
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["before"]["objects"] == figures["after"]["objects"] > 0
    assert figures["parent"]["name"] == "samplat-tiny"


def test_names_are_checked_before_any_work(folder, tmp_path, home, capsys):
    arguments = ["finetune", "samplat-tiny", folder, "--run-dir", tmp_path / "run"]
    assert run(*arguments, "--name", "vit_b") == 1
    assert "choose another name" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError):
        samplat.check_new_name("a/b")

"""`samplat draw-scenes` and `samplat train`, through the real command line."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import samplat
from samplat import InputError, cli
from samplat_train.changes import changed
from samplat_train.commands import parse_source
from samplat_train.data.sa1b import write_sa1b
from samplat_train.recipe import Recipe
from samplat_train.scene_store import write_scenes
from samplat_train.scenes import draw_scene

QUICK = ["steps=2", "images=2", "prompts=2", "crop=64", "image_size=64", "bf16=false"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 3, size=96)
    return folder


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def test_scenes_depend_on_seed_and_number_alone(scenes, tmp_path):
    write_scenes(tmp_path, 1, size=96)
    write_scenes(tmp_path, 3, size=96, workers=2)
    for part in ("images", "labels"):
        for path in sorted((scenes / part).iterdir()):
            assert np.array_equal(np.load(path), np.load(tmp_path / part / path.name))
    assert not list(tmp_path.glob("**/*.partial"))


def test_one_kind_of_scene(tmp_path):
    assert run("draw-scenes", tmp_path, "--count", 1, "--size", 96, "--kind", "abstract") == 0
    drawn = draw_scene(np.random.default_rng((0, 0)), size=96, kind="abstract")
    assert np.array_equal(np.load(tmp_path / "images" / "000000.npy"), drawn.image)


def test_an_unknown_kind_is_refused(tmp_path, capsys):
    assert run("draw-scenes", tmp_path / "no", "--kind", "cosmic") == 1
    assert "--kind must be one of aerial, natural" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_train_writes_a_model_that_segments(scenes, tmp_path):
    weights = tmp_path / "mine.safetensors"
    options = [o for change in QUICK for o in ("--recipe", change)]
    masks = np.zeros((1, 80, 90), bool)
    masks[0, 20:60, 20:70] = True
    write_sa1b(tmp_path / "more", "sa_1", np.zeros((80, 90, 3), np.uint8), masks)
    files = [scenes, f"{tmp_path / 'more'}=0.5", "-o", weights, "--run-dir", tmp_path / "run"]
    assert run("train", *files, "--name", "mine", *options) == 0
    assert (tmp_path / "run" / "step000002.png").exists()
    model = samplat.load_model(weights, precision="fp32")
    assert model.name == "mine"
    picture = np.load(scenes / "images" / "000000.npy")
    answer = samplat.predict(
        model, samplat.embed(model, picture), samplat.Prompts(boxes=[10, 10, 60, 60])
    )
    assert answer.masks.shape == (1, 3, 96, 96)


def test_recipes_are_parsed():
    recipe = changed(Recipe(), ["steps=7", "bf16=false", "learning_rate=1e-4", "crop=512"])
    assert (recipe.steps, recipe.bf16, recipe.learning_rate) == (7, False, 1e-4)
    assert changed(Recipe(), ["architecture=vit_t", "crop=512"]).architecture == "vit_t"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("step=7", "unknown recipe entry 'step'"),
        ("steps=many", "steps must be int, got 'many'"),
        ("bf16=maybe", "bf16 must be bool"),
    ],
)
def test_recipes_that_are_none(change, message):
    with pytest.raises(InputError, match=message):
        changed(Recipe(), [change])


@pytest.mark.parametrize("text", ["{}=0", "{}=-1", "{}=much", "{}=inf", "{}="])
def test_weights_of_sources_are_positive(scenes, text):
    with pytest.raises(InputError, match="positive weight"):
        parse_source(text.format(scenes))


def test_a_weight_follows_the_last_equals_sign(scenes, tmp_path):
    odd = tmp_path / "day=3"
    odd.symlink_to(scenes, target_is_directory=True)
    assert parse_source(str(odd)).weight == 1
    assert parse_source(f"{odd}=2.5").weight == 2.5
    assert parse_source(f"{odd}=2.5").source.name == str(odd)
    assert not parse_source(f"{odd}=2.5").upright


@pytest.mark.parametrize("weight", ["", "=2.5"])
def test_a_caret_keeps_crops_upright(scenes, weight):
    share = parse_source(f"{scenes}{weight}^")
    assert share.upright
    assert share.source.name == str(scenes)
    assert share.weight == (2.5 if weight else 1)


def test_other_suffixes_are_refused_before_training(scenes, tmp_path, capsys):
    assert run("train", scenes, "-o", tmp_path / "mine.pth", "--run-dir", tmp_path / "run") == 1
    assert "weights are written as .safetensors" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def bad_folder(tmp_path, labels):
    for part in ("images", "labels"):
        (tmp_path / "bad" / part).mkdir(parents=True)
    Image.fromarray(np.full((96, 96, 3), 90, np.uint8)).save(tmp_path / "bad" / "images" / "a.png")
    Image.fromarray(labels).save(tmp_path / "bad" / "labels" / "a.png")
    return tmp_path / "bad"


def bad_sa1b(tmp_path):
    masks = np.zeros((1, 80, 90), bool)
    masks[0, 20:60, 20:70] = True
    write_sa1b(tmp_path / "bad", "sa_1", np.zeros((80, 90, 3), np.uint8), masks)
    path = tmp_path / "bad" / "sa_1.json"
    record = json.loads(path.read_text())
    record["annotations"][0]["segmentation"]["counts"] = "~~~"
    path.write_text(json.dumps(record))
    return tmp_path / "bad"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: bad_folder(p, np.zeros((96, 96), np.uint16)), "no object to learn from"),
        (lambda p: bad_folder(p, np.ones((40, 96), np.uint16)), "a.png"),
        (bad_sa1b, "sa_1.json"),
    ],
    ids=["empty labels", "another size", "corrupt run lengths"],
)
def test_data_that_cannot_be_learned_from_are_one_line(make, message, tmp_path, capsys):
    options = [o for change in QUICK for o in ("--recipe", change)]
    out = tmp_path / "mine.safetensors"
    assert run("train", make(tmp_path), "-o", out, "--run-dir", tmp_path / "run", *options) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert message in told[0]
    assert "Traceback" not in told[0]
    assert not out.exists()


def test_a_run_is_judged_and_stops_early(scenes, tmp_path):
    options = [o for c in ["steps=6", *QUICK[1:]] for o in ("--recipe", c)]
    judged = ["--validate", scenes, "--validate-every", 1, "--patience", 1]
    out, run_dir = tmp_path / "mine.safetensors", tmp_path / "run"
    facts = ["--metadata", "licence=CC0-1.0"]
    files = [scenes, "-o", out, "--run-dir", run_dir]
    assert run("train", *files, *options, *judged, *facts) == 0
    lines = (run_dir / "figures.csv").read_text().splitlines()
    assert lines[0] == "step,figure,value"
    scores = [float(line.split(",")[2]) for line in lines[1:]]
    assert 2 <= len(scores) <= 6
    assert all(0 <= s <= 1 for s in scores)
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["licence"] == "CC0-1.0"


def test_metadata_needs_a_name(scenes, tmp_path, capsys):
    files = [scenes, "-o", tmp_path / "m.safetensors", "--run-dir", tmp_path / "run"]
    assert run("train", *files, "--metadata", "nothing") == 1
    assert "expected --metadata NAME=TEXT, got 'nothing'" in capsys.readouterr().err

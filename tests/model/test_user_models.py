"""Models of one's own: saved under a name, loaded by it, and never in the way of the others."""

import numpy as np
import pytest
import torch

import samplat
from samplat import CheckpointError, cli
from samplat.checkpoints import registry
from samplat.model.sam import build_conv
from samplat.user_models import model_file


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return build_conv(image_size=64).eval()


def install(sam, name="roofs", **options):
    return samplat.install_model(sam, name=name, architecture="conv", **options)


def test_an_installed_model_is_loaded_by_its_name(sam):
    path = install(sam, metadata={"licence": "CC0-1.0", "grid_defaults": '{"box_nms_thresh": 0.5}'})
    model = samplat.load_model("roofs", precision="fp32")
    assert (model.name, model.architecture) == ("roofs", "conv")
    assert model.grid_defaults == {"box_nms_thresh": 0.5}
    assert registry()["roofs"].licence == "CC0-1.0"
    assert path == model_file("roofs")
    for name, tensor in sam.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(model.sam.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)


def test_it_is_listed(sam, capsys):
    install(sam, metadata={"description": "roofs of one town"})
    with pytest.raises(SystemExit):
        cli.main(["models", "list"])
    assert "roofs" in capsys.readouterr().out


def test_jobs_know_it_by_its_digest(sam):
    from samplat.checkpoints import weights_digest

    install(sam)
    before = weights_digest("roofs")
    other = build_conv(image_size=64)
    install(other, replace=True)
    assert weights_digest("roofs") != before
    assert samplat.load_model("roofs", precision="fp32").weights_sha256 == weights_digest("roofs")


def test_a_name_is_not_taken_twice(sam):
    install(sam)
    with pytest.raises(CheckpointError, match="there is a model called roofs already"):
        install(sam)
    install(sam, replace=True)


@pytest.mark.parametrize("name", ["samplat-tiny", "vit_b"])
def test_names_of_samplat_are_refused(sam, name):
    with pytest.raises(CheckpointError, match="comes with; choose another name"):
        install(sam, name=name)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x.safetensors", "a b", "é"])
def test_names_that_no_file_can_have_are_refused(sam, name):
    with pytest.raises(CheckpointError, match="a model's name is made of"):
        install(sam, name=name)


def test_other_files_in_the_folder_are_not_models(sam, home):
    install(sam)
    folder = model_file("roofs").parent
    (folder / "notes.txt").write_text("mine")
    (folder / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    (folder / "huge.safetensors").write_bytes(b"\xff" * 16)
    (folder / ".half.safetensors").write_bytes(b"")
    assert {"broken", "huge", "half", "notes"}.isdisjoint(registry())
    assert "roofs" in registry()


def test_a_folder_that_cannot_be_made_is_told(sam, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot make"):
        install(sam)


def test_it_segments(sam):
    install(sam)
    model = samplat.load_model("roofs", precision="fp32")
    embedding = samplat.embed(model, np.zeros((40, 50, 3), np.uint8))
    answer = samplat.predict(model, embedding, samplat.Prompts(points=[[(5, 5)]]))
    assert answer.masks.shape == (1, 3, 40, 50)

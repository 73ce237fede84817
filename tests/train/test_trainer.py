"""The training loop on tiny pictures: exact resume, learning, and refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samplat import InputError, SamplatError
from samplat_train.recipe import Recipe
from samplat_train.samples import CropBatches, PictureFolder, read_picture
from samplat_train.trainer import (
    batch_loss,
    learning_rate,
    new_state,
    train,
    train_step,
)

QUICK = Recipe(steps=4, images=2, prompts=2, crop=64, image_size=64, late_rounds=2, bf16=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with a bright disc and a dark square each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :80]
    for name, (cy, cx) in {"a": (30, 30), "b": (60, 45)}.items():
        labels = ((y - cy) ** 2 + (x - cx) ** 2 < 18**2).astype(np.uint16)
        labels[5:20, 55:75] = 2
        tone = np.array([90, 220, 20])[labels]
        picture = np.clip(tone[..., None] + rng.normal(0, 6, (96, 80, 3)), 0, 255)
        for part, array in (("images", picture.astype(np.uint8)), ("labels", labels)):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / part / f"{name}.png")
    return tmp_path


def batches(folder: Path, recipe: Recipe = QUICK) -> CropBatches:
    return CropBatches([PictureFolder.open(folder)], recipe)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def test_a_stopped_run_resumes_to_equal_bits(folder, tmp_path):
    whole = train(QUICK, batches(folder), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(QUICK, batches(folder), tmp_path / "cut", on_step=stop, save_every=2)
    resumed = train(QUICK, batches(folder), tmp_path / "cut", save_every=2)
    assert torch.equal(weights(whole), weights(resumed))


def test_another_recipe_in_the_run_directory_is_refused(folder, tmp_path):
    train(QUICK, batches(folder), tmp_path / "run")
    other = Recipe(**{**vars(QUICK), "learning_rate": 1e-5})
    with pytest.raises(InputError, match=r"learning_rate=0\.001"):
        train(other, batches(folder, other), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(folder):
    state = new_state(QUICK)
    with torch.no_grad():
        state.model.mask_decoder.iou_token.weight.fill_(torch.nan)
    with pytest.raises(SamplatError, match=r"the loss became nan"):
        train_step(state, QUICK, batches(folder)[0])


def test_a_batch_depends_on_its_number_alone(folder):
    ahead = batches(folder)[2]
    data = batches(folder)
    _ = data[0], data[1]
    again = data[2]
    assert torch.equal(ahead.images, again.images)
    assert torch.equal(ahead.masks, again.masks)
    assert ahead.masks.any(dim=(-2, -1)).all()


@pytest.mark.timeout(300)
def test_one_picture_is_learned(folder):
    """Overfits to an IoU of 0.97 after the first prompt."""
    recipe = Recipe(
        steps=200,
        images=2,
        prompts=2,
        crop=64,
        image_size=64,
        late_from=1.0,
        bf16=False,
        learning_rate=2e-3,
        warmup=10,
        weight_decay=0.0,
    )
    state = new_state(recipe)
    batch = batches(folder, recipe)[0]
    best = 0.0
    for _ in range(recipe.steps):
        best = max(best, train_step(state, recipe, batch).iou)
        if best >= 0.97:
            break
    assert best >= 0.97


def test_every_parameter_that_rounds_use_gets_a_gradient(folder):
    state = new_state(QUICK)
    state.step = QUICK.steps  # late: a second round with mask feedback
    loss, _ = batch_loss(state, QUICK, batches(folder)[0], torch.Generator().manual_seed(0))
    loss.backward()
    unused = {n for n, p in state.model.named_parameters() if p.grad is None}
    assert not unused


def test_learning_rate_warms_up_and_falls():
    recipe = Recipe(steps=1000, warmup=100)
    rates = [learning_rate(recipe, s) for s in range(1000)]
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] < 0.02 * recipe.learning_rate


def test_folders_without_pairs_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="expected images/ and labels/"):
        PictureFolder.open(tmp_path / "nothing")
    (folder / "labels" / "b.png").unlink()
    with pytest.raises(InputError, match="no labels for 1 images, first b"):
        PictureFolder.open(folder)


def test_labels_of_another_size_are_refused(folder):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "labels" / "a.png")
    pair = PictureFolder.open(folder).pairs[0]
    read_picture.cache_clear()
    with pytest.raises(InputError, match=r"labels of \(5, 5\) for an image of \(96, 80\)"):
        read_picture(*pair)


@pytest.mark.parametrize("bad", [{"crop": 50}, {"crop": 1024}, {"steps": 0}, {"prompts": 0}])
def test_unusable_recipes_are_refused(bad):
    with pytest.raises(InputError):
        Recipe(**bad)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_masks_are_compared_at_the_loss_stride(folder, stride):
    recipe = replace(QUICK, loss_stride=stride, rounds=2)
    state = new_state(recipe)
    loss, figures = batch_loss(
        state, recipe, batches(folder, recipe)[0], torch.Generator().manual_seed(0)
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert 0 <= figures["iou"] <= 1
    decoder = state.model.mask_decoder.parameters()
    assert all(torch.isfinite(p.grad).all() for p in decoder if p.grad is not None)


def test_other_loss_strides_are_refused():
    with pytest.raises(InputError, match="loss_stride must be 1, 2 or 4, got 3"):
        replace(QUICK, loss_stride=3)

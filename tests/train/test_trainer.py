"""The training loop on tiny pictures: exact resume, learning, and refusals."""

from dataclasses import replace

import pytest
import torch

from samplat import InputError, SamplatError, save_model
from samplat_train import trainer
from samplat_train.data.folders import PictureFolder
from samplat_train.recipe import Recipe
from samplat_train.samples import CropBatches, Share
from samplat_train.trainer import (
    Validation,
    load_start,
    new_state,
    save,
    train,
    train_step,
)
from train.runs import QUICK, batches, weights

ONE = replace(QUICK, steps=1)
"""Of runs that only have to be there."""


def test_a_stopped_run_resumes_to_equal_bits(folder, tmp_path):
    recipe = replace(QUICK, steps=3, images=1)
    whole = train(recipe, batches(folder, recipe), tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, batches(folder, recipe), tmp_path / "cut", on_step=stop, save_every=2)
    resumed = train(recipe, batches(folder, recipe), tmp_path / "cut", save_every=2)
    assert torch.equal(weights(whole), weights(resumed))


def test_workers_change_nothing(folder, tmp_path):
    recipe = replace(QUICK, steps=2)
    one = train(recipe, batches(folder, recipe), tmp_path / "one")
    two = train(recipe, batches(folder, recipe), tmp_path / "two", workers=2)
    assert torch.equal(weights(one), weights(two))


def test_another_recipe_in_the_run_directory_is_refused(folder, tmp_path):
    train(ONE, batches(folder, ONE), tmp_path / "run")
    other = replace(ONE, learning_rate=1e-5)
    with pytest.raises(InputError, match=r"learning_rate=0\.001"):
        train(other, batches(folder, other), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(folder):
    state = new_state(QUICK)
    with torch.no_grad():
        state.model.mask_decoder.iou_token.weight.fill_(torch.nan)
    with pytest.raises(SamplatError, match=r"at step 0 the loss is nan"):
        train_step(state, QUICK, [batches(folder)[0]])


def test_a_batch_depends_on_its_number_alone(folder):
    ahead = batches(folder)[2]
    data = batches(folder)
    _ = data[0], data[1]
    again = data[2]
    assert torch.equal(ahead.images, again.images)
    assert torch.equal(ahead.masks, again.masks)
    assert ahead.masks.any(dim=(-2, -1)).all()


@pytest.mark.timeout(60)
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
        best = max(best, train_step(state, recipe, [batch]).iou)
        if best >= 0.97:
            break
    assert best >= 0.97


def test_accumulated_batches_make_one_step(folder):
    recipe = replace(QUICK, accumulate=2, steps=2)
    whole = train(recipe, batches(folder, recipe), folder / "run")
    assert len((folder / "run" / "log.csv").read_text().splitlines()) == 3
    single = replace(QUICK, steps=2)
    other = train(single, batches(folder, single), folder / "other")
    assert not torch.equal(weights(whole), weights(other))


def test_a_gradient_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(folder, monkeypatch):
    recipe = replace(QUICK, steps=3)
    run = folder / "run"

    def poison(report):
        if report.step == 2:
            # A finite loss whose gradient is not: the square root's at 0.
            parameter = next(p for p in state.model.parameters() if p.ndim > 1)
            parameter.register_hook(lambda g: g * torch.nan)

    state = None
    plain = trainer.new_state

    def remember(*arguments):
        nonlocal state
        state = plain(*arguments)
        return state

    monkeypatch.setattr(trainer, "new_state", remember)
    with pytest.raises(SamplatError, match=r"step 2 .* norm of its gradient nan; .*--start-from"):
        train(recipe, batches(folder, recipe), run, on_step=poison, save_every=1)
    kept = torch.load(run / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 2
    assert all(t.isfinite().all() for t in kept["model"].values())


# bf16 is emulated where the processor has no unit for it, and takes minutes
@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_accumulated_and_reduced_runs_resume_to_equal_bits(folder, tmp_path, bf16):
    recipe = replace(QUICK, accumulate=2, bf16=bf16, corrections=1, late_from=1.0)
    recipe = replace(recipe, images=1, prompts=1, steps=3)
    whole = train(recipe, batches(folder, recipe), tmp_path / "whole")

    def stop(report):
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, batches(folder, recipe), tmp_path / "cut", on_step=stop, save_every=2)
    saved = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 2
    again = train(recipe, batches(folder, recipe), tmp_path / "cut", save_every=2)
    assert torch.equal(weights(whole), weights(again))


def test_a_run_with_other_data_or_another_start_is_refused(folder, tmp_path):
    run = tmp_path / "run"
    train(ONE, batches(folder, ONE), run)
    source = PictureFolder.open(folder)
    twice = CropBatches([Share(source=source), Share(source=source, weight=2.0)], ONE)
    with pytest.raises(InputError, match="is of a run with other data; use the same, or another"):
        train(ONE, twice, run)
    start = new_state(ONE)
    with torch.no_grad():
        next(start.model.parameters()).add_(1)
    with pytest.raises(InputError, match="other starting weights"):
        train(ONE, batches(folder, ONE), run, model=start.model)
    judged = Validation(digest="x", score=lambda sam: 0.0, every=1, patience=9)
    with pytest.raises(InputError, match="other validation"):
        train(ONE, batches(folder, ONE), run, validation=judged)


def test_the_moving_average_is_the_mean_of_late_weights(folder):
    recipe = replace(QUICK, steps=2, ema=0.5)
    state = new_state(recipe)
    seen = [next(state.model.parameters()).detach().clone()]
    for step in range(2):
        train_step(state, recipe, [batches(folder, recipe)[step]])
        seen.append(next(state.model.parameters()).detach().clone())
    # Warm-up: the decay is (1 + step) / (10 + step) until it reaches 0.5.
    expected = seen[0]
    for step, new in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * new
    assert torch.allclose(next(state.average.parameters()), expected, atol=1e-6)


def test_the_papers_encoder_is_trained_too(folder, tmp_path):
    recipe = replace(
        QUICK, architecture="vit_t", image_size=128, crop=128, corrections=1, steps=2, late_from=1.0
    )
    trained = train(recipe, batches(folder, recipe), tmp_path / "run")
    assert torch.isfinite(weights(trained)).all()


def test_a_run_that_gets_no_better_stops_with_its_best_weights(folder, tmp_path):
    scores, kept = iter([0.5, 0.9, 0.8, 0.7, 0.6]), []

    def score(model):
        kept.append(weights(model))
        return next(scores)

    recipe = replace(QUICK, steps=10)
    validation = Validation(digest="", score=score, every=1, patience=2)
    best = train(recipe, batches(folder, recipe), tmp_path / "run", validation=validation)
    assert len(kept) == 4
    assert torch.equal(weights(best), kept[1])


def test_early_stopping_survives_a_resume(folder, tmp_path):
    recipe = replace(QUICK, steps=10)

    def run(limit, scores):
        given = iter(scores)
        validation = Validation(digest="", score=lambda model: next(given), every=1, patience=2)

        def stop(report):
            if report.step == limit:
                raise KeyboardInterrupt

        return train(
            recipe,
            batches(folder, recipe),
            tmp_path / "run",
            on_step=stop,
            save_every=1,
            validation=validation,
        )

    with pytest.raises(KeyboardInterrupt):
        run(4, [0.5, 0.9, 0.8])
    run(99, [0.7])
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 1 + 4


def test_a_full_disk_leaves_the_last_checkpoint(folder, tmp_path, monkeypatch):
    recipe = replace(QUICK, steps=2)
    train(recipe, batches(folder, recipe), tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def full(content, file):
        file.write(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    state = new_state(recipe)
    with pytest.raises(SamplatError, match="No space left on device; the last checkpoint is kept"):
        save(state, recipe, tmp_path / "run" / "checkpoint.pt")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.partial"))


def test_a_damaged_checkpoint_is_named(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="damaged or no checkpoint; move it away"):
        train(QUICK, batches(folder), tmp_path / "run")


def test_a_run_can_begin_with_a_model(folder, tmp_path):
    first = train(ONE, batches(folder, ONE), tmp_path / "first")
    save_model(first, tmp_path / "first.safetensors", name="first", architecture="conv")
    state = new_state(ONE)
    load_start(state, tmp_path / "first.safetensors")
    halves = {n: p.half().float() for n, p in first.named_parameters()}
    for model in (state.model, state.average):
        assert all(torch.equal(p, halves[n]) for n, p in model.named_parameters())


def test_a_run_can_begin_with_another_runs_checkpoint(folder, tmp_path):
    train(ONE, batches(folder, ONE), tmp_path / "first")
    saved = torch.load(tmp_path / "first" / "checkpoint.pt", weights_only=True)["model"]
    state = new_state(ONE)
    load_start(state, tmp_path / "first" / "checkpoint.pt")
    assert all(torch.equal(t, saved[n]) for n, t in state.average.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02}q\x00."])
def test_a_start_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "start.pt").write_bytes(content)
    with pytest.raises(InputError, match="start.pt is no checkpoint of this architecture"):
        load_start(new_state(QUICK), tmp_path / "start.pt")
    with pytest.raises(InputError, match="is no checkpoint"):
        load_start(new_state(QUICK), tmp_path / "nowhere.pt")


def test_a_start_of_another_architecture_is_refused(folder, tmp_path):
    vit = new_state(replace(QUICK, architecture="vit_t", image_size=128, crop=128)).model
    save_model(vit, tmp_path / "vit.safetensors", name="vit", architecture="vit_t")
    with pytest.raises(InputError, match="vit.safetensors is no checkpoint of this architecture"):
        load_start(new_state(replace(QUICK, image_size=128)), tmp_path / "vit.safetensors")

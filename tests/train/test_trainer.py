"""The training loop on tiny pictures: exact resume, learning, and refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from samplat import Draft, InputError, SamplatError, save_model
from samplat_train import losses, trainer
from samplat_train.data.folders import PictureFolder
from samplat_train.optimizer import layer_depths, learning_rate, make_optimizer
from samplat_train.recipe import PAPER, Recipe
from samplat_train.rounds import PromptRounds, plan_rounds
from samplat_train.samples import CropBatches, Share
from samplat_train.sheets import draw_sheet
from samplat_train.trainer import (
    Validation,
    _backward,
    encode,
    load_start,
    new_state,
    save,
    train,
    train_step,
)

QUICK = Recipe(steps=4, images=2, prompts=2, crop=64, image_size=64, bf16=False)


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
    return CropBatches([Share(source=PictureFolder.open(folder))], recipe)


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


def test_every_parameter_that_rounds_use_gets_a_gradient(folder):
    state = new_state(QUICK)
    state.step = QUICK.steps - 1  # late: a second round with mask feedback
    train_step(state, QUICK, [batches(folder)[0]])
    unused = {n for n, p in state.model.named_parameters() if p.grad is None}
    assert not unused


def _gradients(recipe, batch, whole):
    """Gradients of one step: round by round, or of the sum of all rounds in one graph."""
    torch.manual_seed(0)
    state = new_state(recipe)
    if not whole:
        _backward(state, recipe, batch, 0, 1)
    else:
        state.model.train()
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003)
        rounds = PromptRounds(state.model, recipe, batch.masks.flatten(0, 1), generator, late=False)
        features = encode(state.model, batch.images)
        rounds.place(features, len(batch.images))
        maps = F.interpolate(
            state.dense_head(features[0]), size=batch.labels.shape[-2:], mode="bilinear"
        )
        dense = recipe.dense_weight * losses.dense_loss(maps, batch.labels)
        (dense + sum(rounds)).backward()
    return {n: p.grad for n, p in state.model.named_parameters()}


def test_gradients_round_by_round_are_those_of_the_sum(folder):
    recipe = replace(QUICK, corrections=2, refinements=2, late_from=1.0)
    batch = batches(folder, recipe)[0]
    parts, whole = (_gradients(recipe, batch, w) for w in (False, True))
    scale = max(float(g.abs().max()) for g in whole.values())
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, rtol=1e-3, atol=1e-5 * scale), name


def test_accumulated_batches_make_one_step(folder):
    recipe = replace(QUICK, accumulate=2, steps=3)
    whole = train(recipe, batches(folder, recipe), folder / "run")
    assert len((folder / "run" / "log.csv").read_text().splitlines()) == 4
    single = replace(QUICK, steps=3)
    other = train(single, batches(folder, single), folder / "other")
    assert not torch.equal(weights(whole), weights(other))


@given(st.integers(0, 9), st.integers(0, 4), st.integers(0, 2**31))
def test_rounds_are_the_papers(corrections, refinements, seed):
    rounds = plan_rounds(corrections, refinements, torch.Generator().manual_seed(seed))
    assert rounds.count(True) == corrections
    assert rounds.count(False) == refinements
    assert not refinements or rounds[-1] is False


def test_the_papers_recipe_has_eleven_rounds():
    paper = Recipe(**PAPER)
    assert 1 + paper.corrections + paper.refinements == 11
    assert paper.images * paper.accumulate == 256


class Stub(torch.nn.Module):
    """A network that answers with the mask it is asked to, and remembers its mask prompts."""

    mask_refiner = None

    def __init__(self, model, answer):
        super().__init__()
        self.answer, self.fed_back = answer, []
        self.inner, self.prompt_encoder = model.prompt_encoder, self.encode
        for name in ("guided", "embedding_size", "dense_pe"):
            setattr(self.encode.__func__, name, getattr(model.prompt_encoder, name))

    def encode(self, image, points, labels, boxes, masks, origin=None):
        self.fed_back.append(masks)
        return self.inner(image, points, labels, boxes, None, origin)

    def mask_decoder(self, features, pe, sparse, dense):
        # The masks of a prompt differ, so that it shows which of them is fed back.
        masks = self.answer[:, None] * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
        iou = torch.tensor([[0.0, 0.1, 0.9, 0.2]]).expand(len(masks), 4)
        return Draft(masks, iou, torch.zeros(len(masks), 4, 128))


def test_points_correct_the_mask_that_was_fed_back(folder):
    """Each new point lies in the error of the previous mask, and is labelled by the truth."""
    recipe = replace(QUICK, corrections=3, late_from=1.0, loss_stride=1)
    batch = batches(folder, recipe)[0]
    masks = batch.masks.flatten(0, 1)
    answer = torch.full((len(masks), 16, 16), -1.0)
    answer[:, :6] = 1.0
    stub = Stub(new_state(recipe).model, answer)
    rounds = PromptRounds(stub, recipe, masks, torch.Generator().manual_seed(1), late=False)
    rounds.place((torch.zeros(2, 128, 8, 8), torch.zeros(2, 32, 16, 16)), 2)
    list(rounds)
    # After the first prompt the mask of the highest predicted IoU, later the single one.
    assert stub.fed_back[0] is None
    for mask, factor in zip(stub.fed_back[1:], (3.0, 1.0, 1.0), strict=True):
        assert torch.equal(mask[:, 0], factor * answer)
    assert rounds.points.shape == (len(masks), 4, 2)
    guess = F.interpolate(answer[:, None], size=(64, 64), mode="bilinear")[:, 0] > 0
    for k in range(len(masks)):
        for (x, y), label in zip(
            rounds.points[k, 1:].long().tolist(), rounds.labels[k, 1:].tolist(), strict=True
        ):
            assert guess[k, y, x] != masks[k, y, x]
            assert bool(label) == bool(masks[k, y, x])


@pytest.mark.parametrize("single_first", [True, False])
def test_the_loss_is_the_least_of_three_first_and_the_single_ones_later(folder, single_first):
    """The paper's rule by hand: minimum over the three masks, IoU by squared error of all four."""
    recipe = replace(QUICK, single_first=single_first, loss_stride=4)
    masks = torch.zeros(4, 64, 64, dtype=torch.bool)
    masks[:, 10:40, 20:50] = True
    rounds = PromptRounds(new_state(recipe).model, recipe, masks, torch.Generator(), late=True)
    logits = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    iou = torch.tensor([[0.3, 0.1, 0.9, 0.2]]).expand(4, 4)
    target = rounds.target[:, None].float()
    each = losses.mask_loss(logits, target, focal=20.0, dice=1.0, balanced=0.0)
    error = (iou - losses.mask_iou(logits, target)).square().mean(dim=1)
    draft = Draft(logits, iou, torch.zeros(4, 4, 128))
    first, best = rounds._draft_loss(draft, first=True)
    least = each[:, 1:].min(dim=1).values + error + (each[:, 0] if single_first else 0)
    assert float(first) == pytest.approx(float(least.mean()), rel=1e-5)
    assert torch.equal(best, each[:, 1:].argmin(dim=1) + 1)
    later, best = rounds._draft_loss(draft, first=False)
    assert float(later) == pytest.approx(float((each[:, 0] + error).mean()), rel=1e-5)
    assert not best.any()


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


@pytest.mark.parametrize("bf16", [True, False])
def test_accumulated_and_reduced_runs_resume_to_equal_bits(folder, tmp_path, bf16):
    recipe = replace(QUICK, accumulate=2, bf16=bf16, corrections=1, late_from=1.0)
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
    train(QUICK, batches(folder), run)
    source = PictureFolder.open(folder)
    twice = CropBatches([Share(source=source), Share(source=source, weight=2.0)], QUICK)
    with pytest.raises(InputError, match="is of a run with other data; use the same, or another"):
        train(QUICK, twice, run)
    start = new_state(QUICK)
    with torch.no_grad():
        next(start.model.parameters()).add_(1)
    with pytest.raises(InputError, match="other starting weights"):
        train(QUICK, batches(folder), run, model=start.model)
    judged = Validation(digest="x", score=lambda sam: 0.0, every=1, patience=9)
    with pytest.raises(InputError, match="other validation"):
        train(QUICK, batches(folder), run, validation=judged)


def test_patterns_choose_what_learns(folder):
    recipe = replace(QUICK, learn="mask_refiner.*, prompt_encoder.*", steps=1)
    state = new_state(recipe)
    before = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    train_step(state, recipe, [batches(folder, recipe)[0]])
    moved = {n for n, p in state.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert {n.partition(".")[0] for n in moved} <= {"mask_refiner", "prompt_encoder"}
    with pytest.raises(InputError, match=r"learn='nothing\.\*' matches no parameter; they begin"):
        new_state(replace(QUICK, learn="nothing.*"))


def test_stochastic_depth_leaves_branches_out_in_training_alone():
    from samplat.model.image_encoder import Block

    block = Block(16, 2, 0, 4)
    block.drop_path = 0.5
    x = torch.randn(400, 4, 4, 16)
    torch.manual_seed(0)
    with torch.no_grad():
        whole = block.eval()(x)
        dropped = block.train()(x)
    same = (dropped == x).flatten(1).all(dim=1).float().mean()
    assert 0.15 < float(same) < 0.35  # both branches left out: a quarter
    assert not torch.equal(whole, dropped)
    block.drop_path = 0.0
    with torch.no_grad():
        assert torch.equal(block(x), whole)


def test_depth_drops_more_towards_the_end():
    recipe = Recipe(**PAPER | {"architecture": "vit_b", "image_size": 64, "crop": 64})
    blocks = new_state(recipe).model.image_encoder.blocks
    rates = [block.drop_path for block in blocks]
    assert rates == pytest.approx(np.linspace(0, 0.4, 12))


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


def test_crops_of_an_encoder_that_sees_whole_inputs_are_refused():
    with pytest.raises(InputError, match="vit_t sees whole inputs only: set crop to image_size"):
        replace(QUICK, architecture="vit_t", image_size=128, crop=64)


def test_layers_near_the_pixels_learn_slower():
    names = ["image_encoder.patch_embed.w", "image_encoder.pos_embed", "image_encoder.blocks.0.w"]
    names += ["image_encoder.blocks.1.w", "image_encoder.neck.0.w", "mask_decoder.w"]
    assert list(layer_depths(names).values()) == [0, 0, 1, 2, 3, 3]


def test_rates_fall_by_layer_and_norms_do_not_decay():
    recipe = replace(QUICK, layer_decay=0.5)
    state = new_state(recipe)
    optimizer = make_optimizer(recipe, [(state.model, "")])
    held = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    stem = held[id(state.model.image_encoder.stem[0][0].weight)]
    later = held[id(state.model.image_encoder.stage8[0].conv1[0].weight)]
    decoder = held[id(state.model.mask_decoder.iou_token.weight)]
    assert stem["scale"] < later["scale"] < decoder["scale"] == 1.0
    assert held[id(state.model.image_encoder.stem[0][1].weight)]["weight_decay"] == 0.0
    assert len(held) == len(list(state.model.parameters()))


def test_the_papers_schedule_drops_twice():
    recipe = Recipe(steps=2700, warmup=10, schedule="steps", learning_rate=1.0)
    rates = [learning_rate(recipe, s) for s in (10, 1799, 1800, 2599, 2600)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


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


def test_sheets_show_prompts_truth_and_guess(folder, tmp_path):
    batch = batches(folder)[0]
    draw_sheet(new_state(QUICK).model.eval(), QUICK, batch, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 64, 2 * 64)


def test_learning_rate_warms_up_and_falls():
    recipe = Recipe(steps=1000, warmup=100)
    rates = [learning_rate(recipe, s) for s in range(1000)]
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] < 0.02 * recipe.learning_rate


@pytest.mark.parametrize("bad", [{"crop": 50}, {"crop": 1024}, {"steps": 0}, {"prompts": 0}])
def test_unusable_recipes_are_refused(bad):
    with pytest.raises(InputError):
        Recipe(**bad)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_masks_are_compared_at_the_loss_stride(folder, stride):
    recipe = replace(QUICK, loss_stride=stride, corrections=1, late_from=1.0)
    report = train_step(new_state(recipe), recipe, [batches(folder, recipe)[0]])
    assert np.isfinite(report.loss)
    assert 0 <= report.iou <= 1


def test_other_loss_strides_are_refused():
    with pytest.raises(InputError, match="loss_stride must be 1, 2 or 4, got 3"):
        replace(QUICK, loss_stride=3)


def test_a_run_can_begin_with_a_model(folder, tmp_path):
    first = train(QUICK, batches(folder), tmp_path / "first")
    save_model(first, tmp_path / "first.safetensors", name="first", architecture="conv")
    state = new_state(QUICK)
    load_start(state, tmp_path / "first.safetensors")
    halves = {n: p.half().float() for n, p in first.named_parameters()}
    for model in (state.model, state.average):
        assert all(torch.equal(p, halves[n]) for n, p in model.named_parameters())


def test_a_run_can_begin_with_another_runs_checkpoint(folder, tmp_path):
    train(QUICK, batches(folder), tmp_path / "first")
    saved = torch.load(tmp_path / "first" / "checkpoint.pt", weights_only=True)["model"]
    state = new_state(QUICK)
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

"""What a recipe decides: which parameters learn, how fast, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from samplat import InputError
from samplat_train.optimizer import layer_depths, learning_rate, make_optimizer
from samplat_train.recipe import PAPER, Recipe
from samplat_train.trainer import (
    new_state,
    train_step,
)
from train.runs import QUICK, batches


def test_the_papers_recipe_has_eleven_rounds():
    paper = Recipe(**PAPER)
    assert 1 + paper.corrections + paper.refinements == 11
    assert paper.images * paper.accumulate == 256


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


def test_other_loss_strides_are_refused():
    with pytest.raises(InputError, match="loss_stride must be 1, 2 or 4, got 3"):
        replace(QUICK, loss_stride=3)

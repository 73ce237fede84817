"""Networks as they are run against the same as they are trained."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import samplat
from model.small import small_model
from samplat.model.fused import can_be_fused, fused
from samplat.model.sam import build_vit_t

RNG = np.random.default_rng(0)


def with_statistics(sam):
    """Running statistics that are not those of an untrained network."""
    generator = torch.Generator().manual_seed(3)
    for module in sam.modules():
        if isinstance(module, nn.BatchNorm2d):
            for buffer in (module.running_mean, module.running_var):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return sam


@pytest.fixture(scope="module")
def conv():
    model = small_model("conv")
    return replace(model, sam=with_statistics(model.sam))


@pytest.mark.parametrize("kind", ["conv", "vit_t"])
def test_features_are_the_same(kind, conv):
    torch.manual_seed(0)
    sam = conv.sam if kind == "conv" else with_statistics(build_vit_t(64)).eval()
    pixels = torch.from_numpy(RNG.uniform(0, 255, (1, 3, 64, 64)).astype(np.float32))
    run = fused(sam, torch.float32)
    assert can_be_fused(sam)
    assert not can_be_fused(run)
    with torch.inference_mode():
        for ours, theirs in zip(run.encode(pixels), sam.encode(pixels), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_masks_are_the_same(conv):
    """The second look is folded too."""
    image = RNG.integers(0, 255, (128, 128, 3), dtype=np.uint8)
    embedding = samplat.embed(conv, image)
    ours = samplat.predict(conv, embedding, samplat.Prompts(boxes=[(10, 20, 70, 80)]))
    points = {"boxes": torch.tensor([[10.0, 20, 70, 80]])}
    with torch.inference_mode():
        logits, iou = conv.sam.decode(embedding.features, **points, outputs=slice(1, None))
    np.testing.assert_allclose(ours.predicted_iou, iou, rtol=1e-3, atol=1e-4)
    differing = (ours.logits > 0) != (logits.numpy() > 0)
    assert differing.mean() < 1e-3


def test_the_network_given_stays_as_it_was():
    model = small_model("conv")
    before = copy.deepcopy(model.sam.state_dict())
    assert model.network is not model.sam
    assert all(torch.equal(before[n], t) for n, t in model.sam.state_dict().items())
    assert small_model("vit").network is not None


def test_a_model_of_other_weights_runs_those():
    """`replace` must not leave the former network behind."""
    first, second = small_model("conv", seed=0), small_model("conv", seed=1)
    image = RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    changed = samplat.embed(replace(first, sam=second.sam), image)
    expected = samplat.embed(second, image)
    assert torch.equal(changed.features[0], expected.features[0])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_are_kept_in_the_precision_they_are_used_in(precision):
    model = replace(small_model("conv"), precision=precision)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert model.network.image_encoder.lateral8.weight.dtype == dtype
    assert model.network.mask_decoder.fine_mix.weight.dtype == torch.float32
    assert model.sam.image_encoder.lateral8.weight.dtype == torch.float32


def test_a_network_without_normalised_batches_is_run_as_it_is():
    model = small_model("vit")
    assert model.network is model.sam

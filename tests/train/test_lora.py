"""Low-rank adapters: nothing changes at first, only they learn, and merging keeps the output."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from samplat import BUILDERS, InputError
from samplat.model.sam import build_vit
from samplat_train.lora import ENCODER, adapt, choose_layers, count_parameters, merge

SIZE = 64


def network(kind: str) -> nn.Module:
    """A Segment Anything whose statistics and weights are not the trivial ones."""
    torch.manual_seed(0)
    if kind == "vit":
        sam = build_vit(dim=32, depth=2, heads=2, global_blocks=(1,), image_size=SIZE)
    else:
        sam = BUILDERS[kind](image_size=SIZE)
    for module in sam.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return sam.eval()


PIXELS = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 255


@torch.no_grad()
def output(sam: nn.Module) -> torch.Tensor:
    features = sam.encode(PIXELS)
    logits, iou = sam.decode(features, boxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
    return torch.cat([logits.flatten(), iou.flatten()])


def train_a_little(sam: nn.Module, parameters: list[nn.Parameter], steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        logits, iou = sam.decode(
            sam.encode(PIXELS), points=torch.tensor([[[20.0, 20.0]]]), labels=torch.ones(1, 1)
        )
        (logits.square().mean() + iou.square().mean()).backward()
        optimizer.step()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def tensors(sam: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in sam.state_dict().items()}


@pytest.mark.parametrize("kind", ["vit", "conv", "vit_t"])
@pytest.mark.parametrize("targets", [ENCODER, ("image_encoder.*", "mask_decoder.*")])
def test_at_first_nothing_changes(kind, targets):
    sam = network(kind)
    before = output(sam)
    adapt(sam, rank=3, alpha=6, targets=targets)
    assert torch.equal(output(sam), before)
    # Not even in training mode: a frozen encoder keeps its statistics.
    assert torch.equal(output(sam.train()), before)


@pytest.mark.parametrize("kind", ["vit", "conv", "vit_t"])
def test_only_adapters_learn_and_merging_keeps_the_output(kind):
    sam = network(kind)
    original, names = tensors(sam), set(sam.state_dict())
    before = output(sam)
    learning = adapt(sam, rank=2, alpha=4, targets=ENCODER)
    adapters = [p.detach().clone() for p in learning]
    train_a_little(sam.train(), learning)
    assert not any(torch.equal(p, old) for p, old in zip(learning, adapters, strict=True))
    frozen = {
        n.replace("parametrizations.weight.original", "weight"): t for n, t in tensors(sam).items()
    }
    assert all(torch.equal(frozen[n], t) for n, t in original.items())
    sam.eval()
    adapted = output(sam)
    assert distance(adapted, before) > 1e-3
    merge(sam)
    assert set(sam.state_dict()) == names
    assert distance(output(sam), adapted) < 1e-5
    assert {type(m) for m in sam.modules()} == {type(m) for m in network(kind).modules()}


@pytest.mark.parametrize("kind", ["vit", "conv", "vit_t"])
def test_merged_weights_fit_into_a_new_network(kind):
    sam = network(kind)
    train_a_little(sam, adapt(sam, rank=2, alpha=4, targets=ENCODER), steps=1)
    merge(sam)
    fresh = BUILDERS[kind](image_size=SIZE) if kind != "vit" else network(kind)
    fresh.load_state_dict(sam.state_dict(), strict=True)
    assert torch.equal(output(fresh.eval()), output(sam))


@pytest.mark.parametrize(
    ("kind", "interleaved"), [("vit", False), ("conv", False), ("vit_t", True)]
)
def test_fused_layers_adapt_queries_and_values_alone(kind, interleaved):
    sam = network(kind)
    before = tensors(sam)
    learning = adapt(sam, rank=2, alpha=2, targets=["image_encoder.*.qkv"])
    with torch.no_grad():
        for parameter in learning:
            parameter.normal_()
    merge(sam)
    changed = {n for n, t in sam.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {
        n for n in before if n.startswith("image_encoder") and n.endswith("qkv.weight")
    }
    for name in changed:
        heads = sam.get_submodule(name.rpartition(".qkv")[0]).heads
        delta = sam.state_dict()[name] - before[name]
        parts = delta.view(heads if interleaved else 1, 3, -1, delta.shape[1])
        assert (parts[:, 1] == 0).all()
        for part in (parts[:, 0], parts[:, 2]):
            assert torch.linalg.matrix_rank(part.flatten(0, 1), rtol=1e-4) == 2


@settings(max_examples=30)
@given(
    rank=st.integers(1, 12),
    alpha=st.floats(0.5, 32),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_a_convolution_is_adapted_by_one_down_and_one_up(rank, alpha, kernel, stride, channels):
    """The oracle is LoRA as it is written for convolutions: two of them, beside the frozen one."""
    inputs, outputs = channels
    plain = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2).double()
    adapted = nn.Sequential(copy.deepcopy(plain))
    down, up = adapt(adapted, rank=rank, alpha=alpha, targets=["0"])
    assert len(down) == min(rank, inputs * kernel**2, outputs)
    with torch.no_grad():
        up.normal_()
    x = torch.randn(2, inputs, 7, 6, dtype=torch.float64)
    squeezed = nn.functional.conv2d(
        x, down.view(-1, inputs, kernel, kernel), stride=stride, padding=kernel // 2
    )
    expected = plain(x) + alpha / rank * nn.functional.conv2d(squeezed, up[..., None, None])
    assert torch.allclose(adapted(x), expected)


@torch.no_grad()
def test_merging_under_autocast_keeps_the_output():
    sam = network("vit")
    with torch.autocast("cpu", torch.bfloat16):
        before = output(sam)
        learning = adapt(sam, rank=2, alpha=4, targets=ENCODER)
        assert torch.equal(output(sam), before)
        for parameter in learning:
            parameter.normal_(std=0.1)
        adapted = output(sam)
        merge(sam)
        assert torch.equal(output(sam), adapted)
    assert distance(adapted.float(), before.float()) > 1e-3


def test_statistics_move_again_after_merging():
    sam = network("conv")
    adapt(sam, rank=1, alpha=1, targets=ENCODER)
    kept = {n: b.clone() for n, b in sam.named_buffers()}
    sam.train().encode(PIXELS.expand(2, -1, -1, -1))
    assert all(torch.equal(b, kept[n]) for n, b in sam.named_buffers())
    merge(sam)
    sam.train().encode(PIXELS.expand(2, -1, -1, -1))
    assert not torch.equal(
        sam.image_encoder.stem[0][1].running_mean, kept["image_encoder.stem.0.1.running_mean"]
    )


def test_an_adapted_network_can_be_copied_and_averaged():
    sam = network("conv")
    train_a_little(sam, adapt(sam, rank=1, alpha=1, targets=ENCODER), steps=1)
    twin = copy.deepcopy(sam)
    assert torch.equal(output(twin), output(sam))
    twin.load_state_dict(sam.state_dict(), strict=True)
    merge(twin)
    assert not any("parametrizations" in n for n in twin.state_dict())
    assert any("parametrizations" in n for n in sam.state_dict())


def test_parameters_are_counted():
    sam = network("vit")
    plain = sum(p.numel() for p in sam.parameters())
    learning = adapt(sam, rank=4, alpha=8, targets=["image_encoder.blocks.*.qkv"])
    count = count_parameters(sam)
    # per block: queries and values, 32 x 4 down and 4 x 32 up each
    assert count.trainable == sum(p.numel() for p in learning) == 2 * 2 * (32 * 4 + 4 * 32)
    assert count.total == plain + count.trainable


def test_layers_are_chosen_by_pattern():
    names = choose_layers(network("conv"), ENCODER)
    assert "image_encoder.stem.0.0" in names
    assert "image_encoder.lateral8" in names
    assert "image_encoder.stage32.0.mlp.lin1" in names
    assert "image_encoder.stage32.0.position" not in names  # grouped
    assert not [n for n in names if not n.startswith("image_encoder.")]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["image_encoder.blocks.0.attn.qvk"], r"nearest are image_encoder\.blocks\.0\.attn\.qkv"),
        (["image_encoder.patch_embed.proj"], "a Conv2d without adapters"),
        (["image_encoder.*", "nowhere.*"], r"'nowhere\.\*' matches no module"),
        ([], "expected a list of patterns"),
        ("image_encoder.*", "expected a list of patterns"),
    ],
)
def test_targets_that_choose_nothing_are_refused(targets, message):
    sam = network("vit")
    before = tensors(sam)
    with pytest.raises(InputError, match=message):
        adapt(sam, rank=1, alpha=1, targets=targets)
    assert tensors(sam).keys() == before.keys()
    assert all(p.requires_grad for p in sam.parameters())


@pytest.mark.parametrize("bad", [{"rank": 0}, {"alpha": 0}, {"alpha": float("nan")}])
def test_unusable_numbers_are_refused(bad):
    with pytest.raises(InputError, match="expected a rank >= 1 and an alpha > 0"):
        adapt(network("vit"), **{"rank": 1, "alpha": 1.0, "targets": ENCODER, **bad})


def test_adapting_twice_and_merging_nothing_are_refused():
    sam = network("vit")
    with pytest.raises(InputError, match="no adapters"):
        merge(sam)
    adapt(sam, rank=1, alpha=1, targets=ENCODER)
    with pytest.raises(InputError, match="has adapters already"):
        adapt(sam, rank=1, alpha=1, targets=ENCODER)

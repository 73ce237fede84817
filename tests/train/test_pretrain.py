"""Masked pretraining: what the loss sees, exact resume, transplantation, learning, and faults."""

import csv
import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import samplat
from samplat import CheckpointError, InputError, SamplatError, cli
from samplat.model.image_encoder import ImageEncoderViT
from samplat.model.sam import Sam, build_vit
from samplat_train import transplant
from samplat_train.changes import changed
from samplat_train.masked_autoencoder import (
    MaskedAutoencoder,
    hollow_sam,
    kept_tokens,
    patch_statistics,
    patchify,
    pick,
    put_back,
    random_order,
    reconstruction_loss,
    sine_positions,
    unpatchify,
)
from samplat_train.pretrain import (
    PretrainRecipe,
    crop_loader,
    draw_order,
    learning_rate,
    new_state,
    pretrain,
    pretrain_step,
    reconstruct,
)
from samplat_train.transplant import initialise_encoder, is_encoder_file, write_encoder
from samplat_train.unlabelled import CropLoader, Pictures, random_crop, read_rgb

SIZE = 64
QUICK = PretrainRecipe(
    architecture="vit_small",
    image_size=SIZE,
    steps=4,
    images=3,
    decoder_dim=32,
    decoder_depth=1,
    decoder_heads=2,
    bf16=False,
)


def small_vit(image_size: int = 1024) -> Sam:
    return build_vit(dim=64, depth=3, heads=4, global_blocks=(1,), image_size=image_size)


@pytest.fixture(autouse=True)
def architecture(monkeypatch):
    """One more architecture, small enough for tests."""
    monkeypatch.setitem(samplat.BUILDERS, "vit_small", small_vit)


def ramp(seed: int, size: int = 80) -> np.ndarray:
    """Brightness that rises in a random direction: one patch tells the others, its mean nothing."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    rising = 2.2 * (x * np.cos(angle) + y * np.sin(angle)) + rng.normal(0, 0.02, (size, size))
    # Grey as the network sees it, or the channels' offsets would tell something about a patch.
    pixels = np.array([123.675, 116.28, 103.53]) + 57.6 * rising[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, one of them in a folder of its own."""
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.jpg", "c.TIF", "d.jpeg", "deep/e.tiff"]):
        Image.fromarray(ramp(seed)).save(root / name)
    (root / "notes.txt").write_text("no picture")
    return root


def autoencoder(**changes) -> MaskedAutoencoder:
    return new_state(replace(QUICK, **changes)).network


def noise(images: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(images, 3, SIZE, SIZE, generator=generator) * 255


def orders(network: MaskedAutoencoder, images: int = 2) -> torch.Tensor:
    return random_order(images, network.tokens, torch.Generator().manual_seed(5))


def state_of(run: MaskedAutoencoder) -> torch.Tensor:
    return torch.cat([t.flatten().double() for t in run.state_dict().values()])


@given(st.integers(1, 4), st.integers(2, 40), st.integers(1, 5), st.integers(0, 2**32))
def test_putting_back_undoes_picking(images, tokens, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(images, tokens, channels, generator=generator)
    order = random_order(images, tokens, generator)
    assert torch.equal(order.sort(dim=1).values, torch.arange(tokens).expand(images, -1))
    assert torch.equal(put_back(pick(x, order), order), x)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_patches_are_put_together_again(images, side, patch):
    x = torch.rand(images, 3, side * patch, side * patch)
    patches = patchify(x, patch)
    assert patches.shape == (images, side**2, patch**2 * 3)
    assert torch.equal(unpatchify(patches, patch), x)
    corner = x[0, :, :patch, :patch].permute(1, 2, 0).flatten()
    assert torch.equal(patches[0, 0], corner)


@given(st.integers(2, 300), st.floats(0.01, 0.99))
def test_some_patches_are_seen_and_some_are_not(tokens, share):
    kept = kept_tokens(tokens, share)
    assert 1 <= kept < tokens
    assert abs(kept - tokens * (1 - share)) <= 1


def test_three_quarters_are_masked():
    network = autoencoder()
    order = orders(network)
    masked = network.masked(order)
    assert masked.shape == (2, 16)
    assert masked.sum(dim=1).tolist() == [12, 12]
    assert not masked.gather(1, order[:, :4]).any()


def test_the_loss_is_of_masked_patches_alone():
    network = autoencoder()
    masked = network.masked(orders(network))
    target = patchify(network.normalise(noise()), 16).requires_grad_()
    prediction = torch.randn(target.shape, requires_grad=True)
    reconstruction_loss(prediction, target, masked).backward()
    for gradient in (target.grad, prediction.grad):
        assert (gradient[~masked] == 0).all()
        assert (gradient[masked].abs().amax(dim=-1) > 0).all()


def test_the_loss_equals_a_loop():
    masked = torch.tensor([[True, False, True], [False, False, True]])
    target, prediction = torch.randn(2, 2, 3, 12).unbind(0)
    errors = []
    for b, n in masked.nonzero().tolist():
        values = target[b, n].numpy()
        normal = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-6)
        errors.append(np.mean((prediction[b, n].numpy() - normal) ** 2))
    assert float(reconstruction_loss(prediction, target, masked)) == pytest.approx(np.mean(errors))


def test_predicting_the_mean_costs_one():
    patches = patchify(noise(4), 16)
    loss = reconstruction_loss(torch.zeros_like(patches), patches, torch.ones(4, 16).bool())
    assert float(loss) == pytest.approx(1, abs=0.01)


def test_a_flat_picture_has_a_finite_loss():
    network = autoencoder()
    assert torch.isfinite(
        network.loss(network.normalise(torch.full((2, 3, 64, 64), 7.0)), orders(network))
    )


def test_predictions_do_not_see_masked_pixels():
    network = autoencoder()
    order = orders(network)
    x = network.normalise(noise()).requires_grad_()
    network(x, order).square().sum().backward()
    seen = patchify(x.grad, 16).abs().amax(dim=-1) > 0
    assert torch.equal(seen, ~network.masked(order))


def test_each_prediction_stands_at_its_own_place():
    """The order in which visible patches come does not matter, nor that of masked ones."""
    network = autoencoder()
    x, order = network.normalise(noise()), orders(network)
    other = torch.cat([order[:, :4].flip(1), order[:, 4:].roll(3, dims=1)], dim=1)
    assert torch.allclose(network(x, order), network(x, other), atol=1e-5)


def test_every_parameter_gets_a_gradient():
    network = autoencoder()
    network.loss(network.normalise(noise()), orders(network)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_positions_are_sines_and_cosines():
    positions = sine_positions(5, 8)[0]
    frequencies = np.array([1, 1 / 100])
    for row, column in ((0, 0), (3, 1), (4, 4)):
        parts = [f(p * frequencies) for p in (column, row) for f in (np.sin, np.cos)]
        assert np.allclose(positions[row, column], np.concatenate(parts), atol=1e-6)


def encoder_file(tmp_path: Path, network: MaskedAutoencoder) -> Path:
    path = tmp_path / "encoder.safetensors"
    write_encoder(network.encoder, path, architecture="vit_small", facts={"steps": "4"})
    return path


def before_neck(encoder: ImageEncoderViT, x: torch.Tensor) -> torch.Tensor:
    found = []
    handle = encoder.blocks[-1].register_forward_hook(lambda *args: found.append(args[-1]))
    encoder(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("size", [64, 96])
@torch.no_grad()
def test_the_transplanted_encoder_computes_what_was_pretrained(tmp_path, size):
    """Windows as large as the grid and relative positions at zero: nothing may differ."""
    network = autoencoder(image_size=size)
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    sam = build_vit(dim=64, depth=3, heads=4, global_blocks=(1,), image_size=size)
    sam.image_encoder = ImageEncoderViT(
        image_size=size, dim=64, depth=3, heads=4, global_blocks=(1,), window_size=size // 16
    )
    initialise_encoder(sam, encoder_file(tmp_path, network))
    x = torch.randn(2, 3, size, size)
    plain = network.encoder(x)
    ours = before_neck(sam.image_encoder, x).flatten(1, 2)
    assert float((ours - plain).norm() / plain.norm()) < 1e-5


def test_positions_are_interpolated_and_the_rest_is_new(tmp_path):
    network = autoencoder()
    ramp = torch.arange(4.0)
    network.encoder.pos_embed = (10 * ramp[:, None] + ramp)[None, ..., None].expand(1, 4, 4, 64)
    sam = small_vit(256)
    encoder = sam.image_encoder
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    initialise_encoder(sam, encoder_file(tmp_path, network))
    assert encoder.pos_embed.shape == (1, 16, 16, 64)
    # Token i of 16 lies at (i + 0.5) / 4 - 0.5 of 4; a ramp is nearly kept but for its ends.
    place = (torch.arange(6, 10) + 0.5) / 4 - 0.5
    expected = (10 * place[:, None] + place)[..., None].expand(-1, -1, 64)
    assert torch.allclose(encoder.pos_embed[0, 6:10, 6:10], expected, rtol=0, atol=0.6)
    kept = {n for n, t in encoder.state_dict().items() if torch.equal(t, before[n])}
    new = {n for n in before if n.startswith("neck.") or "rel_pos" in n}
    assert new <= kept
    assert all((before[n] == 0).all() for n in new if "rel_pos" in n)
    assert not {n for n in kept - new if n.endswith(("qkv.weight", "proj.weight", "lin1.weight"))}


def test_every_paper_architecture_can_be_pretrained():
    for name, (dim, depth, heads) in {
        "vit_b": (768, 12, 12),
        "vit_l": (1024, 24, 16),
        "vit_h": (1280, 32, 16),
    }.items():
        with torch.device("meta"):
            network = MaskedAutoencoder(hollow_sam(name), image_size=224)
            own = samplat.BUILDERS[name]().image_encoder.state_dict()
        names = {n for n in own if "rel_pos" not in n and not n.startswith("neck.")}
        state = network.encoder.state_dict()
        assert state.keys() == names
        assert all(state[n].shape == own[n].shape for n in names - {"pos_embed"})
        block = network.encoder.blocks[0]
        assert (len(block.norm1.weight), len(network.encoder.blocks)) == (dim, depth)
        assert block.attn.heads == heads


@pytest.mark.parametrize("name", ["conv", "vit_t", "resnet"])
def test_other_architectures_are_refused(name):
    with pytest.raises(InputError, match=r"plain ViT|architecture must be one of"):
        hollow_sam(name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("blocks.0.norm1.weight"), r"blocks\.0\.norm1\.weight is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is unexpected"),
        (lambda s: s["blocks.1.attn.proj.bias"].fill_(torch.nan), "is not finite"),
        (lambda s: s.update({"blocks.0.mlp.lin1.bias": torch.zeros(3)}), r"\(3,\) instead of"),
        (lambda s: s.pop("pos_embed"), "holds no positions"),
    ],
)
def test_files_that_do_not_fit_are_refused_whole(tmp_path, spoil, message):
    path = encoder_file(tmp_path, autoencoder())
    state = load_file(path)
    spoil(state)
    save_file(state, path, metadata={"format": transplant.FORMAT})
    sam = small_vit(SIZE)
    before = {n: t.clone() for n, t in sam.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        initialise_encoder(sam, path)
    assert all(torch.equal(t, before[n]) for n, t in sam.state_dict().items())


def test_files_that_are_no_encoders_are_refused(tmp_path):
    path = encoder_file(tmp_path, autoencoder())
    assert is_encoder_file(path)
    with pytest.raises(CheckpointError, match="another kind"):
        initialise_encoder(samplat.BUILDERS["conv"](image_size=64), path)
    path.write_bytes(path.read_bytes()[:-100])
    for bad in (path, Path(__file__)):
        with pytest.raises(CheckpointError, match="no pretrained encoder, or damaged"):
            initialise_encoder(small_vit(SIZE), bad)
    with pytest.raises(CheckpointError, match="there is no file"):
        initialise_encoder(small_vit(SIZE), tmp_path / "nothing.safetensors")


def test_pictures_are_found_deeply_and_by_suffix(folder):
    pictures = Pictures.open([folder])
    names = [p.name for p in pictures.paths]
    assert sorted(names) == ["a.png", "b.jpg", "c.TIF", "d.jpeg", "e.tiff"]
    assert not pictures.unreadable


@settings(max_examples=20)
@given(count=st.integers(1, 9), images=st.integers(1, 7), seed=st.integers(0, 9))
def test_every_epoch_shows_every_picture_once(count, images, seed):
    pictures = Pictures(paths=tuple(Path(str(i)) for i in range(count)), unreadable={}, digest="")
    loader = CropLoader(pictures, batches=9, images=images, size=8, seed=seed)
    drawn = [loader._number(place) for place in range(3 * count)]
    assert all(
        sorted(drawn[i : i + count]) == list(range(count)) for i in range(0, 3 * count, count)
    )


def test_a_batch_depends_on_its_number_alone(folder):
    pictures = Pictures.open([folder])
    ahead = crop_loader(QUICK, pictures)[3]
    data = crop_loader(QUICK, pictures)
    _ = data[0], data[1]
    assert torch.equal(ahead.images, data[3].images)
    assert not torch.equal(ahead.images, data[2].images)
    assert ahead.images.shape == (3, 3, 64, 64)
    assert ahead.images.dtype == torch.uint8


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    smallest=st.sampled_from([0.01, 0.2, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_crops_lie_inside_of_the_picture(size, smallest, seed):
    picture = Image.new("RGB", size, (7, 8, 9))
    crop = random_crop(picture, 16, smallest, np.random.default_rng(seed))
    assert crop.shape == (16, 16, 3)
    assert (crop == (7, 8, 9)).all()


def test_a_crop_of_all_is_the_picture_or_its_mirror_image():
    picture = Image.fromarray(ramp(1, 32))
    crops = {random_crop(picture, 32, 1.0, np.random.default_rng(i)).tobytes() for i in range(20)}
    whole = np.asarray(picture)
    assert crops == {whole.tobytes(), np.ascontiguousarray(whole[:, ::-1]).tobytes()}


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_stretched(tmp_path, dtype):
    values = np.linspace(100, 4000, 64 * 64).reshape(64, 64).astype(dtype)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    grey = np.asarray(read_rgb(tmp_path / "deep.tif"))[..., 0]
    assert (grey.min(), grey.max()) == (0, 255)
    assert abs(int(grey[32, 0]) - 128) < 4


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_other_kinds_of_colour_become_rgb(tmp_path, mode):
    path = tmp_path / "picture.tif"
    Image.fromarray(ramp(0)).convert(mode).save(path)
    assert read_rgb(path).mode == "RGB"


def run(recipe: PretrainRecipe, folder: Path, run_dir: Path, **options) -> MaskedAutoencoder:
    options = {"sheet_every": 0, "workers": 0, "device": "cpu", **options}
    return pretrain(recipe, Pictures.open([folder]), run_dir, **options)


class Stop(Exception):
    pass


def stop_at(step: int):
    def stop(report):
        if report.step == step:
            raise Stop

    return stop


@pytest.mark.parametrize(("accumulate", "bf16", "workers"), [(1, False, 0), (2, True, 1)])
def test_a_stopped_run_resumes_to_equal_bits(folder, tmp_path, accumulate, bf16, workers):
    recipe = replace(QUICK, accumulate=accumulate, bf16=bf16)
    whole = run(recipe, folder, tmp_path / "whole")
    with pytest.raises(Stop):
        run(recipe, folder, tmp_path / "cut", on_step=stop_at(3), save_every=2)
    seen = []
    torch.manual_seed(99)  # the state of the process must not matter
    resumed = run(recipe, folder, tmp_path / "cut", on_step=seen.append, workers=workers)
    assert [r.step for r in seen] == [3, 4]
    assert torch.equal(state_of(whole), state_of(resumed))
    with (tmp_path / "cut" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [1, 2, 3, 4]
    with (tmp_path / "whole" / "log.csv").open() as file:
        assert [r["loss"] for r in csv.DictReader(file)] == [r["loss"] for r in rows]
    optimizers = [
        torch.load(tmp_path / d / "checkpoint.pt", weights_only=True)["optimizer"]["state"]
        for d in ("whole", "cut")
    ]
    for i, moments in optimizers[0].items():
        assert all(torch.equal(moments[k], optimizers[1][i][k]) for k in moments)


def test_a_finished_run_is_returned_as_it_is(folder, tmp_path):
    first = run(QUICK, folder, tmp_path / "run")
    again = run(QUICK, folder, tmp_path / "run", on_step=stop_at(1))
    assert torch.equal(state_of(first), state_of(again))


def test_accumulated_gradients_are_those_of_one_batch():
    """Crops split over two forward passes with the masks that they would get together."""
    network = autoencoder()
    x, order = network.normalise(noise(4)), orders(network, 4)
    network.loss(x, order).backward()
    together = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (network.loss(x[half], order[half]) / 2).backward()
    for parameter, expected in zip(network.parameters(), together, strict=True):
        assert torch.allclose(parameter.grad, expected, atol=1e-6)


def test_masks_differ_from_step_to_step_and_image_to_image():
    network = autoencoder()
    first, second = draw_order(QUICK, network, 2, 0), draw_order(QUICK, network, 2, 1)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, draw_order(QUICK, network, 2, 0))


def test_the_rate_warms_up_and_falls_to_nothing():
    recipe = replace(QUICK, steps=1000, images=32, accumulate=4, learning_rate=1e-3, warmup=0.1)
    rates = [learning_rate(recipe, s) for s in range(1000)]
    assert max(rates) == pytest.approx(1e-3 * 128 / 256)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[550] == pytest.approx(max(rates) / 2)
    assert 0 < rates[-1] < 1e-5 * max(rates)


def test_norms_and_biases_do_not_decay():
    state = new_state(QUICK)
    decayed, others = state.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0)
    assert decayed["betas"] == (0.9, 0.95)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in others["params"])
    count = sum(len(g["params"]) for g in state.optimizer.param_groups)
    assert count == len(list(state.network.parameters()))


def test_it_learns_what_the_mean_does_not_tell(tmp_path):
    """On pictures that it never saw, and from nothing but their visible patches."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(48):
        Image.fromarray(ramp(seed)).save(pictures / f"{seed:02d}.png")
    recipe = replace(QUICK, steps=100, images=16, learning_rate=3e-2, smallest_crop=1.0)
    network = run(recipe, pictures, tmp_path / "run", save_every=1000)
    images = torch.from_numpy(np.stack([ramp(seed, SIZE) for seed in range(1000, 1032)]))
    x = network.normalise(images.permute(0, 3, 1, 2))
    order = orders(network, len(x))
    target, masked = patchify(x, network.patch), network.masked(order)
    with torch.no_grad():
        assert float(reconstruction_loss(0 * target, target, masked)) == pytest.approx(1, abs=0.02)
        assert float(network.loss(x, order)) < 0.1
        of_others = network(x.roll(1, dims=0), order)
        assert float(reconstruction_loss(of_others, target, masked)) > 1


def test_sheets_show_original_masked_and_reconstruction(folder, tmp_path):
    run(QUICK, folder, tmp_path / "run", sheet_every=2)
    sheets = sorted((tmp_path / "run" / "sheets").iterdir())
    assert [s.name for s in sheets] == ["0000002.png", "0000004.png"]
    sheet = np.asarray(Image.open(sheets[0]))
    assert sheet.shape == (3 * SIZE, 3 * SIZE, 3)
    crops = crop_loader(QUICK, Pictures.open([folder]))[0].images
    original = torch.from_numpy(sheet[:, :SIZE].copy()).view(3, SIZE, SIZE, 3).permute(0, 3, 1, 2)
    assert torch.equal(original, crops)


@torch.no_grad()
def test_reconstructions_keep_what_is_seen():
    network, images = autoencoder(), noise()
    order = orders(network)
    seen, filled = reconstruct(network, images, order)
    masked = network.masked(order)
    patches = patchify(images, 16)
    assert torch.allclose(patchify(filled, 16)[~masked], patches[~masked], atol=1e-3)
    assert torch.equal(patchify(seen, 16)[~masked], patches[~masked])
    assert (patchify(seen, 16)[masked] == 128).all()
    mean, deviation = patch_statistics(patches)
    assert float((patchify(filled, 16) - mean)[masked].abs().mean()) < 3 * float(deviation.max())


def test_the_command_writes_an_encoder_to_begin_with(folder, tmp_path, capsys):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    output = tmp_path / "encoder.safetensors"
    changes = {k: getattr(QUICK, k) for k in vars(QUICK)}
    options = [o for k, v in changes.items() for o in ("--recipe", f"{k}={v}")]
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["pretrain", str(folder), "-o", str(output), "--run-dir", str(tmp_path / "run"),
             "--sheet-every", "0", "--workers", "0", "--device", "cpu", *options]
        )  # fmt: skip
    assert ended.value.code in (0, None)
    said = capsys.readouterr()
    assert "5 pictures, 1 skipped as damaged" in said.out
    assert "broken.png" in said.err
    sam = small_vit(128)
    initialise_encoder(sam, output)
    expected = run(QUICK, folder, tmp_path / "other").encoder.state_dict()
    assert torch.equal(
        sam.image_encoder.blocks[2].mlp.lin2.weight, expected["blocks.2.mlp.lin2.weight"]
    )


def write_cut_picture(path: Path) -> None:
    """A picture that begins well and breaks off in the middle."""
    pixels = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damaged_pictures_are_named_and_skipped(folder, tmp_path):
    write_cut_picture(folder / "cut.jpg")
    (folder / "none.png").write_bytes(b"")
    pictures = Pictures.open([folder])
    assert [p.name for p in pictures.unreadable] == ["none.png"]
    assert "none.png" in pictures.unreadable[folder / "none.png"]
    named = {}
    pretrain(
        QUICK, pictures, tmp_path / "run", on_skip=lambda p, r: named.setdefault(p.name, r),
        sheet_every=0, workers=0, device="cpu",
    )  # fmt: skip
    assert list(named) == ["cut.jpg"]
    assert "cut.jpg: image file is truncated" in named["cut.jpg"]


def test_each_damaged_picture_is_told_once(folder, tmp_path):
    write_cut_picture(folder / "cut.jpg")
    told = []
    run(replace(QUICK, steps=8), folder, tmp_path / "run", on_skip=lambda p, r: told.append(p))
    assert told == [folder / "cut.jpg"]


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_of_which_none_can_be_read_are_an_error(tmp_path, workers):
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("x.jpg", "y.jpg"):
        write_cut_picture(cut / name)
    with pytest.raises(InputError, match=r"none of 2 pictures can be read to its end; the first"):
        run(QUICK, cut, tmp_path / "run", workers=workers)


def test_folders_without_pictures_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        Pictures.open([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no pictures in .*expected files ending in \.jpeg"):
        Pictures.open([tmp_path / "empty"])
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of 5 pictures"):
        Pictures.open([folder])


def test_bombs_are_skipped(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80 * 80 // 2 - 1)
    with pytest.raises(InputError, match="decompression bomb"):
        Pictures.open([folder])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(folder, tmp_path):
    spoiled = []

    def spoil(report):
        if report.step == 3:
            spoiled[0].optimizer.param_groups[0]["params"][0].data.fill_(torch.nan)

    from samplat_train import pretrain as module

    original = module.new_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "new_state", lambda *a: spoiled.append(original(*a)) or spoiled[0])
        with pytest.raises(SamplatError, match=r"at step 3 the loss is nan.*last checkpoint"):
            run(QUICK, folder, tmp_path / "run", on_step=spoil, save_every=2)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 2
    assert all(torch.isfinite(t).all() for t in saved["network"].values())


def test_a_gradient_that_is_not_finite_changes_no_weight():
    state = new_state(QUICK)
    next(iter(state.network.parameters())).register_hook(lambda g: g * torch.nan)
    before = state_of(state.network)
    with pytest.raises(SamplatError, match="norm of its gradient nan"):
        pretrain_step(state, QUICK, [noise(3).byte()])
    assert torch.equal(state_of(state.network), before)
    assert state.step == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux")
def test_a_full_disk_leaves_the_last_checkpoint(folder, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(Stop):
        run(QUICK, folder, run_dir, on_step=stop_at(3), save_every=2)
    kept = (run_dir / "checkpoint.pt").read_bytes()
    (run_dir / "checkpoint.pt.partial").symlink_to("/dev/full")
    with pytest.raises(
        SamplatError, match=r"cannot write .*checkpoint\.pt: .*; what was there is kept"
    ):
        run(QUICK, folder, run_dir)
    same = (run_dir / "checkpoint.pt").read_bytes() == kept
    assert same
    assert not (run_dir / "checkpoint.pt.partial").exists()
    resumed = run(QUICK, folder, run_dir)
    assert torch.equal(state_of(resumed), state_of(run(QUICK, folder, tmp_path / "whole")))


def test_a_full_disk_stops_the_log_too(folder, tmp_path, monkeypatch):
    def full(writer, row):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(csv.DictWriter, "writerow", full)
    with pytest.raises(SamplatError, match=r"cannot write .*log\.csv: No space left.*free space"):
        run(QUICK, folder, tmp_path / "run")


def test_another_run_in_the_directory_is_refused(folder, tmp_path):
    run(QUICK, folder, tmp_path / "run")
    with pytest.raises(InputError, match=r"is of a run with mask_share=0\.75"):
        run(replace(QUICK, mask_share=0.5), folder, tmp_path / "run")
    shutil.copy(folder / "a.png", folder / "more.png")
    with pytest.raises(InputError, match="on other pictures"):
        run(QUICK, folder, tmp_path / "run")


def test_damaged_checkpoints_are_refused(folder, tmp_path):
    run(QUICK, folder, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="damaged or no checkpoint; move it away"):
        run(QUICK, folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"images": 0}, "images must be >= 1"),
        ({"decoder_dim": 30}, "decoder_dim must be a multiple of 4"),
        ({"decoder_dim": 32, "decoder_heads": 3}, "and of decoder_heads 3"),
        ({"smallest_crop": 0.0}, "smallest_crop must be"),
        ({"warmup": 1.0}, "warmup must be"),
        ({"mask_share": 1.0}, "mask_share must lie between"),
        ({"image_size": 72}, "image_size must be a multiple of 16"),
        ({"image_size": 16}, "at least 32"),
    ],
)
def test_unusable_recipes_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        new_state(replace(QUICK, **bad))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("step=7", "unknown recipe entry 'step'"),
        ("steps=many", "steps must be int, got 'many'"),
        ("bf16=maybe", "bf16 must be bool, got 'maybe'"),
    ],
)
def test_recipes_that_are_none(change, message):
    with pytest.raises(InputError, match=message):
        changed(PretrainRecipe(), [change])


def test_other_suffixes_are_refused_before_a_run(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", str(folder), "-o", "encoder.pth", "--run-dir", str(tmp_path / "run")])
    assert ended.value.code == 1
    assert "weights are written as .safetensors" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

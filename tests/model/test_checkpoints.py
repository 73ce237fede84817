"""Files of weights: every dialect, what is recognised, and what is refused."""

import functools
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model import seeding
from samplat import weight_files
from samplat.checkpoints import (
    Model,
    ModelSpec,
    cached_path,
    load_model,
    registry,
    save_model,
    weights_digest,
)
from samplat.dialects import check_complete, fit_positions, recognise, to_official
from samplat.downloads import file_sha256
from samplat.errors import CheckpointError, InputError
from samplat.model.sam import BUILDERS, Sam, build_conv, build_vit, build_vit_t

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def mobile() -> Sam:
    sam = build_vit_t(256)
    seeding.fill(sam)
    return sam.eval()


@pytest.fixture(scope="module")
def tiny() -> Sam:
    sam = build_conv(128)
    seeding.fill(sam)
    return sam.eval()


@pytest.fixture(scope="module")
def saved(mobile: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict as MobileSAM publishes it."""
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(mobile_state(mobile), path)
    return path


def mobile_state(sam: Sam) -> State:
    head = {
        "image_encoder.norm_head.weight": torch.ones(320),
        "image_encoder.norm_head.bias": torch.ones(320),
        "image_encoder.head.weight": torch.ones(1000, 320),
        "image_encoder.head.bias": torch.ones(1000),
        "image_encoder.layers.1.blocks.0.attn.attention_bias_idxs": torch.zeros(49, 49).long(),
        "image_encoder.layers.1.blocks.0.attn.ab": torch.zeros(4, 49, 49),
    }
    return {**sam.state_dict(), **head}


def error_of(path: Path, **arguments: Any) -> str:
    """The message of the refusal; one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_model(path, device="cpu", **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def same_weights(model: Model, sam: Sam) -> bool:
    expected = sam.state_dict()
    return all(torch.equal(v, expected[k]) for k, v in model.sam.state_dict().items())


# Dialects


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": dict,
    "ordered": OrderedDict,
    "MedSAM's training run": lambda s: {"model": s, "optimizer": {"state": {}}, "epoch": 3},
    "micro-sam with its decoder": lambda s: {
        "model_state": OrderedDict(s),
        "decoder_state": {"out_conv.weight": torch.ones(2)},
    },
    "micro-sam's training run": lambda s: {"model_state": {f"sam.{k}": v for k, v in s.items()}},
    "data parallel": lambda s: {"state_dict": {f"module.sam.{k}": v for k, v in s.items()}},
    "with constants": lambda s: {**s, "pixel_mean": torch.zeros(3, 1, 1)},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_state_dicts(wrapping: str, mobile: Sam, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(WRAPPINGS[wrapping](mobile_state(mobile)), path)
    model = load_model(path, device="cpu", precision="fp32")
    assert same_weights(model, mobile)
    assert (model.architecture, model.name, model.precision) == ("vit_t", "weights", "fp32")
    assert model.weights_sha256 == file_sha256(path) == weights_digest(path)
    assert not any(p.requires_grad for p in model.sam.parameters())
    assert not any(m.training for m in model.sam.modules())


def test_file_of_before_torch_1_6(mobile: Sam, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(mobile.state_dict(), path, _use_new_zipfile_serialization=False)
    assert same_weights(load_model(path, device="cpu"), mobile)


def test_own_file_round_trip(tiny: Sam, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_model(tiny, path, name="tiny", architecture="conv", metadata={"seconds": "5"})
    model = load_model(str(path), device="cpu", precision="fp32")
    assert (model.name, model.architecture, model.sam.image_size) == ("tiny", "conv", 128)
    buffers = dict(tiny.named_buffers())
    for name, tensor in model.sam.state_dict().items():
        expected = tiny.state_dict()[name]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected if name in buffers else expected.half().float())
    assert list(tmp_path.iterdir()) == [path]


def test_loaded_model_computes_what_was_saved(tiny: Sam, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_model(tiny, path, name="tiny", architecture="conv")
    model = load_model(path, device="cpu", precision="fp32")
    with torch.inference_mode():
        ours, theirs = (s.encode(seeding.pixels(128))[0] for s in (model.sam, tiny))
    assert (ours - theirs).norm() < 5e-3 * theirs.norm()


def test_own_metadata_hold_more_facts(tiny: Sam, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_model(tiny, path, name="tiny", architecture="conv", metadata={"seconds": "5"})
    _, metadata = weight_files.read_weights(path)
    assert metadata == {
        "name": "tiny",
        "architecture": "conv",
        "image_size": "128",
        "seconds": "5",
        "format": "samplat 1",
    }


def test_hugging_face_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is missing")
    shallow = functools.partial(build_vit, dim=768, depth=2, heads=12, global_blocks=(1,))
    monkeypatch.setitem(BUILDERS, "vit_b", shallow)
    config = transformers.SamConfig(
        vision_config={"image_size": 64, "num_hidden_layers": 2, "global_attn_indexes": [1]},
        prompt_encoder_config={"image_size": 64},
    )
    with torch.device("meta"):
        names = {k: v.shape for k, v in transformers.SamModel(config).state_dict().items()}
    state = {k: torch.full(shape, i / 512).half() for i, (k, shape) in enumerate(names.items())}
    tied = "prompt_encoder.shared_embedding.positional_embedding"
    state[tied] = state["shared_image_embedding.positional_embedding"].clone()
    path = tmp_path / "model.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    model = load_model(path, device="cpu")
    found = model.sam.state_dict()
    assert (model.architecture, model.sam.image_size) == ("vit_b", 64)
    assert {t.dtype for t in found.values()} == {torch.float32}
    for name, value in to_official(state).items():
        assert torch.equal(found[name], value.float())


@pytest.mark.parametrize("architecture", BUILDERS)
def test_architecture_is_recognised_by_names_and_shapes(architecture: str) -> None:
    with torch.device("meta"):
        state = BUILDERS[architecture]().state_dict()
    assert recognise(state, {}).architecture == architecture
    assert recognise(state, {}).image_size == (512 if architecture == "conv" else 1024)


@pytest.mark.parametrize("architecture", ["vit_b", "vit_h"])
def test_image_size_is_that_of_the_positions(architecture: str) -> None:
    with torch.device("meta"):
        state = BUILDERS[architecture](image_size=512).state_dict()
    assert recognise(state, {"image_size": "1024"}).image_size == 512


# Another image size


def test_image_size_can_be_chosen(saved: Path) -> None:
    model = load_model(saved, device="cpu", image_size=128)
    assert model.sam.image_size == 128
    assert model.sam.encode(torch.zeros(1, 3, 128, 100))[0].shape == (1, 256, 8, 8)
    assert model.weights_sha256 != load_model(saved, device="cpu").weights_sha256


def test_positions_are_interpolated() -> None:
    ramp = torch.linspace(0, 1, 8).expand(1, 5, 8, 8).permute(0, 2, 3, 1)
    state = {"e.pos_embed": ramp, "e.rel_pos_h": torch.linspace(0, 1, 15)[:, None], "e.w": ramp}
    shapes = {"e.pos_embed": torch.Size((1, 16, 16, 5)), "e.rel_pos_h": torch.Size((31, 1))}
    fitted = fit_positions(state, {**shapes, "e.w": ramp.shape})
    assert {k: fitted[k].shape for k in shapes} == shapes
    assert fitted["e.pos_embed"][0, 3, 4:12, 0].diff().gt(0).all()
    assert fitted["e.rel_pos_h"][15, 0] == pytest.approx(0.5)
    assert fitted["e.w"] is ramp


@pytest.mark.parametrize("size", [0, -32, 100, 8192])
def test_unusable_image_size(saved: Path, size: int) -> None:
    with pytest.raises(InputError, match="image_size"):
        load_model(saved, device="cpu", image_size=size)


# Device and precision


def test_automatic_choices_are_resolved(saved: Path) -> None:
    model = load_model(saved)
    assert model.precision in ("fp32", "bf16")
    assert model.device.type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("amx", "avx", "expected"),
    [(True, False, "bf16"), (False, True, "bf16"), (False,) * 2 + ("fp32",)],
)
def test_bf16_only_where_the_processor_computes_in_it(
    saved: Path, monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert load_model(saved, device="cpu").precision == expected
    assert load_model(saved, device="cpu", precision="fp32").precision == "fp32"
    assert load_model(saved, device="cpu", precision="bf16").precision == "bf16"


@pytest.mark.parametrize("arguments", [{"precision": "fp8"}, {"device": "abacus"}])
def test_unusable_device_or_precision(saved: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments.values()))):
        load_model(saved, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_device(saved: Path) -> None:
    with pytest.raises(InputError, match="cuda"):
        load_model(saved, device="cuda")


# Refused files


def test_missing_tensors_are_listed(mobile: Sam, tmp_path: Path) -> None:
    path = tmp_path / "partial.pth"
    state = mobile.state_dict()
    del state["prompt_encoder.no_mask_embed.weight"]
    torch.save(state, path)
    message = error_of(path)
    assert "1 missing (prompt_encoder.no_mask_embed.weight)" in message
    assert "vit_t" in message


def test_encoder_alone_is_partial(mobile: Sam, tmp_path: Path) -> None:
    path = tmp_path / "encoder.pth"
    torch.save({k: v for k, v in mobile.state_dict().items() if k.startswith("image_enc")}, path)
    assert "missing (prompt_encoder" in error_of(path)


def test_unexpected_tensors_and_other_shapes_are_listed(mobile: Sam, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    state = {**mobile.state_dict(), "mask_decoder.hf_token.weight": torch.ones(1)}
    state["mask_decoder.iou_token.weight"] = torch.ones(2, 256)
    torch.save(state, path)
    message = error_of(path)
    assert "1 unexpected (mask_decoder.hf_token.weight)" in message
    assert "mask_decoder.iou_token.weight is (2, 256) instead of (1, 256)" in message


def test_cut_vit_lists_the_missing_blocks() -> None:
    with torch.device("meta"):
        whole = BUILDERS["vit_b"]().state_dict()
    state = {k: v for k, v in whole.items() if "blocks.11." not in k}
    with pytest.raises(CheckpointError, match=r"14 missing \(image_encoder.blocks.11"):
        check_complete(state, {k: v.shape for k, v in whole.items()}, "vit_b")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)}, "not weights of Segment Any"),
        ({"image_encoder.patch_embed.proj.weight": torch.ones(384, 3, 16, 16)}, "width 384"),
        ({"image_encoder.trunk.pos_embed": torch.ones(1)}, "not weights of Segment Anything"),
        ([torch.ones(2)], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        ({"model": {"model": {"model": {}}}}, "holds no state dict"),
        (torch.ones(2), "holds no state dict"),
    ],
)
def test_other_content(content: Any, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert expected in error_of(path)


def test_hostile_positions(mobile: Sam, tmp_path: Path) -> None:
    path = tmp_path / "huge.pth"
    state = {
        "image_encoder.patch_embed.proj.weight": torch.ones(768, 3, 16, 16),
        "image_encoder.pos_embed": torch.ones(1, 1, 1, 1).expand(1, 10**6, 10**6, 768),
    }
    torch.save(state, path)
    assert "pos_embed" in error_of(path)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    text, empty = tmp_path / "notes.pth", tmp_path / "empty.safetensors"
    text.write_text("These are not the weights that you are looking for.\n")
    empty.touch()
    assert "not a file of weights" in error_of(text)
    assert "not a file of weights" in error_of(empty)
    assert "directory" in error_of(tmp_path)
    assert "there is no file" in error_of(tmp_path / "absent.pth")


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_cut_off_files(kind: str, fraction: float, saved: Path, tiny: Sam, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{kind}"
    if kind == "pth":
        data = saved.read_bytes()
    else:
        save_model(tiny, path, name="tiny", architecture="conv")
        data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    assert "damaged" in error_of(path)


def test_compressed_archives_are_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**6)
    assert "compressed" in error_of(path)


def test_old_torch_reads_no_pickles(
    saved: Path, tiny: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert "torch 2.10" in error_of(saved)
    path = tmp_path / "tiny.safetensors"
    save_model(tiny, path, name="tiny", architecture="conv")
    assert load_model(path, device="cpu").architecture == "conv"


def test_weights_beyond_fp16_are_not_saved(tmp_path: Path) -> None:
    sam = build_conv(128)
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"mask_decoder.iou_token.weight does not fit"):
        save_model(sam, tmp_path / "x.safetensors", name="x", architecture="conv")
    assert not list(tmp_path.iterdir())


def test_unwritable_place(tiny: Sam, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        save_model(tiny, tmp_path / "no" / "x.safetensors", name="x", architecture="conv")


# Pickles that would run code


class Gadget:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def gadgets(marker: Path) -> Iterator[Gadget]:
    code = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    yield Gadget(os.system, f"touch {marker}")
    yield Gadget(exec, code)
    yield Gadget(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()")
    yield Gadget(subprocess.run, [sys.executable, "-c", code])
    yield Gadget(Path.touch, marker)
    yield Gadget(open, str(marker), "w")
    yield Gadget(torch.save, torch.ones(1), str(marker))


def hostile_files(gadget: Gadget, state: State, folder: Path) -> Iterator[Path]:
    contents = {
        "alone": gadget,
        "beside": {**state, "extra": gadget},
        "inside": {"model": state, "optimizer": [gadget]},
    }
    for name, content in contents.items():
        for new in (True, False):
            path = folder / f"{name}-{new}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=new)
            yield path
    for protocol in (0, 2, 5):
        path = folder / f"raw-{protocol}.pt"
        path.write_bytes(pickle.dumps(gadget, protocol))
        yield path
        yield path.rename(folder / f"raw-{protocol}.safetensors")


@pytest.mark.parametrize("number", range(7))
def test_gadgets_never_run(
    number: int, mobile: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "marker"
    state = {"mask_decoder.iou_token.weight": mobile.state_dict()["mask_decoder.iou_token.weight"]}
    for path in hostile_files(list(gadgets(marker))[number], state, tmp_path):
        message = error_of(path)
        assert "refused" in message or "not a file of weights" in message
        assert not marker.exists(), path


@pytest.mark.parametrize("number", range(7))
def test_gadgets_would_run(number: int, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    result = pickle.loads(pickle.dumps(list(gadgets(marker))[number]))  # noqa: S301 the control
    if hasattr(result, "close"):
        result.close()
    assert marker.exists()


def test_refusal_names_what_would_be_called(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"x": Gadget(os.system, "true")}, path)
    assert f"would call {os.system.__module__}.system" in error_of(path)


# The registry


def test_known_models() -> None:
    known = registry()
    assert next(iter(known)) == "samplat-tiny"
    assert {"vit_b", "vit_l", "vit_h", "vit_t", "medsam"} <= set(known)
    for name, spec in known.items():
        assert spec.name == name
        assert spec.architecture in BUILDERS
        assert spec.licence
        assert spec.description
        assert (spec.url is None) == (spec.path is not None)
        assert spec.sha256 is None or len(spec.sha256) == 64


def test_unknown_names_are_answered_with_a_known_one() -> None:
    with pytest.raises(CheckpointError, match="did you mean vit_b"):
        load_model("vit-b")
    with pytest.raises(CheckpointError, match="samplat-tiny"):
        load_model("zzz")


def test_models_of_plugins(saved: Path) -> None:
    spec = ModelSpec(
        name="mine", architecture="vit_t", licence="MIT", description="mine", path=saved
    )
    model = load_model("mine", device="cpu", models={"mine": spec})
    assert (model.name, model.architecture) == ("mine", "vit_t")
    with pytest.raises(CheckpointError, match="mine"):
        load_model("vit_b", models={"mine": spec})


def test_file_of_another_architecture_than_promised(saved: Path) -> None:
    spec = ModelSpec(name="m", architecture="vit_b", licence="MIT", description="m", path=saved)
    with pytest.raises(CheckpointError, match="expected vit_b for m, got vit_t"):
        load_model("m", models={"m": spec})


def test_bundled_weights_that_are_gone(tmp_path: Path) -> None:
    spec = ModelSpec(
        name="m",
        architecture="conv",
        licence="MIT",
        description="m",
        path=tmp_path / "m.safetensors",
    )
    with pytest.raises(CheckpointError, match="missing from this installation"):
        load_model("m", models={"m": spec})


def test_altered_file_under_a_known_name(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(saved.read_bytes()[:-1] + b"!")
    spec = ModelSpec(
        name="m", architecture="vit_t", licence="MIT", description="m", path=path,
        sha256=file_sha256(saved)[:8],
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="damaged: expected a SHA-256"):
        load_model("m", models={"m": spec})


def test_published_digest_needs_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path))
    assert weights_digest("vit_h") == registry()["vit_h"].sha256
    assert cached_path(registry()["vit_h"]) == tmp_path / "models" / "vit_h.pth"


def test_importing_takes_no_torch() -> None:
    code = "import samplat.checkpoints as c, sys; c.registry(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_saved_models_are_readable_by_whom_the_umask_allows(tiny: Sam, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    before = os.umask(0o027)
    try:
        save_model(tiny, path, name="tiny", architecture="conv")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640

"""Models by name or file: what is known of them, and how their weights become a network.

How files are read is in `weight_files`, whose names they use in `dialects`, and how they come from
the network in `downloads`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from samplat import downloads
from samplat.dialects import check_complete, fit_positions, recognise, to_official
from samplat.errors import CheckpointError, InputError
from samplat.precision import dtype_of, resolved
from samplat.user_models import model_file, model_files
from samplat.weight_files import read_head, read_metadata, read_weights, write_weights

if TYPE_CHECKING:
    import torch
    from torch import Size, Tensor

    from samplat.model.sam import Sam

FORMAT = "samplat 1"
"""The `format` in the metadata of our own weight files."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is known of a model before its weights are here."""

    name: str
    """What `load_model` and `--model` take."""
    architecture: str
    """"vit_b", "vit_l", "vit_h", "vit_t" (MobileSAM's TinyViT) or "conv" (the bundled model's)."""
    image_size: int = 1024
    """Side of the model's square input, in pixels."""
    url: str | None = None
    """Where the weights are published; None for bundled weights, or when there is no plain file."""
    sha256: str | None = None
    """Hexadecimal SHA-256 of the file, or the beginning of it; None: not published."""
    size: int | None = None
    """Size of the file in bytes; None: not known."""
    licence: str
    """SPDX identifier of the weights' licence."""
    description: str
    """One line: what it is for, and how large."""
    path: Path | None = None
    """The file of weights that come with the installation; None: they are downloaded."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with its weights, ready for inference. Values of one model never change."""

    sam: Sam
    """The network on its device, in evaluation mode, without gradients, weights in fp32."""
    name: str
    """Name of its spec, or the one in its file, or the file's stem."""
    architecture: str
    """Key of `samplat.model.sam.BUILDERS`."""
    weights_sha256: str
    """Names the weights as used: the file's SHA-256, or one of that and a chosen image size."""
    precision: str
    """"fp32", "bf16" or "fp16": what `embed` and `predict` compute in."""
    device: torch.device
    """Where the network lives."""
    grid_defaults: Mapping[str, float] = field(default_factory=dict)
    """Defaults of `generate_masks` that suit this model better than the paper's."""
    compiled: bool = False
    """Whether torch compiles the encoder, where it can."""
    network: Sam = field(init=False, repr=False, compare=False)
    """What `embed` and `predict` run: `sam`, or, where that normalises over batches, a copy made
    faster for them; see `samplat.model.fused`."""

    def __post_init__(self) -> None:
        network = _as_run(self.sam, self.precision, compiled=self.compiled)
        object.__setattr__(self, "network", network)


def _as_run(sam: Sam, precision: str, *, compiled: bool) -> Sam:
    from samplat.model.compiled import with_compiled_encoder
    from samplat.model.fused import can_be_fused, fused

    network = fused(sam, dtype_of(precision)) if can_be_fused(sam) else sam
    return with_compiled_encoder(network) if compiled else network


def registry() -> dict[str, ModelSpec]:
    """The models that samplat knows without plugins, by name: shipped, published, the user's."""
    return user_models() | shipped_models()


def shipped_models() -> dict[str, ModelSpec]:
    """The bundled and the published models, by name."""
    return {spec.name: spec for spec in (_bundled(), *_PUBLISHED)}


def user_models() -> dict[str, ModelSpec]:
    """What `install_model` left, by name, as the folder is now."""
    found = (_user_spec(name, path) for name, path in model_files().items())
    return {spec.name: spec for spec in found if spec is not None}


class KnownModels(Mapping[str, "ModelSpec"]):
    """Registered models, with those of the user as they are at the moment of asking.

    Args:
        registered: models by name; the user's never take their place.
    """

    def __init__(self, registered: Mapping[str, ModelSpec]) -> None:
        self.registered = registered

    def __getitem__(self, name: str) -> ModelSpec:
        found = self.registered.get(name)
        return user_models()[name] if found is None else found

    def __iter__(self) -> Iterator[str]:
        return iter({**self.registered, **user_models()})

    def __len__(self) -> int:
        return len({**self.registered, **user_models()})


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    image_size: int | None = None,
    compiled: bool = False,
    models: Mapping[str, ModelSpec] | None = None,
    offline: bool = False,
) -> Model:
    """A model by its name, downloading it if need be, or from a file of weights.

    Args:
        name_or_path: a name of `models`, or a file: an official `.pth`, MobileSAM's, MedSAM's or
            micro-sam's, Hugging Face's `SamModel` or our own safetensors. Which one it is, is told
            by the names and shapes of its tensors.
        device: "auto" (CUDA if there is any, else the CPU) or what `torch.device` takes.
        precision: "fp32", "bf16", "fp16", or "auto": bf16 where the hardware computes in it.
        image_size: another side of the model's input than the weights', a multiple of 32 pixels;
            positions are interpolated.
        compiled: let torch compile the encoder at the first image of each size, half a minute for
            ViT-B. Where that fails, it is said and the encoder runs as it is.
        models: models by name instead of `registry()`; plugins add theirs this way.
        offline: forbid downloads.

    Raises:
        CheckpointError: no such model or file; a damaged, partial or foreign one; or a refused one
            whose loading would run code; or it cannot be downloaded.
        InputError: a parameter is unusable.
    """
    known = registry() if models is None else models
    target = _device(device)
    chosen = resolved(precision, target)
    spec, path = _locate(name_or_path, known, offline=offline)
    digest = _verified_digest(path, spec)
    try:
        sam, architecture, metadata = _read_sam(path, spec, image_size)
    except CheckpointError as error:
        raise _placed(error, path) from error
    return Model(
        sam=sam.to(target),
        name=spec.name if spec else metadata.get("name") or path.stem,
        architecture=architecture,
        weights_sha256=_combined(digest, image_size),
        precision=chosen,
        device=target,
        grid_defaults=_grid_defaults(metadata),
        compiled=compiled,
    )


def save_model(
    sam: Sam,
    path: str | os.PathLike[str],
    *,
    name: str,
    architecture: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network as safetensors, parameters in fp16 and running statistics as they are.

    Args:
        sam: the network.
        path: the file; it is whole or absent, even after a crash.
        name: the model's name.
        architecture: key of `samplat.model.sam.BUILDERS`.
        metadata: more to record: licence, training data, seconds.

    Raises:
        CheckpointError: a weight does not fit into fp16, or the file cannot be written.
    """
    narrow = {n: _half(n, p) for n, p in sam.named_parameters()}
    state = {n: narrow.get(n, t).detach().cpu().contiguous() for n, t in sam.state_dict().items()}
    facts = {"name": name, "architecture": architecture, "image_size": str(sam.image_size)}
    write_weights(Path(path), state, {**(metadata or {}), **facts, "format": FORMAT})


def install_model(
    sam: Sam,
    *,
    name: str,
    architecture: str,
    metadata: Mapping[str, str] | None = None,
    replace: bool = False,
) -> Path:
    """Save a network where `load_model`, `--model` and jobs find it by its name.

    Args:
        sam: the network.
        name: the model's name; not one that samplat comes with.
        architecture: key of `samplat.model.sam.BUILDERS`.
        metadata: as in `save_model`.
        replace: overwrite a model of this name.

    Returns:
        the file.

    Raises:
        CheckpointError: the name is taken or unusable, or the file cannot be written.
    """
    path = check_new_name(name, replace=replace)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make {path.parent}: {error.strerror}") from error
    save_model(sam, path, name=name, architecture=architecture, metadata=metadata)
    return path


def check_new_name(name: str, *, replace: bool = False) -> Path:
    """Where `install_model` would write a model of this name.

    Raises:
        CheckpointError: the name is taken or unusable.
    """
    path = model_file(name)
    if name in shipped_models():
        raise CheckpointError(f"{name} is a model that samplat comes with; choose another name")
    if path.exists() and not replace:
        raise CheckpointError(f"there is a model called {name} already: {path}; replace it or not")
    return path


def _user_spec(name: str, path: Path) -> ModelSpec | None:
    """What a file of the user's says of itself; None where it is no model of ours."""
    try:
        facts = read_metadata(path)
        return ModelSpec(
            name=name,
            architecture=facts["architecture"],
            image_size=int(facts["image_size"]),
            licence=facts.get("licence", "not stated"),
            description=facts.get("description", "your own"),
            path=path,
        )
    except (CheckpointError, KeyError, ValueError):
        return None


def download(
    name: str, *, offline: bool = False, models: Mapping[str, ModelSpec] | None = None
) -> Path:
    """The verified file of a known model, fetched if it is not here yet.

    Args:
        name: of `models`.
        offline: only look; `$SAMPLAT_OFFLINE` does the same.
        models: models by name instead of `registry()`.

    Raises:
        CheckpointError: an unknown name; not here and offline; unreachable, cut off or altered.
    """
    spec = _spec(name, registry() if models is None else models)
    path = _fetch(spec, offline=offline)
    _verified_digest(path, spec)
    return path


def cached_path(spec: ModelSpec) -> Path:
    """Where a model's weights are, or will be once they are downloaded."""
    if spec.path is not None:
        return spec.path
    suffix = PurePosixPath(urlsplit(spec.url or "").path).suffix or ".pth"
    return downloads.home() / "models" / f"{spec.name}{suffix}"


def weights_digest(
    name_or_path: str | os.PathLike[str], *, models: Mapping[str, ModelSpec] | None = None
) -> str:
    """The `weights_sha256` that a model will have, without building it.

    Raises:
        CheckpointError: no such model or file, or it is not here and its digest is not published.
    """
    known = registry() if models is None else models
    spec = known.get(str(name_or_path))
    if spec and spec.sha256 and len(spec.sha256) == 64:
        return spec.sha256
    spec, path = _locate(name_or_path, known, offline=False)
    return _verified_digest(path, spec)


def _locate(
    name_or_path: str | os.PathLike[str], known: Mapping[str, ModelSpec], *, offline: bool
) -> tuple[ModelSpec | None, Path]:
    path = Path(name_or_path)
    looks_like_file = path.name != name_or_path or path.suffix or path.exists()
    if name_or_path in known or not looks_like_file:
        spec = _spec(str(name_or_path), known)
        return spec, _fetch(spec, offline=offline)
    return None, path


def _spec(name: str, known: Mapping[str, ModelSpec]) -> ModelSpec:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}" if close else f"expected one of {', '.join(known)}"
    raise CheckpointError(f"there is no model called {name!r}; {hint}, or the path of a file?")


def _fetch(spec: ModelSpec, *, offline: bool) -> Path:
    path = cached_path(spec)
    if path.is_file():
        return path
    if spec.path is not None:
        raise CheckpointError(f"{path} is missing from this installation; install samplat again")
    if spec.url is None:
        raise CheckpointError(f"{spec.name} is not published as a plain file; place it as {path}")
    return downloads.fetch(spec.url, path, sha256=spec.sha256, size=spec.size, offline=offline)


def _verified_digest(path: Path, spec: ModelSpec | None) -> str:
    read_head(path)
    digest = downloads.file_sha256(path)
    try:
        if spec is not None:
            downloads.check_digest(digest, spec.sha256)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is damaged: {error}; delete it, then download again"
        ) from None
    return digest


def _read_sam(
    path: Path, spec: ModelSpec | None, image_size: int | None
) -> tuple[Sam, str, dict[str, str]]:
    """The network in a file, its architecture, and what the file states about itself."""
    content, metadata = read_weights(path)
    state = to_official(content)
    network = recognise(state, metadata)
    if spec is not None and network.architecture != spec.architecture:
        raise CheckpointError(
            f"expected {spec.architecture} for {spec.name}, got {network.architecture}"
        )
    sam = _skeleton(network.architecture, network.image_size)
    check_complete(state, _shapes(sam), network.architecture)
    # Only now: until its shape is checked, a tensor may claim any size without holding it.
    state = {name: _widen(tensor) for name, tensor in state.items()}
    if image_size is not None and image_size != network.image_size:
        sam = _skeleton(network.architecture, _checked_size(image_size))
        state = fit_positions(state, _shapes(sam))
    sam.load_state_dict(state, assign=True)
    return sam.eval().requires_grad_(False), network.architecture, metadata


def _grid_defaults(metadata: Mapping[str, str]) -> dict[str, float]:
    """Thresholds for `generate_masks` that a file of ours may state, as JSON."""
    try:
        stated = json.loads(metadata.get("grid_defaults", "{}"))
        return {str(name): float(value) for name, value in stated.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"its grid_defaults are no JSON object of numbers: {error}") from None


def _skeleton(architecture: str, image_size: int) -> Sam:
    """A network without memory for its weights, since they are about to be assigned."""
    import torch

    from samplat.model.sam import BUILDERS, Sam

    with torch.device("meta"):
        sam = BUILDERS[architecture](image_size=image_size)
    # Put together again, so that the constants of the preprocessing are real.
    return Sam(
        sam.image_encoder,
        sam.prompt_encoder,
        sam.mask_decoder,
        image_size=image_size,
        frame_size=sam.frame_size,
        mask_stride=sam.mask_stride,
        mask_refiner=sam.mask_refiner,
    )


def _shapes(sam: Sam) -> dict[str, Size]:
    return {name: tensor.shape for name, tensor in sam.state_dict().items()}


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous() if tensor.is_floating_point() else tensor


def _half(name: str, tensor: Tensor) -> Tensor:
    narrow = tensor.half()
    if not narrow.isfinite().all():
        raise CheckpointError(
            f"{name} does not fit into fp16: it holds values beyond 65504, or NaN"
        )
    return narrow


def _placed(error: CheckpointError, path: Path) -> CheckpointError:
    """The same error, naming the file."""
    return error if str(path) in str(error) else CheckpointError(f"{path}: {error}")


def _combined(digest: str, image_size: int | None) -> str:
    """Interpolated positions are other weights, and make other embeddings."""
    if image_size is None:
        return digest
    return hashlib.sha256(f"{digest} {image_size}".encode()).hexdigest()


def _checked_size(image_size: int) -> int:
    if image_size < 64 or image_size > 4096 or image_size % 32:
        raise InputError(
            f"expected an image_size of 64 to 4096, a multiple of 32, got {image_size}"
        )
    return image_size


def _device(name: str | torch.device) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"device {str(name)!r} cannot be used: {reason}; try cpu") from error
    return device


@functools.cache
def _bundled() -> ModelSpec:
    weights = importlib.resources.files("samplat") / "weights" / "samplat-tiny.safetensors"
    return ModelSpec(
        name="samplat-tiny",
        architecture="conv",
        image_size=512,
        licence="Apache-2.0",
        description="our own small model: bundled, quick on an ordinary processor",
        path=Path(str(weights)),
    )


_OFFICIAL = "https://dl.fbaipublicfiles.com/segment_anything"
_MICRO_SAM = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"

# The six digits in the official file names begin their MD5; these are their SHA-256.
_PUBLISHED = (
    ModelSpec(
        name="vit_b",
        architecture="vit_b",
        url=f"{_OFFICIAL}/sam_vit_b_01ec64.pth",
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        size=375_042_383,
        licence="Apache-2.0",
        description="Segment Anything ViT-B, the smallest of the paper: 94 M parameters",
    ),
    ModelSpec(
        name="vit_l",
        architecture="vit_l",
        url=f"{_OFFICIAL}/sam_vit_l_0b3195.pth",
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        size=1_249_524_607,
        licence="Apache-2.0",
        description="Segment Anything ViT-L: 312 M parameters",
    ),
    ModelSpec(
        name="vit_h",
        architecture="vit_h",
        url=f"{_OFFICIAL}/sam_vit_h_4b8939.pth",
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        size=2_564_550_879,
        licence="Apache-2.0",
        description="Segment Anything ViT-H, the paper's default: 641 M parameters",
    ),
    ModelSpec(
        name="vit_t",
        architecture="vit_t",
        url="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        size=40_728_226,
        licence="Apache-2.0",
        description="MobileSAM: ViT-H distilled into a TinyViT of 6 M parameters",
    ),
    ModelSpec(
        name="medsam",
        architecture="vit_b",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        licence="CC-BY-4.0",
        description="MedSAM: ViT-B fine-tuned on medical images, for box prompts",
    ),
    ModelSpec(
        name="vit_b_lm",
        architecture="vit_b",
        url=f"{_MICRO_SAM}/diplomatic-bug/1.2/files/vit_b.pt",
        licence="CC-BY-4.0",
        description="micro-sam: ViT-B fine-tuned on light microscopy",
    ),
    ModelSpec(
        name="vit_b_em_organelles",
        architecture="vit_b",
        url=f"{_MICRO_SAM}/noisy-ox/1.2/files/vit_b.pt",
        licence="CC-BY-4.0",
        description="micro-sam: ViT-B fine-tuned on organelles in electron microscopy",
    ),
)

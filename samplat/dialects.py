"""Whose names a state dict uses, and which network it belongs to; all end in the official names.

Known dialects: the official checkpoints (also MedSAM's and micro-sam's exports, plain or wrapped in
a dict of a training run), MobileSAM's, Hugging Face's `SamModel`, and our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samplat.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Size, Tensor

WRAPPERS = ("model_state", "model", "state_dict", "model_state_dict")
"""Keys that training runs keep the state dict under (micro-sam: the first, MedSAM: the second)."""
PREFIXES = ("module.", "model.", "sam.")
"""Left of the official names by wrapping modules; they may be nested."""
UNUSED = re.compile(
    r"image_encoder\.(norm_head|head)\.|.*\.(attention_bias_idxs|ab)$|pixel_(mean|std)$"
)
"""MobileSAM's classification head and derived buffers; the constants of the preprocessing."""
ARCHITECTURES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""Architecture of a plain ViT by its width."""
PATCH = 16
"""Pixels per token of a plain ViT, along each axis."""
LARGEST = 4096
"""Largest side of the model's input, in pixels; more is a damaged file."""
SHOWN = 3
"""Names that an error lists of each kind."""

_SHARED_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_MLP = r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))"
_MASK_EMBED = {"conv1": 0, "layer_norm1": 1, "conv2": 3, "layer_norm2": 4, "conv3": 6}
_NECK = {"conv1": 0, "layer_norm1": 1, "conv2": 2, "layer_norm2": 3}
_UPSCALING = {"conv1": 0, "layer_norm": 1, "conv2": 3}

HUGGING_FACE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"shared_image_embedding\.positional_embedding$", _SHARED_POSITIONS),
        (r"prompt_encoder\.shared_embedding\.positional_embedding$", _SHARED_POSITIONS),
        (r"vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
        (r"vision_encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"image_encoder.blocks.\1.norm\2."),
        (r"vision_encoder\.layers\.", "image_encoder.blocks."),
        *((rf"vision_encoder\.neck\.{k}\.", f"image_encoder.neck.{i}.") for k, i in _NECK.items()),
        (r"vision_encoder\.", "image_encoder."),
        *(
            (rf"prompt_encoder\.mask_embed\.{k}\.", f"prompt_encoder.mask_downscaling.{i}.")
            for k, i in _MASK_EMBED.items()
        ),
        (r"prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
        (
            r"mask_decoder\.transformer\.layers\.(\d+)\.layer_norm(\d)\.",
            r"mask_decoder.transformer.layers.\1.norm\2.",
        ),
        (
            r"mask_decoder\.transformer\.layer_norm_final_attn\.",
            "mask_decoder.transformer.norm_final_attn.",
        ),
        *(
            (rf"mask_decoder\.upscale_{k}\.", f"mask_decoder.output_upscaling.{i}.")
            for k, i in _UPSCALING.items()
        ),
        (rf"{_MLP}\.proj_in\.", r"\1.layers.0."),
        (rf"{_MLP}\.layers\.0\.", r"\1.layers.1."),
        (rf"{_MLP}\.proj_out\.", r"\1.layers.2."),
    )
)
"""Beginnings of Hugging Face's names and what they are officially; the first match counts."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network a state dict belongs to."""

    architecture: str
    """Key of `samplat.model.sam.BUILDERS`."""
    image_size: int
    """Side of the square input that the weights were trained at, in pixels."""


def to_official(content: Any) -> dict[str, Tensor]:
    """The state dict in what a file held, under the official names.

    Raises:
        CheckpointError: there is no state dict.
    """
    state = {_strip(name): tensor for name, tensor in _unwrap(content).items()}
    if any(name.startswith("vision_encoder.") for name in state):
        state = {_from_hugging_face(name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if not UNUSED.match(name)}


def recognise(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Network:
    """The network that a state dict under the official names belongs to.

    Args:
        state: from `to_official`.
        metadata: of a safetensors file; tells the image size of networks without positions.

    Raises:
        CheckpointError: it is not one of Segment Anything's.
    """
    if (width := _vit_width(state)) in ARCHITECTURES:
        positions = state.get("image_encoder.pos_embed")
        size = _stated_size(metadata, 1024) if positions is None else _size_of(positions)
        return Network(architecture=ARCHITECTURES[width], image_size=size)
    if any(name.startswith("image_encoder.patch_embed.seq.") for name in state):
        return Network(architecture="vit_t", image_size=_stated_size(metadata, 1024))
    if any(name.startswith("image_encoder.stage") for name in state):
        return Network(architecture="conv", image_size=_stated_size(metadata, 512))
    if width:
        known = ", ".join(f"{dim} ({name})" for dim, name in ARCHITECTURES.items())
        raise CheckpointError(f"a ViT encoder of width {width}; expected a width of {known}")
    raise CheckpointError(
        "not weights of Segment Anything: expected names such as image_encoder.pos_embed "
        "(official), image_encoder.patch_embed.seq.0.c.weight (MobileSAM) or "
        "vision_encoder.pos_embed (Hugging Face), "
        f"got {len(state)} tensors: {_some(state)}"
    )


def check_complete(
    state: Mapping[str, Tensor], expected: Mapping[str, Size], architecture: str
) -> None:
    """Compare names and shapes with the network's.

    Raises:
        CheckpointError: a tensor is missing, unexpected, or of another shape.
    """
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    found = [f"{len(v)} {kind} ({_some(v)})" for kind, v in faults.items() if v]
    if found:
        raise CheckpointError(
            f"not a complete {architecture}, whose {len(expected)} tensors were expected: "
            f"{'; '.join(found)}; get the whole file, or one of another architecture by its name"
        )


def fit_positions(state: Mapping[str, Tensor], expected: Mapping[str, Size]) -> dict[str, Tensor]:
    """Interpolate positions to the sizes of a network for another image size.

    Absolute positions (1, h, w, C) bicubically, tables of relative ones (2 n - 1, C) linearly.
    """
    return {
        name: _resize(tensor, expected[name])
        if name in expected and tensor.shape != expected[name] and _is_position(name)
        else tensor
        for name, tensor in state.items()
    }


def _is_position(name: str) -> bool:
    return name.endswith((".pos_embed", ".rel_pos_h", ".rel_pos_w"))


def _resize(tensor: Tensor, shape: Size) -> Tensor:
    from torch.nn.functional import interpolate

    if tensor.ndim == 2:
        return interpolate(tensor.T[None], size=shape[0], mode="linear")[0].T.contiguous()
    grid = interpolate(tensor.permute(0, 3, 1, 2), size=tuple(shape[1:3]), mode="bicubic")
    return grid.permute(0, 2, 3, 1).contiguous()


def _unwrap(content: Any) -> dict[str, Tensor]:
    import torch

    for _ in WRAPPERS:
        if not isinstance(content, Mapping) or _holds_tensors(content):
            break
        content = next((content[key] for key in WRAPPERS if key in content), None)
    if not isinstance(content, Mapping) or not _holds_tensors(content):
        raise CheckpointError(
            "holds no state dict: expected named tensors, bare or under one of "
            f"{', '.join(WRAPPERS)}; save the model's state dict"
        )
    return {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    import torch

    return any(isinstance(value, torch.Tensor) for value in content.values())


def _strip(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _from_hugging_face(name: str) -> str:
    for pattern, replacement in HUGGING_FACE:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    return name


def _vit_width(state: Mapping[str, Tensor]) -> int:
    projection = state.get("image_encoder.patch_embed.proj.weight")
    if projection is None:
        projection = state.get("image_encoder.blocks.0.norm1.weight")
    return 0 if projection is None or projection.ndim == 0 else len(projection)


def _size_of(positions: Tensor) -> int:
    shape = tuple(positions.shape)
    if len(shape) != 4 or shape[1] != shape[2] or not 0 < shape[1] * PATCH <= LARGEST:
        raise CheckpointError(
            f"image_encoder.pos_embed has the shape {shape}; expected (1, n, n, channels)"
        )
    return shape[1] * PATCH


def _stated_size(metadata: Mapping[str, str], default: int) -> int:
    stated = metadata.get("image_size", str(default))
    if not stated.isdecimal() or not 0 < int(stated) <= LARGEST:
        raise CheckpointError(f"its metadata state image_size {stated!r}; expected pixels")
    return int(stated)


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:SHOWN]) + (", …" if len(shown) > SHOWN else "")

"""Pretrained encoders as files, and their way into Segment Anything.

A file holds what a plain ViT and the paper's encoder share: patch embedding, absolute positions,
norms, attention and MLPs, under the names of the encoder's own parameters.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from samplat import CheckpointError, Sam, SamplatError
from samplat_train.masked_autoencoder import PlainEncoder, is_plain_vit

FORMAT = "samplat encoder 1"
"""The `format` in the metadata of these files."""
SHOWN = 3
"""Names that an error lists."""


def write_encoder(
    encoder: PlainEncoder, path: Path, *, architecture: str, facts: Mapping[str, str]
) -> None:
    """Write a pretrained encoder as safetensors in fp32; the file is whole or absent.

    Args:
        encoder: the pretrained one.
        path: the file.
        architecture: key of `samplat.BUILDERS`.
        facts: more to record in the metadata.

    Raises:
        SamplatError: it cannot be written.
    """
    from safetensors.torch import save_file

    state = {k: v.detach().float().cpu().contiguous() for k, v in encoder.state_dict().items()}
    metadata = {**facts, "architecture": architecture, "format": FORMAT}
    with whole_file(path) as partial:
        save_file(state, partial, metadata=metadata)


def initialise_encoder(sam: Sam, path: str | os.PathLike[str]) -> None:
    """Begin with a pretrained encoder: all but relative positions and neck is taken from a file.

    Those two stay as they are in `sam`, so hand over a newly built one: relative positions at zero
    and a random neck (ViTDet does the same). Absolute positions are interpolated to the image size.

    Args:
        sam: a network of the file's architecture, of any image size.
        path: what `samplat pretrain` wrote.

    Raises:
        CheckpointError: the file is none, damaged, or of another architecture.
    """
    path = Path(path)
    weights = read_encoder(path)
    encoder = sam.image_encoder
    if not is_plain_vit(encoder):
        raise CheckpointError(
            f"{path} is a plain ViT's, the network to begin with has another kind"
        )
    own = encoder.state_dict()
    weights["pos_embed"] = fit_positions(weights["pos_embed"], tuple(own["pos_embed"].shape[1:3]))
    _check(weights, own, path)
    encoder.load_state_dict(own | weights)


def is_encoder_file(path: Path) -> bool:
    """Whether a file says of itself that it is a pretrained encoder."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read_encoder(path: Path) -> dict[str, Tensor]:
    """The tensors of a pretrained encoder.

    Raises:
        CheckpointError: the file is missing, damaged, or something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; expected what samplat pretrain wrote")
    if not is_encoder_file(path):
        raise CheckpointError(f"{path} is no pretrained encoder, or damaged; write it again")
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {_one_line(error)}; write it again") from error
    if weights.get("pos_embed", torch.empty(0)).ndim != 4:
        raise CheckpointError(f"{path} holds no positions (1, h, w, C); write it again")
    return weights


def fit_positions(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate absolute positions (1, h, w, C) to (1, *size, C), bicubically."""
    if tuple(positions.shape[1:3]) == size:
        return positions
    grid = F.interpolate(positions.permute(0, 3, 1, 2), size=size, mode="bicubic")
    return grid.permute(0, 2, 3, 1).contiguous()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` once all is written and flushed.

    Raises:
        SamplatError: the disk is full, read-only or failing; what was at `path` is kept.
    """
    from safetensors import SafetensorError

    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise SamplatError(
            f"cannot write {path}: {_one_line(error)}; what was there is kept: free space and run "
            "the same command again"
        ) from error


def _check(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    expected = {name for name in own if not _is_new(name)}
    faults = [
        *(f"{name} is missing" for name in sorted(expected - weights.keys())),
        *(f"{name} is unexpected" for name in sorted(weights.keys() - expected)),
        *(
            f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in sorted(expected & weights.keys())
            if weights[name].shape != own[name].shape
        ),
        *(f"{name} is not finite" for name in weights if not weights[name].isfinite().all()),
    ]
    if faults:
        more = ", …" if len(faults) > SHOWN else ""
        raise CheckpointError(
            f"{path} does not fit this network: {', '.join(faults[:SHOWN])}{more}; "
            "use the architecture that was pretrained"
        )


def _is_new(name: str) -> bool:
    return name.startswith("neck.") or name.endswith((".rel_pos_h", ".rel_pos_w"))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _one_line(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return " ".join(str(reason).split())[:200] or type(error).__name__

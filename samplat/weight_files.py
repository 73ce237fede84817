"""Reading and writing files of weights: safetensors, and PyTorch's pickles without running them."""

from __future__ import annotations

import json
import os
import pickle
import re
import uuid
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samplat.errors import CheckpointError
from samplat.files import TEMPORARY, sync_directory

if TYPE_CHECKING:
    from torch import Tensor

HEADER_LIMIT = 100_000_000
"""Largest header of a safetensors file, in bytes, as in its format specification."""
SAFE_TORCH = (2, 10)
"""First release whose `weights_only` unpickler has no known hole (CVE-2026-24747)."""


def read_weights(path: Path) -> tuple[Any, dict[str, str]]:
    """The content of a file of weights, never running code from it.

    Returns:
        what the file holds, a state dict or something around one, on the CPU; and the metadata of
        a safetensors file, else an empty dict.

    Raises:
        CheckpointError: missing, a directory, damaged, of another format, or it holds objects
            whose loading would run code.
    """
    head = read_head(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path), {}
    if head.startswith(b"\x80"):
        return _read_pickle(path), {}
    if head[8:9] == b"{":
        return _read_safetensors(path)
    raise CheckpointError(
        f"{path} is not a file of weights: expected safetensors or a PyTorch file "
        f"(.safetensors, .pth, .pt), it begins with {head[:8]!r}"
    )


def read_head(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        CheckpointError: it is missing, a directory, not a regular file, or not readable.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; name the file of weights inside of it")
    if not path.exists():
        raise CheckpointError(f"there is no file {path}; name a .pth, .pt or .safetensors file")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file; expected a file of weights")
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors.

    Raises:
        CheckpointError: it is no safetensors file, or damaged.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= HEADER_LIMIT else {}
        return {str(k): str(v) for k, v in header["__metadata__"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} has no safetensors metadata: {error}") from error


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that is whole or absent, even after a crash.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        # safetensors lets the owner alone read; models are for everyone whom the umask allows.
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {_one_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # A copy: what safetensors returns is mapped from the file, which may change later.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is a damaged safetensors file: {_one_line(error)}"
        ) from error
    return tensors, metadata


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [i.filename for i in archive.infolist() if i.compress_type != 0]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is cut off or damaged: {_one_line(error)}") from error
    if packed:  # PyTorch stores without compression; a compressed entry may be a bomb
        raise CheckpointError(f"{path} is not a PyTorch file: its entry {packed[0]} is compressed")
    return _read_pickle(path)


def _read_pickle(path: Path) -> Any:
    import torch

    _require_safe_torch(path, torch.__version__)
    try:
        # A file object: by a path, torch would choose the format by the suffix. No warnings: of a
        # newer pickle protocol it says that loading may fail, and if it does, the error says so.
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is refused: {_refusal(str(error))}") from error
    except Exception as error:  # damaged files fail in any of the reader's layers
        raise CheckpointError(f"{path} is cut off or damaged: {_one_line(error)}") from error


def _require_safe_torch(path: Path, version: str) -> None:
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < SAFE_TORCH:
        raise CheckpointError(
            f"{path} is a pickle, which torch {version} cannot read safely; expected torch 2.10 or "
            "later: upgrade it, or use a .safetensors file"
        )


def _refusal(message: str) -> str:
    found = re.search(r"GLOBAL (\S+)", message)
    what = f"loading it would call {found[1]}" if found else "it is no plain dict of tensors"
    return f"{what}; expected tensors only, so save its state dict alone, best as safetensors"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

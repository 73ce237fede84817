"""What numbers a model computes in, and how that is chosen for a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samplat.errors import InputError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""What `load_model` takes; "auto" is bf16 where the hardware computes in it, else fp32."""


def resolved(precision: str, device: torch.device) -> str:
    """A precision by name, "auto" being decided for the device.

    Raises:
        InputError: there is none of that name.
    """
    if precision not in PRECISIONS:
        raise InputError(f"expected a precision of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "auto":
        return precision
    return "bf16" if computes_in_bf16(device.type) else "fp32"


def computes_in_bf16(device_type: str) -> bool:
    """Whether the hardware multiplies in bf16, rather than emulating it."""
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type != "cpu":
        return False
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def dtype_of(precision: str) -> torch.dtype:
    """The type of activations; weights stay in fp32."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a network computes in a precision."""
    import torch

    return torch.autocast(device.type, dtype=dtype_of(precision), enabled=precision != "fp32")

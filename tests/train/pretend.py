"""A device of Python's own, for tests of what must run on any: `python pretend.py FOLDER`.

Its tensors hold CPU tensors. As on a GPU, an operation on tensors of both kinds is refused, except
for numbers, copies and indices. Prints, one by line, the losses of two training steps and the
masks' pixels of a prediction, first on the CPU and then on the device.
"""

import sys
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "pretend"
MIXING = {"aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}


class Backend(_DummyBackendModule):
    """What autocast asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class Held(torch.Tensor):
    """A tensor of the device."""

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> Self:
        held = torch.Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), dtype=real.dtype, device=f"{NAME}:0"
        )
        held.kept = real
        return held

    def __init__(self, real: torch.Tensor) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class OnDevice(TorchDispatchMode):
    """Where the device exists."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation on the tensors held; refused for a mixture."""
    name = function._schema.name
    # Some operations have the device by position.
    named = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.device)]
    device = named[0] if named else kwargs.get("device")
    given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
    held = [a for a in given if isinstance(a, Held)]
    others = [a for a in given if not isinstance(a, Held) and a.ndim]
    if held and others and name not in MIXING:
        raise RuntimeError(f"{name} mixes devices: {[tuple(a.shape) for a in given]}")
    here = bool(held) if device is None else torch.device(device).type == NAME
    if name == "aten::copy_":
        here = isinstance(args[0], Held)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(_real, (args, kwargs))
    out = function(*args, **kwargs)
    known = {id(a.kept): a for a in held}

    def wrapped(value: Any) -> Any:
        if not here or not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else Held(value)

    return tree_map(wrapped, out)


def _real(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.kept if isinstance(value, Held) else value


def _losses(folder: Path, device: torch.device) -> list[float]:
    from samplat_train.trainer import new_state, train_step
    from train.runs import QUICK, batches

    recipe = QUICK.__class__(**{**vars(QUICK), "corrections": 1, "dense_weight": 0.3})
    torch.manual_seed(0)
    state = new_state(recipe, device)
    made = batches(folder, recipe)
    return [train_step(state, recipe, [made[i].to(device)]).loss for i in range(2)]


def _pixels(device: str) -> list[int]:
    import samplat

    picture = np.zeros((96, 160, 3), np.uint8)
    picture[20:70, 30:110] = (200, 80, 40)
    model = samplat.load_model("samplat-tiny", precision="fp32", device=device)
    embedding = samplat.embed(model, picture)
    prompts = [
        samplat.Prompts(boxes=[(28, 18, 112, 72)]),
        samplat.Prompts(points=[[(60, 40), (5, 5)]], labels=[[1, 0]]),
    ]
    found = [samplat.predict(model, embedding, each) for each in prompts]
    return [int(f.masks.sum()) for f in found]


def main(folder: Path) -> None:
    # Before any gradient: the engine of these counts devices once.
    _setup_privateuseone_for_python_backend(NAME, Backend())
    print(*_losses(folder, torch.device("cpu")), *_pixels("cpu"))
    # It is made of internals that ask the device itself.
    torch.Tensor.new_tensor = lambda self, data, **_: torch.tensor(data, dtype=self.dtype).to(
        self.device
    )
    torch.inference_mode = torch.no_grad  # views of such tensors cannot be held
    with OnDevice():
        with pytest.raises(RuntimeError, match="mixes devices"):
            Held(torch.ones(2)) + torch.ones(2)
        print(*_losses(folder, torch.device(f"{NAME}:0")), *_pixels(f"{NAME}:0"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

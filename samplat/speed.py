"""How fast a model is on this machine: what `samplat bench` prints."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from samplat.automatic import generate_masks
from samplat.checkpoints import Model
from samplat.prediction import embed, predict
from samplat.prompts import Prompts

MATRICES = (256, 512, 1024, 2048)
"""Sides of the matrices whose products tell the machine's peak."""
LONG = 0.2
"""Seconds of a product beyond which larger ones are left out: a processor that has no unit for a
type emulates it, and takes minutes."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One thing that a model does."""

    name: str
    """"encode", "prompt", "automatic" or "tile"."""
    seconds: float
    """Median of the runs."""
    full_precision_seconds: float | None
    """The same in fp32; None where the model computes in that."""
    pixels: int
    """Pixels of the image that were gone through."""

    @property
    def ratio(self) -> float:
        """How many times as long fp32 takes."""
        return (self.full_precision_seconds or self.seconds) / self.seconds


def machine(model: Model) -> dict[str, Any]:
    """What the model runs on: processor or GPU, threads, and the peak of matrix products."""
    cuda = model.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(model.device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": model.precision,
        "teraflops": {name: round(_peak(model, dtype), 3) for name, dtype in _types(model)},
    }


def _types(model: Model) -> Iterator[tuple[str, torch.dtype]]:
    yield "fp32", torch.float32
    if model.precision == "bf16":
        yield "bf16", torch.bfloat16
    if model.precision == "fp16":
        yield "fp16", torch.float16


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _peak(model: Model, dtype: torch.dtype) -> float:
    best = 0.0
    for side in MATRICES:
        a, b = (torch.randn(side, side, device=model.device).to(dtype) for _ in range(2))
        seconds = _product_seconds(model, a, b)
        best = max(best, 2 * side**3 / seconds / 1e12)
        if seconds > LONG:
            break
    return best


def _product_seconds(model: Model, a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the fastest of five products, or of the first one if that takes long."""
    first = _seconds(model, lambda: a @ b)
    if first > LONG:
        return first
    return min(first, *(_seconds(model, lambda: a @ b) for _ in range(4)))


def measure(
    model: Model, image: NDArray[np.uint8], *, points_per_side: int, runs: int
) -> Iterator[Timing]:
    """Timings of a model on an image, one after the other as they are known.

    Args:
        model: from `load_model`.
        image: (H, W, 3).
        points_per_side: of the grid of automatic masks.
        runs: of each; medians are told. One more, the first, does not count.
    """
    height, width = image.shape[:2]
    full = replace(model, precision="fp32")
    prompt = Prompts(points=[(width / 2, height / 2)])

    def tasks(of: Model) -> dict[str, Callable[[], object]]:
        known = embed(of, image)
        return {
            "encode": lambda: embed(of, image),
            "prompt": lambda: predict(of, known, prompt),
            "automatic": lambda: generate_masks(of, known, points_per_side=points_per_side),
            "tile": lambda: generate_masks(of, embed(of, image), points_per_side=points_per_side),
        }

    ours, theirs = tasks(model), tasks(full) if model.precision != "fp32" else {}
    for name, task in ours.items():
        count = runs if name in ("encode", "prompt") else 1
        reference = theirs.get(name)
        task()
        times = [_seconds(model, task) for _ in range(count)]
        others = [_seconds(full, reference) for _ in range(count)] if reference else []
        yield Timing(
            name=name,
            seconds=statistics.median(times),
            full_precision_seconds=statistics.median(others) if others else None,
            pixels=height * width,
        )


def sample_image(side: int) -> NDArray[np.uint8]:
    """Bright and dark discs on a slope of colours (side, side, 3): something to find masks of."""
    y, x = np.mgrid[:side, :side] / side
    image = np.stack([x, y, 1 - x], axis=2) * 160
    rng = np.random.default_rng(0)
    for cx, cy, radius, level in rng.uniform((0, 0, 0.02, 0), (1, 1, 0.12, 255), (24, 4)):
        image[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = level
    return image.astype(np.uint8)


def _seconds(model: Model, task: Callable[[], object]) -> float:
    _wait(model)
    began = time.perf_counter()
    task()
    _wait(model)
    return time.perf_counter() - began


def _wait(model: Model) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)

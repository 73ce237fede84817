"""Where the time of automatic masks goes, and what share of the machine's peak each part reaches.

    python benchmarks/breakdown.py [--precision auto|fp32|bf16] [--json OUT]

ViT-B with the random weights, the picture and the thresholds of `benchmarks/engine.py`. A part's
seconds are its own, without those of the parts that it calls. Operations are those that torch
counts (matrix products, convolutions, attention), and the peak is that of a matrix product of 4096
a side.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

import samplat
from benchmarks.engine import SIDE, limits, picture, random_model, samplat_precision
from samplat import automatic, prediction, selection
from samplat.files import check_file
from samplat.model.sam import Sam
from samplat.precision import PRECISIONS, dtype_of
from samplat.upscaling import Upscaling

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("encode", Sam, "encode"),
    ("share the image among prompts", Sam, "share"),
    ("ask: tokens and predicted IoU", Sam, "ask"),
    ("draw: masks of confident prompts", Sam, "draw"),
    ("filter at low resolution", automatic, "roughly_stable"),
    ("outline at full resolution", Upscaling, "outlined"),
    ("run-length codes", selection, "encode_runs"),
)
PEAK_SIDE = 4096


class Clock:
    """Seconds of nested calls, each without those inside of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                spent, inner = time.perf_counter() - began, self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent
                self.seconds[name] = self.seconds.get(name, 0.0) + spent - inner

        return run


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """All parts timed."""
    with ExitStack() as stack:
        for name, owner, attribute in PARTS:
            timed = clock.timed(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, timed))
        yield


def peak(dtype: torch.dtype) -> float:
    """Floating-point operations per second of a matrix product."""
    a, b = (torch.randn(PEAK_SIDE, PEAK_SIDE).to(dtype) for _ in range(2))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * PEAK_SIDE**3 / min(times)


def operations(model: samplat.Model) -> dict[str, float]:
    """Of an image encoded, and of one prompt asked and drawn."""
    counted = {}
    with FlopCounterMode(display=False) as counter:
        embedding = samplat.embed(model, picture(SIDE))
    counted["encode"] = float(counter.get_total_flops())
    prompts = samplat.Prompts(points=[(300, 400)])
    prediction.draft_confident(model, embedding, prompts, 2.0)  # the shared parts are ready now
    with FlopCounterMode(display=False) as counter:
        prediction.draft_confident(model, embedding, prompts, 2.0)
    counted["ask"] = float(counter.get_total_flops())
    with FlopCounterMode(display=False) as counter:
        prediction.draft_confident(model, embedding, prompts, -99.0)
    counted["draw"] = float(counter.get_total_flops()) - counted["ask"]
    return counted


def run(precision: str) -> dict[str, dict[str, float]]:
    model, clock = random_model(precision), Clock()
    fastest, counted = peak(dtype_of(precision)), operations(model)
    samplat.generate_masks(model, picture(SIDE), **{**limits(), "points_per_side": 2})
    drawn = [0]

    began = time.perf_counter()
    counting = functools.partialmethod(_counting, drawn, Sam.draw)
    with mock.patch.object(Sam, "draw", counting), watched(clock):
        samplat.generate_masks(model, picture(SIDE), **limits())
    total = time.perf_counter() - began
    prompts = int(limits()["points_per_side"]) ** 2
    work = {
        "encode": counted["encode"],
        "ask: tokens and predicted IoU": prompts * counted["ask"],
        "draw: masks of confident prompts": drawn[0] * counted["draw"],
    }
    rows = dict(clock.seconds)
    rows["all else"] = total - sum(rows.values())
    print(f"{precision}, {torch.get_num_threads()} threads, peak {fastest / 1e12:.3f} TFLOP/s")
    print(f"{drawn[0]} of {prompts} prompts drawn, {total:.1f} s")
    return {
        name: {
            "seconds": seconds,
            "share": seconds / total,
            "of_peak": work[name] / seconds / fastest if name in work else float("nan"),
        }
        for name, seconds in sorted(rows.items(), key=lambda row: -row[1])
    }


def _counting(self: Sam, drawn: list[int], draw: Callable[..., Any], *more: Any) -> Any:
    drawn[0] += len(more[1].iou)
    return draw(self, *more)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parsed = parser.parse_args(arguments)
    if parsed.json:
        check_file(parsed.json)
    chosen = samplat_precision() if parsed.precision == "auto" else parsed.precision
    with torch.inference_mode():
        rows = run(chosen)
    print(f"{'':<36}{'s':>8}{'share':>8}{'of peak':>9}")
    for name, row in rows.items():
        reached = "" if row["of_peak"] != row["of_peak"] else f"{row['of_peak']:.0%}"
        print(f"{name:<36}{row['seconds']:>8.2f}{row['share']:>8.0%}{reached:>9}")
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

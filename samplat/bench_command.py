"""`samplat bench`: how fast a model is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samplat.files import check_file, write_atomic

if TYPE_CHECKING:
    from samplat.speed import Timing

WHAT = {
    "encode": "an image encoded",
    "prompt": "one more point",
    "automatic": "automatic masks",
    "tile": "a tile, whole",
}


def bench(
    model: Annotated[str, typer.Option(help="Name, or path of a checkpoint.")] = "samplat-tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the encoder.")
    ] = False,
    size: Annotated[int, typer.Option(min=16, help="Side of the image in pixels.")] = 512,
    points_per_side: Annotated[int, typer.Option(min=1, help="Of the automatic masks.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="Runs whose median is told.")] = 5,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file too.")
    ] = None,
) -> None:
    """Time a model on this machine: encoding, a prompt, automatic masks, a tile."""
    if output is not None:
        check_file(output)
    from samplat.checkpoints import load_model
    from samplat.plugins import registry
    from samplat.speed import machine, measure, sample_image

    loaded = load_model(
        model,
        device=device,
        precision=precision,
        compiled=compiled,
        models=registry().models(),
    )
    facts = {"model": loaded.name, **machine(loaded)}
    for name, value in facts.items():
        typer.echo(f"{name + ':':<12}{value}")
    typer.echo(f"{'':<20}{'seconds':>10}{'x fp32':>8}{'Mpx/s':>8}")
    rows: dict[str, dict[str, float]] = {}
    image = sample_image(size)
    for timing in measure(loaded, image, points_per_side=points_per_side, runs=runs):
        rows[timing.name] = _row(timing)
        typer.echo(_line(timing))
    if output is not None:
        document = json.dumps({"machine": facts, "rows": rows}, indent=2) + "\n"
        write_atomic(output, document.encode())


def _row(timing: Timing) -> dict[str, float]:
    return {
        "seconds": timing.seconds,
        "ratio": timing.ratio,
        "pixels_per_second": timing.pixels / timing.seconds,
    }


def _line(timing: Timing) -> str:
    speed = timing.pixels / timing.seconds / 1e6
    return f"{WHAT[timing.name]:<20}{timing.seconds:>10.4f}{timing.ratio:>8.2f}{speed:>8.2f}"

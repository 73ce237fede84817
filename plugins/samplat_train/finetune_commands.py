"""The command `samplat finetune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samplat import SamplatError

if TYPE_CHECKING:
    from samplat_train.finetune import Finetuned
    from samplat_train.trainer import StepReport
    from samplat_train.validation import Figures

REPORT_EVERY = 10


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("finetune")(finetune)


def finetune(
    model: Annotated[str, typer.Argument(help="Name or file of the model to begin with.")],
    data: Annotated[list[str], typer.Argument(help="Labelled pictures, in any known format.")],
    name: Annotated[str, typer.Option(help="What to call the new model.")],
    part: Annotated[str, typer.Option(help="What learns: decoder, lora or all.")] = "decoder",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps at most.")] = 200,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate; what suits the part without it.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters, with --part lora.")] = 8,
    held_out: Annotated[
        float, typer.Option(help="Share of the pictures that the model is judged on.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    run_dir: Annotated[
        Path | None, typer.Option(help="Checkpoint and log; a run there is resumed.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    replace: Annotated[bool, typer.Option(help="Overwrite a model of this name.")] = False,
    force: Annotated[bool, typer.Option(help="Keep the model even if it is no better.")] = False,
) -> None:
    """Fine-tune a model on labelled pictures and keep it under a name of its own."""
    import samplat
    from samplat_train.data.joined import join
    from samplat_train.data.opening import open_source
    from samplat_train.finetune import FinetuneSettings
    from samplat_train.finetune import finetune as run

    settings = FinetuneSettings(
        part=part,  # type: ignore[arg-type]
        steps=steps,
        learning_rate=learning_rate,
        rank=rank,
        held_out=held_out,
        seed=seed,
    )
    samplat.check_new_name(name, replace=replace)
    if json_out:
        samplat.check_file(json_out)
    source = join([open_source(text) for text in data])
    start = samplat.load_model(model)
    place = run_dir or Path(f"finetune-{name}")
    result = run(start, source, place, settings, on_step=_report, on_figures=_tell)
    if not result.chosen_on:
        typer.echo("the held-out pictures also chose the best weights: too few to divide", err=True)
    if json_out:
        json_out.write_text(json.dumps(_facts(start, result, settings), indent=1) + "\n")
    if result.after.score <= result.before.score and not force:
        raise SamplatError(
            f"no better on {result.held_out} held-out pictures: nothing was saved; "
            "--force saves it, more pictures or another --part may help"
        )
    path = samplat.install_model(
        result.sam,
        name=name,
        architecture=start.architecture,
        metadata=_metadata(start, result, settings, source.name),
        replace=replace,
    )
    typer.echo(f"{name} is ready for --model {name}: {path}")


def _report(report: StepReport) -> None:
    if report.step % REPORT_EVERY == 0:
        typer.echo(
            f"step {report.step}: loss {report.loss:.3f}, IoU {report.iou:.3f}, "
            f"{report.seconds:.2f} s",
            err=True,
        )


def _tell(when: str, figures: Figures) -> None:
    typer.echo(
        f"{when}: one point {figures.point:.3f} (best of three {figures.point_best:.3f}), "
        f"box {figures.box:.3f} on {figures.objects} held-out objects"
    )


def _facts(start: Any, result: Finetuned, settings: Any) -> dict[str, Any]:
    return {
        "parent": {"name": start.name, "weights_sha256": start.weights_sha256},
        "settings": vars(settings),
        "before": result.before.as_dict(),
        "after": result.after.as_dict(),
        "trained_on": result.trained_on,
        "held_out": result.held_out,
        "chosen_on": result.chosen_on,
        "learned": result.learned,
        "seconds": round(result.seconds, 1),
    }


def _metadata(start: Any, result: Finetuned, settings: Any, source: str) -> dict[str, str]:
    """What the file says of itself; thresholds of automatic masks come from the parent."""
    return {
        "description": f"{start.name}, fine-tuned ({settings.part})",
        "grid_defaults": json.dumps(dict(start.grid_defaults)),
        "lineage": json.dumps(_facts(start, result, settings) | {"data": source}),
    }

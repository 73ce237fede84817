"""The commands `samplat engine ...`. Heavy libraries are imported when they run, not here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from samplat_train.engine import AutomaticReport, Statistics

PICTURES_LEFT_OUT = 3
"""Exit status when a run ended, but not with every picture."""

app = typer.Typer(
    no_args_is_help=True, help="Annotate pictures in rounds: assisted, semi-automatic, automatic."
)
ProjectFolder = Annotated[Path, typer.Argument(metavar="PROJECT", help="Folder of the project.")]
PredIou = Annotated[float | None, typer.Option(help="Drop masks of a lower predicted IoU.")]
Stability = Annotated[float | None, typer.Option(help="Drop masks of a lower stability.")]
Points = Annotated[int | None, typer.Option(help="Points along each side of the picture.")]
Layers = Annotated[int | None, typer.Option(help="Layers of crops: 2 is 2 x 2 and 4 x 4.")]
Masks = Annotated[str, typer.Option(help="accepted, automatic or all.")]


def add_engine(main: typer.Typer) -> None:
    """Add `samplat engine`."""
    main.add_typer(app, name="engine")


@app.command("create")
def create(
    project: Annotated[Path, typer.Argument(metavar="PROJECT", help="Folder to be made.")],
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.")],
    model: Annotated[str, typer.Option(help="Name, or a file of weights.")] = "samplat-tiny",
    pred_iou_thresh: PredIou = None,
    stability_thresh: Stability = None,
) -> None:
    """Make a project of pictures; they stay where they are."""
    from samplat_train.engine import Parameters, Project

    numbers = Parameters(pred_iou_thresh=pred_iou_thresh, stability_score_thresh=stability_thresh)
    made = Project.create(project, pictures, model=model, parameters=numbers)
    for twin in made.twins:
        typer.echo(f"left out: {twin} holds the same bytes as another picture", err=True)
    typer.echo(f"{project}: {len(made.pictures)} pictures, model {made.settings.model.name}")


@app.command("status")
def status(project: ProjectFolder) -> None:
    """Show the stage, the model, and how far each stage is."""
    from samplat_train.engine import STAGES, Project

    opened = Project.open(project)
    settings = opened.settings
    states = list(opened.states())
    typer.echo(f"stage {settings.stage}, model {settings.model.name}, round {settings.round}")
    for stage in STAGES:
        done = sum(stage in state.finished for _, state in states)
        masks = sum(len(state.of_stages([stage])) for _, state in states)
        typer.echo(f"{stage:<16} {done}/{len(states)} pictures finished, {masks} masks")
    for entry, state in states:
        if holder := opened.desk.holder(entry.index):
            typer.echo(f"picture {entry.index} is claimed by {holder.annotator}")
        for note in state.notes:
            typer.echo(f"note: {note}", err=True)


@app.command("stage")
def stage(
    project: ProjectFolder,
    name: Annotated[
        str | None, typer.Argument(help="assisted, semi-automatic or fully-automatic.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Switch to another model, too.")] = None,
    pred_iou_thresh: PredIou = None,
    stability_thresh: Stability = None,
    proposal_points_per_side: Points = None,
) -> None:
    """Show the stage, or go to another one and change what it works with."""
    from samplat_train.engine import Project

    opened = Project.open(project)
    if model is not None:
        opened.use_model(model)
    opened.set_parameters(
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_thresh,
        proposal_points_per_side=proposal_points_per_side,
    )
    if name is not None:
        opened.set_stage(name)
    settings = opened.settings
    typer.echo(f"stage {settings.stage}, model {settings.model.name}")


@app.command("auto")
def auto(
    project: ProjectFolder,
    pred_iou_thresh: PredIou = None,
    stability_thresh: Stability = None,
    points_per_side: Points = None,
    crop_layers: Layers = None,
    min_region_area: Annotated[
        int | None, typer.Option(help="Remove holes and islands of fewer pixels.")
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress as JSON lines on stderr.")
    ] = False,
) -> None:
    """Segment every picture without anybody, into PROJECT/sa1b; resumes. Options are kept."""
    from samplat import choose_progress
    from samplat_train.engine import Project, run_automatic

    opened = Project.open(project)
    opened.set_parameters(
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_thresh,
        points_per_side=points_per_side,
        crop_layers=crop_layers,
        min_region_area=min_region_area,
    )
    report = run_automatic(opened, progress=choose_progress(sys.stderr, log_json=log_json))
    _say_automatic(project, report)


@app.command("export")
def export(
    project: ProjectFolder,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="SA-1B folder to write.")],
    masks: Masks = "accepted",
) -> None:
    """Write recorded masks as an SA-1B folder."""
    from samplat_train.engine import Project, export_sa1b

    count = export_sa1b(Project.open(project), output, masks)
    typer.echo(f"{count} pictures in {output}")


@app.command("retrain")
def retrain(
    project: ProjectFolder,
    masks: Masks = "accepted",
    part: Annotated[str, typer.Option(help="What learns: decoder, lora or all.")] = "decoder",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
) -> None:
    """Train the model on the recorded masks and switch to it if it got better; resumes."""
    from samplat_train.engine import Finetuner, Project
    from samplat_train.engine import retrain as run_round
    from samplat_train.finetune import FinetuneSettings

    settings = FinetuneSettings(part=part, steps=steps, seed=seed)  # type: ignore[arg-type]
    done = run_round(Project.open(project), Finetuner(settings=settings), choice=masks)
    typer.echo(f"round {done.number}: {done.model.name}, {done.masks} masks")
    for when, figures in done.figures.items():
        typer.echo(f"{when:<7}" + ", ".join(_figure(k, v) for k, v in figures.items()))
    if not done.adopted:
        typer.echo("the model before did better on the pictures held out, and stays", err=True)


@app.command("stats")
def stats(
    project: ProjectFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for machines.")] = False,
) -> None:
    """Show what the masks took, and what they are like (paper, sections 4 and 5)."""
    from samplat_train.engine import Project, statistics

    found = statistics(Project.open(project))
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    _show(found)


def _say_automatic(project: Path, report: AutomaticReport) -> None:
    typer.echo(f"{project / 'sa1b'}: {report.done} pictures done, {report.kept} were there")
    if report.held:
        typer.echo(f"{len(report.held)} are claimed by others; run again later", err=True)
    if report.failed:
        typer.echo(f"{len(report.failed)} could not be used, see above", err=True)
    if report.held or report.failed:
        raise typer.Exit(PICTURES_LEFT_OUT)


def _show(found: Statistics) -> None:
    from rich.console import Console

    console = Console()
    console.print(_stage_table(found))
    console.print(_histograms(found))
    if found.rounds:
        console.print(_round_table(found))


def _stage_table(found: Statistics) -> Table:
    table = _table("", *(s.stage for s in found.stages))
    rows: dict[str, list[Any]] = {
        "pictures finished": [s.pictures_finished for s in found.stages],
        "masks": [s.masks for s in found.stages],
        "masks per picture": [s.masks_per_picture for s in found.stages],
        "seconds per mask, mean": [s.effort.seconds_mean for s in found.stages],
        "seconds per mask, median": [s.effort.seconds_median for s in found.stages],
        "clicks per mask, mean": [s.effort.clicks_mean for s in found.stages],
        "pre-filled and kept": [s.prefilled for s in found.stages],
        "seconds on rejected": [s.rejected_seconds for s in found.stages],
        **{
            f"outline: {name}": [_percent(s.sources[name]) for s in found.stages]
            for name in ("person", "model", "corrected")
        },
        "relative size, mean": [s.properties.relative_size_mean for s in found.stages],
        "concavity, mean": [s.properties.concavity_mean for s in found.stages],
    }
    for name, values in rows.items():
        table.add_row(name, *(_text(v) for v in values))
    return table


def _histograms(found: Statistics) -> Table:
    shape = found.properties
    table = _table("all masks", "counts")
    table.add_row("relative size 0..1", _counts(shape.relative_size))
    table.add_row("concavity 0..1", _counts(shape.concavity))
    per_picture = ", ".join(f"{name}: {n}" for name, n in shape.masks_per_picture.items())
    table.add_row("pictures by masks", per_picture)
    table.add_row("centres", "\n".join(_counts(row) for row in shape.centres))
    return table


def _round_table(found: Statistics) -> Table:
    names = sorted({n for r in found.rounds for part in r.figures.values() for n in part})
    table = _table("round", "masks", *names)
    for one in found.rounds:
        cells = (
            " → ".join(_text(one.figures.get(w, {}).get(n)) for w in ("before", "after"))
            for n in names
        )
        table.add_row(str(one.number), str(one.masks), *cells)
    return table


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table as RichTable

    table = RichTable(box=box.SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    return table


def _counts(values: tuple[int, ...]) -> str:
    return " ".join(f"{v:>4}" for v in values)


def _figure(name: str, value: float) -> str:
    return f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)

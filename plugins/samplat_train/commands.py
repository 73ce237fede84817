"""The commands `samplat draw-scenes` and `samplat train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samplat import InputError

if TYPE_CHECKING:
    from samplat_train.recipe import Recipe
    from samplat_train.samples import PictureFolder
    from samplat_train.trainer import StepReport

REPORT_EVERY = 20


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this plugin."""
    app.command("draw-scenes")(draw_scenes)
    app.command("train")(train)


def draw_scenes(
    output: Annotated[Path, typer.Argument(help="Folder for the scenes.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 1000,
    size: Annotated[int, typer.Option(min=64, help="Side of a scene in pixels.")] = 512,
    seed: Annotated[int, typer.Option(help="The same seed draws the same scenes.")] = 0,
    kind: Annotated[str | None, typer.Option(help="One kind of scene; all without it.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 1,
) -> None:
    """Draw training scenes with instance masks into a folder; what is there already is kept."""
    from samplat_train.scene_store import write_scenes
    from samplat_train.scenes import KINDS

    if kind and kind not in KINDS:
        raise InputError(f"--kind must be one of {', '.join(KINDS)}, got {kind}")

    def report(done: int) -> None:
        if done % 100 == 0:
            typer.echo(f"{done} scenes drawn", err=True)

    write_scenes(output, count, size=size, seed=seed, kind=kind, workers=workers, on_scene=report)
    typer.echo(f"{count} scenes in {output}")


def train(
    data: Annotated[
        list[str],
        typer.Argument(help="Folders with images/ and labels/; FOLDER=WEIGHT sets its share."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights (.safetensors).")],
    run_dir: Annotated[Path, typer.Option(help="Checkpoints and log; a run there is resumed.")],
    recipe: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the recipe; may be repeated.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="checkpoint.pt of another run to start from.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model, kept in the file.")] = "my-model",
) -> None:
    """Train a promptable model on labelled pictures, or resume the run in --run-dir."""
    from samplat import save_model
    from samplat_train.samples import CropBatches
    from samplat_train.trainer import train as run_training

    if output.suffix != ".safetensors":
        raise InputError(f"weights are written as .safetensors, got {output}")
    settings = parse_recipe(recipe or [])
    batches = CropBatches([parse_folder(text) for text in data], settings)
    sam = run_training(settings, batches, run_dir, on_step=_report, start_from=start_from)
    save_model(sam, output, name=name, architecture=settings.architecture, metadata={})
    typer.echo(f"wrote {output}")


def parse_folder(text: str) -> PictureFolder:
    """FOLDER or FOLDER=WEIGHT.

    Raises:
        InputError: the weight is no positive number, or the folder is unusable.
    """
    from samplat_train.samples import PictureFolder

    path, _, weight = text.partition("=")
    try:
        share = float(weight or 1)
    except ValueError:
        share = -1.0
    if share <= 0:
        raise InputError(f"expected FOLDER=WEIGHT with a positive weight, got {text}")
    return PictureFolder.open(Path(path), share)


def parse_recipe(changes: list[str]) -> Recipe:
    """A recipe with NAME=VALUE changes.

    Raises:
        InputError: an unknown name, or a value of another type.
    """
    from samplat_train.recipe import Recipe

    plain = Recipe()
    known = vars(plain)
    values: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in known:
            raise InputError(f"unknown recipe entry {name!r}; known are {', '.join(known)}")
        try:
            values[name] = _parse(value, type(known[name]))
        except ValueError as error:
            kind = type(known[name]).__name__
            raise InputError(f"recipe entry {name} must be {kind}, got {value!r}") from error
    return Recipe(**values)


def _parse(value: str, kind: type) -> object:
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    parsed: object = kind(value)
    return parsed


def _report(report: StepReport) -> None:
    if report.step % REPORT_EVERY == 0:
        typer.echo(
            f"step {report.step}: loss {report.loss:.3f}, IoU {report.iou:.3f}, "
            f"{report.seconds:.2f} s",
            err=True,
        )

"""The commands `samplat draw-scenes` and `samplat train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samplat import InputError

if TYPE_CHECKING:
    from samplat_train.recipe import Recipe
    from samplat_train.samples import Share
    from samplat_train.trainer import StepReport, TrainingState, Validation

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
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs that lend textures and backdrops."),
    ] = None,
    cutouts: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures with alpha that natural scenes show as objects."),
    ] = None,
) -> None:
    """Draw training scenes with instance masks into a folder; what is there already is kept."""
    from samplat_train.scene_store import write_scenes
    from samplat_train.scenes import KINDS

    if kind and kind not in KINDS:
        raise InputError(f"--kind must be one of {', '.join(KINDS)}, got {kind}")

    def report(done: int) -> None:
        if done % 100 == 0:
            typer.echo(f"{done} scenes drawn", err=True)

    write_scenes(
        output,
        count,
        size=size,
        seed=seed,
        kind=kind,
        workers=workers,
        photos=photos,
        cutouts=cutouts,
        on_scene=report,
    )
    typer.echo(f"{count} scenes in {output}")


def train(
    data: Annotated[
        list[str],
        typer.Argument(
            help="Labelled pictures: a folder (images/ and labels/, SA-1B, a job's), COCO .json, "
            "or RASTER+VECTOR; DATA=WEIGHT sets its share, a ^ after it keeps its crops upright."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights (.safetensors).")],
    run_dir: Annotated[Path, typer.Option(help="Checkpoints and log; a run there is resumed.")],
    recipe: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the recipe; may be repeated.")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Begin with the paper's recipe.")] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(help="checkpoint.pt, model or pretrained encoder to start from."),
    ] = None,
    validate: Annotated[
        list[str] | None, typer.Option(help="Labelled pictures that the run is judged on.")
    ] = None,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between two looks.")] = 200,
    patience: Annotated[
        int, typer.Option(min=1, help="Looks without a better score after which the run ends.")
    ] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = "",
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that prepare crops; a GPU wants several.")
    ] = 1,
    name: Annotated[str, typer.Option(help="Name of the model, kept in the file.")] = "my-model",
    metadata: Annotated[
        list[str] | None, typer.Option(help="NAME=TEXT to keep in the file, such as a licence.")
    ] = None,
) -> None:
    """Train a promptable model on labelled pictures, or resume the run in --run-dir."""
    from samplat import save_model
    from samplat_train.changes import changed
    from samplat_train.recipe import PAPER, Recipe
    from samplat_train.samples import CropBatches
    from samplat_train.sheets import draw_sheet
    from samplat_train.trainer import train as run_training

    if output.suffix != ".safetensors":
        raise InputError(f"weights are written as .safetensors, got {output}")
    settings = changed(Recipe(**PAPER) if paper else Recipe(), recipe or [])
    facts = parse_metadata(metadata or [])
    batches = CropBatches([parse_source(text) for text in data], settings)

    def draw(state: TrainingState) -> None:
        batch = batches[state.step].to(next(state.model.parameters()).device)
        draw_sheet(state.average.eval(), settings, batch, run_dir / f"step{state.step:06}.png")

    sam = run_training(
        settings,
        batches,
        run_dir,
        on_step=_report,
        on_save=draw,
        start_from=start_from,
        validation=validation_on(validate or [], validate_every, patience, settings),
        device=device,
        workers=workers,
    )
    save_model(sam, output, name=name, architecture=settings.architecture, metadata=facts)
    typer.echo(f"wrote {output}")


def validation_on(
    data: list[str], every: int, patience: int, settings: Recipe
) -> Validation | None:
    """Judge a run by the mean of point and box on labelled pictures, if there are any."""
    if not data:
        return None
    from samplat_train.data.joined import join
    from samplat_train.data.opening import open_source
    from samplat_train.samples import pictures_digest
    from samplat_train.trainer import Validation
    from samplat_train.validation import as_model, measure

    source = join([open_source(text) for text in data])
    return Validation(
        digest=pictures_digest(source),
        score=lambda sam: measure(as_model(sam, settings.architecture), source).score,
        every=every,
        patience=patience,
    )


def parse_metadata(pairs: list[str]) -> dict[str, str]:
    """NAME=TEXT each, as a mapping.

    Raises:
        InputError: one has no name or no "=".
    """
    for pair in pairs:
        if not pair.partition("=")[0] or "=" not in pair:
            raise InputError(f"expected --metadata NAME=TEXT, got {pair!r}")
    return {name: text for name, _, text in (pair.partition("=") for pair in pairs)}


def parse_source(text: str) -> Share:
    """DATA or DATA=WEIGHT, where DATA is what `open_source` opens; with a ^ after it, upright.

    Raises:
        InputError: the weight is no positive number, or the data are unusable.
    """
    from samplat_train.data.opening import open_source
    from samplat_train.samples import Share

    upright = text.endswith("^") and not Path(text).exists()
    text = text.removesuffix("^") if upright else text
    path, sign, weight = text.rpartition("=")
    if not sign or Path(text).exists():
        return Share(source=open_source(text), upright=upright)
    try:
        share = float(weight)
    except ValueError:
        share = -1.0
    if not 0 < share < float("inf"):
        raise InputError(f"expected DATA=WEIGHT with a positive weight, got {text}")
    return Share(source=open_source(path), weight=share, upright=upright)


def _report(report: StepReport) -> None:
    if report.step % REPORT_EVERY == 0:
        typer.echo(
            f"step {report.step}: loss {report.loss:.3f}, IoU {report.iou:.3f}, "
            f"{report.seconds:.2f} s",
            err=True,
        )

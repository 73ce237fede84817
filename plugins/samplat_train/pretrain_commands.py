"""The command `samplat pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samplat import InputError

if TYPE_CHECKING:
    from samplat_train.pretrain import PretrainRecipe, PretrainReport
    from samplat_train.unlabelled import Pictures

REPORT_EVERY = 20


def add_commands(app: typer.Typer) -> None:
    """Add `samplat pretrain`."""
    app.command("pretrain")(pretrain)


def pretrain(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of pictures (PNG, JPEG, TIFF), searched deeply.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The encoder (.safetensors).")],
    run_dir: Annotated[Path, typer.Option(help="Checkpoints, log, sheets; a run is resumed.")],
    recipe: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of the recipe; may be repeated.")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    sheet_every: Annotated[
        int, typer.Option(min=0, help="Steps between sheets of reconstructions; 0: none.")
    ] = 500,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read pictures.")] = 1,
) -> None:
    """Pretrain a ViT encoder on unlabelled pictures, or resume the run in --run-dir."""
    from samplat_train.changes import changed
    from samplat_train.pretrain import PretrainRecipe, write_encoder
    from samplat_train.pretrain import pretrain as run
    from samplat_train.unlabelled import Pictures

    if output.suffix != ".safetensors":
        raise InputError(f"weights are written as .safetensors, got {output}")
    settings = changed(PretrainRecipe(), recipe or [])
    pictures = Pictures.open(folders)
    skipped: set[Path] = set()

    def on_skip(path: Path, reason: str) -> None:
        skipped.add(path)
        typer.echo(f"skipped {reason}", err=True)

    for path, reason in pictures.unreadable.items():
        on_skip(path, reason)

    network = run(
        settings,
        pictures,
        run_dir,
        on_step=_report,
        on_skip=on_skip,
        save_every=save_every,
        sheet_every=sheet_every,
        device=device,
        workers=workers,
    )
    write_encoder(
        network.encoder,
        output,
        architecture=settings.architecture,
        facts=_facts(settings, pictures),
    )
    typer.echo(f"wrote {output}: {len(pictures.paths)} pictures, {len(skipped)} skipped as damaged")


def _facts(recipe: PretrainRecipe, pictures: Pictures) -> dict[str, str]:
    """What the file says of how it came about."""
    return {
        "image_size": str(recipe.image_size),
        "steps": str(recipe.steps),
        "batch": str(recipe.batch),
        "mask_share": str(recipe.mask_share),
        "pictures": str(len(pictures.paths)),
        "pictures_sha256": pictures.digest,
    }


def _report(report: PretrainReport) -> None:
    if report.step % REPORT_EVERY == 0:
        typer.echo(f"step {report.step}: loss {report.loss:.4f}, {report.seconds:.2f} s", err=True)

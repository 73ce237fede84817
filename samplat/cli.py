"""The command line. Heavy libraries are imported by the commands that need them, not here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from samplat.allocation import keep_freed_memory
from samplat.batch.command import batch
from samplat.bench_command import bench
from samplat.cache_commands import cache_app
from samplat.errors import InputError, SamplatError
from samplat.files import check_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samplat.checkpoints import ModelSpec

STOPPED = "stopped; a job resumes with the same command"

models_app = typer.Typer(no_args_is_help=True, help="Models that can be used by name.")


class _Commands(TyperGroup):
    """The commands together; typer alone would end Ctrl-C without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail(STOPPED, status=130)


def build_app() -> typer.Typer:
    """The commands of the core and of every plugin that is ready."""
    from samplat.plugins import plugins

    app = typer.Typer(
        cls=_Commands,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        help="Segment Anything as a platform: huge rasters, volumes, clicks and batch jobs.",
    )
    app.callback()(_root)
    app.command("predict")(predict)
    app.command("batch")(batch)
    app.command("bench")(bench)
    app.command("plugins")(list_plugins)
    app.add_typer(models_app, name="models")
    app.add_typer(cache_app, name="cache")
    plugins().manager.hook.register_commands(app=app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; ends the process with its status.

    0 done, 1 failed, 2 wrong usage, 3 holes left, 130 stopped with Ctrl-C.
    """
    debug = os.environ.get("SAMPLAT_DEBUG") == "1"
    keep_freed_memory()
    try:
        build_app()(arguments, prog_name="samplat")
    except SamplatError as error:
        if debug:
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        _fail(STOPPED, status=130)
    except Exception as error:  # people get one line; developers set SAMPLAT_DEBUG
        if debug:
            raise
        _fail(f"unexpected {type(error).__name__}: {error} (SAMPLAT_DEBUG=1 shows where)")


def _fail(message: str, status: int = 1) -> NoReturn:
    typer.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"samplat {version('samplat')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    from samplat.plugins import plugins

    for info in plugins().infos:
        if info.status == "broken":
            typer.echo(f"warning: plugin {info.name} is broken: {info.remedy}", err=True)


def list_plugins() -> None:
    """List the plugins that were found, and how to install what is missing."""
    from samplat.plugins import plugins

    for info in plugins().infos:
        line = f"{info.name:<12} {info.distribution:<20} {info.status:<14} {info.remedy}"
        typer.echo(line.rstrip())


@models_app.command("list")
def list_models() -> None:
    """List the models, their architecture and licence."""
    from samplat.plugins import registry

    for spec in registry().models().values():
        typer.echo(f"{spec.name:<20} {spec.architecture:<12} {spec.licence}")


@models_app.command("info")
def show_model(name: Annotated[str, typer.Argument(help="Name in `samplat models list`.")]) -> None:
    """Show everything that the registry knows about a model."""
    from dataclasses import fields

    spec = _model(name)
    for item in fields(spec):
        typer.echo(f"{item.name + ':':<16} {getattr(spec, item.name)}")


@models_app.command("download")
def download_model(
    name: Annotated[str, typer.Argument(help="Name in `samplat models list`.")],
    offline: Annotated[
        bool, typer.Option("--offline", help="Fail instead of using the network.")
    ] = False,
) -> None:
    """Download a model's weights, check them, and show where they are."""
    from samplat.checkpoints import download

    typer.echo(str(download(_model(name).name, offline=offline)))


def _model(name: str) -> ModelSpec:
    from samplat.plugins import registry

    known = registry().models()
    if name not in known:
        raise InputError(f"there is no model called {name!r}; known: {', '.join(known)}")
    return known[name]


def predict(
    image: Annotated[Path, typer.Argument(help="Picture: PNG, JPEG, TIFF.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG of the mask: 0 and 255.")],
    point: Annotated[
        list[str] | None,
        typer.Option(help="x,y in pixels on the object; -x,y on the background. Repeatable."),
    ] = None,
    box: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 around the object.")] = None,
    model: Annotated[str, typer.Option(help="Name, or path of a checkpoint.")] = "samplat-tiny",
    cache: Annotated[
        bool,
        typer.Option(
            help="Keep the picture's embedding for the next prompt: `samplat cache info`."
        ),
    ] = True,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never use the network, as with SAMPLAT_OFFLINE=1.")
    ] = False,
) -> None:
    """Segment one object of a picture from points, a box, or both."""
    if offline:
        os.environ["SAMPLAT_OFFLINE"] = "1"
    points, labels = parse_points(point or [])
    corners = parse_numbers(box, 4, "--box") if box else None
    if not points and corners is None:
        raise typer.BadParameter("give at least one --point or a --box")
    if output.suffix.lower() != ".png":
        raise typer.BadParameter(f"--output is a PNG; end its name in .png, got {output.name!r}")
    check_file(output)
    _predict(image, output, points, labels, corners, model, cache=cache)


def _predict(
    image: Path,
    output: Path,
    points: list[tuple[float, float]],
    labels: list[int],
    box: tuple[float, ...] | None,
    model: str,
    *,
    cache: bool,
) -> None:
    from samplat.cache import EmbeddingCache
    from samplat.checkpoints import load_model
    from samplat.plugins import registry
    from samplat.prediction import embed
    from samplat.prediction import predict as predict_masks
    from samplat.prompts import Prompts

    pixels = read_picture(image)
    prompts = Prompts(points=points or None, labels=labels or None, boxes=box)
    prompts.check_inside((pixels.shape[0], pixels.shape[1]))
    loaded = load_model(model, models=registry().models())
    # several masks are for one ambiguous click; more prompts mean one thing
    ambiguous = len(points) == 1 and box is None
    embedding = EmbeddingCache().embed(loaded, pixels) if cache else embed(loaded, pixels)
    prediction = predict_masks(loaded, embedding, prompts, multimask=ambiguous)
    best = int(prediction.predicted_iou[0].argmax())
    write_mask(output, prediction.masks[0, best])
    typer.echo(f"{output}: predicted IoU {float(prediction.predicted_iou[0, best]):.3f}")


def parse_points(texts: Sequence[str]) -> tuple[list[tuple[float, float]], list[int]]:
    """Points x, y and their labels: 1 on the object; 0, written -x,y, on the background."""
    points, labels = [], []
    for text in texts:
        x, y = parse_numbers(text.removeprefix("-"), 2, "--point")
        points.append((x, y))
        labels.append(0 if text.startswith("-") else 1)
    return points, labels


def parse_numbers(text: str, count: int, option: str) -> tuple[float, ...]:
    """`count` numbers separated by commas.

    Raises:
        typer.BadParameter: there are more or fewer, or they are not numbers.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise typer.BadParameter(f"{option} takes {count} numbers with commas, got {text!r}")
    return numbers


def read_picture(path: Path) -> NDArray[Any]:
    """The pixels HxW or HxWx{1,2,3,4} of a picture file.

    Raises:
        InputError: missing, not a picture, or damaged.
    """
    import numpy as np
    from PIL import Image

    if not path.is_file():
        raise InputError(f"expected a picture file, but {path} is not a file")
    try:
        with Image.open(path) as picture:
            plain = picture.convert("RGB") if picture.mode in ("P", "CMYK", "YCbCr") else picture
            return np.asarray(plain)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {path} as a picture: {error}") from error


def write_mask(path: Path, mask: NDArray[Any]) -> None:
    """Write a mask HxW as a PNG of 0 and 255, whole or not at all."""
    import io

    import numpy as np
    from PIL import Image

    from samplat.files import write_atomic

    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())

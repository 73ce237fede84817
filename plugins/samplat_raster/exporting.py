"""From the outputs on a command line to files: what `tile-segment` and `export` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from samplat import Exporter, ImageInfo, JobResult, Progress, Registry

Simplify = Annotated[
    float,
    typer.Option(min=0, help="Simplify polygons, by about so many metres; pixels without a CRS."),
]
RightAngles = Annotated[
    bool,
    typer.Option("--right-angles", help="Give right angles to outlines that nearly have them."),
]
Stac = Annotated[
    bool, typer.Option("--stac", help="Also write a STAC item, OUTPUT.stac.json of the first one.")
]


def with_item(outputs: Sequence[Path]) -> list[Path]:
    """The outputs and, unless there is one, a STAC item that is called like the first of them."""
    if any(output.name.lower().endswith(".stac.json") for output in outputs):
        return list(outputs)
    return [*outputs, outputs[0].with_name(outputs[0].name + ".stac.json")]


def usage_error(message: str) -> NoReturn:
    """End with status 2."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def exporters_for(
    tools: Registry, outputs: Sequence[Path], *, image: str | None, **options: Any
) -> dict[Path, Exporter]:
    """The exporter of each output, told the options of the command; or a usage error.

    Args:
        tools: the registry.
        outputs: files to write.
        image: what is segmented, which no output may replace.
        options: what `with_options` of exporters is given, besides `outputs`.
    """
    from samplat import InputError

    found: dict[Path, Exporter] = {}
    for output in outputs:
        if output in found:
            usage_error(f"{output} is given twice; each output needs its own name")
        if image and output.exists() and Path(image).exists() and output.samefile(image):
            usage_error(f"{output} is the input; choose another output")
        try:
            exporter = tools.exporter_for(output)
        except InputError as error:
            usage_error(str(error))
        if hasattr(exporter, "with_options"):
            exporter = exporter.with_options(outputs=tuple(outputs), **options)
        found[output] = exporter
    # what describes other outputs comes after them
    return dict(sorted(found.items(), key=lambda item: getattr(item[1], "describes", False)))


def check_image(exporters: Mapping[Path, Exporter], info: ImageInfo) -> None:
    """Refuse an image that a format cannot describe, as exporters with `check_image` know it.

    Raises:
        InputError: that.
    """
    for exporter in exporters.values():
        if hasattr(exporter, "check_image"):
            exporter.check_image(info)


def write_outputs(
    result: JobResult, exporters: Mapping[Path, Exporter], progress: Progress
) -> None:
    """Write all outputs, one after the other."""
    check_image(exporters, result.info)
    progress.start("export", len(exporters))
    for output, exporter in exporters.items():
        exporter.export(result, output)
        progress.advance("export")
    progress.finish("export")

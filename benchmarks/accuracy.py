"""Accuracy of a model and of classical tools on labelled pictures and slices.

    python benchmarks/accuracy.py [DIR] [--model NAME_OR_PATH] [--json OUT]

Objects: all pixels of one label, at least 50, at most 10 a picture evenly by rank of size. Prompts:
the object's tight box; its centre point, the pixel farthest from its edge. Every figure is a mean
IoU over objects unless said otherwise:

    box                   single-mask output for the tight box
    point_top point_best  of the three masks for the centre point: the top-scored, and the best
    clicks_1 _3 _5        simulated clicks, each in the middle of the largest error, logits fed back
    iou_error             mean |predicted IoU - IoU| over the three point masks and the box mask
    shape_box             filled box or its ellipse, whichever is better: an oracle choice
    grabcut_box           OpenCV's GrabCut, three iterations from the tight box
    flood_point           flood fill within 20 grey levels of the point
    watershed_point random_walker_point      markers: the point, and the picture's border

Besides: n objects, pictures, ms_encode and ms_prompt (medians); below the table, the parameters of
the model. Volumes are asked slice by slice and with boxes only; a slice without objects is no
picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.evaluation import classical
from benchmarks.evaluation.figures import Record, measure_picture
from benchmarks.evaluation.objects import choose_objects
from benchmarks.evaluation.places import default_root, say
from benchmarks.evaluation.segmenter import SamplatSegmenter, Segmenter, Stopwatch
from benchmarks.evaluation.sets import SETS, EvaluationSet, LabelledPicture, select_pictures
from benchmarks.evaluation.zoom import Zoom, parse_zoom
from samplat.errors import InputError, SamplatError
from samplat.files import check_file

COLUMNS = (
    "n",
    "box",
    "point_top",
    "point_best",
    "clicks_1",
    "clicks_3",
    "clicks_5",
    "iou_error",
    "shape_box",
    "grabcut_box",
    "flood_point",
    "watershed_point",
    "random_walker_point",
    "ms_encode",
    "ms_prompt",
)
PROGRESS_SECONDS = 10.0
STORAGES = ("full", "half", "int8")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and on how much."""

    zoom: Zoom = 1.0
    """Which part of a picture the model sees."""
    clicks: bool = True
    """Simulate clicks."""
    classical: bool = True
    """Measure the classical tools."""
    every: int | None = None
    """Use every n-th picture; None: as each set says."""
    limit: int | None = None
    """At most so many pictures of a set; None: all."""


def measure_set(
    segmenter: Segmenter | None, evaluation_set: EvaluationSet, root: Path, options: Options
) -> dict[str, float]:
    """All figures of one set, of the model if there is one."""
    records: list[Record] = []
    watch = Stopwatch(segmenter) if segmenter else None
    shown, pictures = time.monotonic(), 0
    for picture in select_pictures(evaluation_set, root, every=options.every, limit=options.limit):
        records += measure_one(watch, picture, options, points=not evaluation_set.box_only)
        pictures += 1
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            say(f"{evaluation_set.name}: {pictures} pictures, {len(records)} objects")
    figures = {"n": len(records), "pictures": pictures, **means(records)}
    return figures | (watch.figures() if watch else {})


def measure_one(
    segmenter: Segmenter | None, picture: LabelledPicture, options: Options, *, points: bool
) -> list[Record]:
    """Figures of each chosen object of one picture."""
    objects = choose_objects(picture.labels)
    records: list[Record] = [{} for _ in objects]
    if segmenter:
        records = measure_picture(
            segmenter,
            picture.image,
            objects,
            zoom=options.zoom,
            points=points,
            clicks=options.clicks,
        )
    if options.classical:
        for record, truth in zip(records, objects, strict=True):
            record |= classical.box_figures(picture.image, truth)
            if points:
                record |= classical.point_figures(picture.image, truth)
    return records


def means(records: Sequence[Record]) -> dict[str, float]:
    """The mean of every figure, and `iou_error` over the four masks asked for by box and point."""
    if not records:
        return {}
    figures = {name: float(np.mean([r[name] for r in records])) for name in records[0]}
    box, point = figures.get("iou_error_box"), figures.get("iou_error_point")
    if box is not None:
        figures["iou_error"] = box if point is None else (box + 3 * point) / 4
    return figures


def error_of_all(results: dict[str, dict[str, float]]) -> float | None:
    """`iou_error` over the objects of all sets; None where it was not measured."""
    measured = [f for f in results.values() if "iou_error" in f]
    if not measured:
        return None
    weights = [f["n"] for f in measured]
    return float(np.average([f["iou_error"] for f in measured], weights=weights))


def table(results: dict[str, dict[str, float]]) -> str:
    """The figures as aligned text, one set a line; a dash where a figure was not measured."""
    present = [c for c in COLUMNS if any(c in figures for figures in results.values())]
    rows = [["set", *present]]
    for name, figures in results.items():
        rows.append([name, *(_cell(c, figures.get(c)) for c in present)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    if column == "n":
        return f"{value:.0f}"
    return f"{value:.1f}" if column.startswith("ms_") else f"{value:.3f}"


def chosen_sets(root: Path, names: str | None) -> list[EvaluationSet]:
    """The sets asked for, or all those that are there.

    Raises:
        InputError: an unknown or missing set, or a folder without any.
    """
    known = {s.name: s for s in SETS}
    asked = [n.strip() for n in names.split(",")] if names else list(known)
    if unknown := [n for n in asked if n not in known]:
        raise InputError(f"no set is called {unknown[0]!r}; the sets are {', '.join(known)}")
    there = [known[n] for n in asked if (root / n).is_dir()]
    missing = [n for n in asked if not (root / n).is_dir()]
    if missing and (names or not there):
        raise InputError(
            f"{root} has no folder {missing[0]!r}; pass a folder laid out in such sets"
        )
    for name in missing:
        say(f"{name}: skipped, {root} has no such folder")
    return there


def warm_up(segmenter: Segmenter) -> None:
    """One untimed question, so that first-call costs stay out of the figures."""
    blank = np.zeros((64, 64, 3), np.uint8)
    centre = np.zeros((64, 64), bool)
    centre[16:48, 16:48] = True
    measure_picture(segmenter, blank, [centre], clicks=False)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dir", nargs="?", type=Path, default=default_root(), metavar="DIR")
    add("--model", default="samplat-tiny", help="name or path, as load_model takes it")
    add("--storage", choices=STORAGES, help="embeddings as a cache would give them back")
    add("--json", type=Path, metavar="OUT", help="write {set: {n, box, ...}} here")
    add("--sets", metavar="A,B", help="only these sets")
    add("--limit", type=_positive, metavar="N", help="at most N pictures a set")
    add("--every", type=_positive, metavar="N", help="every n-th picture, for all sets")
    add("--zoom", type=_zoom, default=1.0, metavar="auto|Z", help="default 1: no zoom")
    add("--clicks", action=argparse.BooleanOptionalAction, default=True)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--no-classical", action="store_true", help="the model only")
    only.add_argument("--classical-only", action="store_true", help="no model")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _zoom(text: str) -> Zoom:
    try:
        return parse_zoom(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure what the command line asks for."""
    sets = chosen_sets(arguments.dir, arguments.sets)
    options = Options(
        zoom=arguments.zoom,
        clicks=arguments.clicks,
        classical=not arguments.no_classical,
        every=arguments.every,
        limit=arguments.limit,
    )
    model = None
    if not arguments.classical_only:
        model = SamplatSegmenter(arguments.model, arguments.storage)
    if model:
        warm_up(model)
    results = {}
    for evaluation_set in sets:
        start = time.monotonic()
        figures = measure_set(model, evaluation_set, arguments.dir, options)
        results[evaluation_set.name] = figures | ({"parameters": model.parameters} if model else {})
        say(f"{evaluation_set.name}: done in {time.monotonic() - start:.0f} s")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 1 with one line that says what is wrong."""
    parsed = parse_arguments(arguments)
    try:
        if parsed.json:
            check_file(parsed.json)
        results = run(parsed)
        print(table(results))
        if counts := {f["parameters"] for f in results.values() if "parameters" in f}:
            print(f"parameters of {parsed.model}: {counts.pop():,}")
        if (error := error_of_all(results)) is not None:
            print(f"iou_error over all objects: {error:.3f}")
        if parsed.json:
            rounded = {s: {k: round(v, 4) for k, v in f.items()} for s, f in results.items()}
            parsed.json.write_text(json.dumps(rounded, indent=2) + "\n")
    except (SamplatError, OSError) as error:
        say(f"accuracy: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

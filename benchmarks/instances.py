"""Automatic masks as instances, against thresholding with watershed, on labelled pictures.

    python benchmarks/instances.py [DIR] [--model NAME_OR_PATH] [--json OUT]

The masks of the model's grid of points that cover at most a quarter of the picture are painted, the
best in front; one that is hidden by more than half is left out. The classical way: Otsu's threshold
of the smoothed grey picture, the side of fewer border pixels being objects, holes filled, and a
watershed of the distance to the background from its maxima. Objects and predictions of fewer than
25 pixels are left out. A prediction matches an object at IoU t if their IoU is above t; at t >= 0.5
no object has two.

    ap50 ap75   TP / (TP + FP + FN) at 0.5 and 0.75, mean over pictures (as in StarDist, Cellpose)
    score       mean of it over 0.5, 0.55, ... 0.95 (the score of Data Science Bowl 2018)
    precision recall   at 0.5, over all pictures together
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import default_root, say
from benchmarks.evaluation.instances import (
    Matches,
    figures,
    match,
    otsu_watershed,
    painted,
)
from benchmarks.evaluation.sets import SETS, LabelledPicture, select_pictures
from samplat.errors import SamplatError
from samplat.files import check_file

Method = Callable[[NDArray[np.uint8]], NDArray[np.integer[Any]]]
"""A picture (H, W, 3) to labels (H, W)."""
COLUMNS = ("pictures", "objects", "ap50", "ap75", "score", "precision", "recall", "s_picture")


def measure(method: Method, pictures: Iterator[LabelledPicture]) -> dict[str, float]:
    """All figures of one method, and its median seconds for a picture."""
    matched: list[Matches] = []
    seconds = []
    for picture in pictures:
        start = time.perf_counter()
        found = method(picture.image)
        seconds.append(time.perf_counter() - start)
        matched.append(match(picture.labels, found))
    return figures(matched) | {"s_picture": float(np.median(seconds))}


def automatic(name: str, options: dict[str, Any]) -> Method:
    """The grid of points of a model."""
    import samplat

    model = samplat.load_model(name)
    return lambda image: painted(samplat.generate_masks(model, image, **options))


def table(results: dict[str, dict[str, float]]) -> str:
    """The figures, one method a line."""
    rows = [["method", *COLUMNS]]
    for name, values in results.items():
        cells = [
            f"{values[c]:.0f}" if c in ("pictures", "objects") else f"{values[c]:.3f}"
            for c in COLUMNS
        ]
        rows.append([name, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dir", nargs="?", type=Path, default=default_root(), metavar="DIR")
    parser.add_argument("--model", default="samplat-tiny", help="name or path")
    parser.add_argument("--set", default="bio_dsb2018", choices=[s.name for s in SETS])
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--every", type=int, help="every n-th picture; default: as the set says")
    parser.add_argument("--limit", type=int, help="at most so many pictures")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 1 with one line that says what is wrong."""
    parsed = parse_arguments(arguments)
    chosen = next(s for s in SETS if s.name == parsed.set)
    try:
        if parsed.json:
            check_file(parsed.json)
        options = {"points_per_side": parsed.points_per_side}
        methods = {
            "Otsu + watershed": otsu_watershed,
            parsed.model: automatic(parsed.model, options),
        }
        results = {}
        for name, method in methods.items():
            pictures = select_pictures(chosen, parsed.dir, every=parsed.every, limit=parsed.limit)
            results[name] = measure(method, pictures)
            say(f"{name}: done")
        print(table(results))
        if parsed.json:
            parsed.json.write_text(json.dumps(results, indent=2) + "\n")
    except (SamplatError, OSError) as error:
        say(f"instances: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

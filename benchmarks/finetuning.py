"""What fine-tuning on a few pictures brings on pictures of others.

    python benchmarks/finetuning.py [DATA] [--model NAME_OR_PATH] [--json OUT]

Twenty pictures of DATA/train/bio_dsb2018, evenly by name, are learned from (a fifth chooses the
best weights); every eighth picture of DATA/eval/bio_dsb2018 is asked, before and after, with one
centre point and with a tight box for each of at most ten nuclei:

    point       mean IoU of the mask that the model scores highest
    point_best  the best of its three masks
    box         the single mask
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import samplat
from benchmarks.accuracy import default_root, say
from samplat.errors import SamplatError
from samplat.files import check_file
from samplat_train.data.opening import open_source
from samplat_train.data.pictures import PictureSource, Subset
from samplat_train.finetune import PARTS, FinetuneSettings, finetune
from samplat_train.validation import Figures, measure

SET = "bio_dsb2018"


def every(source: PictureSource, step: float, count: int) -> PictureSource:
    """`count` pictures of a source at even steps."""
    chosen = tuple(int(i * step) for i in range(count))
    return Subset(source=source, chosen=chosen, name=source.name)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, default=default_root().parent)
    parser.add_argument("--model", default="samplat-tiny", help="name or path")
    parser.add_argument("--part", default="decoder", choices=PARTS)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--every", type=int, default=8, help="every n-th picture is asked")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args(arguments)


def run(parsed: argparse.Namespace) -> dict[str, float]:
    """The figures before and after, and the seconds of learning."""
    model = samplat.load_model(parsed.model)
    source = open_source(str(parsed.data / "train" / SET))
    asked = open_source(str(parsed.data / "eval" / SET))
    held = every(asked, parsed.every, -(-len(asked) // parsed.every))
    few = every(source, len(source) / parsed.pictures, parsed.pictures)
    before = measure(model, held)
    say(f"before: {_line(before)}")
    settings = FinetuneSettings(part=parsed.part, steps=parsed.steps, validate_every=40)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = finetune(model, few, Path(folder), settings)
        seconds = time.perf_counter() - start
    after = measure(replace(model, sam=result.sam, weights_sha256=""), held)
    say(f"after:  {_line(after)}")
    figures = {
        f"{when}_{k}": v
        for when, f in (("before", before), ("after", after))
        for k, v in f.as_dict().items()
    }
    return figures | {"pictures": len(few), "learned": result.learned, "seconds": seconds}


def _line(figures: Figures) -> str:
    return (
        f"point {figures.point:.4f}, best of three {figures.point_best:.4f}, "
        f"box {figures.box:.4f} ({figures.objects} nuclei)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print before, after and seconds; 0, or 1 with one line that says what is wrong."""
    parsed = parse_arguments(arguments)
    try:
        if parsed.json:
            check_file(parsed.json)
        figures = run(parsed)
        for name in ("point", "point_best", "box"):
            gain = figures[f"after_{name}"] - figures[f"before_{name}"]
            print(
                f"{name:<10}  {figures[f'before_{name}']:.4f} -> {figures[f'after_{name}']:.4f}"
                f"  ({gain:+.4f})"
            )
        print(f"{figures['seconds']:.0f} s of learning on {figures['pictures']:.0f} pictures")
        if parsed.json:
            parsed.json.write_text(json.dumps(figures, indent=2) + "\n")
    except (SamplatError, OSError) as error:
        say(f"finetuning: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

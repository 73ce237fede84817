"""Objects of labelled volumes from one box on one slice, beside a box on every slice.

    python benchmarks/volumes.py [DIR] [--json OUT] [--sets A,B] [--limit N] [--model NAME_OR_PATH]

Prints `{set: {n, per_slice, propagated, triplanar, repeat_slice, region_growing}}`, the mean Dice
of n objects in three dimensions:

    per_slice       the model asked with the object's tight box on every slice that it is in
    propagated      one tight box, on the middle slice, and propagation from there
    triplanar       the same, then seen across all three axes
    repeat_slice    the middle slice's mask on all slices on which `propagated` found the object:
                    nobody tells this baseline the object's extent, nor does it fill the volume
    region_growing  SimpleITK's ConfidenceConnected from the middle of that box, in two variants
                    with four multipliers, of which the one counts that is best for the whole set:
                    a choice that knows the truth

The middle slice is the one that halves the object's voxels. Slices follow each other along the
axis of the widest spacing. An object is all that is labelled in a volume (a hippocampus is its
anterior and posterior part); of lesions each connected one of at least 1 ml.

A row `first_mask`, of no set, tells seconds of waiting in a scan of 512 x 512 x 400 voxels:
`encode` is one slice alone, `prompt` one box; then, for NIfTI as it is and compressed, from the
path of the file to the first mask, which is a draft, and what of it is not the encoding (`over`),
and the same until that mask is finished.
`--sets first_mask` measures nothing else.

With `--json OUT` each object's figures are kept in OUT.parts as they come: a run that was
interrupted goes on from there, for the same model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.accuracy import default_root, say
from benchmarks.evaluation.first_mask import first_mask
from benchmarks.evaluation.following import GROWN, METHODS, follow
from benchmarks.evaluation.stacks import SETS, LabelledObject, VolumeSet
from samplat.errors import InputError, SamplatError
from samplat.files import check_file

Figures = dict[str, float]
WAITING = "first_mask"
"""The row that is of no set."""


class Parts:
    """Figures of objects that were measured before, kept line by line."""

    def __init__(self, path: Path | None, model: str) -> None:
        self._path, self._model = path, model
        self._known: dict[str, Figures] = {}
        if path is not None and path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            self._known = {x["object"]: x["figures"] for x in lines if x["model"] == model}

    def get(self, key: str) -> Figures | None:
        """Of an object; None where it was not measured with this model."""
        return self._known.get(key)

    def put(self, key: str, figures: Figures) -> None:
        """Keep them."""
        if self._path is not None:
            with self._path.open("a") as file:
                line = {"model": self._model, "object": key, "figures": figures}
                file.write(json.dumps(line) + "\n")


def measure_set(
    chosen: VolumeSet, root: Path, model: object, parts: Parts, limit: int | None
) -> Figures:
    """The means of one set."""
    folder, measured = root / chosen.folder, []
    for labelled in islice(chosen.read(folder), limit):
        key = f"{chosen.name}/{labelled.name}"
        figures = parts.get(key)
        if figures is None:
            figures = measure(key, labelled, model)
            parts.put(key, figures)
        measured.append(figures)
    if not measured:
        return {"n": 0}
    means = {m: float(np.mean([f[m] for f in measured])) for m in (*METHODS, *GROWN)}
    grown = max(means.pop(name) for name in GROWN)
    return {"n": len(measured)} | means | {"region_growing": grown}


def measure(key: str, labelled: LabelledObject, model: object) -> Figures:
    """One object, told as it is done."""
    figures = follow(model, labelled)
    told = " ".join(f"{name} {figures[name]:.3f}" for name in METHODS)
    say(f"{key}: {told} ({figures['seconds']:.0f} s)")
    return figures


def wait(model: object) -> Figures:
    """Seconds until the first mask."""
    with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", SAMPLAT_HOME=folder):
        return first_mask(model, Path(folder))


def table(results: dict[str, Figures]) -> str:
    """A set a line, and the mean of the sets; seconds of waiting below."""
    results = dict(results)
    waited = results.pop(WAITING, {})
    told = [f"{WAITING}: " + ", ".join(f"{k} {v:.3f} s" for k, v in waited.items())]
    if not results:
        return told[0]
    columns = (*METHODS, "region_growing")
    lines = [f"{'set':<14}{'n':>4}" + "".join(f"{m:>16}" for m in columns)]
    for name, figures in results.items():
        cells = "".join(f"{figures.get(m, float('nan')):>16.3f}" for m in columns)
        lines.append(f"{name:<14}{figures['n']:>4.0f}{cells}")
    there = [f for f in results.values() if f["n"]]
    means = "".join(f"{np.mean([f[m] for f in there]):>16.3f}" for m in columns) if there else ""
    return "\n".join([*lines, f"{'mean of sets':<18}{means}", *(told if waited else ())])


def chosen_sets(root: Path, names: str | None) -> list[VolumeSet]:
    """The sets asked for, or all those that are there.

    Raises:
        InputError: an unknown or missing set, or a folder without any.
    """
    known = {s.name: s for s in SETS}
    asked = [n.strip() for n in names.split(",")] if names else list(known)
    if names and WAITING in asked:
        asked.remove(WAITING)
        if not asked:
            return []
    if unknown := [n for n in asked if n not in known]:
        raise InputError(f"no set is called {unknown[0]!r}; the sets are {', '.join(known)}")
    there = [known[n] for n in asked if (root / known[n].folder).is_dir()]
    if len(there) < len(asked) and (names or not there):
        missing = next(known[n].folder for n in asked if known[n] not in there)
        raise InputError(f"{root} has no folder {missing!r}; pass a folder laid out in such sets")
    return there


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dir", nargs="?", type=Path, default=default_root(), metavar="DIR")
    add("--json", type=Path, metavar="OUT", help="write {set: {n, per_slice, ...}} here")
    add("--sets", metavar="A,B", help="only these sets")
    add("--limit", type=_positive, metavar="N", help="at most N objects a set")
    add("--model", default="samplat-tiny", help="name or path, as load_model takes it")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> dict[str, Figures]:
    """Measure what the command line asks for."""
    import samplat

    sets = chosen_sets(arguments.dir, arguments.sets)
    model = samplat.load_model(arguments.model)
    kept = arguments.json.with_name(arguments.json.name + ".parts") if arguments.json else None
    parts = Parts(kept, model.weights_sha256)
    results = {}
    for chosen in sets:
        start = time.monotonic()
        results[chosen.name] = measure_set(chosen, arguments.dir, model, parts, arguments.limit)
        say(f"{chosen.name}: done in {time.monotonic() - start:.0f} s")
    if not arguments.sets or WAITING in arguments.sets.split(","):
        results[WAITING] = wait(model)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 1 with one line that says what is wrong."""
    parsed = parse_arguments(arguments)
    try:
        if parsed.json:
            check_file(parsed.json)
        results = run(parsed)
        print(table(results))
        rounded = {s: {k: round(v, 4) for k, v in f.items()} for s, f in results.items()}
        print(json.dumps(rounded))
        if parsed.json:
            parsed.json.write_text(json.dumps(rounded, indent=2) + "\n")
    except (SamplatError, OSError) as error:
        say(f"volumes: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

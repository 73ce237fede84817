"""Speed of the engine beside the official code, on the same random weights and the same machine.

    python benchmarks/engine.py [--reference DIR] [--only ROW ...] [--json OUT]

DIR is a checkout of facebookresearch/segment-anything. Without it the reference is `transformers`'
`SamModel`, which has no rows for automatic masks. A row is run in turns, ours and theirs, after one
run of each that does not count; times are medians. Beside each time stands how far results agree:

    encode_fp32 encode_bf16   ViT-B on 1024 x 1024; rel. L2 error, or cosine
    prompt_fp32 prompt_bf16   one more point on an embedding; share of equal pixels of its masks
    decode_fp32 decode_bf16   64 points, three masks each, as logits; rel. L2 error
    automatic automatic_exact 32 x 32 points on 1024 x 1024; share of the reference's masks that are
                              found at IoU 0.9 (`exact`: that are the same), and how many there are
    automatic_2048            ours on 2048 x 2048 over ours on 1024 x 1024
    memory_2048               peak resident memory of that in GiB, in a process of its own
    stored                    MiB of an embedding on disk
    bundled                   samplat-tiny, 512 x 512: one image encoded and one point decoded

Random weights say nothing about objects; the thresholds of automatic masks are quantiles of the
scores that these weights give, so that about a quarter of the masks pass each. All of their masks
reach from edge to edge; the threshold of non-maximum suppression is 1, so that more than one stays.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import samplat
from benchmarks.official import check_checkout
from benchmarks.references import Masks, Official, Reference, Transformers
from samplat.errors import SamplatError
from samplat.files import check_file
from samplat.model.sam import build_vit_b
from samplat.prediction import MULTIMASK, decode, upscale_logits
from samplat.selection import stability_score

T = TypeVar("T")
Row = dict[str, float | None]

SIDE, PROMPTS, GRID = 1024, 64, 32
MATCHED = 0.9
QUANTILE = 0.75


@functools.cache
def random_model(precision: str) -> samplat.Model:
    """ViT-B with seeded random weights, none of them trivial."""
    if precision != "fp32":
        return replace(random_model("fp32"), precision=precision)
    torch.manual_seed(0)
    sam = build_vit_b()
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
            if "hypernetworks" in name and name.endswith("layers.2.weight"):
                parameter.mul_(20)  # logits of the size that trained weights give
    return samplat.Model(
        sam=sam.eval().requires_grad_(False),
        name="random-vit-b",
        architecture="vit_b",
        weights_sha256="0" * 64,
        precision="fp32",
        device=torch.device("cpu"),
    )


@functools.cache
def picture(side: int) -> NDArray[np.uint8]:
    """A photograph at side x side."""
    from PIL import Image
    from skimage import data

    small = Image.fromarray(data.astronaut())
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def points(count: int) -> NDArray[np.float32]:
    """(count, 1, 2) places x, y on the picture."""
    return np.random.default_rng(1).uniform(0, SIDE - 1, (count, 1, 2)).astype(np.float32)


def paired(ours: Callable[[], T], theirs: Callable[[], T], pairs: int) -> tuple[float, float, T, T]:
    """Median seconds of both, in turns, and the last results; the first of each does not count."""
    ours(), theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        mine, seconds = timed(ours)
        times[0].append(seconds)
        other, seconds = timed(theirs)
        times[1].append(seconds)
    return statistics.median(times[0]), statistics.median(times[1]), mine, other


def timed(task: Callable[[], T]) -> tuple[T, float]:
    """A result and the seconds that it took."""
    began = time.perf_counter()
    result = task()
    return result, time.perf_counter() - began


def row(ours: float, theirs: float | None, agreement: float | None) -> Row:
    return {
        "ours_s": ours,
        "reference_s": theirs,
        "ratio": None if theirs is None else theirs / ours,
        "agreement": agreement,
    }


def error(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def cosine(ours: Tensor, theirs: Tensor) -> float:
    return float(
        torch.nn.functional.cosine_similarity(ours.double().flatten(), theirs.double().flatten(), 0)
    )


def encode_row(reference: Reference, precision: str, pairs: int) -> Row:
    model = random_model(precision)
    ours, theirs, mine, other = paired(
        lambda: samplat.embed(model, picture(SIDE)).features[0],
        lambda: reference.encode(picture(SIDE)),
        pairs,
    )
    compare = error if precision == "fp32" else cosine
    return row(ours, theirs, compare(mine, other))


def prompt_row(reference: Reference, precision: str, pairs: int) -> Row:
    model, asked = random_model(precision), points(1)
    embedding = samplat.embed(model, picture(SIDE))
    ours, theirs, mine, other = paired(
        lambda: samplat.predict(model, embedding, samplat.Prompts(points=asked)).masks[0],
        lambda: reference.predict(picture(SIDE), asked[0]),
        5 * pairs,
    )
    return row(ours, theirs, float((mine == other).mean()))


def decode_row(reference: Reference, precision: str, pairs: int) -> Row:
    """Our side decodes the reference's embedding, so that only the decoder differs."""
    model, asked = random_model(precision), points(PROMPTS)
    embedding = samplat.embed(model, picture(SIDE))
    embedding = replace(embedding, features=(reference.encode(picture(SIDE)).clone(),))

    def ours() -> Tensor:
        parts = (asked[i : i + 8] for i in range(0, PROMPTS, 8))
        prompts = (samplat.Prompts(points=part) for part in parts)
        return torch.cat([decode(model, embedding, each, MULTIMASK)[0] for each in prompts])

    mine_s, theirs_s, mine, other = paired(ours, lambda: reference.decode(asked), pairs)
    return row(mine_s, theirs_s, error(mine, other))


@functools.cache
def thresholds() -> dict[str, float]:
    """Of predicted IoU and stability, by what these weights give for some points."""
    model = random_model("fp32")
    embedding = samplat.embed(model, picture(SIDE))
    logits, iou = decode(model, embedding, samplat.Prompts(points=points(PROMPTS)), MULTIMASK)
    good = logits[iou > iou.quantile(QUANTILE)][:, None]
    stability = stability_score(upscale_logits(model, embedding, good)[:, 0], 1.0)
    return {
        "pred_iou_thresh": float(iou.quantile(QUANTILE)),
        "stability_score_thresh": float(stability.quantile(QUANTILE)),
    }


def limits() -> dict[str, float]:
    """Parameters of automatic masks for both sides."""
    return {"points_per_side": GRID, "box_nms_thresh": 1.0, **thresholds()}


def generated(precision: str, side: int, **more: Any) -> samplat.MaskSet:
    parameters = {**limits(), **more}
    return samplat.generate_masks(random_model(precision), picture(side), **parameters)


def automatic_row(reference: Reference, precision: str, **more: Any) -> Row:
    """Once each, and theirs once for all rows: it takes minutes."""
    thresholds()
    generated(precision, SIDE, **{**more, "points_per_side": 2})
    mine, ours = timed(lambda: generated(precision, SIDE, **more))
    other, theirs = reference_masks(reference)
    if other is None:
        return row(ours, None, None)
    best = best_matches(mine, [record["segmentation"]["counts"] for record in other])
    agreed = (best == 1) if more.get("exact") else (best >= MATCHED)
    print(f"    {len(mine)} masks of ours, {len(other)} of theirs", file=sys.stderr)
    return row(ours, theirs, float(agreed.mean()) if len(best) else None)


@functools.cache
def reference_masks(reference: Reference) -> tuple[Masks | None, float]:
    """Their automatic masks, and the seconds that they took."""
    return timed(lambda: reference.generate(picture(SIDE), **limits()))


def best_matches(ours: samplat.MaskSet, theirs: Sequence[str]) -> NDArray[np.float64]:
    """Of each of their masks the greatest IoU with one of ours."""
    from pycocotools import mask as coco

    size = list(ours.size)
    mine = [{"size": size, "counts": rle} for rle in ours.rles]
    other = [{"size": size, "counts": rle} for rle in theirs]
    if not mine or not other:
        return np.zeros(len(other))
    best: NDArray[np.float64] = np.asarray(coco.iou(other, mine, [0] * len(mine))).max(axis=1)
    return best


def automatic_2048_row() -> Row:
    """Ours against ours, so that `ratio` is what four times the pixels cost."""
    precision = samplat_precision()
    thresholds()
    generated(precision, SIDE, points_per_side=2)
    small = timed(lambda: generated(precision, SIDE))[1]
    large = timed(lambda: generated(precision, 2 * SIDE))[1]
    return {"ours_s": large, "reference_s": small, "ratio": large / small, "agreement": None}


def memory_2048_row() -> Row:
    """GiB rather than seconds, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        peak = pool.apply(_peak_of_generating, (limits(),))
    return row(peak, None, None)


def _peak_of_generating(parameters: dict[str, float]) -> float:
    model = random_model(samplat_precision())
    samplat.generate_masks(model, picture(2 * SIDE), **parameters)
    # Of this process alone: what `getrusage` tells starts at its parent's.
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(peak) / 2**20


def stored_row() -> Row:
    """MiB rather than seconds: of an embedding on disk, and of its values in full precision."""
    model = random_model(samplat_precision())
    with tempfile.TemporaryDirectory() as folder:
        cache = samplat.EmbeddingCache(folder)
        embedding = cache.embed(model, picture(SIDE))
        stored = cache.info().bytes / 2**20
    return row(stored, sum(f.numel() for f in embedding.features) * 4 / 2**20, None)


def bundled_row() -> Row:
    """The bundled model, a picture of 512 x 512 and one point."""
    model, asked = samplat.load_model("samplat-tiny"), samplat.Prompts(points=[(250, 150)])

    def answer() -> samplat.Prediction:
        return samplat.predict(model, samplat.embed(model, picture(512)), asked)

    for _ in range(3):
        answer()
    return row(statistics.median(timed(answer)[1] for _ in range(15)), None, None)


def samplat_precision() -> str:
    """What `load_model` takes here when it is not told."""
    return samplat.load_model("samplat-tiny").precision


ROWS: dict[str, Callable[[Reference, int], Row]] = {
    "encode_fp32": lambda reference, pairs: encode_row(reference, "fp32", pairs),
    "encode_bf16": lambda reference, pairs: encode_row(reference, "bf16", pairs),
    "prompt_fp32": lambda reference, pairs: prompt_row(reference, "fp32", pairs),
    "prompt_bf16": lambda reference, pairs: prompt_row(reference, "bf16", pairs),
    "decode_fp32": lambda reference, pairs: decode_row(reference, "fp32", pairs),
    "decode_bf16": lambda reference, pairs: decode_row(reference, "bf16", pairs),
    "automatic": lambda reference, _: automatic_row(reference, samplat_precision()),
    "automatic_exact": lambda reference, _: automatic_row(reference, "fp32", exact=True),
    "automatic_2048": lambda _, __: automatic_2048_row(),
    "memory_2048": lambda _, __: memory_2048_row(),
    "stored": lambda _, __: stored_row(),
    "bundled": lambda _, __: bundled_row(),
}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, metavar="DIR", help="official checkout")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help="some of the rows")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args(arguments)


def run(parsed: argparse.Namespace) -> dict[str, Row]:
    if parsed.reference:
        check_checkout(parsed.reference)
    sam = random_model("fp32").sam
    reference: Reference
    reference = Official(parsed.reference, sam) if parsed.reference else Transformers(sam)
    print(f"reference: {reference.name}; threads: {torch.get_num_threads()}")
    print(f"{'row':<16}{'ours':>10}{'reference':>11}{'ratio':>8}{'agreement':>13}")
    found = {}
    for name in parsed.only or ROWS:
        with torch.inference_mode():
            found[name] = ROWS[name](reference, parsed.pairs)
        print(formatted(name, found[name]), flush=True)
    return found


def formatted(name: str, figures: Row) -> str:
    columns = (("ours_s", 10, ".3f"), ("reference_s", 11, ".3f"), ("ratio", 8, ".2f"))
    texts = [_cell(figures[key], width, form) for key, width, form in columns]
    return f"{name:<16}{''.join(texts)}{_cell(figures['agreement'], 13, '.6g')}"


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}{form}}"


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = parse_arguments(arguments)
    try:
        if parsed.json:
            check_file(parsed.json)
        figures = run(parsed)
    except SamplatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if parsed.json:
        parsed.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

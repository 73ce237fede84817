"""Names, shapes and numbers of the reference implementations, which ran with the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model import seeding
from samplat.dialects import UNUSED
from samplat.model.sam import BUILDERS, Sam, build_vit, build_vit_t

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4


def fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h", "vit_t"])
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    expected = {k: v for k, v in fixture(name)["tensors"].items() if not UNUSED.match(k)}
    with torch.device("meta"):
        ours = {k: list(v.shape) for k, v in BUILDERS[name]().state_dict().items()}
    assert ours == expected


def test_only_the_classification_head_of_mobilesam_is_unused() -> None:
    unused = [k for k in fixture("vit_t")["tensors"] if UNUSED.match(k)]
    assert {k.split(".")[1] for k in unused} == {"norm_head", "head"}


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h", "vit_t"])
def test_numbers_are_the_reference_s(name: str) -> None:
    expected = fixture(name)
    assert expected["rule"] == seeding.RULE
    sam, size = build(name, expected["cut"]), expected["cut"]["image_size"]
    with torch.inference_mode():
        sam.encode(seeding.pixels(size))
        features = sam.encode(seeding.pixels(size))
        check(features[0], expected["outputs"]["embedding"])
        for kind, prompts in seeding.prompts(size).items():
            logits, iou = sam.decode(features, **prompts)
            check(logits, expected["outputs"][kind]["logits"])
            check(iou, expected["outputs"][kind]["iou"])


def build(name: str, cut: dict[str, Any]) -> Sam:
    if name == "vit_t":
        sam = build_vit_t(cut["image_size"])
    else:
        sam = build_vit(**{**cut, "global_blocks": tuple(cut["global_blocks"])})
    seeding.fill(sam)
    return sam.eval()


def check(ours: Tensor, expected: dict[str, Any]) -> None:
    scale = expected["rms"]
    assert list(ours.shape) == expected["shape"]
    assert ours.pow(2).mean().sqrt().item() == pytest.approx(scale, rel=TOLERANCE)
    assert ours.mean().item() == pytest.approx(expected["mean"], abs=TOLERANCE * scale)
    assert seeding.sample(ours) == pytest.approx(
        expected["sample"], rel=TOLERANCE, abs=TOLERANCE * scale
    )

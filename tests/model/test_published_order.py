"""The published order of operations gives the same numbers, and `exact=True` the masks of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import samplat
from model.small import small_model
from samplat.masks import decode_rle
from samplat.model import published_order
from samplat.model.published_order import has_published_order
from samplat.prediction import (
    draw_in_published_order,
    embed_in_published_order,
    upscale_logits,
)
from samplat.selection import stability_score

RNG = np.random.default_rng(5)
PICTURE = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    return small_model("vit")


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("heads", [1, 2, 12])
def test_embeddings_are_the_same(model, heads, monkeypatch):
    """Windows and global attention, however many heads at once."""
    monkeypatch.setattr(published_order, "HEADS", heads)
    ours, theirs = embed_in_published_order(model, PICTURE), samplat.embed(model, PICTURE)
    close(ours.features[0], theirs.features[0])
    assert (ours.key, ours.input_size) == (theirs.key, theirs.input_size)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_masks_are_the_same(model, count):
    embedding = samplat.embed(model, PICTURE)
    prompts = samplat.Prompts(points=RNG.uniform(0, 60, (count, 1, 2)).astype(np.float32))
    logits, iou = draw_in_published_order(model, embedding, prompts)
    expected = samplat.predict(model, embedding, prompts)
    close(logits, torch.from_numpy(expected.logits))
    close(iou, torch.from_numpy(expected.predicted_iou))


def test_only_networks_of_the_published_code_have_it(model):
    assert has_published_order(model.sam)
    assert not has_published_order(small_model("conv").sam)


def published_masks(model, side, iou_thresh, stability_thresh, nms_thresh):
    """The published steps on all points at once: logits (h, w) at full resolution, in order."""
    embedding = embed_in_published_order(model, PICTURE)
    place = (np.arange(side) + 0.5) / side
    points = np.stack(np.meshgrid(place * 90, place * 60), axis=-1).reshape(-1, 1, 2)
    prompts = samplat.Prompts(points=points.astype(np.float32))
    logits, iou = draw_in_published_order(model, embedding, prompts)
    logits, iou = logits.flatten(0, 1), iou.flatten()
    full = upscale_logits(model, embedding, logits[:, None])[:, 0]
    good = (iou > iou_thresh) & (stability_score(full, 1.0) >= stability_thresh)
    good &= (full > 0).flatten(1).any(dim=1)
    full, iou = full[good], iou[good]
    kept = []
    for i in torch.argsort(-iou, stable=True):
        box = box_of(full[i] > 0)
        if all(overlap(box, box_of(other > 0)) <= nms_thresh for other in kept):
            kept.append(full[i])
    return torch.stack(kept).numpy()


def box_of(mask):
    ys, xs = mask.nonzero(as_tuple=True)
    return [int(v) for v in (xs.min(), ys.min(), xs.max(), ys.max())]


def overlap(a, b):
    w, h = (max(0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    union = sum(areas) - w * h
    return w * h / union if union else 0.0


@pytest.mark.parametrize(
    ("precision", "threshold"),
    [
        ("fp32", 0.7),
        ("fp32", 1.0),
        ("bf16", 0.97),
        pytest.param("fp32", 0.97, marks=pytest.mark.slow),
        pytest.param("bf16", 0.7, marks=pytest.mark.slow),
        pytest.param("bf16", 1.0, marks=pytest.mark.slow),
    ],
)
def test_exact_masks_are_those_of_the_published_steps(model, precision, threshold):
    """All of them and no other, in the same order, but for pixels that rounding may turn."""
    options = {"pred_iou_thresh": -0.5, "stability_score_thresh": 0.5, "points_per_side": 7}
    found = samplat.generate_masks(
        replace(model, precision=precision),
        PICTURE,
        **options,
        box_nms_thresh=threshold,
        exact=True,
    )
    expected = published_masks(model, 7, -0.5, 0.5, threshold)
    assert len(found) == len(expected) >= 1
    assert (np.diff(found.predicted_iou) <= 0).all()
    for rle, logits in zip(found.rles, expected, strict=True):
        differing = decode_rle(rle, found.size) != (logits > 0)
        assert not (differing & (np.abs(logits) > 1e-4)).any()

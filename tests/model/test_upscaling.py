"""Parts of upscaled masks equal the same parts of whole ones."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import samplat
from model.small import small_model
from samplat.grid import GridParameters
from samplat.masks import decode_rle, encode_runs, mask_box
from samplat.prediction import upscale_logits
from samplat.selection import Candidates, QuickLook, chosen, roughly_stable, stability_score
from samplat.upscaling import Upscaling, boxes_above

SIZES = st.integers(1, 200)


@functools.cache
def model(kind):
    return small_model(kind)


def blobs(seed, size):
    """Logits with smooth edges: (1, h, w)."""
    noise = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 4 * torch.nn.functional.interpolate(noise, size, mode="bicubic")[0] - 2


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["vit", "conv"]),
    height=SIZES,
    width=SIZES,
    seed=st.integers(0, 99),
    offset=st.sampled_from([1.0, 0.0, -1.0, 30.0]),
    rough=st.booleans(),
)
def test_an_outline_is_that_of_the_upscaled_mask(kind, height, width, seed, offset, rough):
    """But for pixels right at the threshold, which may round either way."""
    sam = model(kind).sam
    embedding = samplat.embed(model(kind), np.zeros((height, width, 3), np.uint8))
    logits = blobs(seed, sam.mask_input_size)
    if rough:  # edges everywhere: many runs
        logits = 3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
    whole = upscale_logits(model(kind), embedding, logits[:, None])[0, 0].numpy()
    upscaling = Upscaling.of(model(kind), embedding)
    low = logits[0, : upscaling.cells[0], : upscaling.cells[1]].numpy()
    found = upscaling.outlined(low, offset)
    (rle,) = encode_runs([found.counts], (height, width))
    mask = decode_rle(rle, (height, width))
    assert not ((mask != (whole > 0)) & (np.abs(whole) > 1e-4)).any()
    assert found.box == mask_box(mask)
    assert found.area == mask.sum()
    lenient = (whole > -offset).sum()
    unsure = sum((np.abs(whole - t) < 1e-4).sum() for t in (offset, -offset))
    score = (whole > offset).sum() / max(1, lenient)
    assert abs(found.stability - score) <= unsure / max(1, lenient - unsure) + 1e-9


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), count=st.integers(0, 6), shape=st.tuples(SIZES, SIZES))
def test_filters_at_low_resolution_decide_as_at_full(seed, count, shape):
    """But for scores right at the threshold, which may round either way."""
    vit = model("vit")
    embedding = samplat.embed(vit, np.zeros((*shape, 3), np.uint8))
    parts = [blobs(seed + i, vit.sam.mask_input_size) for i in range(count)]
    logits = torch.cat([torch.zeros(0, *vit.sam.mask_input_size), *parts])
    iou, points = torch.linspace(1, 0.5, count), np.zeros((count, 2), np.float32)
    params = GridParameters(pred_iou_thresh=0.0, stability_score_thresh=0.7, box_nms_thresh=1.0)
    upscaling = Upscaling.of(vit, embedding)
    found = Candidates(
        logits=logits,
        predicted_iou=iou.numpy(),
        points=points,
        numbers=np.zeros(count, np.int64),
    ).within(upscaling)
    found = roughly_stable(found, upscaling, params)
    kept = chosen(found, QuickLook(found, upscaling, 1.0), upscaling, params)
    whole = upscale_logits(vit, embedding, logits[:, None])[:, 0]
    scores = stability_score(whole, 1.0)
    there = whole.flatten(1).gt(0).any(dim=1)
    sure = [i for i in range(count) if there[i] and abs(float(scores[i]) - 0.7) > 0.02]
    expected = {float(iou[i]) for i in sure if scores[i] >= 0.7}
    got = dict(zip(map(float, kept.predicted_iou), range(len(kept)), strict=True))
    assert expected <= set(got)
    assert not {float(iou[i]) for i in sure if scores[i] < 0.7} & set(got)
    for i in sure:
        if (k := got.get(float(iou[i]))) is not None:
            mask = decode_rle(kept.rles[k], shape)
            differing = mask != (whole[i] > 0).numpy()
            assert not (differing & (whole[i].abs() > 1e-4).numpy()).any()
            assert tuple(kept.boxes[k]) == mask_box(mask)
            assert kept.areas[k] == mask.sum()
            assert kept.stability[k] == pytest.approx(float(scores[i]), abs=1e-3)


def test_boxes_above():
    logits = torch.full((3, 5, 7), -1.0)
    logits[0, 1:3, 2:6] = 1
    logits[1, 4, 6] = 1
    assert boxes_above(logits, 0.0).tolist() == [[1, 2, 3, 6], [4, 6, 5, 7], [0, 0, 0, 0]]

"""The speed benchmark's own arithmetic, and its two references on small work."""

import numpy as np
import pytest
import torch

import samplat
from benchmarks import engine, official
from samplat.masks import encode_rle, mask_set


def test_pairs_alternate_and_the_first_of_each_does_not_count():
    order = []
    ours, theirs, a, b = engine.paired(
        lambda: order.append("ours") or len(order), lambda: order.append("theirs") or len(order), 2
    )
    assert order == ["ours", "theirs"] * 3
    assert (a, b) == (5, 6)
    assert ours >= 0
    assert theirs >= 0


def test_best_matches():
    masks = np.zeros((2, 4, 6), bool)
    masks[0, :2], masks[1, 2:] = True, True
    half = np.zeros((4, 6), bool)
    half[0] = True
    theirs = [encode_rle(masks[1]).decode(), encode_rle(half).decode()]
    assert engine.best_matches(mask_set(masks), theirs).tolist() == [1.0, 0.5]
    assert engine.best_matches(mask_set(masks[:0]), theirs).tolist() == [0.0, 0.0]


def test_a_row_as_text():
    text = engine.formatted("stored", engine.row(1.5, None, None))
    assert text.split() == ["stored", "1.500", "-", "-", "-"]
    assert engine.row(2.0, 8.0, 0.5)["ratio"] == 4.0


def test_stand_in_for_non_maximum_suppression():
    rng = np.random.default_rng(0)
    corner = torch.from_numpy(rng.uniform(0, 50, (40, 2)).astype(np.float32))
    boxes = torch.cat([corner, corner + 30], dim=1)
    scores = torch.from_numpy(rng.random(40).astype(np.float32))
    kept = official.batched_nms(boxes, scores, torch.zeros(40), 0.5)
    ours = samplat.masks.box_nms(boxes.numpy(), scores.numpy(), 0.5)
    assert kept.tolist() == ours.tolist()
    apart = official.batched_nms(boxes, scores, torch.arange(40), 0.5)
    assert sorted(apart.tolist()) == list(range(40))


def test_a_folder_that_is_no_checkout_is_an_error(tmp_path, capsys):
    assert engine.main(["--reference", str(tmp_path), "--only", "stored"]) == 1
    assert "checkout of segment-anything" in capsys.readouterr().err


@pytest.mark.slow
def test_both_sides_agree_on_transformers(capsys):
    pytest.importorskip("transformers", reason="transformers (extra 'bench') is missing")
    assert engine.main(["--only", "decode_fp32", "prompt_fp32", "--pairs", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert float(rows[0][-1]) < 1e-5
    assert float(rows[1][-1]) > 0.999

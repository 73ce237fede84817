"""A compiled encoder gives the same; where none can be made, so does the encoder itself."""

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import samplat
from model.small import small_model

PICTURE = np.random.default_rng(7).integers(0, 256, (128, 128, 3), dtype=np.uint8)


def same(ours, theirs):
    for one, other in zip(ours.features, theirs.features, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("kind", ["vit", "conv"])
def test_it_gives_the_same(kind, caplog):
    model = small_model(kind)
    fast = replace(model, compiled=True)
    same(samplat.embed(fast, PICTURE), samplat.embed(model, PICTURE))
    assert not [r for r in caplog.records if r.name.startswith("samplat")]


def test_without_a_compiler_it_is_said_once_and_the_encoder_runs(monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("no compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda encoder, **_: refuse)
    model = small_model("conv")
    slow = replace(model, compiled=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            same(samplat.embed(slow, PICTURE), samplat.embed(model, PICTURE))
    (record,) = caplog.records
    assert record.getMessage() == "the encoder cannot be compiled: no compiler found"
    assert slow.sam is model.sam
    assert "CompiledEncoder" not in str(model.network.image_encoder)

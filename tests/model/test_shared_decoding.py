"""Decoding on what prompts share of an image equals the mask decoder as the paper has it."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import samplat
from model.small import small_model
from samplat.model import shared_decoding
from samplat.model.mask_decoder import Asked, MaskDecoder
from samplat.model.shared_image import SharedImage
from samplat.model.transformer import TwoWayTransformer
from samplat.prepared import KEPT, prepared


def random_decoder(depth, heads, dim, seed):
    torch.manual_seed(seed)
    transformer = TwoWayTransformer(depth=depth, dim=dim, heads=heads, mlp_dim=2 * dim)
    decoder = MaskDecoder(transformer=transformer, dim=dim).eval().requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        # Norms and biases away from the ones and zeros that they start as.
        parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name else 0.1))
    return decoder


def difference(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@settings(deadline=None, max_examples=40)
@given(
    depth=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    dim=st.sampled_from([16, 32]),
    prompts=st.integers(1, 5),
    tokens=st.integers(0, 6),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    outputs=st.sampled_from([slice(None), slice(0, 1), slice(1, None)]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_mask_decoder(depth, heads, dim, prompts, tokens, size, outputs, seed):
    decoder = random_decoder(depth, heads, dim, seed)
    image, pe = torch.randn(1, dim, *size), torch.randn(1, dim, *size)
    sparse, dense = torch.randn(prompts, tokens, dim), torch.randn(1, dim, 1, 1)
    with torch.inference_mode():
        expected = decoder.ask((image,), pe, sparse, dense.expand(prompts, dim, *size))
        shared = SharedImage.of(decoder, image + dense, pe)
        found = shared_decoding.ask(shared, sparse)
        assert difference(found.iou, expected.iou) < 2e-5
        assert difference(found.tokens, expected.tokens) < 2e-5
        masks = decoder.draw(expected, (), outputs)
        assert difference(shared_decoding.draw(shared, found, outputs), masks) < 2e-5


def test_strips_do_not_show(monkeypatch):
    decoder = random_decoder(2, 4, 32, 3)
    with torch.inference_mode():
        image, pe = torch.randn(1, 32, 17, 13), torch.randn(1, 32, 17, 13)
        shared = SharedImage.of(decoder, image, pe)
        asked = shared_decoding.ask(shared, torch.randn(4, 2, 32))
        whole = shared_decoding.draw(shared, asked, slice(None))
        monkeypatch.setattr(shared_decoding, "STRIP", 1)
        strips = shared_decoding.draw(shared, asked, slice(None))
    torch.testing.assert_close(strips, whole, rtol=1e-5, atol=1e-5)


def test_some_prompts_are_drawn_as_among_all():
    decoder = random_decoder(2, 4, 32, 4)
    with torch.inference_mode():
        shared = SharedImage.of(decoder, torch.randn(1, 32, 8, 8), torch.randn(1, 32, 8, 8))
        asked = shared_decoding.ask(shared, torch.randn(5, 2, 32))
        every = shared_decoding.draw(shared, asked, slice(None))
        some = asked.select(torch.tensor([3, 1]))
        assert isinstance(some, Asked)
        drawn = shared_decoding.draw(shared, some, slice(None))
        none = shared_decoding.draw(shared, asked.select(torch.zeros(5, dtype=bool)), slice(1, 3))
    torch.testing.assert_close(drawn, every[[3, 1]], rtol=1e-5, atol=1e-5)
    assert none.shape == (0, 2, 32, 32)


def test_reduced_precision_stays_close():
    decoder = random_decoder(2, 8, 128, 5)
    image, pe = torch.randn(1, 128, 16, 16), torch.randn(1, 128, 16, 16)
    sparse = torch.randn(3, 2, 128)
    with torch.inference_mode():
        exact = SharedImage.of(decoder, image, pe)
        rough = SharedImage.of(decoder, image.bfloat16(), pe)
        for part in (lambda s: shared_decoding.ask(s, sparse).iou, lambda s: drawn(s, sparse)):
            assert difference(part(rough).float(), part(exact)) < 0.03
        with torch.autocast("cpu", torch.bfloat16):  # decides itself what is computed in what
            assert torch.equal(drawn(rough, sparse), drawn(rough, sparse))


def drawn(shared, sparse):
    return shared_decoding.draw(shared, shared_decoding.ask(shared, sparse), slice(None))


@pytest.mark.parametrize("kind", ["points", "boxes", "many points"])
def test_predict_is_the_same_without_sharing(kind, monkeypatch):
    model = small_model("vit")
    rng = np.random.default_rng(1)
    embedding = samplat.embed(model, rng.integers(0, 256, (70, 100, 3), dtype=np.uint8))
    corner = rng.uniform(0, 40, (5, 2))
    prompts = {
        "points": samplat.Prompts(points=rng.uniform(0, 69, (5, 1, 2))),
        "boxes": samplat.Prompts(boxes=np.concatenate([corner, corner + 25], axis=1)),
        # so many that their rows are no longer less than the image tokens' channels
        "many points": samplat.Prompts(
            points=rng.uniform(0, 69, (5, 40, 2)), labels=np.ones((5, 40))
        ),
    }[kind]
    shared = samplat.predict(model, embedding, prompts)
    other = dataclasses.replace(embedding)
    monkeypatch.setattr(type(model.sam), "shares", False)
    alone = samplat.predict(model, other, prompts)
    np.testing.assert_allclose(shared.logits, alone.logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(shared.predicted_iou, alone.predicted_iou, rtol=1e-4, atol=1e-4)


def test_what_is_prepared_is_found_again_and_forgotten():
    model = small_model("vit")
    picture = np.zeros((20, 20, 3), np.uint8)
    embedding = samplat.embed(model, picture)
    first = prepared(model, embedding)
    assert prepared(model, embedding) is first
    assert prepared(small_model("vit", seed=1), embedding) is not first
    others = [samplat.embed(model, picture + i) for i in range(KEPT)]
    for other in others:
        assert prepared(model, other) is not first
    assert prepared(model, embedding) is not first  # the oldest had to go
    again = prepared(model, embedding)
    del embedding
    assert all(prepared(model, other) is not again for other in others)

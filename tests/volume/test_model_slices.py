"""A model on the slices of a volume: what it is shown, and how often."""

import numpy as np
import pytest

import samplat
from samplat import InputError
from samplat_volume.model_slices import ModelSlices, enlarged, resampled, square_size
from samplat_volume.propagation import Settings, propagate
from samplat_volume.slices import SlicePrompt, Stack


@pytest.fixture(scope="module")
def model():
    return samplat.load_model("samplat-tiny")


def ball(shape=(12, 48, 40), radius=12.0):
    z, y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    away = np.sqrt((3 * z[:, None, None]) ** 2 + y[:, None] ** 2 + x**2)
    rng = np.random.default_rng(0)
    return away <= radius, np.clip(
        (away <= radius) * 110 + rng.normal(60, 8, shape), 0, 255
    ).astype(np.uint8)


def test_only_visited_slices_are_encoded_and_each_once(model):
    truth, pixels = ball()
    stack = Stack(volume=pixels, spacing=(3.0, 1.0, 1.0))
    slices = ModelSlices(model, stack)
    seen = []
    found = propagate(
        slices,
        {6: SlicePrompt(box=(8, 12, 32, 36))},
        settings=Settings(steps=stack.steps),
        pixels=stack,
        on_slice=lambda index, result: seen.append((index, slices.encoded)),
    )
    assert seen[0] == (6, 1)  # the first mask took one slice
    assert slices.encoded < len(pixels)
    mask = found.mask()
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85


def test_embeddings_are_forgotten_and_made_again(model):
    _, pixels = ball((3, 32, 32))
    slices = ModelSlices(model, Stack(volume=pixels), remembered=1)
    prompt = [SlicePrompt(points=[(16, 16)])]
    first = slices(0, prompt)[0].mask
    slices(1, prompt)
    assert (slices(0, prompt)[0].mask == first).all()
    assert slices.encoded == 3


def test_prompts_of_several_kinds_are_answered_in_their_order(model):
    _, pixels = ball((3, 32, 32), radius=8)
    slices = ModelSlices(model, Stack(volume=pixels))
    box, point = SlicePrompt(box=(8, 8, 24, 24)), SlicePrompt(points=[(16, 16)])
    together = slices(1, [point, box, point])
    alone = [slices(1, [p])[0] for p in (point, box, point)]
    for a, b in zip(together, alone, strict=True):
        assert (a.mask != b.mask).mean() < 0.01
        assert a.mask.shape == (32, 32)


def test_flat_pixels_are_made_square_for_the_model_and_prompts_follow(model):
    """Rows 4 mm apart: the model sees a disc where the stack has an ellipse of 6 x 24 pixels."""
    y, x = np.mgrid[:12, :48]
    disc = (4 * (y - 5.5)) ** 2 + (x - 23.5) ** 2 <= 12**2
    pixels = np.where(disc, 200, 50).astype(np.uint8)[None]
    stack = Stack(volume=pixels, spacing=(1.0, 4.0, 1.0))
    shown = []

    def embed(model, image):
        shown.append(image.shape)
        return samplat.embed(model, image)

    slices = ModelSlices(model, stack, embed=embed)
    answers = slices(0, [SlicePrompt(box=(11, 2, 37, 10)), SlicePrompt(points=[(23, 5)])])
    assert shown == [(48, 48)]
    embedding = samplat.embed(model, enlarged(pixels[0], (48, 48)))
    box = samplat.Prompts(boxes=(11, 8, 37, 40))
    # The middle of row 5 is row 5.5 from the edge of the first: 22 from it, less a half.
    point = samplat.Prompts(points=[(23, 21.5)])
    square = [samplat.predict(model, embedding, box, multimask=False).masks[0, 0]]
    square.append(samplat.predict(model, embedding, point).best()[0])
    for answer, expected in zip(answers, square, strict=True):
        assert answer.mask.shape == disc.shape
        assert (answer.mask == resampled(expected, disc.shape)).all()
        assert (answer.mask & disc).sum() > 0.9 * disc.sum()


def test_sizes():
    assert square_size((10, 20), (1.0, 1.2)) == (10, 20)
    assert square_size((10, 20), (5.0, 1.0)) == (50, 20)
    assert square_size((10, 20), (0.5, 1.0)) == (10, 40)


def test_a_mask_survives_there_and_back():
    mask = np.random.default_rng(0).random((6, 20)) > 0.5
    shown = np.repeat(mask, 4, axis=0)
    assert (resampled(shown, (6, 20)) == mask).all()
    assert enlarged(mask.astype(np.uint8) * 255, (24, 20)).shape == (24, 20)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stack_reads_across_each_axis_lazily(axis):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 6), np.uint8)
    stack = Stack(volume=values, axis=axis, spacing=(3.0, 2.0, 1.0))
    assert stack.shape == np.moveaxis(values, axis, 0).shape
    assert stack.steps[0] == (3.0, 2.0, 1.0)[axis]
    for i in range(stack.shape[0]):
        assert (stack(i) == np.moveaxis(values, axis, 0)[i]).all()


def test_a_stack_of_other_values_needs_a_window():
    values = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    with pytest.raises(InputError, match="pass a window"):
        Stack(volume=values)(0)
    halved = Stack(volume=values, window=lambda v: (v * 10).astype(np.uint8))
    assert (halved(1) == [[40, 50], [60, 70]]).all()

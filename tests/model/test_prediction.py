"""`embed` and `predict`: shapes, laws and refusals, with random weights."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import samplat
from model.small import small_model
from samplat.prediction import upscale_logits

RNG = np.random.default_rng(5)
PICTURE = RNG.integers(0, 256, (7, 10, 3), dtype=np.uint8).repeat(10, axis=0).repeat(10, axis=1)


@pytest.fixture(scope="module", params=["vit", "conv"])
def model(request):
    return small_model(request.param)


@pytest.fixture(scope="module")
def embedding(model):
    return samplat.embed(model, PICTURE)


def test_shapes(model, embedding):
    prompts = samplat.Prompts(points=RNG.uniform(0, 69, (5, 2, 2)), labels=np.ones((5, 2)))
    three = samplat.predict(model, embedding, prompts)
    assert three.masks.shape == (5, 3, 70, 100)
    assert three.masks.dtype == bool
    assert three.predicted_iou.shape == (5, 3)
    assert three.logits.shape == (5, 3, *model.sam.mask_input_size)
    assert three.best().shape == (5, 70, 100)
    one = samplat.predict(model, embedding, prompts, multimask=False)
    assert one.masks.shape == (5, 1, 70, 100)


@pytest.mark.parametrize("fields", ["points", "boxes", "points+boxes", "points+masks", "masks"])
def test_many_prompts_equal_single_ones(model, embedding, fields):
    corner = RNG.uniform(0, 40, (6, 2))
    values = {
        "points": RNG.uniform(0, 69, (6, 1, 2)),
        "boxes": np.concatenate([corner, corner + 25], axis=1),
        "masks": RNG.normal(0, 4, (6, *model.sam.mask_input_size)),
    }
    given = {name: values[name] for name in fields.split("+")}
    together = samplat.predict(model, embedding, samplat.Prompts(**given))
    for i in range(6):
        alone = {name: v[i : i + 1] for name, v in given.items()}
        single = samplat.predict(model, embedding, samplat.Prompts(**alone))
        if model.architecture == "conv":
            # Clusters of a noise picture's colours hang on rounding; masks hardly do.
            assert ((single.logits[0] > 0) != (together.logits[i] > 0)).mean() < 0.02
            continue
        np.testing.assert_allclose(single.logits[0], together.logits[i], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            single.predicted_iou[0], together.predicted_iou[i], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "float32", "float64"])
def test_images_of_every_real_type(model, dtype):
    grey = (RNG.random((31, 17)) * 200).astype(dtype)
    found = samplat.embed(model, grey)
    assert found.original_size == (31, 17)
    assert torch.isfinite(found.features[0]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (3, 200, 3), (64, 64, 1)])
def test_images_of_every_shape(model, shape):
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    embedding = samplat.embed(model, image)
    answer = samplat.predict(model, embedding, samplat.Prompts(points=[(0, 0)], labels=[1]))
    assert answer.masks.shape == (1, 3, *shape[:2])


def test_nan_and_infinity_are_taken_as_dark(model):
    image = RNG.random((20, 20))
    image[3, 4], image[5, 6] = np.nan, np.inf
    clean = image.copy()
    clean[3, 4] = clean[5, 6] = np.nan
    same = samplat.embed(model, image).key == samplat.embed(model, clean).key
    assert same


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([64, 128, 512]))
def test_a_square_input_fits_the_longest_side(height, width, size):
    rows, columns = fitted((height, width), samplat.input_scale((height, width), size, size))
    assert max(rows, columns) == size
    expected = min(height, width) * size / max(height, width)
    assert abs(min(rows, columns) - max(1, expected)) <= 0.5


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([64, 128, 512]))
def test_the_bundled_model_sees_equally_many_pixels_of_any_picture(height, width, size):
    frame = samplat.frame_size("conv", size)
    rows, columns = fitted((height, width), samplat.input_scale((height, width), size, frame))
    assert max(rows, columns) <= frame
    if max(height, width) * size < frame * (height * width) ** 0.5 and min(rows, columns) > 20:
        assert rows * columns == pytest.approx(size * size, rel=0.05)
    assert frame % 32 == 0
    assert frame >= size * 11 / 8


def fitted(size, scale):
    return tuple(max(1, int(n * scale + 0.5)) for n in size)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 90), st.integers(1, 90))
def test_logits_are_enlarged_as_the_whole_square_would_be(rows, columns, height, width):
    model = small_model("vit")
    logits = torch.from_numpy(RNG.normal(0, 4, (2, 3, *model.sam.mask_input_size))).float()
    shown = dataclasses.replace(
        samplat.embed(model, PICTURE), input_size=(rows, columns), original_size=(height, width)
    )
    side = model.sam.frame_size
    whole = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    expected = F.interpolate(
        whole[..., :rows, :columns], (height, width), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(upscale_logits(model, shown, logits), expected)


def test_an_embedding_of_other_weights_is_refused(model):
    other = samplat.embed(small_model("vit", seed=9), PICTURE)
    with pytest.raises(samplat.InputError, match="made with other weights"):
        samplat.predict(model, other, samplat.Prompts(points=[(1, 1)]))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"points": [(100, 20)]}, r"point \(100, 20\) lies outside of the image of 100 x 70"),
        ({"points": [(-3, 20)]}, "lies outside"),
        ({"boxes": [120, 5, 130, 9]}, r"box \(120, 5, 130, 9\) lies outside"),
        ({"masks": np.zeros((1, 5, 5))}, "expected mask prompts of"),
    ],
)
def test_prompts_that_cannot_be_answered(model, embedding, prompt, message):
    with pytest.raises(samplat.InputError, match=message):
        samplat.predict(model, embedding, samplat.Prompts(**prompt))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs points, boxes or masks"),
        ({"labels": [1]}, "labels were given without points"),
        ({"points": [(1, 2)], "labels": [2]}, "labels must be 1"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "expected labels of shape"),
        ({"points": [(1, 2, 3)]}, "expected points"),
        ({"points": [(1, np.nan)]}, "finite points"),
        ({"points": "here"}, "expected points as numbers"),
        ({"boxes": [5, 5, 5, 9]}, "x0 < x1"),
        ({"boxes": [1, 2, 3]}, "expected boxes"),
        ({"boxes": np.ones((0, 4))}, "expected boxes"),
        ({"points": [(1, 2)], "boxes": [[0, 0, 1, 1], [0, 0, 2, 2]]}, "one entry per prompt"),
    ],
)
def test_malformed_prompts(fields, message):
    with pytest.raises(samplat.InputError, match=message):
        samplat.Prompts(**fields)


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 5)), np.zeros((2, 3, 4, 3)), np.zeros((4, 4, 7)), np.zeros((4, 4), complex)],
)
def test_images_that_are_none(model, image):
    with pytest.raises(samplat.InputError, match="expected"):
        samplat.embed(model, image)


@given(st.floats(0.1, 9), st.floats(0.1, 9), st.floats(-50, 50), st.floats(-50, 50))
def test_prompts_transform_there_and_back(sx, sy, dx, dy):
    prompts = samplat.Prompts(points=[(3, 4), (5, 6)], boxes=[1, 2, 30, 40])
    back = prompts.scaled(sx, sy).shifted(dx, dy).shifted(-dx, -dy).scaled(1 / sx, 1 / sy)
    np.testing.assert_allclose(back.points, prompts.points, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(back.boxes, prompts.boxes, rtol=1e-2, atol=1e-3)


def test_the_bundled_architecture_sees_no_more_than_the_picture():
    model = small_model("conv")
    picture = RNG.integers(0, 256, (90, 128, 3), dtype=np.uint8)
    filled = np.pad(picture, ((0, 6), (0, 0), (0, 0)), mode="edge")
    pixels = [torch.from_numpy(each).permute(2, 0, 1)[None] for each in (picture, filled)]
    given = [model.sam.encode(each) for each in pixels]
    assert given[0][0].shape[-2:] == (12, 16)
    for one, other in zip(*given, strict=True):
        assert torch.equal(one, other)


def test_the_papers_architecture_fills_a_square_with_zeros():
    sam = small_model("vit").sam
    pixels = torch.from_numpy(RNG.integers(0, 256, (1, 3, 90, 128), dtype=np.uint8))
    square = sam.preprocess(pixels)
    assert square.shape == (1, 3, 128, 128)
    assert torch.equal(square[:, :, :90], sam.normalise(pixels))
    assert not square[:, :, 90:].any()


def test_a_mask_prompt_of_a_wide_picture_beyond_it_changes_nothing():
    model = small_model("conv")
    embedding = samplat.embed(model, RNG.integers(0, 256, (64, 128, 3), dtype=np.uint8))
    masks = RNG.normal(0, 4, (1, *model.sam.mask_input_size)).astype(np.float32)
    other = masks.copy()
    other[:, masks.shape[1] // 2 :] = 9
    found = [samplat.predict(model, embedding, samplat.Prompts(masks=m)) for m in (masks, other)]
    assert np.array_equal(found[0].logits, found[1].logits)


@pytest.mark.parametrize("shape", [(96, 128), (128, 128), (40, 150)])
def test_a_first_draft_is_what_the_second_look_begins_with(shape):
    """It has the size and place of the finished mask; a model that looks once has no other one."""
    image = np.random.default_rng(1).integers(0, 255, (*shape, 3), dtype=np.uint8)
    prompts = samplat.Prompts(boxes=[(10, 5, 40, 30)])
    for kind in ("vit", "conv"):
        model = small_model(kind)
        embedding = samplat.embed(model, image)
        told: list[samplat.Prediction] = []
        whole = samplat.predict(model, embedding, prompts, multimask=False, on_draft=told.append)
        draft = samplat.predict(model, embedding, prompts, multimask=False, second_look=False)
        assert draft.masks.shape == whole.masks.shape
        assert draft.logits.shape == whole.logits.shape
        if kind == "vit":
            np.testing.assert_array_equal(draft.logits, whole.logits)
            assert not told
            continue
        np.testing.assert_array_equal(told[0].logits, draft.logits)
        np.testing.assert_array_equal(told[0].masks, draft.masks)
        # the second look changes the mask only in its window
        far = np.abs(draft.logits - whole.logits) < 1e-4
        assert 0.05 < far.mean() < 1


def test_the_best_mask_alone_is_the_best_of_all():
    model = small_model("conv")
    embedding = samplat.embed(model, RNG.integers(0, 256, (96, 128, 3), dtype=np.uint8))
    prompts = samplat.Prompts(points=RNG.integers(0, 90, (12, 1, 2)), labels=np.ones((12, 1), int))
    whole = samplat.predict(model, embedding, prompts)
    best = samplat.predict(model, embedding, prompts, best_only=True)
    assert best.masks.shape == (12, 1, 96, 128)
    np.testing.assert_array_equal(best.masks[:, 0], whole.best())
    np.testing.assert_array_equal(best.predicted_iou[:, 0], whole.predicted_iou.max(axis=1))

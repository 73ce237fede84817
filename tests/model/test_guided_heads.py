"""The bundled model's heads: what a box says of its surroundings, and how prompts spread."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplat.model.guided_prompt_encoder import GuidedPromptEncoder, _bulge, _ring
from samplat.model.mask_decoder import CoarseAttention
from samplat.model.sam import build_conv

SIDE = 128
coordinate = st.integers(0, SIDE - 1)


def boxes(draw):
    (x0, x1), (y0, y1) = (sorted(draw(st.tuples(coordinate, coordinate))) for _ in range(2))
    return torch.tensor([[x0, y0, x1 + 1, y1 + 1]], dtype=torch.float32)


@given(st.data())
def test_the_ring_lies_outside_of_the_box_on_all_four_sides(data):
    box = boxes(data.draw)
    x, y = _ring(box, 8)[0].unbind(-1)
    x0, y0, x1, y1 = box[0]
    outside = (x < x0 - 7) | (x > x1 + 7) | (y < y0 - 7) | (y > y1 + 7)
    assert outside.all()
    for low, high, values in ((x0, x1, x), (y0, y1, y)):
        assert (values < low).sum() >= 2
        assert (values > high).sum() >= 2


def test_the_bulge_is_one_in_the_middle_zero_on_the_ellipse_and_negative_in_the_corners():
    box = torch.tensor([[2.0, 4.0, 14.0, 12.0]])
    bulge = _bulge(box, (16, 16))[0]
    y, x = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    inside = ((x - 8) / 6) ** 2 + ((y - 8) / 4) ** 2 <= 1
    assert torch.equal(bulge >= 0, inside)
    assert float(bulge.max()) == pytest.approx(1, abs=0.05)
    assert float(bulge.min()) == -1


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return GuidedPromptEncoder(dim=16, embedding_size=SIDE // 8, image_size=SIDE)


def ring_tokens(encoder, box, image=None):
    image = torch.randn(1, 16, SIDE // 8, SIDE // 8) if image is None else image
    with torch.no_grad():
        sparse, _ = encoder(image, None, None, torch.tensor([box], dtype=torch.float32), None)
    return sparse[0, -8:]


def test_places_off_the_image_are_padding(encoder):
    padding = encoder.not_a_point_embed.weight[0]
    whole = ring_tokens(encoder, [0, 0, SIDE, SIDE])
    assert (whole == padding).all()
    middle = ring_tokens(encoder, [40, 40, 80, 80])
    assert not (middle == padding).all(dim=-1).any()
    corner = (ring_tokens(encoder, [0, 0, 60, 60]) == padding).all(dim=-1)
    assert int(corner.sum()) == 4


def test_without_a_box_all_its_tokens_are_padding(encoder):
    image = torch.randn(1, 16, SIDE // 8, SIDE // 8)
    point = torch.tensor([[[50.0, 60.0]]])
    with torch.no_grad():
        sparse, _ = encoder(image, point, torch.ones(1, 1), None, None)
    assert (sparse[0, 1:] == encoder.not_a_point_embed.weight[0]).all()


def test_what_lies_around_a_box_changes_its_tokens_alone(encoder):
    torch.manual_seed(1)
    image = torch.randn(1, 16, SIDE // 8, SIDE // 8)
    other = image.clone()
    other[..., :6, :] += 1  # above the box
    box = [48, 48, 80, 80]
    with torch.no_grad():
        first, second = (
            encoder(i, None, None, torch.tensor([box], dtype=torch.float32), None)[0][0]
            for i in (image, other)
        )
    differs = (first != second).any(dim=-1)
    # the two above the box, and the upper ones at its sides
    assert not differs[:-8].any()
    assert int(differs.sum()) == 4


def test_spreading_begins_as_nothing():
    torch.manual_seed(0)
    spread = CoarseAttention(16)
    x = torch.randn(2, 16, 8, 8)
    assert torch.allclose(spread(x), x + spread.out.bias[:, None, None], atol=1e-6)


def test_prompts_of_one_call_do_not_see_each_other():
    torch.manual_seed(0)
    sam = build_conv(image_size=64).eval()
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if ".out.weight" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        features = sam.encode(torch.rand(1, 3, 64, 64) * 255)
        given = torch.tensor([[5.0, 6.0, 30.0, 40.0], [20.0, 20.0, 60.0, 50.0]])
        together, _ = sam.decode(features, boxes=given)
        alone = [sam.decode(features, boxes=given[i : i + 1])[0] for i in range(2)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-4, atol=1e-4)

"""The positional encoding of the paper: kept grids are those that would be computed."""

import copy

import pytest
import torch

from samplat.model.prompt_encoder import GRIDS, PositionEmbeddingRandom
from samplat.model.transformer import TwoWayTransformer


@pytest.fixture
def positions():
    torch.manual_seed(3)
    return PositionEmbeddingRandom(8)


def test_a_kept_grid_encodes_the_centres_of_cells(positions):
    """Also of a part of the square, with its cells, and the second time."""
    for rows, columns in [(6, 6), (4, 6), (3, 2), (4, 6)]:
        grid = positions.grid(6, rows, columns)
        assert grid.shape == (16, rows, columns)
        for y in range(rows):
            for x in range(columns):
                centre = torch.tensor([(x + 0.5) / 6, (y + 0.5) / 6])
                torch.testing.assert_close(grid[:, y, x], positions.encode(centre))
        assert positions.grid(6, rows, columns) is grid


def test_other_frequencies_make_other_grids(positions):
    """Weights that are loaded later, into the module or into a copy of it, count."""
    before = positions.grid(4, 4, 4).clone()
    other = copy.deepcopy(positions)
    positions.load_state_dict({k: 2 * v for k, v in positions.state_dict().items()})
    assert not torch.equal(positions.grid(4, 4, 4), before)
    assert torch.equal(other.grid(4, 4, 4), before)


def test_few_grids_are_kept(positions):
    for size in range(1, 3 * GRIDS):
        positions.grid(size, size, size)
    assert len(positions._grids) <= GRIDS


def test_a_grid_of_inference_is_good_for_training(positions):
    """Tensors made in inference mode cannot be saved for gradients."""
    with torch.inference_mode():
        positions.grid(4, 4, 4)
    weight = torch.ones(16, requires_grad=True)
    (weight[:, None, None] * positions.grid(4, 4, 4)).sum().backward()
    torch.testing.assert_close(weight.grad, positions.grid(4, 4, 4).sum(dim=(1, 2)))


def test_positions_are_not_rounded_in_half_precision(positions):
    """A point's place, a pixel from another's, is told in full while the networks are in bf16."""
    places = torch.tensor([[200.5, 100.5], [201.5, 100.5]]) / 512
    exact = positions.encode(places)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(positions.encode(places), exact)


def test_the_layout_of_positions_does_not_matter():
    """They may come as a view of a larger grid; the layout is what the time goes into."""
    torch.manual_seed(5)
    transformer = TwoWayTransformer(dim=16, heads=2, mlp_dim=32).eval()
    image, tokens = torch.randn(2, 16, 4, 6), torch.randn(2, 5, 16)
    places = torch.randn(1, 9, 9, 16).permute(0, 3, 1, 2)[..., :4, :6]
    with torch.inference_mode():
        seen = transformer(image, places, tokens)
        plain = transformer(image, places.contiguous(), tokens)
    for part, other in zip(seen, plain, strict=True):
        torch.testing.assert_close(part, other)

"""GrabCut in windows: its mixtures and its cuts against exact ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_flow
from scipy.stats import multivariate_normal

from samplat.model.colour_cuts import (
    COMPONENTS,
    CUTS,
    NEIGHBOURS,
    VARIANCE,
    Looks,
    Mixtures,
    _clusters,
    colour_cuts,
    cut_costs,
    relaxed_cut,
    relaxed_cut_by_maps,
    terms_of,
)

N = 32


def whole(colours, context, possible, *, certain=None, start=None, known=None):
    ones = torch.ones(1, 1, N, N)
    known = ones if known is None else known
    return Looks(
        colours=colours,
        known=known,
        context=context,
        known_context=torch.ones(1, 1, N // 2, N // 2),
        possible=possible,
        certain=0 * ones if certain is None else certain,
        start=ones if start is None else start,
    )


def noisy(rows, columns, seed=0, colour=(1.0, -1.0, 0.5), ground=(-1.0, 0.5, 0.0)):
    """A rectangle of one colour on ground of another: colours, context, its mask."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.zeros(1, 1, N, N)
    mask[..., rows, columns] = 1
    one, other = (torch.tensor(c)[None, :, None, None] for c in (colour, ground))
    colours = mask * one + (1 - mask) * other + 0.3 * torch.randn(1, 3, N, N, generator=rng)
    context = other + 0.15 * torch.randn(1, 3, N // 2, N // 2, generator=rng)
    return colours, context, mask


def box(x0, y0, x1, y1):
    possible = torch.zeros(1, 1, N, N)
    possible[..., y0:y1, x0:x1] = 1
    return possible


def test_the_object_comes_out_of_a_box_twice_its_size():
    colours, context, mask = noisy(slice(10, 20), slice(8, 22))
    cuts = colour_cuts(whole(colours, context, box(6, 4, 28, 26)))
    assert cuts.shape == (1, CUTS, N, N)
    for cut in cuts[0]:
        assert ((cut > 0) == (mask[0, 0] > 0)).float().mean() > 0.995
    assert cuts.abs().max() <= 1


def test_a_draft_finds_the_rest_of_its_object():
    """Without a box all but a margin is possible, and half of the object is where it begins."""
    colours, context, mask = noisy(slice(8, 24), slice(8, 24))
    start = mask.clone()
    start[..., 16:] = 0
    cuts = colour_cuts(whole(colours, context, box(2, 2, 30, 30), start=start))
    assert ((cuts[0, 1] > 0) == (mask[0, 0] > 0)).float().mean() > 0.99


def test_points_hold_and_what_is_impossible_stays_so():
    colours, context, mask = noisy(slice(10, 20), slice(8, 22))
    certain = torch.zeros(1, 1, N, N)
    certain[..., 24, 24] = 1
    possible = box(6, 4, 28, 26)
    possible[..., 12:14, 10:12] = 0
    cuts = colour_cuts(whole(colours, context, possible, certain=certain))[0, 1:]
    assert (cuts[:, 24, 24] > 0.9).all()
    assert (cuts[:, possible[0, 0] == 0] < -0.9).all()
    assert mask[0, 0, 12, 10] == 1


def test_what_lies_off_the_picture_does_not_count():
    colours, context, mask = noisy(slice(10, 20), slice(0, 12))
    known = torch.ones(1, 1, N, N)
    known[..., 24:] = 0
    first, second = colours.clone(), colours.clone()
    first[..., 24:], second[..., 24:] = 5.0, -5.0
    one, other = (
        colour_cuts(whole(c, context, box(0, 6, 32, 24), known=known)) for c in (first, second)
    )
    # The cell beside the border has a neighbour off the picture, whose own cost is fixed.
    assert torch.allclose(one[..., :23], other[..., :23], atol=2e-2)
    assert ((one[0, 1] > 0) == (mask[0, 0] > 0)).float().mean() > 0.99


def test_a_window_is_cut_alike_alone_and_among_others():
    many = [noisy(slice(4 + i, 20), slice(8, 22 + i), seed=i) for i in range(3)]
    looks = [whole(c, s, box(4, 2, 28, 26)) for c, s, _ in many]
    together = colour_cuts(Looks(*(torch.cat(parts) for parts in zip(*looks, strict=True))))
    for i, each in enumerate(looks):
        assert torch.allclose(colour_cuts(each), together[i : i + 1], atol=1e-3)


@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_windows_of_one_colour_or_without_background_give_numbers(inside):
    flat = torch.zeros(1, 3, N, N)
    looks = whole(flat, flat[..., ::2, ::2], torch.full((1, 1, N, N), inside))
    looks = looks._replace(known_context=0 * looks.known_context)
    assert colour_cuts(looks).isfinite().all()


def test_mixtures_have_the_moments_and_densities_of_their_members():
    rng = np.random.default_rng(0)
    colours = rng.normal(size=(3, 200)).astype(np.float32)
    weight = rng.uniform(size=200).astype(np.float32)
    member = rng.integers(0, 4, 200)
    rows = (member == np.arange(4)[:, None]) * weight
    terms = terms_of(torch.from_numpy(colours)[None, :, None])
    members = torch.from_numpy(rows.reshape(1, 2, 2, 200).astype(np.float32))
    densities = Mixtures.of(terms, members).log_densities(terms).numpy()[0]
    for k in range(4):
        own, both = member == k, member // 2 == k // 2
        mean = np.average(colours[:, own], axis=1, weights=weight[own])
        spread = np.cov(colours[:, own], aweights=weight[own], ddof=0) + VARIANCE * np.eye(3)
        share = weight[own].sum() / weight[both].sum()
        expected = np.log(share) + multivariate_normal(mean, spread).logpdf(colours.T)
        constant = 1.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(densities[k // 2, k % 2], expected + constant, atol=2e-3)


def test_clusters_tell_colours_apart():
    """For both mixtures, each with weights of its own."""
    centres = torch.tensor([[-2.0, -2, -2], [-0.5, 0, 0.5], [0.5, 0.5, 0], [2, 2, 2]])
    colours = centres.repeat_interleave(20, dim=0)[None] + 0.01 * torch.randn(1, 80, 3)
    weights = torch.stack([torch.ones(80), torch.rand(80) + 0.5])[None]
    clusters = _clusters(terms_of(colours.mT[:, :, None]), weights)[0].reshape(2, COMPONENTS, 20)
    assert (clusters == clusters[..., :1]).all()
    assert all(len(set(each[:, 0].tolist())) == COMPONENTS for each in clusters)


def pairs(maps, offset):
    """Of all cells that have such a neighbour, the neighbours and the cells (..., h', w')."""
    (down, right), (height, width) = offset, maps.shape[-2:]
    after = maps[..., down:, max(right, 0) : width + min(right, 0)]
    return after, maps[..., : height - down, max(-right, 0) : width - max(right, 0)]


def energy(cost, cut_costs, chosen):
    total = float((cost * chosen).sum())
    for offset, each in zip(NEIGHBOURS, cut_costs, strict=True):
        after, before = pairs(chosen, offset)
        total += float((pairs(each, offset)[1] * (after - before).abs()).sum())
    return total


def least_energy(cost, cut_costs):
    """By a maximum flow: cells, a source of those that gain as object, a sink of the others."""
    n = cost.shape[-1]
    number = np.arange(n * n).reshape(n, n)
    source, sink = n * n, n * n + 1
    flat = np.rint(cost.numpy()[0, 0].ravel()).astype(int)
    rows = [np.where(flat < 0, source, number.ravel())]
    columns = [np.where(flat < 0, number.ravel(), sink)]
    capacity = [np.abs(flat)]
    for offset, each in zip(NEIGHBOURS, cut_costs, strict=True):
        after, before = (p.numpy().ravel() for p in pairs(torch.from_numpy(number), offset))
        most = np.rint(pairs(each, offset)[1].numpy().ravel()).astype(int)
        rows += [after, before]
        columns += [before, after]
        capacity += [most, most]
    graph = coo_array(
        (np.concatenate(capacity), (np.concatenate(rows), np.concatenate(columns))),
        shape=(n * n + 2, n * n + 2),
    ).tocsr()
    flow = maximum_flow(graph.astype(np.int32), source, sink).flow_value
    return flow + flat[flat < 0].sum()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(1, 15))
def test_a_relaxed_cut_at_any_threshold_is_a_least_cut(seed, gamma):
    rng = torch.Generator().manual_seed(seed)
    cost = (20 * torch.randn(1, 1, 8, 8, generator=rng)).round()
    costs = [(gamma * torch.rand(1, 1, 8, 8, generator=rng)).round() for _ in NEIGHBOURS]
    limits = torch.cat(
        [placed(each, offset) for each, offset in zip(costs, NEIGHBOURS, strict=True)], 1
    )
    chosen = relaxed_cut(cost, limits, torch.ones_like(cost), torch.zeros_like(limits), 4000)
    best = least_energy(cost, costs)
    for threshold in (0.1, 0.5, 0.9):
        cut = (chosen > threshold).float()
        assert energy(cost, costs, cut) == pytest.approx(best, abs=0.02 * abs(best) + 1)


def placed(cost, offset):
    """With 0 where there is no later neighbour, as `cut_costs` gives it."""
    limit = torch.zeros_like(cost)
    pairs(limit, offset)[1].copy_(pairs(cost, offset)[1])
    return limit


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 21), st.integers(1, 21))
def test_compiled_steps_are_those_on_whole_maps(seed, count, height, width):
    """In two goes: the second takes up the first one's duals."""
    rng = torch.Generator().manual_seed(seed)
    cost = 10 * torch.randn(count, 1, height, width, generator=rng)
    start = torch.rand(count, 1, height, width, generator=rng)
    every = (8 * torch.rand(count, 1, height, width, generator=rng) for _ in NEIGHBOURS)
    limits = torch.cat([placed(e, o) for e, o in zip(every, NEIGHBOURS, strict=True)], 1)
    results = []
    for cut in (relaxed_cut, relaxed_cut_by_maps):
        duals, chosen = torch.zeros_like(limits), start
        for _ in range(2):
            chosen = cut(cost, limits, chosen, duals, 15)
        results.append((chosen, duals))
    assert relaxed_cut is not relaxed_cut_by_maps
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_it_costs_least_to_cut_where_colours_differ():
    colours, context, _ = noisy(slice(8, 24), slice(8, 24))
    looks = whole(colours, context, box(2, 2, 30, 30))
    costs = cut_costs(looks, (1.0, 3.0))
    assert costs.shape == (2, len(NEIGHBOURS), N, N)
    assert torch.allclose(costs[1], 3 * costs[0])
    assert (
        costs[0]
        == torch.cat(
            [placed(c[None], o) for c, o in zip(costs[0][:, None], NEIGHBOURS, strict=True)]
        )[:, 0]
    ).all()
    right = costs[:, 0, :, :-1]
    across = colours.diff(dim=3).square().sum(dim=1)[0]
    mean = [
        (a - b).square().sum(dim=1).flatten() for a, b in (pairs(colours, o) for o in NEIGHBOURS)
    ]
    expected = torch.exp(-across / (2 * torch.cat(mean).mean()))
    assert torch.allclose(right[0], expected, atol=1e-5)
    assert right[0, 10:20, 7].mean() < 0.2 * right[0, 10:20, 10].mean()

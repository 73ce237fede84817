"""What colour alone says of a mask: GrabCut in each window, in all windows at once.

Rother, Kolmogorov and Blake (2004) fit mixtures of Gaussians to the colours of object and
background and cut the picture between them where it costs least, in turns. Here the cut is relaxed
to values between 0 and 1, which loses nothing (any threshold of a least relaxed cut is a least
cut: Chan, Esedoglu and Nikolova 2006), and found by the steps of Chambolle and Pock (2011), which
a batch shares. Nothing of it is learned, and so nothing of it depends on having seen such an object
before, which is where a small network is weak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from samplat.model import cut_steps

CONTEXT = 2.0
"""Size of what is known of the background, relative to the window."""
CUTS = 3
"""Maps that `colour_cuts` gives."""
COMPONENTS = 4
"""Gaussians of each mixture; three to eight do equally well."""
FIRST_CLUSTERS = 4
"""Steps of k-means for the first mixtures."""
ROUNDS = 3
"""Mixtures and cuts in turns, all but the last at half the window's resolution."""
ROUGH_GAMMA, GAMMAS = 10.0, (8.0, 20.0)
"""Cost of cutting between two cells of like colour, in nats of evidence of one cell: while the
mixtures are found, and of the two cuts that are given. Smooth objects want the greater one, thin
and small ones the lesser."""
ROUGH_STEPS, STEPS = 30, 40
VARIANCE = 2e-3
"""Added to that of each component, in the encoder's normalised colours."""
CERTAIN = 30.0
"""Greatest log-likelihood ratio of a cell."""
EVIDENCE = 10.0
"""The ratio that counts as full evidence."""
FIXED = 1e3
"""Cost of a cell's other side where the prompt leaves no choice."""
PACE, PRIMAL, DUAL = 20.0, 0.125, 0.5
"""The primal-dual steps: PRIMAL x DUAL is one over the squared norm of the differences, 16."""
PRODUCTS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Pairs of channels."""
SQUARE = [[PRODUCTS.index((min(i, j), max(i, j))) for j in range(3)] for i in range(3)]
"""Their numbers as a matrix."""
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns to the four of a cell's eight neighbours that come after it."""


class Looks(NamedTuple):
    """N windows of n x n cells and, if anything, their wider surroundings of n / 2 x n / 2."""

    colours: Tensor
    """(N, 3, n, n)."""
    known: Tensor
    """(N, 1, n, n): 1 where a cell is on the picture."""
    possible: Tensor
    """(N, 1, n, n): the share of each cell in which the object may lie."""
    certain: Tensor
    """(N, 1, n, n): 1 where it lies for certain."""
    start: Tensor
    """(N, 1, n, n): where it is taken to lie at first."""
    context: Tensor | None = None
    """(N, 3, n / 2, n / 2): colours of the window CONTEXT times as large."""
    known_context: Tensor | None = None
    """(N, 1, n / 2, n / 2)."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> Looks:
        """The same with all that there is changed."""
        return Looks(*(part if part is None else change(part) for part in self))  # type: ignore[arg-type]


@torch.no_grad()
def colour_cuts(looks: Looks) -> Tensor:
    """Evidence and two cuts (N, CUTS, n, n), each about -1 (background) to 1 (object), fp32."""
    with torch.autocast(looks.colours.device.type, enabled=False):
        looks = looks.changed(Tensor.float)
        chosen, mixtures = cut_in_turns(halved(looks), ROUNDS - 1, ROUGH_GAMMA, ROUGH_STEPS)
        cost = cell_costs(looks, terms_of(looks.colours), mixtures)
        cuts = fine_cuts(looks, cost, chosen, GAMMAS, STEPS)
        evidence = (-cost / EVIDENCE).clamp(-1, 1)
        return torch.cat([evidence, 2 * cuts - 1], dim=1)


def halved(looks: Looks) -> Looks:
    """The same windows in cells of twice the size; their surroundings stay."""
    half = looks.changed(lambda part: F.avg_pool2d(part, 2))
    return half._replace(context=looks.context, known_context=looks.known_context)


def cut_in_turns(looks: Looks, rounds: int, gamma: float, steps: int) -> tuple[Tensor, Mixtures]:
    """The object (N, 1, n, n) after mixtures and cuts in turns, and its and the rest's mixtures."""
    seen = Seen.of(looks)
    chosen, mixtures = looks.start * looks.possible * looks.known, None
    costs = cut_costs(looks, (gamma,))
    duals = torch.zeros_like(costs)
    for _ in range(rounds):
        mixtures = mixtures_of(seen, seen.weights(looks, chosen), mixtures)
        chosen = relaxed_cut(cell_costs(looks, seen.terms, mixtures), costs, chosen, duals, steps)
    return chosen, mixtures_of(seen, seen.weights(looks, chosen), mixtures)


def fine_cuts(
    looks: Looks, cost: Tensor, rough: Tensor, gammas: Sequence[float], steps: int
) -> Tensor:
    """Cuts (N, gammas, n, n) in 0 to 1 by the cells' costs, begun from one of half their size."""
    start = F.interpolate(rough, scale_factor=2.0)
    cost, start = (part.repeat_interleave(len(gammas), dim=0) for part in (cost, start))
    costs = cut_costs(looks, gammas)
    duals = torch.zeros_like(costs)
    cuts = relaxed_cut(cost, costs, start, duals, steps)
    return cuts.reshape(len(looks.known), len(gammas), *cost.shape[2:])


class Seen(NamedTuple):
    """P colours of each of N windows as mixtures need them: all they ask is linear in these."""

    terms: Tensor
    """(N, 10, P): 1, the three channels, and the six products of two of them."""
    around: Tensor
    """(N, Q): what those of the surroundings count, the last ones."""

    @classmethod
    def of(cls, looks: Looks) -> Seen:
        """Of all cells of windows and, if known, of their surroundings."""
        terms = terms_of(looks.colours)
        if looks.context is None or looks.known_context is None:
            return cls(terms, looks.known.new_zeros(len(terms), 0))
        n = looks.context.shape[-1]
        place = ((torch.arange(n, device=terms.device) + 0.5) * 2 / n - 1).abs()
        ring = (place[:, None] * CONTEXT > 1) | (place * CONTEXT > 1)
        around = (looks.known_context * ring).flatten(1) * CONTEXT**2
        return cls(torch.cat([terms, terms_of(looks.context)], dim=2), around)

    def weights(self, looks: Looks, chosen: Tensor) -> Tensor:
        """What each colour counts for object and background, (N, 2, P), as chosen (N, 1, n, n)."""
        inside = ((chosen > 0.5) * looks.known).flatten(1)
        outside = looks.known.flatten(1) - inside
        both = torch.stack([inside, outside], dim=1)
        nowhere = torch.zeros_like(self.around)
        return torch.cat([both, torch.stack([nowhere, self.around], dim=1)], dim=2)


def terms_of(colours: Tensor) -> Tensor:
    """(N, 10, P) of colours (N, 3, h, w).

    In fp64 where there is such a thing: variances are differences of large sums, and what a window
    looks like must not depend on how many others are cut beside it.
    """
    flat = colours.flatten(2).to(torch.float32 if colours.device.type == "mps" else torch.float64)
    products = torch.stack([flat[:, i] * flat[:, j] for i, j in PRODUCTS], dim=1)
    return torch.cat([torch.ones_like(flat[:, :1]), flat, products], dim=1)


class Mixtures(NamedTuple):
    """Two mixtures of K Gaussians for each of N windows: object first, background second."""

    coefficients: Tensor
    """(N, 2 K, 10): of each component's log-density, with its share, up to a constant."""

    @classmethod
    def of(cls, terms: Tensor, members: Tensor) -> Mixtures:
        """Of colours (N, 10, P) that belong to components (N, 2, K, P) by weights."""
        moments = members.flatten(1, 2).to(terms.dtype) @ terms.mT
        count = moments[..., :1] + 1e-4
        mean, square = moments[..., 1:4] / count, moments[..., 4:] / count
        own = torch.eye(3, dtype=terms.dtype, device=terms.device) * VARIANCE
        rows = [torch.stack([square[..., k] for k in row], dim=-1) for row in SQUARE]
        covariance = torch.stack(rows, dim=-2) - mean[..., :, None] * mean[..., None, :] + own
        precision = torch.linalg.inv(covariance)
        turned = (precision @ mean[..., None])[..., 0]
        shares = count.view(len(count), 2, -1)
        share = (shares / shares.sum(dim=2, keepdim=True)).flatten(1).log()
        constant = share - (torch.logdet(covariance) + (turned * mean).sum(dim=2)) / 2
        squared = [precision[..., i, j] / (-2 if i == j else -1) for i, j in PRODUCTS]
        return cls(torch.cat([constant[..., None], turned, torch.stack(squared, dim=2)], dim=2))

    def log_densities(self, terms: Tensor) -> Tensor:
        """(N, 2, K, P) of colours (N, 10, P)."""
        return _by_mixture(self.coefficients @ terms)


def mixtures_of(seen: Seen, weights: Tensor, before: Mixtures | None) -> Mixtures:
    """Of colours that count `weights` (N, 2, P), going on from the mixtures before."""
    if before is None:
        nearest = _clusters(seen.terms, weights)
    else:
        nearest = before.log_densities(seen.terms).max(dim=2).indices  # argmax is 20 times slower
    return Mixtures.of(seen.terms, _members(nearest, weights))


def _members(nearest: Tensor, weights: Tensor) -> Tensor:
    """(N, 2, K, P): the weights (N, 2, P) at the components (N, 2, P) that are nearest, else 0."""
    members = weights.new_zeros(*weights.shape[:2], COMPONENTS, weights.shape[2])
    return members.scatter_(2, nearest[:, :, None], weights[:, :, None])


def _clusters(terms: Tensor, weights: Tensor) -> Tensor:
    """k-means from quantiles of brightness: the nearest of each mixture's centres, (N, 2, P)."""
    colours = terms[:, 1:4]
    order = colours.mean(dim=1).argsort(dim=1)[:, None]
    summed = weights.gather(2, order.expand_as(weights)).cumsum(dim=2)
    shares = (torch.arange(COMPONENTS, device=weights.device) + 0.5) / COMPONENTS
    at = torch.searchsorted(summed, summed[..., -1:] * shares).clamp_max(weights.shape[2] - 1)
    places = order.expand_as(weights).gather(2, at).flatten(1)
    centre = colours.gather(2, places[:, None].expand(-1, 3, -1)).mT
    for _ in range(FIRST_CLUSTERS):
        members = _members(_nearest(colours, centre), weights).flatten(1, 2)
        sums = members.to(terms.dtype) @ terms[:, :4].mT
        count = sums[..., :1]
        centre = torch.where(count > 0, sums[..., 1:] / count.clamp_min(1e-6), centre)
    return _nearest(colours, centre)


def _by_mixture(components: Tensor) -> Tensor:
    """(N, 2 K, P) as (N, 2, K, P)."""
    return components.view(len(components), 2, -1, components.shape[2])


def _nearest(colours: Tensor, centre: Tensor) -> Tensor:
    """Of both mixtures' centres (N, 2 K, 3) the nearest to each colour (N, 3, P): (N, 2, P)."""
    half = centre.square().sum(dim=2, keepdim=True) / 2
    return _by_mixture(centre @ colours - half).max(dim=2).indices


def cell_costs(looks: Looks, terms: Tensor, mixtures: Mixtures) -> Tensor:
    """What it costs (N, 1, n, n) to count a cell as object rather than as background.

    Args:
        looks: the windows.
        terms: (N, 10, n * n or more) of their colours.
        mixtures: theirs.
    """
    cells = looks.known[0].numel()
    one, other = mixtures.log_densities(terms[..., :cells]).logsumexp(dim=2).unbind(1)
    cost = (other - one).float().reshape(looks.known.shape).clamp(-CERTAIN, CERTAIN)
    cost = torch.where(looks.certain > 0.5, -FIXED, cost)
    return torch.where(looks.possible * looks.known > 0.5, cost, FIXED)


def cut_costs(looks: Looks, gammas: Sequence[float]) -> Tensor:
    """Of separating neighbours, (N * gammas, NEIGHBOURS, h, w): less where colours differ.

    Each stands at the earlier of the two cells; it is 0 where there is no later one.
    """
    size = looks.known.shape[2:]
    differences = torch.cat(
        [
            (later - looks.colours).square().sum(dim=1, keepdim=True)
            for later in _later(looks.colours)
        ],
        dim=1,
    )
    both = torch.cat([later * looks.known for later in _later(looks.known)], dim=1)
    exists = torch.cat(list(_later(looks.known.new_ones(1, 1, *size))), dim=1)
    mean = (differences * both).sum(dim=(1, 2, 3)) / both.sum(dim=(1, 2, 3)).clamp_min(1)
    scale = 2 * mean[:, None, None, None] + 1e-6
    length = differences.new_tensor([sum(map(abs, offset)) ** 0.5 for offset in NEIGHBOURS])
    near = torch.exp(-differences / scale) * exists / length[:, None, None]
    return (near[:, None] * near.new_tensor(gammas)[:, None, None, None]).flatten(0, 1)


def _later(maps: Tensor) -> Iterator[Tensor]:
    """Of each kind of neighbours the later one at the earlier one's place, (N, C, h, w), else 0."""
    height, width = maps.shape[2:]
    wide = F.pad(maps, (1, 1, 0, 1))
    for down, right in NEIGHBOURS:
        yield wide[..., down : down + height, 1 + right : 1 + right + width]


def relaxed_cut(cost: Tensor, limits: Tensor, start: Tensor, duals: Tensor, steps: int) -> Tensor:
    """Values in 0 to 1, (N, 1, h, w): the sum of cost * u and of limit * |u - u'| is least.

    It goes on from the values `start` and from `duals`, which are changed in place. `limits` and
    they are as `cut_costs` gives them.
    """
    if cost.device.type == "cpu":
        return cut_steps.relaxed_cut(
            cost, limits, start, duals, steps, (PACE * DUAL, PRIMAL / PACE)
        )
    return relaxed_cut_by_maps(cost, limits, start, duals, steps)


def relaxed_cut_by_maps(
    cost: Tensor, limits: Tensor, start: Tensor, duals: Tensor, steps: int
) -> Tensor:
    """The same as operations on whole maps, on any device."""
    height, width = cost.shape[2:]
    chosen, lead = start, start
    wide = duals.new_empty(len(duals), 1, height + 1, width + 2)
    for _ in range(steps):
        duals.add_(torch.cat(list(_later(lead)), dim=1) - lead, alpha=PACE * DUAL)
        torch.clamp(duals, -limits, limits, out=duals)
        wide.zero_()
        for k, (down, right) in enumerate(NEIGHBOURS):
            later = wide[..., down : down + height, 1 + right : 1 + right + width]
            later += duals[:, k : k + 1]
        slope = cost - duals.sum(dim=1, keepdim=True) + wide[..., :height, 1 : 1 + width]
        following = (chosen - PRIMAL / PACE * slope).clamp_(0, 1)
        chosen, lead = following, 2 * following - chosen
    return chosen

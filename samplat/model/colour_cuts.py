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
        rough = halved(looks)
        chosen, mixtures = cut_in_turns(rough, ROUNDS - 1, ROUGH_GAMMA, ROUGH_STEPS)
        cost = cell_costs(looks, mixtures_of(rough, chosen, mixtures))
        cuts = fine_cuts(looks, cost, chosen, GAMMAS, STEPS)
        evidence = (-cost / EVIDENCE).clamp(-1, 1)
        return torch.cat([evidence, 2 * cuts - 1], dim=1)


def halved(looks: Looks) -> Looks:
    """The same windows in cells of twice the size; their surroundings stay."""
    half = looks.changed(lambda part: F.avg_pool2d(part, 2))
    return half._replace(context=looks.context, known_context=looks.known_context)


def cut_in_turns(
    looks: Looks, rounds: int, gamma: float, steps: int
) -> tuple[Tensor, tuple[Mixture, Mixture] | None]:
    """The object (N, 1, n, n) after mixtures and cuts in turns, and the last mixtures."""
    chosen, mixtures = looks.start * looks.possible * looks.known, None
    costs = cut_costs(looks, (gamma,))
    duals = torch.zeros_like(costs)
    for _ in range(rounds):
        mixtures = mixtures_of(looks, chosen, mixtures)
        chosen = relaxed_cut(cell_costs(looks, mixtures), costs, chosen, duals, steps)
    return chosen, mixtures


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


class Mixture(NamedTuple):
    """K Gaussians of each of N."""

    share: Tensor
    """(N, K)."""
    mean: Tensor
    """(N, K, 3)."""
    precision: Tensor
    """(N, K, 3, 3)."""

    @classmethod
    def of(cls, colours: Tensor, weight: Tensor, members: Tensor) -> Mixture:
        """Of colours (N, P, 3) that weigh (N, P) and belong to components (N, P, K)."""
        rows = (members * weight[..., None]).transpose(1, 2)
        count = rows.sum(dim=2, keepdim=True) + 1e-4
        mean = rows @ colours / count
        square = (rows @ _products(colours) / count).reshape(*mean.shape, 3)
        own = torch.eye(3, device=colours.device) * VARIANCE
        covariance = square - mean[..., :, None] * mean[..., None, :] + own
        share = (count / count.sum(dim=1, keepdim=True))[..., 0]
        return cls(share, mean, torch.linalg.inv(covariance))

    def log_densities(self, colours: Tensor) -> Tensor:
        """(N, P, K) of colours (N, P, 3), each with its component's share, up to a constant."""
        turned = (self.precision @ self.mean[..., None])[..., 0]
        constant = (turned * self.mean).sum(dim=2)
        distance = (
            _products(colours) @ self.precision.flatten(2).transpose(1, 2)
            - 2 * colours @ turned.transpose(1, 2)
            + constant[:, None]
        )
        scale = torch.logdet(self.precision) / 2 + self.share.log()
        return scale[:, None] - distance.clamp_min(0) / 2


def mixtures_of(
    looks: Looks, chosen: Tensor, before: tuple[Mixture, Mixture] | None
) -> tuple[Mixture, Mixture]:
    """Of object and background as chosen (N, 1, n, n), going on from those before."""
    colours, around = _surrounded(looks)
    inside = ((chosen > 0.5) * looks.known).flatten(1)
    outside = looks.known.flatten(1) - inside
    weights = (
        torch.cat([inside, torch.zeros_like(around)], dim=1),
        torch.cat([outside, around], dim=1),
    )
    if before is None:
        members = [_clusters(colours, weight) for weight in weights]
    else:
        members = [mixture.log_densities(colours).argmax(dim=2) for mixture in before]
    one, other = (
        Mixture.of(colours, weight, F.one_hot(each, COMPONENTS).float())
        for weight, each in zip(weights, members, strict=True)
    )
    return one, other


def _surrounded(looks: Looks) -> tuple[Tensor, Tensor]:
    """Colours (N, P, 3) of cells and surroundings, and what of these counts how much (N, Q)."""
    colours = _listed(looks.colours)
    if looks.context is None or looks.known_context is None:
        return colours, colours.new_zeros(len(colours), 0)
    n = looks.context.shape[-1]
    place = ((torch.arange(n, device=colours.device) + 0.5) * 2 / n - 1).abs()
    ring = (place[:, None] * CONTEXT > 1) | (place * CONTEXT > 1)
    around = (looks.known_context * ring).flatten(1) * CONTEXT**2
    return torch.cat([colours, _listed(looks.context)], dim=1), around


def _listed(maps: Tensor) -> Tensor:
    """(N, C, h, w) as (N, h * w, C)."""
    return maps.flatten(2).transpose(1, 2)


def _products(colours: Tensor) -> Tensor:
    """(N, P, 9) of colours (N, P, 3)."""
    return (colours[..., :, None] * colours[..., None, :]).flatten(2)


def _clusters(colours: Tensor, weight: Tensor) -> Tensor:
    """k-means from quantiles of brightness: the cluster (N, P) of each colour (N, P, 3)."""
    order = colours.mean(dim=2).argsort(dim=1)
    summed = weight.gather(1, order).cumsum(dim=1)
    shares = (torch.arange(COMPONENTS, device=weight.device) + 0.5) / COMPONENTS
    at = torch.searchsorted(summed, summed[:, -1:] * shares).clamp_max(weight.shape[1] - 1)
    centre = colours.gather(1, order.gather(1, at)[..., None].expand(-1, -1, 3))
    for _ in range(FIRST_CLUSTERS):
        nearest = F.one_hot(torch.cdist(colours, centre).argmin(dim=2), COMPONENTS)
        rows = (nearest * weight[..., None]).transpose(1, 2)
        count = rows.sum(dim=2, keepdim=True)
        centre = torch.where(count > 0, rows @ colours / count.clamp_min(1e-6), centre)
    return torch.cdist(colours, centre).argmin(dim=2)


def cell_costs(looks: Looks, mixtures: tuple[Mixture, Mixture]) -> Tensor:
    """What it costs (N, 1, n, n) to count a cell as object rather than as background."""
    colours = _listed(looks.colours)
    one, other = (each.log_densities(colours).logsumexp(dim=2) for each in mixtures)
    cost = (other - one).reshape(looks.known.shape).clamp(-CERTAIN, CERTAIN)
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

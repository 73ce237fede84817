"""What an object looks like against its surroundings, asked of the picture for each mask.

Boykov and Jolly's and GrabCut's idea with learned codes in the place of colours. Nothing of it
depends on having seen such an object before, which is where a small network is weak.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

GROUPS, CODES = 4, 24
"""Codebooks, and codes in each; a cell has one code of each book, softly."""
VIEWS = 3
"""Ways of saying what is object and what is background, see `AppearanceCodes`."""
CONTEXT = 2.0
"""Size of what is known of the background, relative to the window."""
SMOOTHING = 8.0
"""Cells of the window's mixture that are added to every count of codes."""


class Looks(NamedTuple):
    """What N windows and their wider surroundings look like, in n x n cells each."""

    window: Tensor
    """(N, C, n, n) colours and features."""
    context: Tensor
    """(N, C, n, n): of the window CONTEXT times as large."""
    claimed: Tensor
    """(N, 1, n, n): the share of each cell of the window in which the object may lie."""
    known: Tensor
    """(N, 1, n, n): the share of each cell of the window on the picture."""
    known_context: Tensor
    """(N, 1, n, n): 1 where a cell of the context is on the picture."""


class AppearanceCodes(nn.Module):
    """Evidence of each cell's look: is it commoner in the object than around it?

    Each cell belongs softly to one code of each of GROUPS books, by its colour and features; codes
    of object and background are counted, and each cell gets its codes' log-likelihood ratio. What
    is object is said in three ways: the draft; all that the prompt leaves possible, as GrabCut
    begins; and both, corrected by their own evidence, as GrabCut goes on.
    """

    def __init__(self, fine_channels: int) -> None:
        super().__init__()
        self.code = nn.Conv2d(3 + fine_channels, GROUPS * CODES, 1)
        self.trust = nn.Parameter(torch.ones(2))
        weight, bias = self.code.weight, self.code.bias
        colours = GROUPS // 2 * CODES
        with torch.no_grad():
            # Half of the books begin as random colours, most of them greyish, the others as
            # random mixtures.
            centres = 1.2 * torch.randn(colours, 1) + 0.5 * torch.randn(colours, 3)
            sharpness = torch.tensor([4.0, 10.0]).repeat_interleave(CODES)[:colours, None]
            weight[:colours] = 0
            weight[:colours, :3, 0, 0] = 2 * sharpness * centres
            weight[colours:].normal_(std=0.5)
            if bias is not None:
                bias[:colours] = -sharpness[:, 0] * centres.square().sum(dim=1)

    def forward(self, looks: Looks, coarse: Tensor) -> Tensor:
        """Log-likelihood ratios (N, VIEWS * GROUPS, n, n), about -1 to 1.

        Args:
            looks: of the windows.
            coarse: the drafts' logits (N, 1, n, n).
        """
        cells, around = self._books(looks.window), self._books(looks.context)
        ring = _ring(looks.context.shape[-1], looks.context.device)
        beyond = _counts(around, looks.known_context * ring)
        draft = coarse.detach().float()
        chosen = draft.sigmoid() * looks.known
        by_draft = self._evidence(cells, chosen, looks.known - chosen, beyond)
        claimed = looks.claimed * looks.known
        by_claim = self._evidence(cells, claimed, looks.known - claimed, beyond)
        means = [by.detach().mean(dim=1, keepdim=True) for by in (by_draft, by_claim)]
        told = 3 * (self.trust[0] * means[0] + self.trust[1] * means[1])
        better = (draft / 2 + told).sigmoid() * claimed
        by_both = self._evidence(cells, better, looks.known - better, beyond)
        return torch.cat([by_draft, by_claim, by_both], dim=1)

    def _books(self, looks: Tensor) -> Tensor:
        """(N, GROUPS, n * n, CODES): each cell's share in the codes of each book."""
        books: Tensor = self.code(looks).float()
        books = books.reshape(len(looks), GROUPS, CODES, -1)
        return books.transpose(2, 3).softmax(dim=3)

    def _evidence(
        self, cells: Tensor, inside: Tensor, outside: Tensor, beyond: tuple[Tensor, Tensor]
    ) -> Tensor:
        counts, area = _counts(cells, inside)
        others, other_area = _counts(cells, outside)
        others, other_area = others + beyond[0], other_area + beyond[1]
        prior = SMOOTHING * (counts + others) / (area + other_area).clamp_min(1)
        share = ((counts + prior) / (area + SMOOTHING) + 1e-4).log()
        other_share = ((others + prior) / (other_area + SMOOTHING) + 1e-4).log()
        ratio = cells @ (share - other_share).transpose(2, 3)
        return ratio.reshape(len(cells), GROUPS, *inside.shape[-2:]) / 3


def _counts(cells: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (N, GROUPS, 1, CODES) under a weight (N, 1, n, n), and its sum (N, 1, 1, 1)."""
    row = weight.flatten(2)[:, None].float()
    return row @ cells, row.sum(dim=3, keepdim=True)


def _ring(n: int, device: torch.device) -> Tensor:
    """(n, n): 1 on a context's cells outside of the window in its middle."""
    place = ((torch.arange(n, device=device) + 0.5) * 2 / n - 1).abs() * CONTEXT > 1
    return (place[:, None] | place).float()

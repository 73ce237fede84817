"""Picking one of several named things, some likelier than others."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def weighted(rng: np.random.Generator, table: Mapping[str, tuple[T, float]]) -> T:
    """One entry of `name -> (thing, weight)`; weights need not sum to 1."""
    things, weights = zip(*table.values(), strict=True)
    share = np.array(weights) / np.sum(weights)
    chosen: T = things[int(rng.choice(len(things), p=share))]
    return chosen

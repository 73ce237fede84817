"""What the seams of all tiles say, put together: which objects are one, and what is claimed.

One process reads the seams tile by tile. Of a job on many machines they are joined there first, a
few hundred tiles at a time: objects that are one within such a part are named by the smallest, so
that of any number of links no more is left than one for an object. What the parts say of objects
of other parts is united where names are decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from samplat.claims import Claims
from samplat.executors import Distant
from samplat.files import canonical, sha256
from samplat.job import Plan
from samplat.merging import unite
from samplat.seam_values import Joined
from samplat.stages import Stages
from samplat.store import JobStore

PART = 256
"""Tiles of which the seams are joined at once."""


def joined_seams(
    planned: Plan, seams: Sequence[str], claims: dict[int, Claims], stages: Stages
) -> Iterator[NDArray[np.uint64]]:
    """(E, 2) links that unite what the seams of all tiles unite, some at a time.

    Args:
        planned: the job.
        seams: digests of the seams of all tiles.
        claims: is told the claims of tiles that have some, without their masks.
        stages: who joins them, if they are far and there are many.
    """
    if isinstance(stages.executor, Distant) and len(seams) > 2 * PART:
        return _far(planned, seams, claims, stages)
    return _near(planned.store, enumerate(seams), claims)


def _near(
    store: JobStore, seams: Iterator[tuple[int, str | None]], claims: dict[int, Claims]
) -> Iterator[NDArray[np.uint64]]:
    for index, digest in seams:
        links, claimed = store.read_seams(index, digest)
        if len(claimed.ids) or len(claimed.refused):
            claims[index] = replace(claimed, rles=())
        yield links


def _far(
    planned: Plan, seams: Sequence[str], claims: dict[int, Claims], stages: Stages
) -> Iterator[NDArray[np.uint64]]:
    store = planned.store
    inputs = {k: _inputs(seams[k * PART : (k + 1) * PART]) for k in range(-(-len(seams) // PART))}
    task = JoinTask(plan=planned)
    digests = stages.make(
        "joins",
        task,
        list(inputs),
        lambda part: store.joined_digest(part, inputs[part]),
        store.path,
    )
    for part, digest in digests.items():
        joined = store.read_joined(part, digest, inputs[part])
        claims |= joined.claims
        yield joined.links


def _inputs(digests: Sequence[str]) -> str:
    return sha256(canonical({"seams": list(digests)}))


@dataclass(frozen=True, kw_only=True)
class JoinTask:
    """Joins the seams of one part of the tiles."""

    stage: ClassVar[str] = "join"
    plan: Plan

    def __call__(self, part: int) -> str:
        """Digest of what is left of them."""
        store, count = self.plan.store, len(self.plan.grid)
        tiles = range(part * PART, min(count, (part + 1) * PART))
        digests = [store.present_seams_digest(index) for index in tiles]
        claims: dict[int, Claims] = {}
        links = list(_near(store, zip(tiles, digests, strict=True), claims))
        joined = Joined(links=spanning(np.concatenate(links)), claims=claims)
        return store.write_joined(part, joined, _inputs([d or "" for d in digests]))


def spanning(links: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(N, 2) of each object that links unite with a smaller one, the smallest, and itself."""
    ids, places = np.unique(links, return_inverse=True)
    first, second = places.reshape(-1, 2).T
    parent = np.arange(len(ids))
    unite()(parent, np.ascontiguousarray(first), np.ascontiguousarray(second))
    while not np.array_equal(parent, above := parent[parent]):
        parent = above
    below = parent != np.arange(len(ids))
    return np.stack([ids[parent[below]], ids[below]], axis=1)

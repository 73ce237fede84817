"""The stage that writes the final labels, shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from samplat.job import Plan
from samplat.ledger import TileRecord
from samplat.naming import final_names
from samplat.painting import painting_of
from samplat.places import looked_up
from samplat.regions import repaint
from samplat.shards import Labels
from samplat.stages import Stages


def paint_labels(planned: Plan, records: Sequence[TileRecord], final: str, stages: Stages) -> None:
    """Write the labels of all tiles that did not fail; `final` is the digest of their names."""
    store, grid = planned.store, planned.grid
    store.write_labels_header(grid, final_names(store, final).dtype)
    painted = [r.index for r in records if r.outcome != "quarantined"]
    there = looked_up(store.path, lambda i: store.is_painted(grid, grid[i], final), painted)
    missing = [i for i, done in zip(painted, there, strict=True) if not done]
    task = PaintTask(plan=planned, final=final)
    for _ in stages.run("labels", task, missing, len(painted)):
        pass


@dataclass(frozen=True, kw_only=True)
class PaintTask:
    """Writes the final labels of one tile's write window."""

    stage: ClassVar[str] = "paint"
    plan: Plan
    final: str

    def __call__(self, index: int) -> str:
        """Digest of the shard."""
        store, grid = self.plan.store, self.plan.grid
        tile, record, final = (
            grid[index],
            store.tiles.known(index),
            final_names(store, self.final),
        )
        labels: Labels = np.zeros(tile.write.shape, final.dtype)
        if record.outcome == "done":
            painting = painting_of(self.plan, record)
            seeds, owners = final.patches(index)
            repaint(painting.labels[0], seeds, len(painting.ids) + 1)
            nothing = np.zeros(1, final.dtype)
            names = np.concatenate([nothing, final.of(painting.ids), owners])
            labels = names[painting.labels]
        return store.write_shard(grid, tile, labels, self.final)

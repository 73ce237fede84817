"""Names for ten million objects that a hundred million links unite, found by processes of Dask.

A job directory is written as the stages of tiles and seams would leave it, and names are decided
from that. Links go from the objects of a tile to those of its neighbours, 10^4 of each tile, at
random between objects of the same cluster, within blocks of 4 x 4 tiles: so it is known how many
objects there are in the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import samplat
from samplat.claims import NO_CLAIMS
from samplat.job import Plan
from samplat.ledger import TileRecord
from samplat.naming import Naming, name_objects
from samplat.object_tables import PART_COLUMNS
from samplat.progress import Silent
from samplat.stages import Stages

SIDE, BLOCK = 64, 4
EACH, LINKED, CLUSTER = 1000, 500, 8
"""Objects of a tile, of which so many have links, to those of their cluster."""
LINKS = 10_667
"""Of each tile that has a neighbour of higher index in its block: 15 of 16."""


def table() -> Any:
    """The objects of a tile, without masks."""
    import pyarrow as pa

    numbers: dict[str, NDArray[Any]] = {n: np.zeros(EACH, np.int64) for n in PART_COLUMNS}
    numbers |= {f"owned_{n}": np.full(EACH, 4) for n in ("z1", "y1", "x1")}
    numbers["owned_area"] = np.full(EACH, 16)
    numbers["cut"] = np.zeros(EACH, np.uint8)
    numbers["prompt"] = np.full(EACH, -1)
    real = ("predicted_iou", "stability", "point_x", "point_y")
    numbers |= {n: np.ones(EACH, np.float32) for n in real}
    return pa.table(numbers)


def links_of(index: int, side: int) -> NDArray[np.uint64]:
    """(E, 2) links of a tile."""
    rng, (y, x) = np.random.default_rng(index), divmod(index, side)
    steps = ((0, 1), (1, -1), (1, 0), (1, 1))
    beside = [
        (y + dy) * side + x + dx
        for dy, dx in steps
        if (y + dy) // BLOCK == y // BLOCK and (x + dx) // BLOCK == x // BLOCK
        if y + dy < side and x + dx < side
    ]
    if not beside:
        return np.zeros((0, 2), np.uint64)
    mine = rng.integers(0, LINKED, LINKS)
    theirs = np.minimum(mine // CLUSTER * CLUSTER + rng.integers(0, CLUSTER, LINKS), LINKED - 1)
    tiles = rng.choice(np.array(beside), LINKS)
    first, second = (np.int64(index) << 32) + mine, (tiles << 32) + theirs
    return np.stack([first, second], axis=1).astype(np.uint64)


def expected(side: int) -> int:
    """How many objects there are in the end."""
    blocks, clusters = -(-side // BLOCK), -(-LINKED // CLUSTER)
    return side**2 * (EACH - LINKED) + blocks**2 * clusters


def written(planned: Plan, side: int) -> tuple[Naming, int]:
    """The job directory, and how many links there are in it."""
    store, objects, seams, count = planned.store, table(), [], 0
    with store.lease():
        store.begin(planned.identity, {})
    records = []
    for index in range(side**2):
        digest = store._objects.write(index, objects)
        record = TileRecord(
            index=index,
            outcome="done",
            objects=EACH,
            objects_sha256=digest,
            attempts=1,
            seconds=0.0,
            peak_mb=0.0,
        )
        store.tiles.enter(record)
        records.append(record)
        links = links_of(index, side)
        count += len(links)
        seams.append(store.write_seams(index, links, NO_CLAIMS, "none"))
    naming = Naming(
        plan=planned, records=tuple(records), seams=tuple(seams), answers=None, regions={}
    )
    return naming, count


@contextmanager
def watched() -> Iterator[list[float]]:
    """GiB of this process and its children together, several times a second."""
    import psutil

    over, seen = threading.Event(), [0.0]

    def size(process: Any) -> float:
        try:
            return float(process.memory_info().rss) / 2**30
        except psutil.NoSuchProcess:
            return 0.0

    def watch() -> None:
        ours = psutil.Process()
        while not over.wait(0.3):
            seen.append(sum(map(size, [ours, *ours.children(recursive=True)])))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def merged(planned: Plan, side: int, executor: Any) -> dict[str, Any]:
    """How long it takes to name the objects of a job with so many tiles a side."""
    with mock.patch("os.fsync"):  # what is written here is not the question
        naming, links = written(planned, side)
    with watched() as seen:
        began = time.monotonic()
        name_objects(naming, Stages(executor=executor, progress=Silent()))
        seconds = time.monotonic() - began
    found = planned.store.read_table().num_rows
    return {
        "objects": side**2 * EACH,
        "links": links,
        "merged": found,
        "expected": expected(side),
        "seconds": round(seconds, 1),
        "gib": round(max(seen), 2),
    }


def blank(folder: Path, side: int, seconds: float = 0.0) -> samplat.SegmentJob:
    """A job over a picture of so many tiles a side."""
    return samplat.SegmentJob(
        source=samplat.SourceSpec(path=str(side * SIDE), factory="blank"),
        job_dir=str(folder / "blank"),
        model=None,
        segmenter="sleep",
        segmenter_options={"seconds": seconds},
        rescaler="none",
        tile_size=SIDE,
        halo=8,
    )

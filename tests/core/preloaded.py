"""Imported once by the server that forks the processes of `killing`: what makes them begin at once.

A small job is run and exported, so that everything is imported, and compiled, that a run needs.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import SimpleITK  # noqa: F401 of volumes

from core import job_process  # noqa: F401 what the processes run
from core.oracle import oracle_job, oracle_tools, random_labels
from core.volumes import stacked
from samplat.pipeline import run_job
from samplat.plugins import collect, load_plugins
from samplat.stacking import StackRules


def warm_up(folder: Path) -> None:
    np.save(folder / "image.npy", random_labels(np.random.default_rng(0), (40, 40), 20, 9))
    mended = {"fill_holes": 3, "drop_islands": 3}
    for name, options in (("mended", mended), ("nested", {"nested": True})):
        job = oracle_job(folder / name, str(folder / "image.npy"), **options)
        result = run_job(job, tools=oracle_tools())
        output = folder / f"{name}.parquet"
        with contextlib.suppress(rasterio.errors.NotGeoreferencedWarning):
            collect(load_plugins().manager).exporter_for(output).export(result, output)
    volume = np.zeros((4, 12, 12), np.int64)
    volume[[0, 1, 3], 4:9, 4:9] = 1
    stacked(folder / "stacked", volume, StackRules(block=2, gap=1.0), tile_size=9)


with tempfile.TemporaryDirectory() as place:
    warm_up(Path(place))

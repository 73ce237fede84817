"""A stack of volumes and a raster in one `samplat batch`, a volume of which is cut off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.mosaics import write_mosaic
from samplat.errors import InputError

SIDE = 2048
"""Of the raster, in pixels."""
CLI = "from samplat.cli import main; main()"
KEPT = 0.6
"""Share of the cut-off file that is left."""


def mixed(root: Path, folder: Path, *, segmenter: str, workers: int) -> dict[str, Any]:
    """What becomes of them, and of the same command after the file was mended.

    Args:
        root: of evaluation data, with `med_hippocampus`.
        folder: for inputs and outputs.
        segmenter: of all items.
        workers: processes of Dask.
    """
    volumes = sorted((root / "med_hippocampus" / "images").glob("*.nii.gz"))
    if not volumes:
        raise InputError(f"there is no {root}/med_hippocampus/images; give --data DIR")
    (folder / "in").mkdir()
    for volume in volumes:
        shutil.copy(volume, folder / "in" / volume.name)
    write_mosaic(folder / "mosaic.tif", SIDE)
    broken = folder / "in" / volumes[len(volumes) // 2].name
    whole = broken.read_bytes()
    broken.write_bytes(whole[: int(KEPT * len(whole))])
    command = [sys.executable, "-c", CLI, "batch", "in/*.nii.gz", "mosaic.tif"]
    command += ["--output-dir", "out", "--executor", "dask", "--workers", str(workers)]
    command += ["--set", f"segmenter={segmenter}"]
    first = _run(command, folder)
    broken.write_bytes(whole)
    second = _run([*command, "--retry-failed"], folder)
    return {
        "items": len(volumes) + 1,
        **{f"first_{name}": value for name, value in first.items()},
        "names_the_broken": broken.name.removesuffix(".nii.gz") in first["failed"],
        **{f"second_{name}": value for name, value in second.items()},
    }


def _run(command: list[str], folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.monotonic() - began
    results = json.loads((folder / "out" / "samplat-batch.json").read_text())["results"]
    return {
        "status": ended.returncode,
        "done": sum(each["outcome"] == "done" for each in results),
        "failed": [each["name"] for each in results if each["outcome"] == "failed"],
        "seconds": round(seconds, 1),
    }

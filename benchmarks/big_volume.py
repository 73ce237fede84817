"""Memory of `samplat volume-segment` on volumes that do not fit into it.

    python benchmarks/big_volume.py [--sizes 512,768,2048] [--depth 64] [--folder DIR] [--json OUT]
                                    [--suffix .ome.zarr] [--tile 1024] [--halo 64] [--z-block 16]

A row for each size N, `volume_N`: an OME-Zarr image of N x N x N uint16, or of fewer slices with
`--depth`: memory depends on tiles and on the plane. A ball lies in each cell of 32 voxels. The
image is made in the folder, in chunks of 64, segmented by the threshold, which is no model, and
written as labels; all by the command, in a process of its own. Printed: objects found, balls drawn,
voxels of balls that no object has, seconds, and the most resident memory of the process.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CELL, CHUNK = 32, 64
BRIGHT, DARK = 3000, 200


def ball_of(cell: tuple[int, ...]) -> NDArray[np.bool_]:
    """The ball of a cell (32, 32, 32): of any radius from 4 to 12 voxels, anywhere inside."""
    rng = np.random.default_rng(np.array(cell, np.uint32))
    radius = rng.uniform(4, 12)
    centre = rng.uniform(radius + 1, CELL - radius - 2, 3).reshape(3, 1, 1, 1)
    ball: NDArray[np.bool_] = ((np.indices((CELL,) * 3) - centre) ** 2).sum(axis=0) < radius**2
    return ball


def draw(path: Path, shape: tuple[int, int, int]) -> int:
    """Write the image; returns how many voxels are bright."""
    import zarr

    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    array = group.create_array("0", shape=shape, chunks=(CHUNK,) * 3, dtype="uint16")
    # cells repeat after 8 chunks: random ones for each would take longer than all else
    cells = {tuple(c): ball_of(tuple(c)) for c in np.ndindex(8, 8, 8)}
    bright = 0
    for corner in np.ndindex(*(n // CHUNK for n in shape)):
        part = np.full((CHUNK,) * 3, DARK, np.uint16)
        for inner in np.ndindex(2, 2, 2):
            cell = tuple((2 * c + i) % 8 for c, i in zip(corner, inner, strict=True))
            place = tuple(slice(CELL * i, CELL * (i + 1)) for i in inner)
            part[place][cells[cell]] = BRIGHT
        bright += int((part == BRIGHT).sum())
        array[tuple(slice(CHUNK * c, CHUNK * (c + 1)) for c in corner)] = part
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [2.0, 1.0, 1.0]}]
    image: dict[str, Any] = {
        "axes": axes,
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return bright


def measure(folder: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row: draw, segment, compare."""
    image, output = folder / f"{size}.zarr", folder / f"{size}{options.suffix}"
    shape = (options.depth or size, size, size)
    bright = draw(image, shape)
    command = [
        *(sys.executable, "-m", "samplat", "volume-segment", str(image), "--out", str(output)),
        *("--segmenter", "threshold", "--percentiles", "0,100", "--log-json"),
        *("--tile", str(options.tile), "--halo", str(options.halo)),
        *("--z-block", str(options.z_block), "--gap", "0"),
    ]
    began, log = time.monotonic(), folder / f"{size}.log"
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        peak = peak_of(process)
    lines = log.read_text().splitlines()
    if process.returncode:
        raise SystemExit(f"volume-segment failed: {lines[-1]}")
    summary = json.loads(lines[-1])
    job = Path(summary["job_dir"])
    return {
        "objects": summary["objects"],
        "balls": math.prod(n // CELL for n in shape),
        "voxels_lost": bright - voxels_of(job),
        "tiles": summary["tiles"],
        "seconds": round(time.monotonic() - began, 1),
        "peak_gib": round(peak / 2**30, 3),
    }


def peak_of(process: subprocess.Popen[bytes]) -> int:
    """Most memory of a process in bytes, when it has ended: `getrusage` tells its parent's."""
    peak, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        peak = max([peak, *(1024 * int(line.split()[1]) for line in lines)])
        time.sleep(0.1)
    return peak


def voxels_of(job: Path) -> int:
    """Voxels of all objects of a job."""
    import samplat

    with samplat.open_result(job) as result:
        return int(np.sum(result.objects["area_px"].to_numpy()))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", default="512,768", help="voxels a side, multiples of 64, with commas")
    add("--depth", type=int, help="slices instead of as many; a multiple of 64")
    add("--folder", type=Path, help="where images and results are kept; a temporary one if not")
    add("--json", type=Path, metavar="OUT", help="write {volume_N: {...}} here")
    add("--suffix", default=".ome.zarr", help="of the output")
    add("--tile", type=int, default=1024)
    add("--halo", type=int, default=64)
    add("--z-block", type=int, default=16)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options, rows = parse_arguments(arguments), {}
    sizes = [int(size) for size in options.sizes.split(",")]
    if any(size % CHUNK for size in (*sizes, options.depth or 0)):
        raise SystemExit(f"--sizes and --depth take multiples of {CHUNK}")
    with tempfile.TemporaryDirectory() as scratch:
        for size in sizes:
            row = measure(options.folder or Path(scratch), size, options)
            rows[f"volume_{size}"] = row
            print(f"volume_{size}: {json.dumps(row)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

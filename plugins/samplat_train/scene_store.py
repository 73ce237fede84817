"""Scenes drawn beforehand, to a folder that training reads.

Drawing in the loop would cost more than the training step itself.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samplat_train.scenes import draw_scene
from samplat_train.scenes.cutouts import use_cutouts
from samplat_train.scenes.photos import use_photos


def write_scenes(
    folder: Path,
    count: int,
    *,
    size: int = 512,
    seed: int = 0,
    kind: str | None = None,
    workers: int = 1,
    photos: Path | None = None,
    cutouts: Path | None = None,
    on_scene: Callable[[int], None] = lambda done: None,
) -> None:
    """Draw `count` scenes of `size` pixels a side as `.npy` files; those already there are kept.

    Scene i depends on `seed`, `kind` and i alone, so that an interrupted run can go on and grow.
    `kind` is one of `KINDS`; None mixes them. With a folder of `photos`, on which a scene then also
    depends, they lend textures and backdrops; `cutouts`, pictures with an alpha channel, are set
    into natural scenes as objects.

    Raises:
        InputError: a folder holds no such pictures, or one that cannot be read.
    """
    try:
        _use(photos, cutouts)
        draw = partial(_draw, folder, size, seed, kind)
        _write_missing(folder, count, draw, workers, (photos, cutouts), on_scene)
    finally:
        _use(None, None)


def _use(photos: Path | None, cutouts: Path | None) -> None:
    use_photos(photos)
    use_cutouts(cutouts)


def _write_missing(
    folder: Path,
    count: int,
    draw: Callable[[int], None],
    workers: int,
    libraries: tuple[Path | None, Path | None],
    on_scene: Callable[[int], None],
) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(count) if not (folder / "labels" / f"{i:06}.npy").exists()]
    if workers == 1:
        for done, _ in enumerate(map(draw, missing), 1):
            on_scene(done)
        return
    with ProcessPoolExecutor(workers, initializer=_use, initargs=libraries) as pool:
        for done, _ in enumerate(pool.map(draw, missing, chunksize=4), 1):
            on_scene(done)


def _draw(folder: Path, size: int, seed: int, kind: str | None, i: int) -> None:
    scene = draw_scene(np.random.default_rng((seed, i)), size=size, kind=kind)
    _write(folder / "images" / f"{i:06}.npy", scene.image)
    # The labels come last: their presence says that the scene is whole.
    _write(folder / "labels" / f"{i:06}.npy", scene.labels)


def _write(path: Path, array: NDArray[np.generic]) -> None:
    partial_path = path.with_suffix(".partial")
    with partial_path.open("wb") as file:
        np.save(file, array)
    partial_path.replace(path)

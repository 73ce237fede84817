"""Pictures that tests of training learn from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with a bright disc and a dark square each."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :80]
    for name, (cy, cx) in {"a": (30, 30), "b": (60, 45)}.items():
        labels = ((y - cy) ** 2 + (x - cx) ** 2 < 18**2).astype(np.uint16)
        labels[5:20, 55:75] = 2
        tone = np.array([90, 220, 20])[labels]
        picture = np.clip(tone[..., None] + rng.normal(0, 6, (96, 80, 3)), 0, 255)
        for part, array in (("images", picture.astype(np.uint8)), ("labels", labels)):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / part / f"{name}.png")
    return tmp_path

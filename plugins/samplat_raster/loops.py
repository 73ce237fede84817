"""Steps that compiled loops share. Importing this module imports numba: do it where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import as_machine_code


@as_machine_code
def root(parents: NDArray[np.int64], i: int) -> int:
    """The root of a set in a union-find; paths to it are halved."""
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@as_machine_code
def longer(array: NDArray[Any], least: int) -> NDArray[Any]:
    """An array (N, K) with more room along its first axis."""
    found = np.zeros((max(2 * len(array), least), array.shape[1]), array.dtype)
    found[: len(array)] = array
    return found

"""Loops over arrays as machine code, for what would be many passes over memory as array operations.

`numba` makes it at the first call on a machine, which takes seconds, and keeps it in its cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def as_machine_code(function: F) -> F:
    """A function on arrays and numbers, compiled; it lets other threads run beside it.

    Sums may be contracted, and no number may be NaN.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz", "contract"}}
    try:
        result: F = numba.njit(**options, cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        result = numba.njit(**options)(function)
    return result

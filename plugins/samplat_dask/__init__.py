"""Dask: the tiles of a job on many processes or machines, and many jobs at once.

Nothing heavy is imported here: `samplat --help` loads this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from samplat import hookimpl

if TYPE_CHECKING:
    from samplat import ExecutorFactory

REQUIRES = ("dask", "distributed")
"""Libraries of the extra `samplat[dask]`."""


@hookimpl
def register_executors(register: Callable[[ExecutorFactory], None]) -> None:
    """Workers of Dask, of this machine or of a cluster."""
    from samplat_dask.executor import DaskFactory

    register(DaskFactory())

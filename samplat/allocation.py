"""Memory that is kept for the next image instead of being given back after each one."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
KEPT = 512 * 2**20
"""Bytes of freed memory that stay with the process at most."""
LARGE = 32 * 2**20
"""Larger pieces go back at once in any case; glibc allows for no more."""


def keep_freed_memory() -> bool:
    """Let the process keep up to half a gigabyte of freed memory, where it runs on glibc.

    Tensors of a few megabytes come and go with every layer. Left to itself, the C library gives
    them back each time, and each time the kernel has to clear their pages anew: 4 to 16 percent of
    the time in which a processor encodes an image with a small model. It is a setting of the whole
    process, which is why only the command line makes it by itself.

    Returns:
        whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(
        mallopt(M_MMAP_THRESHOLD, LARGE) and mallopt(M_TRIM_THRESHOLD, KEPT)
    )

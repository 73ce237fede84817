"""Freed memory stays with a process that asks for it."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
import samplat

if sys.argv[1] == "keep":
    assert samplat.keep_freed_memory()

def layers():
    # Pieces of different sizes, as of a network's layers, some alive at once.
    for _ in range(20):
        parts = [np.ones(n * 2**17) for n in (8, 2, 8, 4, 8, 8)]
        del parts

layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_pages_are_not_cleared_again_and_again() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", COUNT, how]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    kept = faults("keep")
    assert kept < 500
    assert faults("leave") > 10 * kept

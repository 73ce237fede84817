"""Training and prediction run on any device, not on the CPU alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from train import pretend


def test_a_step_and_a_prediction_mix_no_devices_and_give_the_same(folder: Path) -> None:
    # A process of its own: a device cannot be taken away again.
    command = [sys.executable, pretend.__file__, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    here, there = ([float(n) for n in line.split()] for line in done.stdout.splitlines()[-2:])
    assert there == pytest.approx(here, rel=1e-3)

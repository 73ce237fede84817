"""Seconds until `samplat --help` has answered, beside a Python that does nothing.

    python benchmarks/startup.py [--runs 5]

Each command runs several times in a process of its own; the best time is told, because whatever
else the machine does can only add to it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

HELP = (sys.executable, "-m", "samplat", "--help")
NOTHING = (sys.executable, "-c", "pass")


def seconds(command: tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each command")
    runs = range(max(1, parser.parse_args().runs))
    helped, nothing = (min(seconds(command) for _ in runs) for command in (HELP, NOTHING))
    print(f"samplat --help  {helped:.3f} s")
    print(f"python -c pass  {nothing:.3f} s")
    print(f"ratio           {helped / nothing:.1f}")


if __name__ == "__main__":
    main()

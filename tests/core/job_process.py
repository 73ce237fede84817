"""Run by the tests as a process of its own: one job of the oracle, to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

from core.oracle import NpyFactory, OracleFactory, oracle_job
from samplat.errors import SamplatError
from samplat.pipeline import run_job
from samplat.pixels import IdentityRescaler
from samplat.plugins import Registry


def main(image: str, job_dir: str, delay: str) -> None:
    tools = Registry()
    for kind, item in (
        ("sources", NpyFactory()),
        ("segmenters", OracleFactory()),
        ("rescalers", IdentityRescaler()),
    ):
        tools.add(kind, "test", item)
    job = oracle_job(Path(job_dir), image, segmenter_options={"delay": float(delay)})
    try:
        run_job(job, tools=tools, progress=Stages())
    except SamplatError as error:
        sys.exit(str(error))


class Stages:
    """Says on stdout which stage begins, so that a test can aim."""

    def start(self, stage: str, total: int) -> None:
        print(stage, flush=True)

    def advance(self, stage: str, steps: int = 1) -> None:
        pass

    def finish(self, stage: str) -> None:
        pass

    def message(self, text: str) -> None:
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])

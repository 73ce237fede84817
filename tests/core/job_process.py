"""Run by the tests as a process of its own, to be killed: one job, or the whole command line.

It names each event of its progress on stdout and then waits for a line on stdin, so that a test
decides between which two events it dies. Without anyone at the other end it just runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from core import oracle
from samplat import cli, plugins, progress
from samplat.errors import SamplatError
from samplat.pipeline import run_job


def main(first: str, *rest: str) -> None:
    if first == "tile-segment":
        command_line(first, *rest)
    else:
        job(first, *rest)


def job(image: str, job_dir: str, delay: str) -> None:
    options = {"delay": float(delay)}
    given = oracle.oracle_job(Path(job_dir), image, segmenter_options=options)
    try:
        run_job(given, tools=oracle.oracle_tools(), progress=Steps())
    except SamplatError as error:
        sys.exit(str(error))


def command_line(*arguments: str) -> None:
    """The installed plugins and the oracle."""
    manager = plugins.load_plugins().manager
    manager.register(oracle, name="oracle")
    tools = plugins.collect(manager)
    plugins.registry = lambda: tools
    progress.choose_progress = lambda *stream, **options: Steps()
    cli.main(list(arguments))


class Steps:
    """Says which stage something happened in, and waits."""

    def start(self, stage: str, total: int) -> None:
        self.tell(stage)

    def advance(self, stage: str, steps: int = 1) -> None:
        self.tell(stage)

    def finish(self, stage: str) -> None:
        self.tell(stage)

    def message(self, text: str) -> None:
        pass

    def tell(self, stage: str) -> None:
        print(stage, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])

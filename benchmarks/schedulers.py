"""A scheduler and workers as people start them, each in a process of its own, to be killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

START = 60.0
"""Seconds in which a scheduler has to listen."""


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a scheduler with workers of one thread, and its process."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    at_home = ("--host", "127.0.0.1", "--no-dashboard")
    with ExitStack() as stack:
        scheduler = stack.enter_context(_started("scheduler", "--port", str(port), *at_home))
        until = time.monotonic() + START
        while not _listens(port):
            if time.monotonic() > until:
                raise TimeoutError(f"no scheduler listens at {address}")
            time.sleep(0.05)
        for _ in range(workers):
            options = ("--nthreads", "1", "--death-timeout", "10", *at_home)
            stack.enter_context(_started("worker", address, *options))
        yield address, scheduler

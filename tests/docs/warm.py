"""The `samplat` and the Python of the documentation's examples, without importing torch each time.

::

    page ──▶ bin/samplat (a few lines of Python) ──▶ server, which has imported everything
                 streams, directory, environment         └── fork: the command ── its status ──▶

A command runs as it would on its own: in a process, a directory and an environment of its own.
"""

from __future__ import annotations

import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLUGINS = ("samplat", "samplat_raster", "samplat_volume", "samplat_train", "samplat_dask")
SCRIPTS = "run-script"
CLIENT = """#!{python} -ISs
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
told = json.dumps({{"arguments": sys.argv, "folder": os.getcwd(), "env": dict(os.environ)}})
socket.send_fds(line, [len(told.encode()).to_bytes(8, "big")], [0, 1, 2])
line.sendall(told.encode())
status = line.recv(1)
sys.exit(status[0] if status else 1)
"""


@contextmanager
def warm_commands(folder: Path) -> Iterator[Path]:
    """A directory with a `samplat` for PATH and a `run-script`, as long as the context lasts."""
    address, place = str(folder / "server"), folder / "bin"
    place.mkdir()
    for command in (place / "samplat", place / SCRIPTS):
        command.write_text(CLIENT.format(python=sys.executable, address=address))
        command.chmod(0o755)
    with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield place
        finally:
            server.kill()


def serve(address: str) -> None:
    """Fork a command for each client; never returns in the server."""
    import_everything()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("ready", flush=True)
    while True:
        line, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            attend(line)
            return
        line.close()


def import_everything() -> None:
    """What commands import, and compile nothing: threads must not be there before a fork."""
    import importlib

    for name in PLUGINS:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def attend(line: socket.socket) -> None:
    """In a fork: run the command in another one, and tell the client of its end."""
    size, streams, _, _ = socket.recv_fds(line, 8, 3)
    told = json.loads(line.makefile("rb").read(int.from_bytes(size, "big")))
    if (child := os.fork()) == 0:
        line.close()
        run(told["arguments"], told["folder"], told["env"], streams)
        return
    _, status = os.waitpid(child, 0)
    line.send(bytes([os.waitstatus_to_exitcode(status) % 256]))
    os._exit(0)


def run(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """Be the command; its end is that of the interpreter, with all that is registered for it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if Path(arguments[0]).name == SCRIPTS:
        sys.argv = arguments[1:]
        sys.path[0] = str(Path(arguments[1]).parent)
        runpy.run_path(arguments[1], run_name="__main__")
        return
    sys.argv = arguments
    from samplat.cli import main

    main()


if __name__ == "__main__":
    serve(sys.argv[1])

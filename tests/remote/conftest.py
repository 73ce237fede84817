from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from samplat.places import RemotePath


@pytest.fixture(scope="session")
def _server() -> Iterator[None]:
    """A server that answers as S3 does, in this process, for it and its children."""
    server = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    running.stop()


@pytest.fixture
def s3(_server: None) -> RemotePath:
    """A new bucket."""
    import s3fs

    name = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return RemotePath(f"s3://{name}")


@pytest.fixture
def memory() -> Iterator[RemotePath]:
    """A folder of fsspec's store in memory."""
    from fsspec.implementations.memory import MemoryFileSystem

    yield RemotePath(f"memory://m{uuid.uuid4().hex}")
    MemoryFileSystem.store.clear()


@pytest.fixture
def samplat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line here, with the installed plugins: exit status, stdout, stderr."""
    from samplat import cli

    monkeypatch.delenv("SAMPLAT_DEBUG", raising=False)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def environment() -> dict[str, str]:
    """For processes of their own."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}

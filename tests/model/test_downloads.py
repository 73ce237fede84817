"""Downloads against a server of our own: verified, or absent."""

import contextlib
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from samplat.checkpoints import ModelSpec, cached_path, download, load_model
from samplat.errors import CheckpointError

BODY = np.random.default_rng(5).bytes(50_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass(kw_only=True)
class Server:
    """What it answers can be changed between requests."""

    url: str = ""
    body: bytes = BODY
    cut: int | None = None
    """Bytes after which the connection ends; None: it sends everything."""
    length: bool = True
    """Whether it announces the length of the whole body."""
    status: int = 200
    stall: threading.Event | None = None
    """If set, half of the body is sent, and the rest after this event."""
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            self.send_response(state.status)
            if state.length:
                self.send_header("Content-Length", str(len(state.body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.answer()

        def answer(self) -> None:
            half = len(state.body) // 2
            if state.stall is not None:
                self.wfile.write(state.body[:half])
                self.wfile.flush()
                state.stall.wait(60)
                self.wfile.write(state.body[half:])
            else:
                self.wfile.write(state.body[: state.cut])

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        state.url = f"http://127.0.0.1:{listener.server_port}/weights.pth"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        if state.stall is not None:
            state.stall.set()
        listener.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`$SAMPLAT_HOME`, and no proxy between us and the loopback."""
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SAMPLAT_OFFLINE", raising=False)
    return tmp_path / "models"


def spec_of(
    server: Server, *, sha256: str | None = SHA256, size: int | None = len(BODY)
) -> ModelSpec:
    return ModelSpec(
        name="net", architecture="vit_b", url=server.url, sha256=sha256, size=size,
        licence="MIT", description="a test",
    )  # fmt: skip


def fetch(spec: ModelSpec, *, offline: bool = False) -> Path:
    return download("net", models={"net": spec}, offline=offline)


def weights_in(home: Path) -> list[str]:
    """Names in the folder besides the lock."""
    found = sorted(p.name for p in home.iterdir()) if home.exists() else []
    return [name for name in found if not name.endswith(".lock")]


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:6], SHA256[:10].upper()])
def test_whole_file(server: Server, home: Path, sha256: str) -> None:
    path = fetch(spec_of(server, sha256=sha256))
    assert path == home / "net.pth"
    assert path.read_bytes() == BODY
    assert weights_in(home) == ["net.pth"]
    assert fetch(spec_of(server, sha256=sha256)) == path
    assert server.requests == ["/weights.pth"]


@pytest.mark.parametrize("sha256", ["0" * 64, "000000"])
def test_wrong_checksum(server: Server, home: Path, sha256: str) -> None:
    with pytest.raises(CheckpointError, match=f"expected a SHA-256 of {sha256}, got") as caught:
        fetch(spec_of(server, sha256=sha256))
    assert "\n" not in str(caught.value)
    assert weights_in(home) == []


def test_wrong_size(server: Server, home: Path) -> None:
    with pytest.raises(CheckpointError, match="expected 7 bytes, got 50000"):
        fetch(spec_of(server, sha256=None, size=7))
    assert weights_in(home) == []


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("known", ["checksum", "size"])
def test_cut_off_at_many_offsets(server: Server, home: Path, length: bool, known: str) -> None:
    server.length = length
    spec = spec_of(server, size=None) if known == "checksum" else spec_of(server, sha256=None)
    for cut in (0, 1, len(BODY) - 1, *np.random.default_rng(1).integers(2, len(BODY) - 1, 22)):
        server.cut = int(cut)
        with pytest.raises(CheckpointError, match=server.url) as caught:
            fetch(spec)
        assert "\n" not in str(caught.value)
        assert weights_in(home) == [], cut
    server.cut = None
    assert fetch(spec).read_bytes() == BODY


def test_announced_length_alone_reveals_a_cut(server: Server, home: Path) -> None:
    server.cut = 30_000
    with pytest.raises(CheckpointError, match="cannot download"):
        fetch(spec_of(server, sha256=None, size=None))
    assert weights_in(home) == []


def test_unverifiable_file_is_kept_with_a_warning(
    server: Server, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fetch(spec_of(server, sha256=None, size=None)).read_bytes() == BODY
    assert SHA256 in caplog.text


@pytest.mark.parametrize("status", [403, 404, 500])
def test_server_that_refuses(server: Server, home: Path, status: int) -> None:
    server.status = status
    with pytest.raises(CheckpointError, match=f"{status}.*place it by hand as"):
        fetch(spec_of(server))
    assert weights_in(home) == []


def test_no_server(home: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot download"):
        fetch(spec_of(Server(url="http://127.0.0.1:9/net.pth")))
    assert weights_in(home) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/net.pth"])
def test_other_schemes(home: Path, url: str) -> None:
    with pytest.raises(CheckpointError, match="expected an http or https address"):
        fetch(spec_of(Server(url=url)))
    assert weights_in(home) == []


@pytest.mark.parametrize("how", ["argument", "1", "true"])
def test_offline_says_what_to_place_where(
    server: Server, home: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "argument":
        monkeypatch.setenv("SAMPLAT_OFFLINE", how)
    spec = spec_of(server)
    with pytest.raises(CheckpointError) as caught:
        fetch(spec, offline=how == "argument")
    assert server.url in str(caught.value)
    assert str(cached_path(spec)) in str(caught.value)
    with pytest.raises(CheckpointError, match="switched off"):
        load_model("net", models={"net": spec}, offline=how == "argument")
    assert server.requests == []
    home.mkdir()
    cached_path(spec).write_bytes(BODY)
    assert fetch(spec, offline=how == "argument") == cached_path(spec)


def test_zero_is_online(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLAT_OFFLINE", "0")
    assert fetch(spec_of(server)).exists()


def test_damaged_file_in_the_cache(server: Server, home: Path) -> None:
    home.mkdir()
    (home / "net.pth").write_bytes(BODY[:-1])
    with pytest.raises(CheckpointError, match=r"is damaged.*delete it"):
        fetch(spec_of(server))
    assert server.requests == []


def test_unwritable_home(
    server: Server, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot download"):
        fetch(spec_of(server))


def test_default_home_is_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SAMPLAT_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cached_path(spec_of(Server(url="http://h/a.pt?download=1"))).parent
    assert folder.parts[-2:] == ("samplat", "models")


def test_two_at_once_download_once(server: Server, home: Path) -> None:
    server.stall = threading.Event()
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(spec_of(server)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: bool(server.requests))
    server.stall.set()
    for thread in threads:
        thread.join()
    assert found == [home / "net.pth"] * 3
    assert server.requests == ["/weights.pth"]


def test_killed_download_leaves_nothing_that_counts(server: Server, home: Path) -> None:
    server.stall = threading.Event()
    code = (
        "from samplat.downloads import fetch; from pathlib import Path; import sys\n"
        f"fetch(sys.argv[1], Path(sys.argv[2]), sha256={SHA256!r}, offline=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.url, str(home / "net.pth")])
    wait_until(lambda: bool(server.requests) and any(home.glob(".net.pth.*tmp")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (home / "net.pth").exists()
    server.stall.set()
    server.stall = None
    assert fetch(spec_of(server)).read_bytes() == BODY
    assert weights_in(home) == ["net.pth"]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)

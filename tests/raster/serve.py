"""Serves parts of one file on a free port of this computer, as cloud stores do."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FILE = Path(sys.argv[1])


class Ranges(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(b"", FILE.stat().st_size)

    def do_GET(self) -> None:
        content = FILE.read_bytes()
        first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else len(content)]
        self.answer(part, len(part), int(first))

    def answer(self, part: bytes, length: int, first: int | None = None) -> None:
        known = self.path == f"/{FILE.name}"
        self.send_response(404 if not known else 200 if first is None else 206)
        if first is not None:
            span = f"bytes {first}-{first + length - 1}/{FILE.stat().st_size}"
            self.send_header("Content-Range", span)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length if known else 0))
        self.end_headers()
        self.wfile.write(part if known else b"")

    def log_message(self, *arguments: Any) -> None:
        pass


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        print(server.server_port, flush=True)
        server.serve_forever()

"""Serves parts of one file on a free port of this computer, as cloud stores do.

    python serve.py FILE [LOG [SECRET]]

The file is at `/NAME`, and at `/bucket/NAME` as S3 has it. LOG gets a line per answer: status,
first byte, bytes. With a SECRET, requests must be signed with it (AWS Signature, version 4).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FILE = Path(sys.argv[1])
LOG = Path(sys.argv[2]) if len(sys.argv) > 2 else None
SECRET = sys.argv[3] if len(sys.argv) > 3 else None


def signature(method: str, path: str, query: str, headers: Any, authorization: str) -> str:
    """What the signature must be, by the date, the scope and the headers that were signed."""
    found = re.search(r"Credential=[^/]+/([^,]+), ?SignedHeaders=([^,]+),", authorization)
    if found is None or SECRET is None:
        return "none"
    scope, signed = found[1], found[2]
    lines = [f"{name}:{headers[name].strip()}\n" for name in signed.split(";")]
    body = headers["x-amz-content-sha256"]
    request = "\n".join([method, path, query, "".join(lines), signed, body])
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, digest])
    key = b"AWS4" + SECRET.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


class Ranges(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(b"", FILE.stat().st_size)

    def do_GET(self) -> None:
        content = FILE.read_bytes()
        first, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else len(content)]
        self.answer(part, len(part), int(first))

    def status(self, first: int | None) -> int:
        path, _, query = self.path.partition("?")
        given = self.headers.get("Authorization", "")
        if SECRET and not given.endswith(
            "Signature=" + signature(self.command, path, query, self.headers, given)
        ):
            return 403
        if path not in (f"/{FILE.name}", f"/bucket/{FILE.name}"):
            return 404
        return 200 if first is None else 206

    def answer(self, part: bytes, length: int, first: int | None = None) -> None:
        status = self.status(first)
        known = status < 400
        if LOG is not None:
            with LOG.open("a") as log:
                log.write(f"{status} {first or 0} {len(part) if known else 0}\n")
        self.send_response(status)
        if first is not None and known:
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

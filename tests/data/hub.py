"""A stand-in for the Hugging Face Hub on this machine: the part of its HTTP interface that a download asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it has: `models/a/b` or `datasets/a/b` → its files. Every revision `main` and COMMIT is the same commit."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    url: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content."""
        self.asked.append(f"{method} {path}")
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        if parts[0] == "api":
            kind, name, what, rest = parts[1], "/".join(parts[2:4]), *(parts[4:5] or ["revision"]), parts[5:]
            files = self.repositories.get(f"{kind}/{name}")
            if files is None or (rest and rest[0] not in ("main", COMMIT)):
                code = "RepoNotFound" if files is None else "RevisionNotFound"
                return 404, {"X-Error-Code": code}, b""
            listed = [_listed(file, content) for file, content in files.items()]
            if what == "tree":
                under = "/".join(rest[1:])
                return 200, {}, json.dumps([one for one in listed if one["path"].startswith(under)]).encode()
            if what == "paths-info":
                wanted = json.loads(body)["paths"] if body.startswith(b"{") else []
                return 200, {}, json.dumps([one for one in listed if one["path"] in wanted]).encode()
            info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files], "private": False}
            return 200, {}, json.dumps(info | {"tags": [], "downloads": 0}).encode()
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if parts[0] == "datasets" else parts
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        content = self.repositories.get(f"{kind}/{name}", {}).get(file)
        if len(parts) < 5 or parts[2] != "resolve" or content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content


def _listed(file: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def serving(repositories: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """A hub with these repositories, as long as the block lasts."""
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = hub.answer(self.command, self.path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = _do

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def directory(path: Path) -> dict[str, bytes]:
    """The files of a directory, as a repository holds them."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}

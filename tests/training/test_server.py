"""Waiting for the generation server, and leaving it when a stop is requested. The server is a stand-in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from openrs.errors import BadInput
from openrs.training import session
from openrs.training.generation.waiting import await_server
from openrs.training.stop import StopRequested


@pytest.fixture
def address() -> Iterator[str]:
    """A server that is not ready the first two times it is asked, and goes in the middle of every other answer."""
    asked = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal asked
            asked += 1
            self.send_response(200 if asked > 2 else 503)
            self.end_headers()

        def do_POST(self) -> None:
            self.send_response(200 if self.path == "/generate" else 409)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b'{"completions": [')

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_it_waits_until_the_server_answers(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    await_server(f"http://{address}/health", lambda: False, pause=0.01)
    monkeypatch.setenv("OPENRS_GENERATION_SERVER", address)
    rank: Any = SimpleNamespace(rank=0, stop_requested=lambda: False)
    assert session._wait_for_server(rank) == address


def test_it_leaves_on_request_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9/health"
    with pytest.raises(StopRequested):
        await_server(nobody, lambda: True)
    with pytest.raises(TimeoutError, match="did not answer"):
        await_server(nobody, lambda: False, seconds=0.05, pause=0.01)
    monkeypatch.delenv("OPENRS_GENERATION_SERVER", raising=False)
    rank: Any = SimpleNamespace(rank=0, stop_requested=lambda: False)
    with pytest.raises(BadInput, match="OPENRS_GENERATION_SERVER"):
        session._wait_for_server(rank)


@pytest.mark.train
@pytest.mark.parametrize("path", ["generate", "sync"])
def test_a_server_that_goes_in_mid_answer_is_one_line(address: str, path: str) -> None:
    """It must be an error that the ranks tell each other of: one that only rank 0 has leaves the others waiting."""
    pytest.importorskip("torch")
    from openrs.training.generation.remote import _Asked

    with pytest.raises(RuntimeError, match=rf"^http://{address}/{path}: IncompleteRead.*$"):
        _Asked(f"http://{address}/{path}", {}).answer()

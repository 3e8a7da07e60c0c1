"""Waiting for the generation server, and leaving it when a stop is requested. The server is a stand-in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from openrs.errors import BadInput
from openrs.training import start
from openrs.training.generation.waiting import await_server, server_address
from openrs.training.stop import StopRequested
from tests.training.harness import Job, tiny, wait_for


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
    assert server_address() == address


def test_it_leaves_on_request_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9/health"
    with pytest.raises(StopRequested):
        await_server(nobody, lambda: True)
    with pytest.raises(TimeoutError, match="did not answer"):
        await_server(nobody, lambda: False, seconds=0.05, pause=0.01)
    monkeypatch.delenv("OPENRS_GENERATION_SERVER", raising=False)
    with pytest.raises(BadInput, match="OPENRS_GENERATION_SERVER"):
        server_address()


@pytest.mark.train
@pytest.mark.slow
def test_a_stop_while_the_server_loads_is_told_to_all_ranks(job_of: Callable[..., Job]) -> None:
    """Rank 0 waits for the server, the others for rank 0: none goes on to a process group that the other never joins."""
    server = ["generation={type: vllm, layout: server}", "resources.gpus=3", "training.prompts_per_step=4"]
    job = job_of(tiny(*server))
    job.start(OPENRS_GENERATION_SERVER="127.0.0.1:9")
    wait_for(lambda: any(event["event"] == "training" for event in job.run.ledger()))
    job.stop_flag.touch()
    assert job.codes() == [75, 75]
    with pytest.raises(StopRequested):
        start.told(job.rank(1))


@pytest.mark.train
@pytest.mark.parametrize("path", ["generate", "sync"])
def test_a_server_that_goes_in_mid_answer_is_one_line(address: str, path: str) -> None:
    """It must be an error that the ranks tell each other of: one that only rank 0 has leaves the others waiting."""
    pytest.importorskip("torch")
    from openrs.training.generation.remote import _Asked

    with pytest.raises(RuntimeError, match=rf"^http://{address}/{path}: IncompleteRead.*$"):
        _Asked(f"http://{address}/{path}", {}).answer()

"""The generation server: one vLLM engine with a GPU of its own, which the training ranks ask over HTTP.

`python -m openrs.training.generation.server STAGE.json`, started by the supervisor. Only the main thread touches the
engine; the threads that answer HTTP put work into its queue and wait. The ranks' requests of a step are drawn together.

    GET  /health                                     → {"step": S}, S being the step that the weights are of (or null)
    POST /sync      {"step", "port", "shapes"}       → {} when the weights have come through the channel at that port
    POST /generate  {"key", "step", "requests", "ends"} → {"completions": [{"ids", "finished"}, …]}, or null for the list
    POST /abort     {"key"}                          → {}; /generate with that key answers null
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from openrs.data.load import model_path
from openrs.errors import OpenRSError
from openrs.spec.experiment import Experiment
from openrs.stage import StageFile, read
from openrs.training.generation import Completion, Request
from openrs.worker.exits import CONFIGURATION


@dataclass
class Task:
    """One HTTP request that waits for the main thread."""

    path: str
    body: dict[str, Any]
    done: threading.Event = field(default_factory=threading.Event)
    answer: dict[str, Any] = field(default_factory=dict)
    status: int = 200

    def reply(self, status: int = 200, **answer: Any) -> None:
        """Answers it."""
        self.answer, self.status = answer, status
        self.done.set()


class Server:
    """Does the tasks of a queue with an engine. `serve` returns only by an exception."""

    def __init__(self, engine: Any, device: Any) -> None:
        self._engine, self._device = engine, device
        self._tasks: queue.Queue[Task] = queue.Queue()
        self._waiting: dict[str, Task] = {}
        self._channel: Any = None
        self.step: int | None = None
        """Step that the weights are of."""

    def listen(self, host: str, port: int) -> ThreadingHTTPServer:
        """Begins to answer at the address, in threads."""
        http = ThreadingHTTPServer((host, port), _handler(self))
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        return http

    def ask(self, path: str, body: dict[str, Any]) -> Task:
        """Has the main thread do something, and waits for it."""
        task = Task(path, body)
        self._tasks.put(task)
        task.done.wait()
        return task

    def serve(self) -> None:
        """The main thread's loop."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Takes up what has been asked, then draws one token for everything that runs."""
        try:
            task = self._tasks.get(timeout=None if not self._engine.busy else 1e-6)
        except queue.Empty:
            pass
        else:
            self._do(task)
            return
        for key, completions in self._engine.step().items():
            self._waiting.pop(key).reply(completions=[asdict(one) for one in completions])

    def _do(self, task: Task) -> None:
        try:
            {"/sync": self._sync, "/generate": self._generate, "/abort": self._abort}[task.path](task)
        except (KeyError, TypeError, ValueError) as error:
            task.reply(400, error=f"{task.path}: {error!r}")

    def _sync(self, task: Task) -> None:
        from openrs.training.generation.channel import Channel

        if self._engine.busy:
            task.reply(409, error="weights cannot change while completions are drawn with them")
            return
        if self._channel is None:
            self._channel = Channel(1, task.body["port"], self._device)
        self._engine.load(self._channel.receive(task.body["shapes"]))
        self.step = task.body["step"]
        task.reply()

    def _generate(self, task: Task) -> None:
        if task.body["step"] != self.step:
            task.reply(409, error=f"the weights are of step {self.step}, not of step {task.body['step']}")
            return
        requests = [Request(**request) for request in task.body["requests"]]
        self._waiting[task.body["key"]] = task
        self._engine.add(task.body["key"], requests, task.body["ends"])

    def _abort(self, task: Task) -> None:
        self._engine.abort(task.body["key"])
        waiting = self._waiting.pop(task.body["key"], None)
        if waiting is not None:
            waiting.reply(completions=None)
        task.reply()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"step": server.step})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            task = server.ask(self.path, body)
            self._send(task.status, task.answer)

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Says nothing: the ranks log what they ask."""

    return Handler


def completions_of(answer: dict[str, Any]) -> list[Completion] | None:
    """What an answer to /generate holds."""
    found = answer["completions"]
    return None if found is None else [Completion(**one) for one in found]


def main(arguments: list[str]) -> int:
    """Serves until it is killed; an exit code for what the set-up decides."""
    try:
        if len(arguments) != 1:
            raise OpenRSError("usage: python -m openrs.training.generation.server STAGE.json")
        stage = read(StageFile, Path(arguments[0]))
        experiment = read(Experiment, stage.spec_path)
        host, _, port = os.environ["OPENRS_GENERATION_SERVER"].rpartition(":")
        server = make_server(experiment)
    except OpenRSError as error:
        print(f"openrs: {error}", file=sys.stderr)
        return CONFIGURATION
    server.listen(host, int(port))
    server.serve()
    return 0


def make_server(experiment: Experiment) -> Server:
    """A server for the model and the sampling of a spec, its engine built."""
    import torch

    from openrs.training.generation.engine import Engine, build

    name, revision = model_path(experiment.model)
    engine = build(name, revision, experiment.model.dtype, experiment.window, experiment.sequences_per_engine, None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Server(Engine(engine, experiment.sampling), device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Completions from the generation server (`server.py`), asked by each training rank for its own."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http.client import HTTPException
from typing import Any

from openrs.training.generation import Completion, Request
from openrs.training.generation.channel import Channel, shapes
from openrs.training.generation.server import completions_of
from openrs.training.generation.waiting import OPENER
from openrs.training.together import every_rank
from openrs.worker.rank import Rank
from openrs.worker.ranks import free_port

POLL_SECONDS = 0.2
"""How often a rank that waits for the server looks for a request to stop."""


class RemoteGenerator:
    """Asks the server at `address` (host:port)."""

    def __init__(self, address: str, rank: Rank, ends: Sequence[int]) -> None:
        self._url, self._rank, self._ends, self._step = f"http://{address}", rank, list(ends), 0
        self._channel: Channel | None = None

    def sync(self, model: Any, step: int) -> None:
        """See `Generator`. Rank 0 sends; nobody goes on before the server has it all. Raises RuntimeError."""
        self._step = step
        error: str | None = None
        if self._rank.rank == 0:
            try:
                self._send(model, step)
            except (OSError, RuntimeError) as caught:
                error = f"the generation server did not take the weights of step {step}: {caught}"
        if any(every_rank(self._rank, error is not None)):
            raise RuntimeError(error or "rank 0 could not send its weights to the generation server")

    def _send(self, model: Any, step: int) -> None:
        port = free_port()
        asked = _Asked(f"{self._url}/sync", {"step": step, "port": port, "shapes": shapes(model)})
        if self._channel is None:
            self._channel = Channel(0, port, model.device)
        self._channel.send(parameter for _, parameter in model.named_parameters())
        asked.answer()

    def generate(self, requests: Sequence[Request], stop: Callable[[], bool]) -> list[Completion] | None:
        """See `Generator`."""
        key = f"rank-{self._rank.rank}"
        asking = [asdict(request) for request in requests]
        body = {"key": key, "step": self._step, "requests": asking, "ends": self._ends}
        asked = _Asked(f"{self._url}/generate", body)
        while not asked.wait(POLL_SECONDS):
            if stop():
                _Asked(f"{self._url}/abort", {"key": key}).answer()
                return None
        return completions_of(asked.answer())


class _Asked:
    """A POST under way, in a thread of its own."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self._url, self._body = url, json.dumps(body).encode()
        self._outcome: dict[str, Any] | RuntimeError | None = None
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._outcome = self._post()
        except (OSError, HTTPException, ValueError, RuntimeError) as error:
            what = " ".join(str(error).split()) or type(error).__name__
            self._outcome = RuntimeError(f"{self._url}: {what}")

    def _post(self) -> dict[str, Any]:
        request = urllib.request.Request(self._url, self._body, {"Content-Type": "application/json"})
        try:
            with OPENER.open(request) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode(errors="replace")) from None

    def wait(self, seconds: float) -> bool:
        """Whether the answer is there."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def answer(self) -> dict[str, Any]:
        """The answer, waited for. Raises RuntimeError."""
        self._thread.join()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

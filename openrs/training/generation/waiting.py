"""Where the generation server is, and waiting until it is up. Imports no torch."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException

from openrs.errors import BadInput
from openrs.training.stop import StopRequested

SERVER_MINUTES = 20
"""A server loads its engine in so much time or not at all."""

# A proxy of the site must not stand between two processes of one node.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def server_address() -> str:
    """host:port of the server that the supervisor started. Raises BadInput."""
    address = os.environ.get("OPENRS_GENERATION_SERVER", "")
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise BadInput(f"OPENRS_GENERATION_SERVER = {address!r}: layout server needs host:port of the server")
    return address


def await_server(
    url: str, stop_requested: Callable[[], bool], seconds: float = SERVER_MINUTES * 60, pause: float = 1.0
) -> None:
    """Returns when `url` answers 200. Raises StopRequested, or TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if stop_requested():
            raise StopRequested
        try:
            with OPENER.open(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (OSError, HTTPException):
            pass  # not up yet
        time.sleep(pause)
    raise TimeoutError(f"the generation server did not answer at {url} for {seconds:.0f} s; see its log")

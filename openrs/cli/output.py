"""What the commands print: JSON on standard output, and lines for a person on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

FIRST_AFTER = 2.0
EVERY = 10.0
"""Seconds before the first and between further lines of `now_and_then`."""


def as_utf8() -> None:
    """From here on standard output is UTF-8, whatever the locale: what is printed is a file, the same bytes everywhere."""
    getattr(sys.stdout, "reconfigure", lambda **_: None)(encoding="utf-8", newline="\n")


def print_json(value: Any) -> None:
    """`value` on standard output, and nothing else."""
    ascii_only = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
    print(json.dumps(value, indent=2, ensure_ascii=ascii_only, allow_nan=False))


def say(message: str) -> None:
    """A line for a person, on standard error, which may be closed."""
    if sys.stderr is None:  # print would take standard output instead
        return
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def now_and_then(words: Callable[[], str]) -> Iterator[None]:
    """Says `words` and the time so far on standard error, as long as what is done inside takes."""
    from openrs.report.text import duration

    began, over = time.monotonic(), threading.Event()

    def tell() -> None:
        wait = FIRST_AFTER
        while not over.wait(wait):
            say(f"{words()}, {duration(time.monotonic() - began)}")
            wait = EVERY

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

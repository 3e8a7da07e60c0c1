"""What the commands print: JSON on standard output, and lines for a person on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any


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

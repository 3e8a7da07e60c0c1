"""What a path must be like, so that files, PYTHONPATH and terminals all take it. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

MAX_PATH = 4095
MAX_PART = 255
"""PATH_MAX and NAME_MAX of Linux, in bytes."""


def expand(path: str) -> str:
    """`path` with its `~` replaced. Raises ValueError where there is no such home directory."""
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        user = path[1:].partition("/")[0]
        raise ValueError(f"{f'no user {user!r} here' if user else 'no home directory here'}; write the whole path")
    return expanded


def too_long(path: str) -> bool:
    """Whether no file system takes it."""
    parts = os.fsencode(path.encode("utf-8", "surrogateescape")).split(b"/")
    return sum(map(len, parts)) + len(parts) - 1 > MAX_PATH or any(len(part) > MAX_PART for part in parts)


def shortened(text: str) -> str:
    """At most 80 characters of it, for a message."""
    return text if len(text) <= 80 else text[:77] + "…"


def directory_of_code(path: str) -> str:
    """`path`, expanded, where code may stand: it becomes part of PYTHONPATH. Raises ValueError with the way out."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8; choose a directory with another name") from None
    path = expand(path)
    if not path.isprintable():
        raise ValueError("must not contain control characters; choose a directory with another name")
    if ":" in path:
        raise ValueError("must not contain ':', which separates directories in PYTHONPATH; choose another directory")
    if too_long(path):
        raise ValueError("is longer than a path can be; choose another directory")
    return path


def runs_directory(path: Path) -> Path:
    """The directory of `--runs`, expanded; as it is where it is relative. Raises ValueError or OSError."""
    found = Path(directory_of_code(str(path)))
    directory_of_code(str(found.absolute()))
    return found

"""The completions that a run keeps: for each step a few of them, as a person reads them, in a compressed file."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openrs.runs.files import write_atomic

_NAME = re.compile(r"^step-(\d{6,})\.jsonl\.gz$")


def write(run: Path, step: int, completions: Sequence[dict[str, Any]], check: Callable[[], None]) -> None:
    """Stores the completions of a step: the same bytes for the same content. Raises OSError, and what `check` raises."""
    directory = run / "completions"
    directory.mkdir(exist_ok=True)
    lines = [json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in completions]
    content = gzip.compress("".join(lines).encode(), mtime=0)
    write_atomic(directory / f"step-{step:06d}.jsonl.gz", content, before_rename=check)


def steps(run: Path) -> list[int]:
    """Steps whose completions are there, ascending."""
    try:
        matches = [_NAME.match(entry.name) for entry in (run / "completions").iterdir()]
    except OSError:
        return []
    return sorted(int(match[1]) for match in matches if match)


def read(run: Path, step: int) -> list[dict[str, Any]]:
    """The completions of a step; what cannot be read is passed over."""
    try:
        text = gzip.decompress((run / "completions" / f"step-{step:06d}.jsonl.gz").read_bytes())
    except (OSError, EOFError, zlib.error):
        return []
    found = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("completion"), str) and isinstance(row.get("rewards"), dict):
            found.append(row)
    return found

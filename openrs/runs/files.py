"""Files that are whole or not there: written beside, fsynced, renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# torch and safetensors report a full disk in their own exception types.
_DISK_FULL_WORDS = (
    "No space left",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter failed",
    "unexpected pos",
)


def is_disk_full(error: BaseException) -> bool:
    """Whether this, or what caused it, says that there is no room left on the disk."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in _DISK_FULL:
            return True
        if any(words in str(chain) for words in _DISK_FULL_WORDS):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def write_atomic(
    path: Path, content: str | bytes, mode: int = 0o644, before_rename: Callable[[], None] = lambda: None
) -> None:
    """Replaces `path` by `content` in one instant that survives a power cut.

    Raises OSError, and what `before_rename` raises: then the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        before_rename()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def clean(directory: Path, name: str = "*") -> None:
    """Removes what a `write_atomic` of `name` (a pattern) left when it was killed. Only while nobody writes there."""
    for temporary in directory.glob(f".{name}.{'[0-9a-f]' * 8}"):
        temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Makes the names in `directory` durable (fsync(2) on a directory)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file, no JSON or no object."""
    try:
        return _object(path.read_bytes())
    except (OSError, ValueError):  # a NUL in the path
        return None


_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def _object(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object in a text; None also for what openrs never writes: numbers without end, halves of characters."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        content = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
        if _HALF.search(text):  # of a pair; neither a file nor a page could hold it
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("this is never written by openrs")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) >= 2**63:
        raise ValueError("this is never written by openrs")
    return value


LARGEST = 1e100
"""Beyond all that is ever measured; sums and squares of such numbers are finite, and they can be drawn."""


def number(record: dict[str, Any], name: str) -> float | None:
    """A field of what was read from a run directory as a number; None where it is none, or beyond `LARGEST`."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= LARGEST else None


def whole(record: dict[str, Any], name: str) -> int | None:
    """Such a field as a whole number; None where it is none."""
    value = record.get(name)
    return value if type(value) is int else None


def word(record: dict[str, Any], name: str) -> str | None:
    """Such a field as a text; None where it is none."""
    value = record.get(name)
    return value if isinstance(value, str) else None


def mapping(record: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Such a field as an object; an empty one where it is none."""
    value = (record or {}).get(name)
    return value if isinstance(value, dict) else {}


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Adds one JSON line and makes it durable. Only one process may append to a file.

    A line that a kill has cut before stays by itself. Raises OSError: then nothing is added.
    """
    line = memoryview((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())
    with open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if end and file.read(1) != b"\n":
            line = memoryview(b"\n" + line)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file; what is no object, such as a line that was cut, and a missing file are passed over."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return
    for line in content.splitlines():
        record = _object(line)
        if record is not None:
            yield record


def last_line(
    path: Path, block: int = 65536, good: Callable[[dict[str, Any]], bool] = lambda _: True
) -> dict[str, Any] | None:
    """The last JSON line of a file that is an object and `good`, without reading it all; None where there is none."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - block))
            lines = file.read().splitlines()
    except OSError:
        return None
    found = last_object(lines, good)
    return last_line(path, block * 16, good) if found is None and end > block else found


def last_object(lines: Sequence[str | bytes], good: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The last of these lines that is a JSON object and `good`; None where there is none."""
    for line in reversed(lines):
        record = _object(line)
        if record is not None and good(record):
            return record
    return None


def tail(path: Path, size: int = 20_000) -> list[str]:
    """The last non-empty lines of a log."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]

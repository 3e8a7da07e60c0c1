"""Lines that are added to a file: whole, or not there, whatever stands before them. And how a full disk is known."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from openrs.runs.files import append_line, is_disk_full, read_lines


def test_a_cut_line_costs_nothing_but_itself(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_line(path, {"event": "a"})
    with open(path, "a") as file:
        file.write('{"event": "cu')
    append_line(path, {"event": "b"})
    append_line(path, {"event": "c"})
    assert [line["event"] for line in read_lines(path)] == ["a", "b", "c"]
    assert path.read_text().count("\n") == 4


@pytest.mark.parametrize("before", ["", '{"event": "a"}\n'])
def test_a_line_without_room_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(before)

    def full(descriptor: int) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_line(path, {"event": "b"})
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 704 vs 598"), True),
        (OSError(13, "Permission denied"), False),
        (ValueError("x"), False),
    ],
)
def test_a_full_disk_is_known(error: Exception, expected: bool) -> None:
    assert is_disk_full(error) is expected
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = error
    assert is_disk_full(wrapped) is expected

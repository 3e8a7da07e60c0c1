"""Lines that are added to a file: whole, or not there, whatever stands before them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from openrs.runs.files import append_line, read_lines


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

"""The run directory: where each thing of a run stands, and what its presence means."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrs.plan import checkpoint_id
from openrs.runs.files import append_line, last_line, read_lines, read_object, write_atomic
from openrs.stage import Cell

_NUMBER = re.compile(r"^[0-9]{1,9}\Z")


class RunDirectory:
    """Paths and markers of one run. Holds no state of its own: every question is asked of the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def metrics(self) -> Path:
        """One JSON line a step."""
        return self.path / "metrics.jsonl"

    @property
    def lock(self) -> Path:
        """Provenance: code, packages, hardware."""
        return self.path / "lock.json"

    @property
    def checkpoints(self) -> Path:
        """Training checkpoints."""
        return self.path / "checkpoints"

    @property
    def journal(self) -> Path:
        """What the steps since the checkpoints were trained on."""
        return self.path / "journal"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step; valid only with its manifest."""
        return self.checkpoints / checkpoint_id(step)

    def submission(self, number: int) -> Path:
        """What was sent in one sending."""
        return self.path / "submission" / str(number)

    def submissions(self) -> list[int]:
        """Numbers of all sendings, ascending."""
        try:
            return sorted(
                int(entry.name) for entry in (self.path / "submission").iterdir() if _NUMBER.match(entry.name)
            )
        except OSError:
            return []

    # Markers: a file's presence is the fact.

    def cancel_marker(self, submission: int) -> Path:
        """Says that a person cancelled this sending: nobody requeues it."""
        return self.submission(submission) / "CANCELLED"

    def is_cancelled(self, submission: int) -> bool:
        """Whether this sending was cancelled."""
        return self.cancel_marker(submission).exists()

    def cancel(self, submission: int) -> None:
        """Writes the cancel marker."""
        write_atomic(self.cancel_marker(submission), f"{time.time():.3f}\n")

    def complete_marker(self, stage: str) -> Path:
        """Says that a stage without cells is done."""
        return self.path / "complete" / f"{stage}.json"

    def is_complete(self, stage: str) -> bool:
        """Whether the stage is done; needs no other look at it."""
        return self.complete_marker(stage).exists()

    def mark_complete(self, stage: str, **facts: Any) -> None:
        """Writes the complete marker, with what a reader may want to know."""
        marker = self.complete_marker(stage)
        marker.parent.mkdir(exist_ok=True)
        write_atomic(marker, json.dumps({"stage": stage, "time": time.time(), **facts}) + "\n")

    def cell(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell's result, or None."""
        content = read_object(self.path / cell.path)
        return content if content is not None and content.get("state") == "done" else None

    def cell_failed(self, cell: Cell) -> Path:
        """Where the reason stands why a cell failed; a later success wins over it."""
        return (self.path / cell.path).with_suffix(".failed.json")

    def cell_completions(self, cell: Cell) -> Path:
        """All completions of a finished cell: JSON lines, compressed by gzip."""
        return (self.path / cell.path).with_suffix(".completions.jsonl.gz")

    def write_cell(
        self, cell: Cell, result: dict[str, Any], *, failed: bool = False, completions: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Stores a cell's result with its completions, or the reason of its failure.

        A file that stands there and is no finished cell is set aside, as `….json.broken`.
        """
        target = self.cell_failed(cell) if failed else self.path / cell.path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = {"schema_version": 1, "state": "failed" if failed else "done", **cell.model_dump(), **result}
        if completions:
            lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in completions)
            packed = gzip.compress(lines.encode(), mtime=0)
            beside = self.cell_completions(cell)
            write_atomic(beside, packed)
            content["completions"] = {"file": beside.name, "sha256": hashlib.sha256(packed).hexdigest()}
        if not failed and target.exists() and self.cell(cell) is None:
            os.replace(target, target.with_suffix(".json.broken"))
        write_atomic(target, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
        if not failed:
            self.cell_failed(cell).unlink(missing_ok=True)

    # Progress and history.

    def progress(self) -> dict[str, Any]:
        """The newest metrics line that names its step, or an empty mapping before the first one."""
        return last_line(self.metrics, good=lambda line: type(line.get("step")) is int) or {}

    def log(self, writer: str, event: str, **facts: Any) -> None:
        """Appends an event to the writer's own ledger file."""
        (self.path / "ledger").mkdir(exist_ok=True)
        append_line(self.path / "ledger" / f"{writer}.jsonl", {"time": time.time(), "event": event, **facts})

    def ledger(self) -> list[dict[str, Any]]:
        """All writers' events, in the order of their clocks. A line that is no event is passed over."""
        events = [
            {"writer": file.stem, **event}
            for file in sorted((self.path / "ledger").glob("*.jsonl"))
            for event in read_lines(file)
            if isinstance(event.get("event"), str) and type(event.get("time")) in (int, float)
        ]
        return sorted(events, key=lambda event: event["time"])

    def attempts(self, stage: str, task: int | None = None, submission: int | None = None) -> list[dict[str, Any]]:
        """Start events of a stage (or of one task of it, or in one submission), oldest first."""
        return [
            event
            for event in self.ledger()
            if event["event"] == "start"
            and event.get("stage") == stage
            and (task is None or event.get("task") == task)
            and (submission is None or event.get("submission") == submission)
        ]

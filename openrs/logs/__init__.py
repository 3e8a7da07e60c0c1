"""What a run's stages wrote: from the files of the run directory, or from the pods where the client does not see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from openrs.engines import RemoteEngine, engine_for
from openrs.report.text import printable
from openrs.runs.record import Record


class Log(Protocol):
    """A text that may still grow."""

    @property
    def stage(self) -> str:
        """Whose it is."""

    @property
    def name(self) -> str:
        """Of it among those of its stage."""

    def new(self) -> bytes:
        """What was added since the last call, at the first one everything."""


@dataclass
class Logs:
    """The logs of an attempt (of an array: of each task's)."""

    stage: str
    attempt: int | None
    logs: list[Log]
    scheduler: dict[str, Path] = field(default_factory=dict)
    """The scheduler's own output, of all attempts. It holds again what the attempts' logs hold."""
    notes: list[str] = field(default_factory=list)
    """What of it cannot be had, and why: a line each."""


class Source(Protocol):
    """Where the logs of one run come from. It gives the same `Log` for the same text each time."""

    @property
    def period(self) -> float:
        """Seconds between two looks for more."""

    def find(self, stage: str | None, attempt: int | None, *, follow: bool = False) -> Logs:
        """The logs of that attempt, by default of the newest; of that stage, by default of the one that wrote last.

        To `follow` without a stage is to want also those of other stages that write. Raises BadInput for an attempt that
        does not exist, OpenRSError where nothing answers.
        """

    def why_none(self, stage: str) -> str:
        """Why there is no log of that stage, and what to do."""


def source(record: Record) -> Source:
    """The source of that run's logs."""
    engine = engine_for(record.cluster)
    if isinstance(engine, RemoteEngine):
        from openrs.logs.pods import Pods

        return Pods(record, engine)
    from openrs.logs.files import Files

    return Files(record)


def no_attempt(record: Record, stage: str, attempt: int, known: list[int]) -> str:
    """What to say of an attempt that does not exist."""
    there = f"there are {', '.join(map(str, known))}" if known else "there is none yet"
    return f"run {record.run}, stage {stage}: no attempt {attempt}; {there}"


def as_seen(content: bytes) -> str:
    """A log as a terminal shows it: of a line that a progress bar rewrites, what a person saw last."""
    lines = content.decode(errors="replace").replace("\r\n", "\n").split("\n")
    return printable("\n".join(line.rpartition("\r")[2] for line in lines))

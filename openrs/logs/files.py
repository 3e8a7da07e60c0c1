"""The logs in a run directory: what supervisor and ranks wrote, and a scheduler's own files beside them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from openrs.errors import BadInput
from openrs.logs import Log, Logs, as_seen, no_attempt
from openrs.runs.record import Record

_ATTEMPT = re.compile(r"^(?:task-(?P<task>\d+)-)?attempt-(?P<attempt>\d+)$")


class File:
    """A file as a `Log`."""

    def __init__(self, path: Path, stage: str, name: str) -> None:
        self.path = path
        self.stage = stage
        self.name = name
        self._offset = 0
        self._told = False

    def new(self) -> bytes:
        """What was added; once a line about a file that cannot be read."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError as error:
            told, self._told = self._told, True
            return b"" if told else f"{_unreadable(error)}\n".encode()
        self._offset += len(content)
        return content


class Files:
    """The logs of a run whose directory the client sees, or has pulled."""

    period = 0.5

    def __init__(self, record: Record) -> None:
        self._record = record
        self._top = Path(record.dir) / "logs"
        self._files: dict[Path, File] = {}

    def find(self, stage: str | None, attempt: int | None, *, follow: bool = False) -> Logs:
        """As they are on disk now. Of stages that write at the same time, the newest is now this one, now that one."""
        stage = stage or self.newest_stage()
        directory = self._top / stage
        tasks, known = self._tasks(stage), self.attempts(stage)
        if attempt is not None and attempt not in known:
            raise BadInput(no_attempt(self._record, stage, attempt, known))
        chosen = [
            attempts[attempt or max(attempts)]
            for _, attempts in sorted(tasks.items())
            if attempt is None or attempt in attempts
        ]
        logs: list[Log] = [
            self._files.setdefault(path, File(path, stage, str(path.relative_to(directory))))
            for path in (path for one in chosen for path in sorted(one.iterdir()))
            if path.is_file()
        ]
        loose = sorted(directory.iterdir()) if attempt is None and directory.is_dir() else []
        scheduler = {path.name: path for path in loose if path.is_file()}
        return Logs(stage, attempt or (known[-1] if known else None), logs, scheduler)

    def attempts(self, stage: str) -> list[int]:
        """Numbers of the attempts that there are, of whatever task."""
        return sorted({number for attempts in self._tasks(stage).values() for number in attempts})

    def _tasks(self, stage: str) -> dict[int, dict[int, Path]]:
        """Task (-1 where there is none) → attempt → directory."""
        directory = self._top / stage
        tasks: dict[int, dict[int, Path]] = {}
        for path in directory.iterdir() if directory.is_dir() else []:
            match = _ATTEMPT.match(path.name)
            if match and path.is_dir():
                tasks.setdefault(int(match["task"] or -1), {})[int(match["attempt"])] = path
        return tasks

    def newest_stage(self) -> str:
        """The stage that wrote last; before any has, the first one."""

        def newest(stage: str) -> float:
            files = [path for path in (self._top / stage).rglob("*") if path.is_file()]
            return max((os.path.getmtime(path) for path in files), default=0.0)

        return max(self._record.newest(), key=newest)

    def why_none(self, stage: str) -> str:
        """Nobody was asked, so only who could say it."""
        run = self._record.run
        return f"run {run}: stage {stage} has written no log yet; `openrs status {run}` shows its state"


def read(path: Path) -> str:
    """A log file as a terminal shows it."""
    try:
        return as_seen(path.read_bytes())
    except OSError as error:
        return f"{_unreadable(error)}\n"


def only_there(logs: Logs) -> dict[str, str]:
    """What the scheduler's files say and no attempt's file: a module that is missing, a node's out-of-memory killer."""
    known: set[str] = set()
    for stage in {path.parent for path in logs.scheduler.values()}:
        for path in filter(Path.is_file, stage.glob("*/*")):
            # A supervisor's lines start with their time, which its own output does not repeat.
            known |= {part for line in read(path).splitlines() for part in (line, line.partition(" ")[2])}
    found = {}
    for name, path in logs.scheduler.items():
        lines = [line for line in read(path).splitlines() if line not in known]
        if lines:
            found[name] = "\n".join(lines) + "\n"
    return found


def _unreadable(error: OSError) -> str:
    return f"openrs: this file cannot be read ({error.strerror})"

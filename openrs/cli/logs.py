"""`openrs logs`: what supervisor, ranks and scheduler wrote."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrs.cli.options import RUNS, Json, RunName, Runs

if TYPE_CHECKING:
    from openrs.runs.record import Record

_ATTEMPT = re.compile(r"^(?:task-(?P<task>\d+)-)?attempt-(?P<attempt>\d+)$")


@dataclass
class Logs:
    """Log files of an attempt (of an array: of each task's), by their name below the stage's directory."""

    stage: str
    attempt: int | None
    files: dict[str, Path]
    scheduler: dict[str, Path]
    """The scheduler's own output, of all attempts. It holds again what the attempts' files hold."""


def command(
    run: RunName,
    stage: Annotated[
        str | None,
        typer.Argument(metavar="[STAGE]", help="Stage, e.g. train; by default the newest.", show_default=False),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "-f", "--follow", help="Go on until the stage (the run, without one) has ended.", show_default=False
        ),
    ] = False,
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", metavar="N", min=1, help="Attempt; by default the newest.", show_default=False),
    ] = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """What a run's newest attempt wrote, or another one's."""
    from openrs.cli.output import print_json, say
    from openrs.errors import BadInput, OpenRSError
    from openrs.runs.record import load
    from openrs.spec.explain import nearest

    if json and follow:
        raise BadInput("--json and --follow exclude each other")
    record = load(runs, run)
    stages = list(record.newest())
    if not stages:
        raise OpenRSError(f"run {run}: nothing of it has been sent; `openrs resume {run}` sends it")
    if stage is not None and stage not in stages:
        raise BadInput(f"run {run} has no stage {stage!r}{nearest(stage, stages)}; it has {', '.join(stages)}")
    if follow:
        _follow(record, stage, attempt)
        return
    logs = find(record, stage, attempt)
    if not logs.files and not logs.scheduler:
        raise OpenRSError(
            f"run {run}: stage {logs.stage} has written no log yet; `openrs status {run}` shows its state"
        )
    if json:
        files = [{"name": name, "text": _text(path)} for name, path in (logs.scheduler | logs.files).items()]
        print_json({"run": run, "stage": logs.stage, "attempt": logs.attempt, "files": files})
        return
    shown = {name: _text(path) for name, path in logs.files.items()} | _only_there(logs)
    for name, content in shown.items():
        _show(name, content)
    if not shown:
        say(f"openrs: run {run}: stage {logs.stage} has not started; `openrs status {run}` shows what it waits for")


def _show(name: str, content: str) -> None:
    from openrs.report.text import one_line

    print(f"==> {one_line(name)} <==")
    sys.stdout.write(content if content.endswith("\n") or not content else f"{content}\n")


def _text(path: Path) -> str:
    from openrs.report.text import printable

    try:
        content = path.read_bytes()
    except OSError as error:
        return f"openrs: this file cannot be read ({error.strerror})\n"
    # A progress bar rewrites its line by \r: what a person saw last is what counts.
    lines = content.decode(errors="replace").replace("\r\n", "\n").split("\n")
    return printable("\n".join(line.rpartition("\r")[2] for line in lines))


def find(record: Record, stage: str | None, attempt: int | None) -> Logs:
    """The files of that attempt, by default of the newest. Raises BadInput for an attempt that does not exist."""
    from openrs.errors import BadInput

    top = Path(record.dir) / "logs"
    stage = stage or _newest_stage(top, list(record.newest()))
    directory = top / stage
    tasks: dict[int, dict[int, Path]] = {}
    loose: list[Path] = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        match = _ATTEMPT.match(path.name)
        if match and path.is_dir():
            tasks.setdefault(int(match["task"] or -1), {})[int(match["attempt"])] = path
        elif path.is_file():
            loose.append(path)
    known = sorted({number for attempts in tasks.values() for number in attempts})
    if attempt is not None and attempt not in known:
        there = f"there are {', '.join(map(str, known))}" if known else "there is none yet"
        raise BadInput(f"run {record.run}, stage {stage}: no attempt {attempt}; {there}")
    chosen = [
        attempts[attempt or max(attempts)]
        for _, attempts in sorted(tasks.items())
        if attempt is None or attempt in attempts
    ]
    files = [file for path in chosen for file in sorted(path.iterdir()) if file.is_file()]
    return Logs(
        stage,
        attempt or (known[-1] if known else None),
        {str(file.relative_to(directory)): file for file in files},
        {file.name: file for file in loose} if attempt is None else {},
    )


def _only_there(logs: Logs) -> dict[str, str]:
    """What the scheduler's files say and no attempt's file: a module that is missing, a node's out-of-memory killer."""
    known: set[str] = set()
    for stage in {path.parent for path in logs.scheduler.values()}:
        for path in filter(Path.is_file, stage.glob("*/*")):
            # A supervisor's lines start with their time, which its own output does not repeat.
            known |= {part for line in _text(path).splitlines() for part in (line, line.partition(" ")[2])}
    found = {}
    for name, path in logs.scheduler.items():
        lines = [line for line in _text(path).splitlines() if line not in known]
        if lines:
            found[name] = "\n".join(lines) + "\n"
    return found


def _newest_stage(top: Path, stages: list[str]) -> str:
    """The stage that wrote last; before any has, the first one."""

    def newest(stage: str) -> float:
        files = [path for path in (top / stage).rglob("*") if path.is_file()]
        return max((os.path.getmtime(path) for path in files), default=0.0)

    return max(stages, key=newest)


def _follow(record: Record, stage: str | None, attempt: int | None) -> None:
    """Prints what comes, until the stage has ended and everything it wrote has been printed."""
    from openrs.cli.watch import Patience, period
    from openrs.status import status

    patience = Patience(lambda: status([record]))
    tail = Tail()
    asked = -1e9
    ended = False
    while True:
        if time.monotonic() - asked >= period(record):
            (state,) = patience.look()
            asked = time.monotonic()
            logs = find(record, stage, attempt)
            # A stage that waits for this one writes nothing before this one has ended.
            ended = state.state.ended or (
                stage is not None and next(s for s in state.stages if s.name == stage).state.ended
            )
        else:
            logs = find(record, stage, attempt)
        tail.print(logs, to_the_end=ended)
        if ended:
            for name, content in _only_there(logs).items():
                _show(f"{logs.stage}/{name}", content)
            return
        time.sleep(0.5)


class Tail:
    """Prints files as they grow, with a header where the file changes."""

    def __init__(self) -> None:
        self._files: dict[Path, str] = {}
        self._offsets: dict[Path, int] = {}
        self._shown: Path | None = None

    def print(self, logs: Logs, to_the_end: bool) -> None:
        """Prints what is new: whole lines, and at the end also one that was never finished."""
        from openrs.report.text import one_line, printable

        # Also those of an attempt that is no longer the newest: its last lines say why.
        self._files |= {path: name for name, path in logs.files.items()}
        for path, name in self._files.items():
            offset = self._offsets.get(path, 0)
            try:
                with open(path, "rb") as file:
                    file.seek(offset)
                    new = file.read()
            except OSError:
                continue
            new = new if to_the_end else new[: new.rfind(b"\n") + 1]
            if not new:
                continue
            self._offsets[path] = offset + len(new)
            if path != self._shown:
                print(f"==> {one_line(f'{logs.stage}/{name}')} <==")
                self._shown = path
            print(printable(new.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")), end="", flush=True)

"""Watching a run: a live line on a terminal, plain lines now and then in a pipe, its results at the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrs.cli.output import say
from openrs.errors import OpenRSError
from openrs.report.text import duration, one_line

if TYPE_CHECKING:
    from openrs.runs.record import Record
    from openrs.status import RunStatus

PATIENCE = 300.0
"""Seconds for which a scheduler may give no answer, or no longer know a run, before watching ends."""
PLAIN_EVERY = 10.0
"""Seconds between two lines in a pipe."""

Show = Callable[[str], None]


def period(record: Record) -> float:
    """Seconds between two looks: a scheduler's controller serves others too, this machine serves only us."""
    return 1.0 if record.cluster.engine == "local" else 5.0


class Patience:
    """Asks for the status, and goes on while a scheduler is away for a short time."""

    def __init__(self, ask: Callable[[], list[RunStatus]]) -> None:
        self._ask = ask
        self._trouble: float | None = None
        self._last: list[RunStatus] = []

    def look(self) -> list[RunStatus]:
        """The newest status that there is. Raises OpenRSError when patience is at its end."""
        now = time.monotonic()
        try:
            found = self._ask()
        except OpenRSError:
            if not self._last or (self._trouble is not None and now - self._trouble > PATIENCE):
                raise
            self._trouble = self._trouble or now
            return self._last
        lost = [status.run for status in found if status.state == "UNKNOWN"]
        self._trouble = (self._trouble or now) if lost else None
        if self._trouble is not None and now - self._trouble > PATIENCE:
            run = lost[0]
            raise OpenRSError(
                f"run {run}: not complete, and the scheduler no longer knows it; `openrs logs {run}` shows its end"
            )
        self._last = found
        return found


def watch_run(record: Record, show: Show) -> int:
    """Shows progress until the run has ended, then its results. The exit code of `submit --watch`."""
    try:
        state = _follow(record)
    except KeyboardInterrupt:
        say(f"openrs: stopped watching; {record.run} goes on (`openrs cancel {record.run}` stops it)")
        raise
    wall = time.time() - record.submissions[0].time
    _results(record, show, wall)
    if state.state == "SUCCEEDED":
        return 0
    bad = next((stage for stage in state.stages if stage.state == state.state), None)
    where = f" in stage {bad.name}{f' ({bad.reason})' if bad.reason else ''}" if bad else ""
    way_out = (
        "" if state.state == "CANCELLED" else f"; `openrs logs {record.run}{f' {bad.name}' if bad else ''}` shows why"
    )
    say(one_line(f"openrs: {record.run} {state.state}{where}{way_out}"))
    return 1


def _follow(record: Record) -> RunStatus:
    from openrs.status import status

    patience = Patience(lambda: status([record]))
    with _screen() as draw:
        while True:
            (state,) = patience.look()
            draw(progress_line(record, state), state.state, state.state.ended)
            if state.state.ended:
                return state
            time.sleep(period(record))


@contextlib.contextmanager
def _screen() -> Iterator[Callable[[str, str, bool], None]]:
    """Where progress goes: one line of a terminal that changes, or lines on standard error now and then."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(stderr=True), refresh_per_second=4) as live:
            yield lambda line, _state, _last: live.update(Text(line), refresh=True)
        return
    shown: dict[str, Any] = {"state": None, "time": 0.0, "line": None}

    def plain(line: str, state: str, last: bool) -> None:
        now = time.monotonic()
        due = state != shown["state"] or last or now - shown["time"] >= PLAIN_EVERY
        if due and line != shown["line"]:
            say(line)
            shown.update(state=state, time=now, line=line)

    yield plain


def progress_line(record: Record, state: RunStatus) -> str:
    """`smoke-… RUNNING | train: step 12/40, reward 1.31, accuracy 0.62, about 14 s left`."""
    from openrs.runs.directory import RunDirectory
    from openrs.runs.files import read_lines

    directory = RunDirectory(Path(record.dir))
    stages = []
    for stage in state.stages:
        if stage.state.ended and stage.state != "SUCCEEDED":
            stages.append(f"{stage.name}: {stage.state}")
        elif stage.cells.total:
            failed = f", {stage.cells.failed} failed" if stage.cells.failed else ""
            stages.append(f"{stage.name}: {stage.cells.done}/{stage.cells.total} cells{failed}")
        elif stage.state == "PENDING":
            stages.append(f"{stage.name}: pending{f' ({stage.reason})' if stage.reason else ''}")
        else:
            stages.append(f"{stage.name}: {_training(state, list(read_lines(directory.metrics))[-20:])}")
    return one_line(f"{state.run} {state.state} | {' | '.join(stages)}")


def _training(state: RunStatus, lines: list[dict[str, Any]]) -> str:
    parts = [f"step {state.step}/{state.steps}"]
    if lines:
        newest = lines[-1]
        rewards = newest.get("rewards")
        accuracy = rewards.get("accuracy") if isinstance(rewards, dict) else None
        parts += [
            f"{name} {value:.2f}"
            for name, value in (("reward", newest.get("reward")), ("accuracy", accuracy))
            if type(value) in (int, float)
        ]
        seconds = [float(line["seconds"]) for line in lines if type(line.get("seconds")) in (int, float)]
        left = state.steps - state.step
        if seconds and left > 0:
            parts.append(f"about {duration(left * sum(seconds) / len(seconds))} left")
    return ", ".join(parts)


def _results(record: Record, show: Show, wall: float) -> None:
    from openrs.report.curve import draw
    from openrs.report.table import read_results, results_text, samples_text

    directory = Path(record.dir)
    results = read_results(directory)
    if results:
        show("")
        show(results_text(results))
        samples = samples_text(results)
        if samples:
            show("")
            show(samples)
    show("")
    show(f"{duration(wall)} from submission to end")
    picture = draw(directory)
    if picture is not None:
        show(str(picture))

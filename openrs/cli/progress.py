"""Progress of what takes long: a live line on a terminal, plain lines now and then in a pipe, a run's results at its end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrs.cli.output import now_and_then, say
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
    """For how long something has not worked. The first time it must."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._worked = False
        self._since: float | None = None

    def works(self) -> None:
        """It does, or does again."""
        self._worked, self._since = True, None

    def fails(self, error: OpenRSError) -> None:
        """Raises `error` when patience is at its end; says so once where it only begins."""
        now = time.monotonic()
        if not self._worked or (self._since is not None and now - self._since > PATIENCE):
            raise error
        if self._since is None:
            self._since = now
            if not self._quiet:
                say(one_line(f"openrs: {error}; trying again for {duration(PATIENCE)}"))


class Observer:
    """Asks for the status, and goes on while a scheduler is away for a short time."""

    def __init__(self, ask: Callable[[], list[RunStatus]]) -> None:
        self._ask = ask
        self._answers, self._knows = Patience(), Patience()
        self._last: list[RunStatus] = []

    def look(self) -> list[RunStatus]:
        """The newest status that there is. Raises OpenRSError when patience is at its end."""
        try:
            found = self._ask()
        except OpenRSError as error:
            self._answers.fails(error)
            return self._last
        self._answers.works()
        lost = [status.run for status in found if status.state == "UNKNOWN"]
        if lost:
            self._knows.fails(
                OpenRSError(
                    f"run {lost[0]}: not complete, and the scheduler no longer knows it; `openrs logs {lost[0]}` shows its end"
                )
            )
        else:
            self._knows.works()
        self._last = found
        return found


def watch_run(record: Record, runs: Path, show: Show) -> int:
    """Shows progress until the run has ended, then its results. The exit code of `submit --watch` and `watch`.

    Where nobody in the cluster lets the evaluation begin, this does; where its files stand out of sight, they are pulled.
    """
    try:
        state, over = _follow(record, runs)
        seen = _fetch(record, state)
    except KeyboardInterrupt:
        say(f"openrs: stopped watching; {record.run} goes on (`openrs cancel {record.run}` stops it)")
        raise
    _results(record, runs, show, None if over else time.time() - record.submissions[0].time)
    if state.state == "SUCCEEDED":
        return 0 if seen else 1
    bad = next((stage for stage in state.stages if stage.state == state.state), None)
    where = f" in stage {bad.name}{f' ({bad.reason})' if bad.reason else ''}" if bad else ""
    way_out = (
        "" if state.state == "CANCELLED" else f"; `openrs logs {record.run}{f' {bad.name}' if bad else ''}` shows why"
    )
    say(one_line(f"openrs: {record.run} {state.state}{where}{way_out}"))
    return 1


def _follow(record: Record, runs: Path) -> tuple[RunStatus, bool]:
    """Watches the run to its end: how it ended, and whether it had when we came."""
    current = [record]

    def ask() -> list[RunStatus]:
        current[0], state = _look(runs, current[0])
        return [state]

    observer = Observer(ask)
    over = True
    with _screen() as draw:
        while True:
            (state,) = observer.look()
            draw(progress_line(current[0], state), state.state, state.state.ended)
            if state.state.ended:
                return state, over
            over = False
            time.sleep(period(record))


def _look(runs: Path, record: Record) -> tuple[Record, RunStatus]:
    """The status, after what waits for nothing any more has been let go, and what has landed has been sent."""
    from openrs.engines import RemoteEngine, engine_for
    from openrs.evals import land
    from openrs.status import jobs, status

    (state,) = status([record])
    engine = engine_for(record.cluster)
    if isinstance(engine, RemoteEngine) and any(stage.state == "PENDING" for stage in state.stages):
        engine.release(list(jobs(record).values()))
    if not record.as_they_land:
        return record, state
    newer = land(runs, record, state)
    return newer, status([newer])[0] if newer is not record else state


def _fetch(record: Record, state: RunStatus) -> bool:
    """Pulls what the results are made of, if there may be any; False where that did not work."""
    from openrs.pull import pull

    begun = state.step or state.attempts or any(stage.cells.done for stage in state.stages)
    if state.state != "SUCCEEDED" and not begun:
        return True  # a pod that could not start will not be able to read either
    try:
        with now_and_then(lambda: f"{record.run} has ended; copying its files"):
            pull(record)
    except OpenRSError as error:
        say(one_line(f"openrs: {error}; `openrs pull {record.run}` tries again"))
        return False
    return True


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
    from openrs.engines import is_remote
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
            # What an earlier pull copied is old.
            lines = [] if is_remote(record.cluster) else list(read_lines(directory.metrics))[-20:]
            stages.append(f"{stage.name}: {_training(state, lines)}")
    return one_line(f"{state.run} {state.state} | {' | '.join(stages)}")


def _training(state: RunStatus, lines: list[dict[str, Any]]) -> str:
    from openrs.runs.files import mapping, number

    parts = [f"step {state.step}/{state.steps}"]
    if lines:
        reward, accuracy = number(lines[-1], "reward"), number(mapping(lines[-1], "rewards"), "accuracy")
        parts += [
            f"{name} {value:.2f}" for name, value in (("reward", reward), ("accuracy", accuracy)) if value is not None
        ]
        seconds = [value for line in lines if (value := number(line, "seconds")) is not None]
        left = state.steps - state.step
        if seconds and left > 0:
            parts.append(f"about {duration(left * sum(seconds) / len(seconds))} left")
    return ", ".join(parts)


def _results(record: Record, runs: Path, show: Show, wall: float | None) -> None:
    """The table, the verdicts, and the report's page, which is written into the run's directory."""
    from openrs.report.build import build
    from openrs.report.curve import draw
    from openrs.report.export import terminal
    from openrs.report.page import page
    from openrs.report.table import results_text, samples_text
    from openrs.runs.files import write_atomic

    directory = Path(record.dir)
    report = build(runs, [record.run])
    results = [one for part in report.parts for one in part.measured]
    if results:
        samples = samples_text(results)
        said = "\n".join(line for part in report.parts for line in terminal(part) if not line.startswith("missing: "))
        for text in (results_text(results), samples, said):
            if text:
                show("")
                show(text)
    if wall is not None:
        show("")
        show(f"{duration(wall)} from submission to end")
    picture = draw(directory, results)
    if picture is not None:
        show(str(picture))
    if results:
        target = directory / "report" / "report.html"
        target.parent.mkdir(exist_ok=True)
        write_atomic(target, page(report, []))
        show(str(target))

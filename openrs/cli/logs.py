"""`openrs logs`: what supervisor, ranks and scheduler wrote."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from openrs.cli.options import RUNS, Json, RunName, Runs
from openrs.cli.output import print_json, say
from openrs.report.text import one_line, printable

if TYPE_CHECKING:
    from openrs.logs import Log, Logs, Source
    from openrs.runs.record import Record
    from openrs.status import RunStatus


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
    completions: Annotated[
        bool,
        typer.Option(
            "--completions", help="The completions that training kept, of its newest step.", show_default=False
        ),
    ] = False,
    step: Annotated[
        int | None,
        typer.Option("--step", metavar="N", min=1, help="With --completions: of that step.", show_default=False),
    ] = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """What a run's newest attempt wrote, or another one's; with --completions what its model wrote.

    On Kubernetes its pods' output; when they are gone, the files that `openrs pull` copied. Completions are always the
    files that are here.
    """
    from openrs.errors import BadInput, OpenRSError
    from openrs.logs import as_seen, source
    from openrs.logs.files import only_there, read
    from openrs.runs.record import load
    from openrs.spec.explain import nearest

    if json and follow:
        raise BadInput("--json and --follow exclude each other")
    if step is not None and not completions:
        raise BadInput("--step belongs to --completions")
    record = load(runs, run)
    if completions:
        if follow or stage is not None or attempt is not None:
            raise BadInput("--completions are of a step (--step N), not of a stage or an attempt, and are not followed")
        _completions(record, step, json)
        return
    stages = list(record.newest())
    if not stages:
        raise OpenRSError(f"run {run}: nothing of it has been sent; `openrs resume {run}` sends it")
    if stage is not None and stage not in stages:
        raise BadInput(f"run {run} has no stage {stage!r}{nearest(stage, stages)}; it has {', '.join(stages)}")
    origin = source(record)
    if follow:
        _follow(record, origin, stage, attempt)
        return
    logs = origin.find(stage, attempt)
    if not logs.logs and not logs.scheduler:
        raise OpenRSError(origin.why_none(logs.stage))
    for note in logs.notes:
        say(one_line(f"openrs: {note}"))
    texts = {log.name: as_seen(log.new()) for log in logs.logs}
    if json:
        texts = {name: read(path) for name, path in logs.scheduler.items()} | texts
        files = [{"name": name, "text": text} for name, text in texts.items()]
        print_json({"run": run, "stage": logs.stage, "attempt": logs.attempt, "files": files})
        return
    texts |= only_there(logs)
    for name, content in texts.items():
        _show(name, content)
    if not texts:
        say(f"openrs: run {run}: stage {logs.stage} has not started; `openrs status {run}` shows what it waits for")


def _completions(record: Record, step: int | None, json: bool) -> None:
    from pathlib import Path

    from openrs.errors import BadInput, OpenRSError
    from openrs.runs import completions
    from openrs.runs.files import number

    there = completions.steps(Path(record.dir))
    if not there:
        raise OpenRSError(
            f"run {record.run}: no completions are here; training keeps training.log_completions of each step, and on "
            f"Kubernetes `openrs pull {record.run}` brings them"
        )
    chosen = there[-1] if step is None else step
    if chosen not in there:
        raise BadInput(
            f"run {record.run}: no completions of step {step}; they are there for steps {there[0]} to {there[-1]}"
        )
    rows = completions.read(Path(record.dir), chosen)
    if json:
        print_json({"run": record.run, "step": chosen, "completions": rows})
        return
    for place, row in enumerate(rows, start=1):
        scores = ", ".join(
            f"{name} {'-' if (score := number(row['rewards'], name)) is None else f'{score:g}'}"
            for name in row["rewards"]
        )
        cut = "" if row.get("finished", True) else ", cut"
        print(one_line(f"==> step {chosen}, {place} of {len(rows)}: {scores}; {row.get('tokens')} tokens{cut} <=="))
        print(printable(f"{row.get('prompt')}\n--- {row['completion']}\n--- answer: {row.get('answer')}"))


def _show(name: str, content: str) -> None:
    print(f"==> {one_line(name)} <==")
    sys.stdout.write(content if content.endswith("\n") or not content else f"{content}\n")


def _follow(record: Record, origin: Source, stage: str | None, attempt: int | None) -> None:
    """Prints what comes, until the stage has ended and everything it wrote has been printed."""
    from openrs.cli.progress import Observer, Patience, period
    from openrs.errors import OpenRSError
    from openrs.logs.files import only_there
    from openrs.status import status

    observer, patience, tail = Observer(lambda: status([record])), Patience(quiet=True), Tail()
    asked, ended = -1e9, False
    told: set[str] = set()

    def tell(line: str) -> None:
        if line and line not in told:
            say(one_line(f"openrs: {line}"))
            told.add(line)

    while True:
        if time.monotonic() - asked >= period(record):
            (state,) = observer.look()
            asked = time.monotonic()
            # A stage that waits for this one writes nothing before this one has ended.
            ended = state.state.ended or (
                stage is not None and next(s for s in state.stages if s.name == stage).state.ended
            )
            tell(_waits(state, stage))
        try:
            logs = origin.find(stage, attempt, follow=True)
            patience.works()
        except OpenRSError as error:
            patience.fails(error)
        else:
            tail.print(logs, to_the_end=ended)
            for note in logs.notes:
                tell(note)
            if ended:
                break
        time.sleep(origin.period)
    for name, content in only_there(logs).items():
        _show(f"{logs.stage}/{name}", content)
    if not tail.logs and not logs.scheduler:
        raise OpenRSError(origin.why_none(logs.stage))


def _waits(state: RunStatus, stage: str | None) -> str:
    """What the stage (the run, without one) waits for, before it begins."""
    if stage is None and state.state != "PENDING":
        return ""
    waiting = [one for one in state.stages if one.state == "PENDING" and one.reason and stage in (None, one.name)]
    return f"{state.run}: stage {waiting[0].name} is PENDING ({waiting[0].reason})" if waiting else ""


class Tail:
    """Prints logs as they grow, with a header where it goes from one to another."""

    def __init__(self) -> None:
        self.logs: dict[int, Log] = {}
        """All that were given, also those of an attempt that is no longer the newest: its last lines say why."""
        self._begun: dict[int, bytes] = {}
        """Lines that have no end yet."""
        self._shown: int | None = None

    def print(self, logs: Logs, to_the_end: bool) -> None:
        """Prints what is new: whole lines, and at the end also one that was never finished."""
        self.logs |= {id(log): log for log in logs.logs}
        for key, log in self.logs.items():
            new = self._begun.pop(key, b"") + log.new()
            if not to_the_end:
                new, self._begun[key] = new[: (end := new.rfind(b"\n") + 1)], new[end:]
            if not new:
                continue
            if key != self._shown:
                print(f"==> {one_line(f'{log.stage}/{log.name}')} <==")
                self._shown = key
            print(printable(new.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")), end="", flush=True)

"""`openrs status`: one query for many runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openrs.cli.options import RUNS, Json, RunNames, Runs
from openrs.cli.output import print_json, say
from openrs.errors import BadInput
from openrs.report.text import one_line, table

if TYPE_CHECKING:
    from openrs.runs.record import Record
    from openrs.status import CellCount, RunStatus

PERIOD = 2.0
"""Seconds between two looks of --watch."""
LONGEST_REASON = 400
"""Characters; registries and schedulers can say much more."""


def command(
    run: RunNames = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until all have ended.", show_default=False)] = False,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """State of runs; one query for many. With --watch and --json: prints once, when all have ended.

    A run whose record cannot be read is named, the others are shown, and the exit code is 2.
    """
    records, broken = _records(runs, run or [])
    if records or not broken:
        found = _watch(records, bool(run), quiet=json) if watch else _ask(records)
        if json:
            print_json({"runs": [status.model_dump(mode="json") for status in found]})
        elif not watch or not sys.stdout.isatty():
            print(text(found, stages=bool(run)) if found else f"no runs below {runs}")
    if broken:
        raise typer.Exit(BadInput.exit_code)


def _records(runs: Path, names: list[str]) -> tuple[list[Record], bool]:
    """The records asked for, or all; a line for each that cannot be read, and whether there is one."""
    from openrs.runs import record

    found, broken = [], False
    for name in dict.fromkeys(names) or record.run_names(runs):
        try:
            found.append(record.load(runs, name))
        except BadInput as error:  # one broken record must not hide the other runs
            say(f"openrs: {one_line(str(error))}")
            broken = True
    return found, broken


def _ask(records: list[Record]) -> list[RunStatus]:
    from openrs.status import status

    return status(records)


def _watch(records: list[Record], stages: bool, quiet: bool) -> list[RunStatus]:
    """Shows the table until every run has ended; on a terminal in place, in a pipe one line for each change."""
    from openrs.cli.progress import Observer

    observer = Observer(lambda: _ask(records))
    if sys.stdout.isatty() and not quiet:
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False) as live:
            while True:
                found = observer.look()
                live.update(Text(text(found, stages) if found else "no runs", no_wrap=True), refresh=True)
                if all(status.state.ended for status in found):
                    return found
                time.sleep(PERIOD)
    shown: dict[str, str] = {}
    while True:
        found = observer.look()
        for status in found:
            if shown.get(status.run) != status.state and not quiet:
                say(f"{status.run} {status.state} step {status.step}/{status.steps}")
            shown[status.run] = status.state
        if all(status.state.ended for status in found):
            return found
        time.sleep(PERIOD)


def text(found: list[RunStatus], stages: bool) -> str:
    """A row for each run and, if asked for, for each of its stages."""
    rows: list[tuple[object, ...]] = []
    for status in found:
        total = sum(stage.cells.total for stage in status.stages)
        done = sum(stage.cells.done for stage in status.stages)
        reason = next((stage.reason for stage in status.stages if stage.state == status.state and stage.reason), "")
        reason = "" if stages else fitted(reason)  # it stands in the stage's row
        cells = f"{done}/{total}" if total else "-"
        rows.append(
            (
                status.run,
                status.experiment,
                status.cluster,
                status.state,
                f"{status.step}/{status.steps}",
                status.attempts,
                cells,
                reason,
            )
        )
    parts = [
        table(("RUN", "EXPERIMENT", "CLUSTER", "STATE", "STEP", "ATTEMPTS", "CELLS", "REASON"), rows, right=(4, 5, 6))
    ]
    if stages:
        lines = [
            (
                status.run,
                stage.name,
                stage.state,
                stage.handle,
                _cells(stage.cells),
                fitted(stage.reason),
            )
            for status in found
            for stage in status.stages
        ]
        parts.append(table(("RUN", "STAGE", "STATE", "HANDLE", "CELLS", "REASON"), lines))
    return "\n\n".join(parts)


def fitted(reason: str) -> str:
    """A reason as a table holds it: its beginning says what it is, its end what to do. All of it stands in the JSON."""
    line = one_line(reason)
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON // 2]} … {line[-LONGEST_REASON // 2 :]}"


def _cells(count: CellCount) -> str:
    if not count.total:
        return "-"
    return f"{count.done}/{count.total}" + (f" ({count.failed} failed)" if count.failed else "")

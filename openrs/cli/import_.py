"""`openrs import`: other people's result trees as a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openrs.cli.options import RUNS, Json, Runs
from openrs.cli.output import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator


def command(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="lighteval.", show_default=False)],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What it wrote (its --output-dir).", show_default=False)
    ],
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="Id of the run.", show_default=False)] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Metric to take, where a task has several.", show_default=False)
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What it ran on, which its files do not say.", show_default=False)
    ] = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Result files of another tool as a run that `openrs report` reads."""
    from openrs.errors import BadInput
    from openrs.evaluation.importing import import_lighteval
    from openrs.spec.paths import shortened

    if kind != "lighteval":
        raise BadInput(f"FORMAT {shortened(kind)!r} is not known; there is: lighteval")
    found = import_lighteval(directory, runs, run, metric, hardware)
    if json:
        print_json(found)
        return
    for line in _lines(found):
        print(line)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    from openrs.report.text import one_line

    yield f"{found['run']}: {found['cells']} results in {found['files']} files, {len(found['checkpoints'])} checkpoints"
    yield one_line(f"benchmarks: {', '.join(found['benchmarks'])}")
    if found["same_answers_again"]:
        yield f"{found['same_answers_again']} results repeat the very answers of another one, and count once"
    for name, count in found["not_recorded"].items():
        yield f"{name}: not recorded in {count} of {found['cells']}"
    for left in found["left_out"]:
        yield one_line(f"left out: {left['where']}: {left['why']}")
    yield f"`openrs report {found['run']}` shows them"

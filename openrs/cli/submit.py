"""`openrs submit`: sends a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from openrs.cli.options import RUNS, ClusterName, ExperimentName, Json, NewRun, Overrides, Runs, Strict, sending_to

if TYPE_CHECKING:
    from openrs.runs.record import Record


def command(
    exp: ExperimentName,
    cluster: ClusterName,
    run: NewRun = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show progress until the run has ended, then its results.", show_default=False),
    ] = False,
    as_they_land: Annotated[
        bool,
        typer.Option(
            "--as-they-land",
            help="Evaluate each checkpoint when it is there, not after training.",
            show_default=False,
        ),
    ] = False,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Send a run and print its id.

    Never blocks unless --watch; Ctrl-C then stops the watching, not the run.
    """
    from openrs import launch
    from openrs.cli.output import print_json, say
    from openrs.runs.record import Asked
    from openrs.spec.load import load_experiment

    experiment = load_experiment(exp, overrides)
    asked = Asked(experiment=_lasting_name(exp), overrides=overrides or [])
    record = launch.submit(experiment, sending_to(cluster, strict), runs, run, asked, as_they_land)
    if json:
        print_json(sent(record))
    else:
        print(record.run, flush=True)
    if watch:
        from openrs.cli.progress import watch_run

        # With --json, standard output holds the JSON and nothing else.
        raise typer.Exit(watch_run(record, runs, show=say if json else print))
    if as_they_land:
        say(
            f"openrs: where the nodes cannot send jobs, `openrs watch {record.run}` sends a checkpoint's cells when it lands"
        )
    say(f"openrs: `openrs status {record.run}` and `openrs logs {record.run} -f` show how it goes")


def _lasting_name(exp: str) -> str:
    """`exp` as it can be said in any working directory: a file by its whole path."""
    from pathlib import Path

    from openrs.spec.paths import expand

    is_file = exp.endswith((".yaml", ".yml")) or "/" in exp
    return str(Path(expand(exp)).absolute()) if is_file else exp


def sent(record: Record) -> dict[str, Any]:
    """The JSON of `submit` and `resume`: what the newest submission sent."""
    return {
        "run": record.run,
        "dir": record.dir,
        "cluster": record.cluster.name,
        "hash": record.hash,
        "stages": [{"name": stage.name, "handle": stage.handle} for stage in record.submissions[-1].stages],
    }

"""Arguments and options that several commands share, and their completion in the shell."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from click.core import ParameterSource

from openrs.errors import BadInput
from openrs.spec.paths import runs_directory, shortened

if TYPE_CHECKING:
    from openrs.spec.cluster import Cluster


def _quiet(names: Callable[[click.Context], list[str]]) -> Callable[[click.Context, str], list[str]]:
    def complete(ctx: click.Context, incomplete: str) -> list[str]:
        try:
            return [name for name in names(ctx) if name.startswith(incomplete)]
        except Exception:  # a shell that completes a word must never show a traceback
            return []

    return complete


def _experiments(_: click.Context) -> list[str]:
    from openrs.spec.load import shipped_experiments

    return shipped_experiments() + sorted(str(path) for pattern in ("*.yaml", "*.yml") for path in Path().glob(pattern))


def _clusters(_: click.Context) -> list[str]:
    from openrs.spec.load import cluster_names

    return cluster_names()


def _runs(ctx: click.Context) -> list[str]:
    from openrs.runs.record import run_names

    return run_names(Path(ctx.params.get("runs") or "runs").expanduser())


def _runs_directory(runs: str) -> Path:
    """A text, as a path cannot be empty: an unset variable of a script must not mean the working directory."""
    if not runs:
        raise BadInput("--runs is empty; name a directory, or leave it out for ./runs")
    try:
        return runs_directory(Path(runs))
    except ValueError as error:
        raise BadInput(f"--runs {shortened(runs)}: {error}") from None


def _not_empty(ctx: click.Context, runs: Path) -> Path:
    """Click takes a variable that is empty for one that is not set."""
    if ctx.get_parameter_source("runs") == ParameterSource.DEFAULT and os.environ.get("OPENRS_RUNS") == "":
        raise BadInput("OPENRS_RUNS is empty; name a directory, or unset it for ./runs")
    return runs


_complete_experiment = _quiet(_experiments)
_complete_cluster = _quiet(_clusters)
_complete_run = _quiet(_runs)

ExperimentName = Annotated[
    str,
    typer.Argument(
        metavar="EXP",
        help="Name of a shipped experiment (`openrs list`) or a YAML file.",
        show_default=False,
        autocompletion=_complete_experiment,
    ),
]
_CLUSTER = typer.Option(
    "--cluster",
    metavar="C",
    help="Profile: slurm, k8s, local, or one of openrs.toml.",
    show_default=False,
    autocompletion=_complete_cluster,
)
ClusterName = Annotated[str, _CLUSTER]
ClusterOption = Annotated[str | None, _CLUSTER]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a field, e.g. training.steps=20. Repeatable.", show_default=False
    ),
]
Runs = Annotated[
    Path,
    typer.Option(
        "--runs",
        metavar="DIR",
        envvar="OPENRS_RUNS",
        help="Where runs live.",
        is_eager=True,
        parser=_runs_directory,
        callback=_not_empty,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.", show_default=False)]
NewRun = Annotated[
    str | None,
    typer.Option("--run", metavar="ID", help="Id of the run, by default made from name and time.", show_default=False),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run.", show_default=False, autocompletion=_complete_run)
]
RunNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...", help="Ids of runs; all without one.", show_default=False, autocompletion=_complete_run
    ),
]

Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a profile whose image has no digest.", show_default=False)
]

RUNS = Path("runs")
"""Default of `--runs`."""


def sending_to(name: str, strict: bool) -> Cluster:
    """The profile that something is sent to. An image without digest is worth a word, with `--strict` a refusal (BadInput)."""
    from openrs.cli.output import say
    from openrs.spec.load import load_cluster

    cluster = load_cluster(name)
    if cluster.image is not None and "@sha256:" not in cluster.image:
        words = f"cluster {name}: image {cluster.image} has no digest; write …@sha256:…: a tag may be another image tomorrow"
        if strict:
            raise BadInput(words)
        say(f"openrs: {words}")
    return cluster

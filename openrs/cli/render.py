"""`openrs render`: every artefact that submit would send, without sending it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from openrs.cli.options import RUNS, ClusterName, ExperimentName, Json, Overrides, Runs, Strict, sending_to


def command(
    exp: ExperimentName,
    cluster: ClusterName,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="Id of the run; RUN stands for one by default.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Write the files there: a new or empty directory.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Every artefact that submit would send.

    Goes to standard output without --out. Needs no cluster and touches nothing else.
    """
    from openrs import launch
    from openrs.cli.output import as_utf8, print_json, say
    from openrs.spec.load import load_experiment

    artifacts = launch.render(load_experiment(exp, overrides), sending_to(cluster, strict), runs, run)
    if out is not None:
        write(out, artifacts.files)
        say(f"{len(artifacts.files)} files below {out}")
    if json:
        print_json(
            {
                "run": artifacts.place.run,
                "files": [{"name": name, "text": text} for name, text in artifacts.files.items()],
            }
        )
    elif out is None:
        as_utf8()
        for name, text in artifacts.files.items():
            print(f"# ==> {name} <==")
            print(text, end="" if text.endswith("\n") else "\n")


def write(out: Path, files: dict[str, str]) -> None:
    """Writes `files` below `out`. Raises BadInput for a directory that holds anything; then nothing is left behind."""
    import shutil

    from openrs.errors import BadInput
    from openrs.spec.paths import shortened

    try:
        existed = out.exists()
        if existed and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"--out {out}: exists and is not an empty directory; choose another")
        top = next((parent for parent in reversed((out, *out.parents)) if not parent.exists()), None)
    except OSError as error:
        raise BadInput(f"--out {shortened(str(out))}: cannot write there ({error.strerror})") from None
    try:
        for name, text in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        for path in list(out.iterdir()) if existed else [top] if top else []:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True) if path.is_file() else None
        raise BadInput(f"--out {out}: cannot write there ({error.strerror})") from None

"""`openrs report`: what a run found, and what of it is more than noise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from openrs.cli.options import RUNS, Json, Runs, _complete_run
from openrs.cli.output import as_utf8, print_json, say


def command(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Ids of runs, a run directory, or example:open-rs.",
            show_default=False,
            autocompletion=_complete_run,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|MODEL", help="Compare with this instead of each run's base model.", show_default=False
        ),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Judge this checkpoint, not the last one.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page (.html) here, or what the format says.", show_default=False),
    ] = None,
    claims: Annotated[
        bool,
        typer.Option("--claims", help="The paper's claims and what speaks for or against each.", show_default=False),
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown, for a model card.", show_default=False)
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Every result as CSV.", show_default=False)] = False,
    pool_hardware: Annotated[
        bool, typer.Option("--pool-hardware", help="Take results of different hardware together.", show_default=False)
    ] = False,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Verdicts, tables and figures of runs; with --out FILE.html as one page that needs nothing else."""
    from openrs.errors import BadInput

    chosen = [name for name, wanted in (("--json", json), ("--markdown", markdown), ("--csv", csv)) if wanted]
    if len(chosen) > 1:
        raise BadInput(f"{' and '.join(chosen)} are two formats; choose one")
    if not run and not claims:
        raise BadInput("RUN is missing: the id of a run, or example:open-rs; `openrs status` shows your runs")
    if csv and not run:
        raise BadInput("--csv needs a RUN: the claims are no results")
    if out is not None:
        _check_out(out, page=not chosen)
    from openrs.report.build import build, own_scores, report_json
    from openrs.report.claims import ledger
    from openrs.report.export import claims_text, csv_text, terminal
    from openrs.report.export import markdown as markdown_text

    report = build(runs, run or [], baseline, checkpoint, pool_hardware)
    # The worked example shows the ledger too: it is about the same paper.
    example = any(part.history.spec is None and part.aliases for part in report.parts)
    found = ledger(own_scores(report)) if claims or example else []
    if json:
        content = report_json(report) | ({"claims": [one.json() for one in found]} if claims else {})
        _deliver(out, content)
    elif markdown or csv:
        _deliver(out, csv_text(report) if csv else markdown_text(report, found if claims else ()))
    elif out is not None:
        from openrs.report.page import page

        _write(out, page(report, found))
        for part in report.parts:
            for line in terminal(part):
                say(f"{part.name}: {line}")
        print(out)
    else:
        for part in report.parts:
            print("\n".join([part.name, *(f"  {line}" for line in terminal(part))]))
        if claims:
            print(claims_text(found))


def _deliver(out: Path | None, content: object) -> None:
    import json

    if out is None and isinstance(content, str):
        as_utf8()
        print(content, end="")
    elif out is None:
        print_json(content)
    else:
        text = (
            content
            if isinstance(content, str)
            else json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        )
        _write(out, text)


def _check_out(out: Path, page: bool) -> None:
    """Raises BadInput for a file that would be misnamed or could not be made, before anything is computed."""
    from openrs.errors import BadInput
    from openrs.spec.paths import shortened

    shown = f"--out {shortened(str(out))}"
    if page and out.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"{shown}: a page is an .html file; for another format add --markdown, --csv or --json")
    try:
        if out.is_dir():
            raise BadInput(f"{shown}: is a directory; name a file in it")
        parent = next((parent for parent in out.absolute().parents if os.path.lexists(parent)), Path("/"))
        if not parent.is_dir():
            raise BadInput(f"{shown}: {shortened(str(parent))} is no directory; choose another place")
    except OSError as error:
        raise BadInput(f"{shown}: cannot be written ({error.strerror})") from None


def _write(out: Path, text: str) -> None:
    from openrs.errors import BadInput
    from openrs.runs.files import write_atomic
    from openrs.spec.paths import shortened

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, text)
    except OSError as error:
        raise BadInput(f"--out {shortened(str(out))}: cannot be written ({error.strerror})") from None

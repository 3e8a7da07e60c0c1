"""`openrs diff`: what a submit now would change against what a run was first sent with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from openrs.cli.options import RUNS, Json, Overrides, RunName, Runs

if TYPE_CHECKING:
    from openrs.diff import Change


def command(
    run: RunName,
    overrides: Overrides = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 if there are differences, as git does.", show_default=False)
    ] = False,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """What a submit now would change against what RUN was first sent with.

    The experiment as it was asked for, its file and the cluster's profile as they are now, and --set on top. On Kubernetes
    also against what the server has, which is asked without changing anything. Ends with 0 whether there are differences or
    not, unless --exit-code.
    """
    from openrs.cli.output import print_json, say
    from openrs.diff import compare, on_server
    from openrs.report.text import one_line
    from openrs.runs.record import load

    found = compare(load(runs, run), runs, overrides or [])
    code = {"sent": found.code.sent, "now": found.code.now} if found.code else None
    if not json:
        _show(found.files)
        if code:
            print(f"code: {code['sent']} was sent, {code['now']} is here now")
    if found.since:
        changes = ", ".join(found.since)
        say(one_line(f"openrs: {run} has been resumed with another {changes}; this compares with its first sending"))
    server = on_server(found)
    differs = bool(found.files or found.code or (server and server.changes))
    if json:
        content: dict[str, Any] = {"run": run, "different": differs, "files": _content(found.files), "code": code}
        if server is not None:
            content["server"] = {"changes": _content(server.changes), "gone": server.gone}
        print_json(content)
    elif server is not None:
        _show(server.changes)
        for name in server.gone:
            say(one_line(f"openrs: {name}: the server has nothing of it any more"))
    if not differs and not json:
        print(f"{run}: a submit now would send the same")
    if differs and exit_code:
        raise typer.Exit(1)


def _show(changes: list[Change]) -> None:
    from openrs.report.text import printable

    for change in changes:
        print(printable(change.diff), end="")


def _content(changes: list[Change]) -> list[dict[str, str]]:
    return [{"name": change.name, "diff": change.diff} for change in changes]

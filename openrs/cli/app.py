"""The `openrs` command: registers the commands, and turns failures into one line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import click
import typer

from openrs import __version__
from openrs.cli import (
    cancel,
    check,
    diff,
    drill,
    eval,
    fetch,
    images,
    import_,
    list_,
    logs,
    plan,
    pull,
    render,
    report,
    resume,
    schema,
    show,
    status,
    submit,
    watch,
)
from openrs.cli.output import say
from openrs.errors import BadInput, OpenRSError
from openrs.report.text import one_line
from openrs.spec.paths import shortened

app = typer.Typer(
    name="openrs",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

COMMANDS = (
    list_,
    show,
    check,
    schema,
    plan,
    render,
    fetch,
    submit,
    diff,
    status,
    logs,
    watch,
    pull,
    cancel,
    resume,
    eval,
    import_,
    report,
    drill,
)
for module in COMMANDS:
    app.command(module.__name__.rpartition(".")[2].rstrip("_"))(module.command)


app.add_typer(images.app, name="images")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openrs {__version__}")
        raise typer.Exit


@app.callback()
def openrs(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Small-budget RL for reasoning models, on the cluster you already have.

    One YAML file says what an experiment is; `openrs submit --cluster C EXP` trains and evaluates it there.
    """


def main(args: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0 fine, 1 failed, 2 bad input, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    if sys.stdout is None:
        # Before anything is done: the next file that is opened would become standard output.
        sys.exit(_fail("standard output is closed; send it to /dev/null instead", BadInput.exit_code))
    code = _run(args)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _output_failed(error)
    sys.exit(code)


def _run(args: list[str] | None) -> int:
    try:
        result: Any = typer.main.get_command(app).main(args, prog_name="openrs", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "openrs"
        return _fail(f"{error.format_message().rstrip('.')}; `{path} --help` shows the options", BadInput.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except OpenRSError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except OSError as error:
        # What a command does with files it explains itself; what is left is standard output.
        if isinstance(error, FileNotFoundError) and error.filename is None and not _has_directory():
            return _fail("the working directory does not exist any more; change to another one", BadInput.exit_code)
        if isinstance(error, BrokenPipeError) or error.filename is None:
            return _output_failed(error)
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM):
            return _fail(f"{shortened(str(error.filename))}: {error.strerror}", BadInput.exit_code)
        raise


def _has_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _fail(message: str, code: int) -> int:
    say(f"openrs: {one_line(message)}")
    return code


def _output_failed(error: OSError) -> int:
    # The interpreter flushes once more at exit, which would fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return OpenRSError.exit_code
    return _fail(f"cannot write to standard output ({error.strerror})", OpenRSError.exit_code)

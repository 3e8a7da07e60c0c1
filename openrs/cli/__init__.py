"""The command line: one command a file; heavy imports stand inside the commands.

typer imports rich (two thirds of its start-up time) for prettier help pages, which are switched off here. It does
without where rich cannot be imported, so rich is hidden for just that one import; commands that draw import it
themselves.
"""

import sys

if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        import typer as typer
    finally:
        del sys.modules["rich"]

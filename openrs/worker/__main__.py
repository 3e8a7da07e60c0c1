"""`python -m openrs.worker STAGE.json [--task I] [--stop-file F]`: a supervisor."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openrs.errors import BadInput
from openrs.worker.exits import CONFIGURATION
from openrs.worker.stop import StopRequest
from openrs.worker.supervisor import Supervisor


def main() -> int:
    """Makes one attempt at a stage; returns its exit code."""
    parser = argparse.ArgumentParser(prog="openrs-worker", description="One attempt at one stage of a run.")
    parser.add_argument("stage_file", type=Path)
    parser.add_argument("--task", type=int, help="index in the stage's cells file")
    parser.add_argument("--stop-file", type=Path, help="stop as soon as this file exists")
    arguments = parser.parse_args()
    stop = StopRequest(arguments.stop_file)
    stop.install()
    try:
        return Supervisor(arguments.stage_file, arguments.task, stop).run()
    except BadInput as error:
        print(f"openrs: {error}", file=sys.stderr)
        return CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())

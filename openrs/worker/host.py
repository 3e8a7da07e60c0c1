"""Outside the container: starts a supervisor, passes a request to stop on to it, and waits for its exit code."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from openrs.worker.exits import DONE, INTERRUPTED
from openrs.worker.landing import landing
from openrs.worker.stop import TURN_SECONDS, StopRequest, child_setup, hurry_flag

LAUNCHER = "container.sh"
"""Beside the stage file where there is a container: starts its Python in it (slurm/container.*.sh.j2)."""


def run_supervisor(
    stage_path: Path, task: int | None, stop: StopRequest, handle: str, interrupted: Callable[[], None] = lambda: None
) -> int:
    """Runs one attempt to its end; returns the supervisor's exit code (negative: killed by that signal).

    The request to stop goes by a file in the submission's directory, which a container sees as well; a signal to the
    whole job step reaches the supervisor by itself and asks for the same thing. `interrupted` is called as soon as an
    attempt has been interrupted, before anything else is waited for: the scheduler's grace may be nearly over.
    """
    label = "" if task is None else f"{task}."
    stop_file = stage_path.parent / f"stop.{label}{secrets.token_hex(4)}"
    launcher = stage_path.parent / LAUNCHER
    python = ["bash", str(launcher)] if launcher.exists() else [sys.executable]
    command = [*python, "-m", "openrs.worker", str(stage_path), "--stop-file", str(stop_file)]
    command += [] if task is None else ["--task", str(task)]
    with landing(stage_path, stop) as send_rest:
        code = _attend(command, stop, stop_file, handle)
        if code == INTERRUPTED:
            interrupted()
        elif code == DONE:
            send_rest()
    return code


def _attend(command: list[str], stop: StopRequest, stop_file: Path, handle: str) -> int:
    child = subprocess.Popen(
        command,
        env={**os.environ, "OPENRS_HANDLE": handle},
        stdin=subprocess.DEVNULL,
        preexec_fn=child_setup(os.getpid()),
    )
    asked = hurried = False
    try:
        while child.poll() is None:
            if stop and not asked:
                asked = True
                try:
                    stop_file.touch()
                except OSError:  # a full disk must not cost the save
                    child.terminate()
            if stop.hurry and not hurried:
                hurried = True
                try:
                    hurry_flag(stop_file).touch()
                except OSError:
                    child.terminate()
            time.sleep(TURN_SECONDS)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        stop_file.unlink(missing_ok=True)
        hurry_flag(stop_file).unlink(missing_ok=True)
    return child.returncode

"""Evaluates checkpoints as they land, from inside the training job, where its node may send jobs."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from openrs.runs.directory import RunDirectory
from openrs.stage import StageFile, read
from openrs.worker.stop import StopRequest

PERIOD_SECONDS = 20.0
"""Between two looks at the checkpoints."""


@contextlib.contextmanager
def landing(stage_path: Path, stop: StopRequest) -> Iterator[Callable[[], None]]:
    """Sends each checkpoint's cells as soon as it is complete, if the run asked for that and this machine can.

    Yields what sends the rest, for when training is done; an attempt that is stopped leaves it to the next one. What
    cannot be sent is no reason to disturb training: `openrs watch` and `openrs resume` send it too.
    """
    stage = read(StageFile, stage_path)
    runs = _runs(stage)
    if runs is None:
        yield lambda: None
        return
    over, said = threading.Event(), set[str]()

    def look() -> None:
        from openrs.evals import land
        from openrs.runs import record

        try:
            if RunDirectory(Path(stage.run_dir)).is_cancelled(stage.submission):
                return
            land(runs, record.load(runs, stage.run))
        except Exception as error:  # whatever a scheduler, a full disk or another sending makes of it
            line = " ".join(str(error).split())[:300]
            if line not in said:
                said.add(line)
                hint = f"`openrs watch {stage.run}` sends them too"
                print(
                    f"openrs: cells of a checkpoint were not sent from here ({line}); {hint}",
                    file=sys.stderr,
                    flush=True,
                )

    def watch() -> None:
        while not over.wait(PERIOD_SECONDS) and not stop:
            look()

    def end() -> None:
        if not over.is_set():
            over.set()
            thread.join(timeout=120)

    def send_rest() -> None:
        end()
        look()

    thread = threading.Thread(target=watch, name="landing", daemon=True)
    thread.start()
    try:
        yield send_rest
    finally:
        end()


def _runs(stage: StageFile) -> Path | None:
    """The directory with the run's record, if it lies here, the run asked to be evaluated so, and jobs can be sent."""
    from openrs.errors import BadInput
    from openrs.runs import record

    runs = Path(stage.run_dir).parent
    if stage.kind != "train":
        return None
    try:
        known = record.load(runs, stage.run)
    except BadInput:  # the record lies on the user's side
        return None
    able = known.cluster.engine == "local" or shutil.which("sbatch") is not None
    return runs if known.as_they_land and able else None

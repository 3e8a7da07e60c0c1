"""Which steps are saved, and what becomes of it. All ranks call the same methods at the same places."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from openrs.runs.directory import RunDirectory
from openrs.runs.files import is_disk_full
from openrs.runs.lease import LeaseLost
from openrs.spec.canonical import canonical
from openrs.spec.experiment import Experiment
from openrs.training import checkpoint, journal
from openrs.training.checkpoint import Entry, Identity
from openrs.training.interval import Due, history
from openrs.training.observe import warn
from openrs.training.saver import POLL_SECONDS, Save, Write
from openrs.training.snapshot import Host, snapshot
from openrs.training.together import every_rank
from openrs.worker.rank import Rank


class Saving:
    """Starts checkpoints when they are due, and finds out how they ended."""

    def __init__(
        self,
        experiment: Experiment,
        run: RunDirectory,
        rank: Rank,
        ours: Identity,
        saved: int,
        recorded: Callable[[], bool],
    ) -> None:
        """`recorded` says on the first rank whether the metrics of all finished steps are on disk."""
        self._experiment, self._run, self._rank, self._ours = experiment, run, rank, ours
        self._due = Due(experiment.checkpoint, *history(run.ledger()))
        self._host = Host()
        self._save: Save | None = None
        self._recorded = recorded
        self.saved = saved
        """The last step of which a checkpoint is there or under way."""
        self.written = saved
        """The last step of which a checkpoint is there."""
        self._count = 0

    def after_step(self, trainer: Any) -> None:
        """Saves the step that has just ended, if that is due; training goes on as soon as it is copied.

        Raises OSError where the run needs that checkpoint, and the first rank has found no room for the metrics before it.
        """
        step = trainer.state.global_step
        needed = self._needed(step)
        [due, behind] = self._agree([self._rank.rank == 0 and self._due.is_due(step), self._behind()])
        if needed and behind:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._run.metrics))
        if needed or (due and not behind):
            self._begin(trainer, step)

    def _behind(self) -> bool:
        """Whether there are steps that are not in the metrics: no checkpoint may be newer than they."""
        return self._rank.rank == 0 and not self._recorded()

    def finish(self, trainer: Any) -> None:
        """Saves the last finished step, if there is one that is not saved, and returns when it is on disk.

        After a second request to stop it returns at once: what is in the journal need not be saved.
        """
        step = trainer.state.global_step
        [behind] = self._agree([self._behind()])
        if step > self.saved and not behind and self._wait() and step > self.saved:
            self._begin(trainer, step)
        self._wait()

    def _agree(self, flags: list[bool]) -> list[bool]:
        """For each flag, whether any rank has raised it. All ranks together."""
        return [any(column) for column in zip(*every_rank(self._rank, flags), strict=True)]

    def _needed(self, step: int) -> bool:
        """Whether the run cannot do without the checkpoint of this step."""
        return step == self._experiment.training.steps or step in self._experiment.evaluation.at_steps

    def _begin(self, trainer: Any, step: int) -> None:
        began = time.monotonic()
        if not self._wait():
            return
        self._count += 1
        directory = checkpoint.temporary(self._run.checkpoints, step, f"{self._rank.lease.nonce[:8]}-{self._count}")
        try:
            self._rank.check_lease()
            write = snapshot(trainer, directory, self._host)
        except LeaseLost:
            raise
        except Exception as caught:  # said where all ranks look for it
            write = _raiser(caught)
        self._save = Save(
            directory, step, write, rank=self._rank, ours=self._ours, sealed=self._log, tidy=lambda: self._tidy(step)
        )
        self.saved = step
        self._due.saved(time.monotonic() - began)

    def _wait(self) -> bool:
        """Until nothing is being written any more; False if a second request to stop came before."""
        while self._save is not None:
            [hurry] = self._agree([self._rank.hurry_requested()])
            if hurry:
                return False
            self.look()
            if self._save is not None:
                time.sleep(POLL_SECONDS)
        return True

    def look(self) -> None:
        """Notes how the save under way ended, once it has on all ranks. At the end of each step, before it is recorded.

        Raises what it failed with, unless that is a full disk and the run can do without that checkpoint.
        """
        save = self._save
        if save is None:
            return
        failed, busy = self._agree([save.error is not None, save.busy])
        if failed:
            self._save = None
            self._failed(save)
        elif not busy:
            self._save = None
            self._due.written(save.seconds)
            self.written = save.step

    def _failed(self, save: Save) -> None:
        """Ends a write that failed on some rank. All ranks raise, or none."""
        save.abandon()
        self.saved = min(self.saved, save.step - 1)
        error = save.error
        may_fail = not self._needed(save.step) and (error is None or is_disk_full(error))
        [fatal] = self._agree([not may_fail])
        save.remove()  # nobody writes there any more
        if fatal:
            raise error or OSError(f"another rank could not write the checkpoint of step {save.step}")
        if error is not None:
            warn(f"no room for the checkpoint of step {save.step} ({error}); going on without it")

    def _log(self, step: int, entries: dict[str, Entry]) -> None:
        # Of all but the one file that names the place of the base model, which is another in each run.
        content = canonical({name: entry._asdict() for name, entry in entries.items() if name != "config.json"})
        self._run.log(
            "saver",
            "checkpoint",
            attempt=self._rank.attempt,
            step=step,
            size=sum(entry.size for entry in entries.values()),
            digest=xxhash.xxh3_128_hexdigest(content.encode()),
        )

    def _tidy(self, step: int) -> None:
        """Removes older checkpoints, and of the journal what the oldest one that a run may fall back to covers."""
        self._rank.check_lease()
        checkpoint.prune(
            self._run.checkpoints, step, self._experiment.checkpoint.keep, self._experiment.evaluation.at_steps
        )
        left = [number for number in checkpoint.complete_in(self._run.checkpoints) if number <= step]
        journal.prune(self._run.journal, min(left[-self._experiment.checkpoint.keep :]))


def _raiser(error: Exception) -> Write:
    def write() -> list[Path]:
        raise error

    return write

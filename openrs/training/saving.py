"""Writing a checkpoint from a running trainer: all ranks together, and a full disk only where it must cost the run."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from openrs.runs.directory import RunDirectory
from openrs.runs.lease import LeaseLost
from openrs.spec.experiment import Experiment
from openrs.training import checkpoint
from openrs.training.together import any_rank, shared
from openrs.worker.rank import Rank


class Saver:
    """Writes the checkpoints of one run. `saved` is the last step that has one."""

    def __init__(self, experiment: Experiment, experiment_hash: str, run: RunDirectory, rank: Rank, saved: int) -> None:
        self._experiment, self._hash, self._run, self._rank = experiment, experiment_hash, run, rank
        self.saved = saved

    def save_if_due(self, trainer: Any) -> None:
        """Saves the last finished step if the spec asks for it."""
        step, spec = trainer.state.global_step, self._experiment
        needed = step == spec.training.steps or step in spec.evaluation.at_steps
        if needed or step % spec.checkpoint.every_steps == 0:
            self._save(trainer, may_fail=not needed)

    def save_at_stop(self, trainer: Any) -> None:
        """Saves the last finished step, if there is one that is not saved; a full disk only costs the steps since."""
        if trainer.state.global_step > self.saved:
            self._save(trainer, may_fail=True)

    def _save(self, trainer: Any, may_fail: bool) -> None:
        """Writes the checkpoint of the last finished step, and removes older ones. All ranks together.

        Raises what the write raised, unless it is a full disk and the run can do without this checkpoint.
        """
        step = trainer.state.global_step
        directory = Path(shared(self._rank, str(checkpoint.temporary(self._run.checkpoints, step))))
        directory.mkdir(parents=True, exist_ok=True)
        error: Exception | None = None
        try:
            self._rank.check_lease()
            self._write(trainer, directory)
        except LeaseLost:
            raise
        except Exception as caught:  # torch and safetensors have their own types for a full disk
            error = caught
        failed = any_rank(self._rank, error is not None)
        if not failed and self._rank.rank == 0:
            try:
                checkpoint.commit(
                    directory,
                    step,
                    experiment_hash=self._hash,
                    world=self._rank.world,
                    before_rename=self._rank.check_lease,
                )
                self._rank.check_lease()
                checkpoint.prune(
                    self._run.checkpoints, step, self._experiment.checkpoint.keep, self._experiment.evaluation.at_steps
                )
            except OSError as caught:
                error = caught
        if not any_rank(self._rank, error is not None):
            self.saved = step
            return
        if self._rank.rank == 0:
            shutil.rmtree(directory, ignore_errors=True)
        if error is None:
            if may_fail:
                return  # another rank has said why
            raise OSError(f"another rank could not write the checkpoint of step {step}")
        if not (may_fail and checkpoint.is_disk_full(error)):
            raise error
        print(f"warning: no room for the checkpoint of step {step} ({error}); going on without it", file=sys.stderr)

    def _write(self, trainer: Any, directory: Path) -> None:
        if self._rank.rank == 0:
            trainer.accelerator.unwrap_model(trainer.model).save_pretrained(directory)
            trainer.processing_class.save_pretrained(directory)
            trainer.state.save_to_json(str(directory / "trainer_state.json"))
        trainer._save_optimizer_and_scheduler(str(directory))

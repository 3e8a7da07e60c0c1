"""Steps that an earlier attempt has drawn and judged are taken from the journal, by all ranks or by none."""

from __future__ import annotations

from openrs.runs.directory import RunDirectory
from openrs.runs.files import is_disk_full
from openrs.training.journal import Journal, Missing, Unusable
from openrs.training.observe import warn
from openrs.training.phases import JOURNAL, phase
from openrs.training.rollout import Rollout
from openrs.training.together import every_rank


class Replay:
    """One rank's hand on the journal."""

    def __init__(self, journal: Journal, run: RunDirectory) -> None:
        self._journal, self._run, self._rank = journal, run, journal.rank

    def keep(self, step: int, rollout: Rollout) -> None:
        """Makes durable what `step` is about to be trained on. A full disk costs its replay, not the run. Raises OSError."""
        try:
            with phase(JOURNAL):
                self._journal.write(step, rollout.to_json())
        except OSError as error:
            if not is_disk_full(error):
                raise
            warn(f"no room for the journal of step {step} ({error}); going on without it")

    def take(self, step: int, rows: list[int]) -> Rollout | None:
        """What was kept for `step`, which trains on the problems `rows`, if every rank has it. All ranks together.

        The ledger names every step that is replayed, and every entry that is there and cannot be used.
        """
        rollout, reason = None, None
        try:
            rollout = self._read(step, rows)
        except Missing:
            pass
        except Unusable as unusable:
            reason = f"rank {self._rank.rank}: {unusable}"
        found = every_rank(self._rank, (rollout is not None, reason))
        reasons = [text for _, text in found if text is not None]
        complete = all(usable for usable, _ in found)
        if self._rank.rank == 0 and (reasons or complete):
            self._rank.check_lease()
            event = "replayed" if complete else "not replayed"
            self._run.log("trainer", event, attempt=self._rank.attempt, step=step, reasons=reasons)
        return rollout if complete else None

    def _read(self, step: int, rows: list[int]) -> Rollout:
        content = self._journal.read(step)
        try:
            rollout = Rollout.from_json(content)
        except (KeyError, TypeError):
            raise Unusable("not the completions of a step") from None
        if [group.row for group in rollout.groups] != rows:
            raise Unusable("of other problems")
        return rollout

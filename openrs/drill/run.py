"""The client's side of a drill: one run without a disturbance, then runs that are killed until all kills are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openrs import launch
from openrs.drill import evidence
from openrs.drill.evidence import Evidence
from openrs.drill.instants import VARIABLE, Kill, Orders, largest_gap
from openrs.errors import OpenRSError
from openrs.pull import pull
from openrs.runs.directory import RunDirectory
from openrs.runs.record import Record
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment
from openrs.spec.load import load_experiment
from openrs.status import RunStatus, status
from openrs.training.phases import PHASES

TINY = Path(__file__).parent / "tiny.yaml"

SPARE_ATTEMPTS = 5
"""So often may a run need to be resumed without having been killed by us before it counts as failed."""

Say = Callable[[str], None]


@dataclass
class Trial:
    """One disturbed run."""

    run: str
    kills: list[tuple[Kill, str]] = field(default_factory=list)
    lost: evidence.Lost = field(default_factory=evidence.Lost)
    differences: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What a drill has found."""

    cluster: str
    asked: int
    every_steps: int
    undisturbed: str
    trials: list[Trial] = field(default_factory=list)

    @property
    def done(self) -> list[Kill]:
        """Kills that were carried out."""
        return [kill for trial in self.trials for kill, _ in trial.kills]

    @property
    def recovered(self) -> int:
        """Kills in runs that ended as if nothing had happened."""
        return sum(len(trial.kills) for trial in self.trials if not trial.differences)

    @property
    def allowed(self) -> int:
        """Steps that one kill may cost: those since the last save, while the next one is being written."""
        return 2 * self.every_steps

    @property
    def passed(self) -> bool:
        """Whether every kill was carried out, every run ended equal, and no kill cost more than it may."""
        return self.recovered == self.asked and all(
            trial.lost.most <= self.allowed and not trial.lost.generations for trial in self.trials
        )

    def to_json(self) -> dict[str, Any]:
        """All of it."""

        def same(what: str) -> bool:
            return not any(text.startswith((what, "run:")) for trial in self.trials for text in trial.differences)

        by_phase = {phase: [kill for kill in self.done if kill.phase == phase] for phase in PHASES}
        return {
            "passed": self.passed,
            "cluster": self.cluster,
            "kills": {"asked": self.asked, "done": len(self.done), "recovered": self.recovered},
            "phases": {
                phase: {
                    "kills": len(kills),
                    "power_cuts": sum(kill.power_cut for kill in kills),
                    "with_supervisor": sum(kill.supervisor for kill in kills),
                    "largest_gap": round(largest_gap([kill.share for kill in kills]), 3),
                }
                for phase, kills in by_phase.items()
            },
            "equal": {what: same(what) for what in ("weights", "metrics", "completions")},
            "lost": {
                "steps": sum(trial.lost.steps for trial in self.trials),
                "most_steps": max((trial.lost.most for trial in self.trials), default=0),
                "allowed_steps": self.allowed,
                "generations": sum(trial.lost.generations for trial in self.trials),
            },
            "undisturbed": self.undisturbed,
            "runs": [
                {
                    "run": trial.run,
                    "kills": [{**kill.model_dump(), "at": at} for kill, at in trial.kills],
                    "lost": asdict(trial.lost),
                    "differences": trial.differences,
                }
                for trial in self.trials
            ],
        }


class Drill:
    """A drill on one cluster. `run` may take minutes to hours: a training process starts once for every kill."""

    def __init__(
        self,
        cluster: Cluster,
        runs: Path,
        *,
        every_steps: int = 1,
        ranks: int = 1,
        save_seconds: float = 0.0,
        overrides: list[str] | None = None,
        say: Say = lambda text: None,
        period: float = 0.2,
    ) -> None:
        """`save_seconds` makes each save last so long, as on a slow file system."""
        self._cluster, self._runs, self._say, self._period = cluster, runs, say, period
        self._every, self._save_seconds = every_steps, save_seconds
        steps = max(12, 4 * every_steps)
        settings = {
            "training.steps": steps,
            "training.prompts_per_step": 4 * ranks,
            "checkpoint.every_steps": every_steps,
            "resources.cpu_ranks": ranks,
        }
        sets = [f"{field}={value}" for field, value in settings.items()]
        self._experiment = load_experiment(str(TINY), [*sets, *(overrides or [])], called="the drill's experiment")
        self._current: Record | None = None
        """The run that is under way."""

    def run(self, kills: list[Kill]) -> Outcome:
        """Carries the kills out, one after the other.

        Raises OpenRSError where the cluster does not do its part, or the undisturbed run fails. Interrupted, it cancels what
        is under way.
        """
        done: list[Trial] = []
        try:
            return self._run(kills, done)
        except KeyboardInterrupt:
            self._stop(sum(len(trial.kills) for trial in done), len(kills))
            raise

    def _stop(self, kills: int, asked: int) -> None:
        """Cancels the run that is under way, if there is one."""
        record = self._current
        if record is None:
            self._say(f"openrs: interrupted after {kills} of {asked} kills")
            return
        kills += len(evidence.kills(RunDirectory(Path(record.dir))))
        self._say(f"openrs: interrupted after {kills} of {asked} kills; cancelling {record.run}")
        try:
            launch.cancel(self._runs, record.run)
        except OpenRSError as error:
            self._say(f"openrs: {error}")

    def _run(self, kills: list[Kill], trials: list[Trial]) -> Outcome:
        whole = self._send(Orders())
        self._await(whole, resume=False)
        typical = evidence.measured(self._directory(whole))
        missing = [phase for phase in PHASES if phase not in typical]
        if missing:
            raise OpenRSError(
                f"run {whole.run}: it never came to the phase {missing[0]}; there is nothing to kill it in"
            )
        baseline = evidence.evidence(self._directory(whole))
        outcome = Outcome(self._cluster.name, len(kills), self._every, whole.run, trials)
        remaining = kills
        while remaining:
            trial = self._trial(Orders(kills=remaining, typical=typical, save_seconds=self._save_seconds), baseline)
            outcome.trials.append(trial)
            self._say(
                f"{trial.run}: {len(trial.kills)} kills, {'; '.join(trial.differences) or 'equal'}; "
                f"{len(outcome.done)} of {len(kills)} done"
            )
            if not trial.kills:
                break
            remaining = remaining[len(trial.kills) :]
        return outcome

    def _trial(self, orders: Orders, baseline: Evidence) -> Trial:
        record = self._send(orders)
        trial = Trial(record.run)
        try:
            self._await(record, resume=True)
        except OpenRSError as error:
            trial.differences.append(f"run: {error}")
            self._current = None
        directory = self._directory(record)
        trial.kills, trial.lost = evidence.kills(directory), evidence.lost(directory)
        trial.differences += evidence.broken(directory)
        if not trial.differences:
            trial.differences = evidence.differences(
                baseline, evidence.evidence(directory), self._experiment.training.steps
            )
        return trial

    def _send(self, orders: Orders) -> Record:
        environment = {**self._experiment.environment, VARIABLE: orders.model_dump_json()}
        experiment: Experiment = self._experiment.model_copy(update={"environment": environment})
        self._current = launch.submit(experiment, self._cluster, self._runs)
        return self._current

    def _await(self, record: Record, *, resume: bool) -> None:
        """Until the run is complete, resumed whenever it is not. Raises OpenRSError where that does not help."""
        spare = SPARE_ATTEMPTS
        while True:
            ended = self._ended(record)
            if ended.state == "SUCCEEDED":
                self._current = None
                return
            reason = next((stage.reason for stage in ended.stages if stage.reason), "no reason is known")
            killed = len(evidence.kills(self._directory(record)))
            if not resume or ended.state == "CANCELLED":
                raise OpenRSError(f"{record.run} is {ended.state}: {reason}")
            if killed < ended.attempts:
                spare -= 1
                if not spare:
                    raise OpenRSError(f"{record.run} ended {SPARE_ATTEMPTS} times without being killed: {reason}")
            record = launch.resume(self._runs, record.run)

    def _ended(self, record: Record) -> RunStatus:
        while True:
            (found,) = status([record])
            if found.state.ended:
                return found
            time.sleep(self._period)

    def _directory(self, record: Record) -> RunDirectory:
        """The run's directory here, with all that its cluster has of it."""
        pull(record)
        return RunDirectory(Path(record.dir))

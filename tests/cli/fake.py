"""An engine without a scheduler, for tests of the command line alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from openrs.engines import Artifacts, Job, JobInfo, JobState, LogGone, NodeAway, Place, PodLog, common_files
from openrs.errors import OpenRSError
from openrs.plan import Plan
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment


@dataclass
class Pod:
    """A pod of a remote engine, with what it has printed: (time, line)."""

    name: str
    handle: str
    task: int | None = None
    running: bool = True
    lines: list[tuple[str, str]] = field(default_factory=list)
    away: bool = False
    """Its node does not answer."""
    gone: bool = False
    """It was listed a moment ago, and went before it was read."""
    reads: list[str | None] = field(default_factory=list)
    """What `read` was asked for."""

    def read(self, since: str | None) -> str:
        self.reads.append(since)
        if self.away:
            raise NodeAway(f"pod {self.name}: its node does not answer (no route to host)")
        if self.gone:
            raise LogGone(f"pod {self.name} is gone")
        # Like a kubelet: times of nanoseconds, and `since` in whole seconds.
        return "".join(f"{time} {line}\n" for time, line in self.lines if since is None or time[:19] >= since[:19])


@dataclass
class Scheduler:
    """What it is told to answer, and what it was asked."""

    states: dict[str, JobInfo] = field(default_factory=dict)
    """Stage name → answer; PENDING without one."""
    refusal: str | None = None
    """Reason to refuse every submission."""
    queries: list[list[Job]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    """Of a remote engine, oldest first."""
    files: dict[str, str] = field(default_factory=dict)
    """Path → content of the run directory that only a remote engine sees."""
    released: list[list[str]] = field(default_factory=list)
    """What each call of `release` was asked about."""
    server: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Answer of a remote engine's `changes`."""
    on_query: Callable[[int], None] = lambda _number: None
    """Called with the number of the query before it is answered: time passes."""

    def set(self, **states: JobState) -> None:
        """The states of these stages, and no reasons."""
        self.states |= {name: JobInfo(state) for name, state in states.items()}


class FakeEngine:
    """Handles are `<submission>-<stage>`."""

    scheduler: ClassVar[Scheduler] = Scheduler()

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def render(self, experiment: Experiment, plan: Plan, place: Place) -> Artifacts:
        return Artifacts(place, plan, common_files(experiment, plan, place, self.cluster))

    def submit(self, artifacts: Artifacts) -> dict[str, str]:
        if self.scheduler.refusal:
            raise OpenRSError(self.scheduler.refusal)
        return {stage.name: f"{artifacts.place.submission}-{stage.name}" for stage in artifacts.plan.stages}

    def inspect(self, jobs: list[Job]) -> dict[str, JobInfo]:
        self.scheduler.queries.append(jobs)
        self.scheduler.on_query(len(self.scheduler.queries))
        pending = JobInfo(JobState.PENDING)
        return {job.handle: self.scheduler.states.get(job.handle.partition("-")[2], pending) for job in jobs}

    def cancel(self, jobs: list[Job], grace: int) -> None:
        self.scheduler.cancelled += [job.handle for job in jobs]


class FakeRemoteEngine(FakeEngine):
    """The same, as if the client did not see the run directories, and with the spec inside each stage's file.

    A fake: that a real Kubernetes answers like this is tested in tests/engines/test_kubernetes_cli.py.
    """

    def render(self, experiment: Experiment, plan: Plan, place: Place) -> Artifacts:
        artifacts = super().render(experiment, plan, place)
        del artifacts.files["spec.json"]
        return artifacts

    def logs(self, jobs: list[Job]) -> list[PodLog]:
        handles = {job.handle for job in jobs}
        return [
            PodLog(pod.name, pod.handle, pod.task, pod.running, partial(pod.read))
            for pod in self.scheduler.pods
            if pod.handle in handles
        ]

    def pull(self, place: Place, target: Path) -> int:
        if not self.scheduler.files:
            raise OpenRSError(f"the run directory {place.directory} is not there")
        for name, content in self.scheduler.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text(content)
        return len(self.scheduler.files)

    def release(self, jobs: list[Job]) -> list[str]:
        self.scheduler.released.append([job.handle for job in jobs])
        return []

    def retire(self, run: str) -> None:
        pass

    def changes(self, artifacts: Artifacts) -> dict[str, tuple[str, str]]:
        return self.scheduler.server

"""An engine without a scheduler, for tests of the command line alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from openrs.engines import Artifacts, Job, JobInfo, JobState, Place, common_files
from openrs.errors import OpenRSError
from openrs.plan import Plan
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment


@dataclass
class Scheduler:
    """What it is told to answer, and what it was asked."""

    states: dict[str, JobInfo] = field(default_factory=dict)
    """Stage name → answer; PENDING without one."""
    refusal: str | None = None
    """Reason to refuse every submission."""
    queries: list[list[Job]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
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

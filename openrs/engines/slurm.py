"""Engine `slurm`: job scripts from `slurm/job.sbatch.j2`, sent through submitit, which keeps them as they are.

sbatch(1), srun(1), scontrol(1) of Slurm 22.05 and later.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path

from openrs.engines import Artifacts, Job, JobInfo, JobState, Place, check_setup, common_files
from openrs.engines import slurm_container as container
from openrs.engines.slurm_query import EXPORTED, inspect, job_name, run, take_back
from openrs.errors import BadInput
from openrs.plan import Plan, Stage
from openrs.resources import template
from openrs.spec.cluster import SLURM_GPU_TYPE, Cluster
from openrs.spec.experiment import Spec
from openrs.worker.host import LAUNCHER

_PLAIN = re.compile(r"^[A-Za-z0-9_@%+=:,./\-\[\]&|*()!]+$")


class SlurmEngine:
    """A Slurm cluster. A handle is the job id, for an array without index."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def render(self, experiment: Spec, plan: Plan, place: Place) -> Artifacts:
        """Spec, stage files, cells files and one job script a stage."""
        for name, reference in experiment.secrets.items():
            if not reference.startswith("file:"):
                raise BadInput(
                    f"secrets.{name} = {reference}: on Slurm use file:PATH with mode 0600; a job's environment may be stored by accounting"
                )
        if self.cluster.container is not None:
            container.check_secrets(experiment.secrets, self.cluster)
        files = common_files(experiment, plan, place, self.cluster)
        for stage in plan.stages:
            files[f"{stage.name}/job.sbatch"] = self._script(stage, plan, place, experiment.recovery.grace_seconds)
            if self.cluster.container is not None:
                files[f"{stage.name}/{LAUNCHER}"] = container.launcher(stage, place, self.cluster)
        return Artifacts(place, plan, files)

    def _script(self, stage: Stage, plan: Plan, place: Place, grace: int) -> str:
        check_setup(self.cluster)
        submission = place.directory / "submission" / str(place.submission)
        python = self.cluster.python or sys.executable
        return template("slurm", "job.sbatch.j2").render(
            run=place.run,
            stage=stage,
            plan=plan,
            submission=place.submission,
            directives=self._directives(stage, plan, place, grace),
            setup=self.cluster.setup,
            code=shlex.quote(str(submission / "code")),
            command=shlex.join(
                [python, "-u", "-m", "submitit.core._submit", str(submission / stage.name / "submitit")]
            ),
            cpus=stage.resources.cpus,
            container=self.cluster.container,
            step_of_its_own=self.cluster.container in container.IN_A_STEP,
        )

    def _directives(self, stage: Stage, plan: Plan, place: Place, grace: int) -> list[str]:
        """The `#SBATCH` options, in reading order."""
        cluster, resources = self.cluster, stage.resources
        kind = resources.gpu_type
        if resources.gpus and kind and not SLURM_GPU_TYPE.fullmatch(kind):
            raise BadInput(
                f"resources.gpu_type = {kind!r} (stage {stage.name}) is not Slurm's word for a GPU (`sinfo -o %G`); translate it "
                f'in cluster {cluster.name}: gpu_types = {{"{kind}" = "a40"}}'
            )
        gpus = f"{kind}:{resources.gpus}" if kind else str(resources.gpus)
        pattern = "%A_%a" if stage.tasks is not None else "%j"
        logs = place.directory / "logs" / stage.name
        comment = f"openrs run={place.run} stage={stage.name} experiment={plan.experiment} spec={plan.hash}"
        options: list[tuple[str, str | None]] = [
            ("job-name", job_name(place.run, stage.name, place.submission)),
            ("comment", " ".join(filter(None, [comment, cluster.comment]))),
            ("partition", cluster.partition),
            ("account", cluster.account),
            ("qos", cluster.qos),
            ("constraint", cluster.constraint),
            ("exclude", cluster.exclude),
            ("array", f"0-{len(stage.tasks) - 1}%{stage.parallel}" if stage.tasks is not None else None),
            ("nodes", "1"),
            ("ntasks", "1"),
            ("cpus-per-task", str(resources.cpus)),
            ("mem", f"{resources.memory_gb}G" if cluster.request_memory else None),
            ("gres", f"gpu:{gpus}" if resources.gpus and cluster.gpu_request == "gres" else None),
            ("gpus-per-node", gpus if resources.gpus and cluster.gpu_request == "gpus-per-node" else None),
            ("time", slurm_time(resources.minutes)),
            ("signal", f"USR2@{min(grace, resources.minutes * 30, 65535)}"),
            ("output", log_pattern(logs, f"slurm-{pattern}.out")),
            ("mail-user", cluster.mail_user),
            ("mail-type", cluster.mail_type),
            ("export", ",".join(EXPORTED)),
        ]
        lines = [f"--{name}={quote(name, value)}" for name, value in options if value is not None]
        return [*lines, "--requeue", "--open-mode=append", *cluster.extra]

    def submit(self, artifacts: Artifacts) -> dict[str, str]:
        """One sbatch a stage; dependencies go on its command line, since only Slurm knows the ids."""
        from openrs.engines.slurm_submitit import send

        run(["sbatch", "--version"])
        place, handles = artifacts.place, dict[str, str]()
        directory = place.directory / "submission" / str(place.submission)
        try:
            for stage in artifacts.plan.stages:
                after = ":".join(handles[name] for name in stage.after)
                options = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
                script = artifacts.files[f"{stage.name}/job.sbatch"]
                handles[stage.name] = send(directory / stage.name, script, options, stage)
        except BaseException:
            if handles:
                take_back(handles.values())
            raise
        return handles

    def inspect(self, jobs: list[Job]) -> dict[str, JobInfo]:
        """State of all jobs by one squeue, and one sacct for what it has forgotten."""
        return inspect(jobs)

    def cancel(self, jobs: list[Job], grace: int) -> None:
        """Removes what waits, asks what runs to stop, waits for the save, then removes it."""
        ids = [handle for handle, info in inspect(jobs).items() if info.state in (JobState.PENDING, JobState.RUNNING)]
        if not ids:
            return
        run(["scancel", "--state=PENDING", *ids], tolerate=("Invalid job id",))
        run(
            ["scancel", "--signal=TERM", *ids],
            tolerate=("Invalid job id", "already completing", "not yet begun", "Job/step already"),
        )
        deadline = time.monotonic() + grace + 10
        while any(info.state == JobState.RUNNING for info in inspect(jobs).values()) and time.monotonic() < deadline:
            time.sleep(1)
        run(["scancel", *ids], tolerate=("Invalid job id", "already completing", "Job/step already"))


def slurm_time(minutes: int) -> str:
    """`D-HH:MM:SS`, as sbatch's --time takes it."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00"


def quote(option: str, value: str) -> str:
    """`value` so that sbatch reads it back unchanged from a directive. Raises BadInput for what no quoting can carry.

    sbatch's own rule, not the shell's: a backslash escapes also inside quotes, `#` begins a comment outside of them.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise BadInput(f"{option}: {value!r} has a control character, which a Slurm directive cannot carry")
    if _PLAIN.match(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def log_pattern(directory: Path, pattern: str) -> str:
    """A path below `directory` in sbatch's file name patterns, where `%` is special and a backslash switches them off."""
    if "\\" in str(directory):
        raise BadInput(f"--runs: {str(directory)!r} has a backslash, which Slurm's log file names cannot carry")
    if taken := re.search("%[jtAa]", str(directory)):
        raise BadInput(f"--runs: {str(directory)!r} has {taken[0]}, which submitit takes for a job's id")
    return f"{str(directory).replace('%', '%%')}/{pattern}"

"""The seam to submitit: it sends our script text unchanged and starts HostStage in the job.

submitit 1.5.4 builds its own script, sends arrays through a plain SlurmExecutor, and makes an array of one cell a single
job; all three would break "what is submitted is what was rendered".
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths

from openrs.engines.slurm_query import EXPORTED, take_back
from openrs.errors import BadInput, OpenRSError
from openrs.plan import Stage
from openrs.worker.slurm import HostStage

NO_TIMEOUT_CAP = 10**6
"""submitit counts some preemptions as timeouts; the ledger caps attempts instead."""

_WAYS_OUT = (
    # sbatch's words (Slurm 22.05 and later) → the profile's field
    (
        r"submitjobs?\w*limit",
        "as many jobs wait as this account or QOS allows: send it later, or put more into each job (cells_per_task and "
        "array_limit in the cluster profile)",
    ),
    (r"invalid partition|partition .*not", "partition: set it in the cluster profile to one that `sinfo` shows"),
    (r"invalid account", "account: set it in the cluster profile; `sacctmgr show associations user=$USER` lists yours"),
    (r"invalid qos", "qos: set it in the cluster profile; `sacctmgr show qos` lists them"),
    (
        r"node configuration is not available|generic resource|\bgres\b",
        "resources: no node offers these GPUs, CPUs and memory together (`sinfo -o '%N %c %m %G'`); change gpu_types "
        '(A40 = "" where GPUs have no type) or gpu_request in the cluster profile, or the experiment\'s resources',
    ),
    (
        r"memory specification",
        "resources.memory_gb: more than a node has; or request_memory = false in the cluster profile",
    ),
    (r"invalid feature|feature", "constraint: set it in the cluster profile to features that `sinfo -o '%N %f'` shows"),
    (
        r"walldurationperjoblimit|time limit(?!s\))",
        "resources.minutes: more than the partition allows; set max_minutes in the cluster profile, the run goes on in the next attempt",
    ),
    (
        r"invalid job array",
        "array_limit: set it in the cluster profile to the site's MaxArraySize - 1 (`scontrol show config`)",
    ),
    (r"node count|invalid node name", "exclude: set it in the cluster profile to nodes that `sinfo -N` shows"),
    (r"unrecognized option|invalid --", "extra: the cluster profile has an option that this sbatch does not know"),
    (r"unable to contact|connection refused|socket timed out|connect failure", "is slurmctld running? `scontrol ping`"),
)


class ScriptExecutor(SlurmExecutor):
    """Sends one given script, as it is."""

    def __init__(self, folder: Path, script: str, options: list[str]) -> None:
        super().__init__(folder, max_num_timeout=NO_TIMEOUT_CAP)
        self._script = script
        self._options = options
        self.accepted: list[str] = []
        """Job ids, from the moment that sbatch has said them: submitit still writes files after that."""

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._script

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        """An sbatch that sees only what the job is to get, and passes on all of it.

        SBATCH_* would override the script's directives, SLURM_* of a surrounding job would leak into this one. The list in
        the script is for who sends it by hand: with a list, slurmd also runs the user's login files on the node (sbatch(1),
        --get-user-env), which may set anything, and take minutes.
        """
        given = [f"{name}={os.environ[name]}" for name in (*EXPORTED, "SLURM_CONF") if name in os.environ]
        clusters = os.environ.get("SLURM_CLUSTERS")
        options = ["--export=ALL", *([f"--clusters={clusters}"] if clusters else []), *self._options]
        return ["env", "-i", *given, "sbatch", *options, str(submission_file_path)]

    def _get_job_id_from_submission_command(self, string: bytes | str) -> str:  # type: ignore[override]
        said = string.decode(errors="replace") if isinstance(string, bytes) else string
        # A site may print its own lines about jobs before sbatch's.
        ids = re.findall(r"^Submitted batch job (\d+)", said, re.MULTILINE)
        if not ids:
            raise FailedSubmissionError(f"sbatch did not say a job id, but: {' '.join(said.split())[:300]}")
        self.accepted.append(ids[-1])
        return self.accepted[-1]

    def send_array(self, stage_file: str, tasks: int) -> str:
        """Sends an array and gives every element its (identical) pickle. Returns the array's job id."""
        pickle = JobPaths.get_first_id_independent_folder(self.folder) / "stage.pkl"
        pickle.parent.mkdir(parents=True, exist_ok=True)
        call = DelayedSubmission(HostStage(), stage_file)
        call.set_timeout(1, self.max_num_timeout)
        call.dump(pickle)
        job: Any = self._submit_command(self._submitit_command_str)
        for index in range(tasks):
            target = JobPaths(self.folder, job_id=f"{job.job_id}_{index}").submitted_pickle
            try:
                os.link(pickle, target)
            except OSError:  # a file system without hard links
                shutil.copyfile(pickle, target)
        return str(job.job_id)


def send(directory: Path, script: str, options: list[str], stage: Stage) -> str:
    """Sends the script of a stage; returns the job id. Raises BadInput with the option to change, or OpenRSError.

    Nothing is left in the queue where it fails after sbatch: a full disk, Ctrl-C among a thousand links.
    """
    executor = ScriptExecutor(directory / "submitit", script, options)
    stage_file = str(directory / "stage.json")
    try:
        if stage.tasks is not None:
            return executor.send_array(stage_file, len(stage.tasks))
        return str(executor.submit(HostStage(), stage_file).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        raise _refusal(stage.name, str(error)) from None
    except BaseException:
        if executor.accepted:
            take_back(executor.accepted)
        raise


def _refusal(stage: str, text: str) -> OpenRSError:
    """Sbatch's refusal in one line, with the way out."""
    said = [
        line.partition("error: ")[2] or line for line in text.splitlines() if "error" in line or "unrecognized" in line
    ] or text.strip().splitlines()[-1:]
    words = "; ".join(line.strip() for line in said)
    # Slurm's verdict is its last line, and a line of one word the exact reason; what else there is are the site's words.
    verdict = " ".join([*(line for line in said[:-1] if line.strip().isalnum()), said[-1]]).lower()
    for pattern, way_out in _WAYS_OUT:
        if re.search(pattern, verdict):
            return BadInput(f"Slurm refuses stage {stage}: {words}; {way_out}")
    return OpenRSError(f"Slurm refuses stage {stage}: {words}")

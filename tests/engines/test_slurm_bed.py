"""What the engine does with a real Slurm: what it sends, how it reads answers, how it words refusals.

No training here: exp3 asks for GPUs that no test machine has, so its jobs end within a second, as they should.
"""

from __future__ import annotations

import errno
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openrs import launch
from openrs import plan as planning
from openrs.engines import Artifacts, Job, JobState
from openrs.engines.slurm import SlurmEngine, quote
from openrs.engines.slurm_query import EXPORTED, inspect
from openrs.engines.slurm_submitit import ScriptExecutor, _refusal
from openrs.errors import BadInput, OpenRSError
from openrs.plan import checkpoint_id
from openrs.runs.record import Record
from openrs.spec.cluster import Cluster
from openrs.spec.load import load_cluster, load_experiment
from openrs.stage import Cell
from openrs.status import status
from tests.testbed.slurm import SlurmBed

pytestmark = pytest.mark.slurm

EXP3 = load_experiment(
    "exp3", ["recovery.node_fault_retries=0", "evaluation.benchmarks=[{extends: math_500, full_seeds: null}]"]
)
PROFILE = Cluster.model_validate({**load_cluster("slurm").model_dump(), "lease_seconds": 4})


def profile(**fields: object) -> Cluster:
    return Cluster.model_validate({**PROFILE.model_dump(), **fields})


@pytest.fixture
def bed(slurm_bed: SlurmBed, monkeypatch: pytest.MonkeyPatch) -> SlurmBed:
    slurm_bed.reset()
    for name, value in slurm_bed.env.items():
        monkeypatch.setenv(name, value)
    return slurm_bed


@pytest.fixture
def held(bed: SlurmBed, monkeypatch: pytest.MonkeyPatch) -> SlurmBed:
    """Jobs wait in the queue: no node takes any."""
    bed.run("scontrol", "update", "partitionname=main", "state=down")
    bed.run("scontrol", "update", "partitionname=scavenge", "state=down")
    return bed


@pytest.fixture(autouse=True)
def _open_again(slurm_bed: SlurmBed) -> object:
    yield
    for job in slurm_bed.run("squeue", "-h", "-o", "%A").split():
        slurm_bed.call("scancel", job)
    for partition in ("main", "scavenge"):
        slurm_bed.run("scontrol", "update", f"partitionname={partition}", "state=up")


def wait_for(record: Record, state: JobState, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while status([record])[0].state != state:
        assert time.monotonic() < deadline, status([record])
        time.sleep(0.5)


@pytest.mark.parametrize("cells", [1, 3])
def test_what_is_submitted_is_what_was_rendered(held: SlurmBed, tmp_path: Path, cells: int) -> None:
    experiment = load_experiment("exp3", [f"evaluation.at_steps={[50, 100, 150][:cells]}", "evaluation.benchmarks=[]"])
    experiment = experiment.model_copy(
        update={"evaluation": experiment.evaluation.model_copy(update={"benchmarks": EXP3.evaluation.benchmarks[:1]})}
    )
    rendered = launch.render(experiment, PROFILE, tmp_path / "runs", "same")
    record = launch.submit(experiment, PROFILE, tmp_path / "runs", "same")
    for stage in record.submissions[0].stages:
        assert held.batch_script(stage.handle) == rendered.files[f"{stage.name}/job.sbatch"]
        jobs = held.jobs(stage.handle)
        assert all(job["JobName"] == f"same-{stage.name}-1" for job in jobs)
        assert all("run=same" in job["Comment"] and record.hash in job["Comment"] for job in jobs)
    by_name = {stage.name: stage for stage in record.submissions[0].stages}
    train = held.job(by_name["train"].handle)
    assert "gres/gpu:a40=4" in train["TRES"] or "gres:gpu:a40:4" in train["TresPerNode"]
    assert f"afterok:{by_name['train'].handle}" in held.job(by_name["eval"].handle)["Dependency"]
    assert held.job(by_name["eval"].handle)["ArrayTaskId"] == {1: "0%1", 3: "0-2%3"}[cells]
    for name, content in rendered.files.items():
        assert (tmp_path / "runs" / "same" / "submission" / "1" / name).read_text() == content
    held.run("sbatch", "--test-only", str(tmp_path / "runs/same/submission/1/train/job.sbatch"))


def test_no_gpu_ends_with_one_line_that_says_what_to_do(bed: SlurmBed, tmp_path: Path) -> None:
    record = launch.submit(EXP3, PROFILE, tmp_path / "runs", "nogpu")
    wait_for(record, JobState.FAILED)
    train = next(stage for stage in status([record])[0].stages if stage.name == "train")
    assert train.state == JobState.FAILED
    assert "offers 0 of the 4 GPUs" in train.reason
    assert "openrs resume nogpu" in train.reason
    eval_stage = next(stage for stage in status([record])[0].stages if stage.name == "eval")
    assert eval_stage.state == JobState.CANCELLED, "afterok with kill-on-invalid-dep"
    log = "".join(path.read_text() for path in (tmp_path / "runs/nogpu/logs/train").glob("*.out"))
    assert "Traceback" not in log
    allocated = bed.rows(next(stage.handle for stage in record.submissions[0].stages if stage.name == "train"))
    assert "gres/gpu:a40=4" in json.dumps(allocated)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"partition": "nope"}, "partition: set it in the cluster profile"),
        ({"constraint": "nope"}, "constraint: set it in the cluster profile"),
        ({"gpu_types": {"A40": "h100"}}, "gpu_types"),
        ({"exclude": "nodeX"}, "exclude: set it in the cluster profile"),
        ({"extra": ["--nonsense=1"]}, "extra"),
    ],
)
def test_refusals_name_the_option_to_change(
    bed: SlurmBed, tmp_path: Path, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(BadInput) as refused:
        launch.submit(EXP3, profile(**fields), tmp_path / "runs", "refused")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "runs").exists(), "nothing is left behind"
    assert bed.run("squeue", "-h").strip() == ""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["AssocMaxSubmitJobLimit", "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, "
             "user's size and/or time limits)"],
            ["AssocMaxSubmitJobLimit; Batch", "send it later"],
        ),
        (
            ["QOSMaxWallDurationPerJobLimit", "Batch job submission failed: Job violates accounting/QOS policy (job submit "
             "limit, user's size and/or time limits)"],
            ["resources.minutes"],
        ),
        (
            ["You must name a project.", "Your default time limit is 12 h.", "Batch job submission failed: Unspecified error"],
            ["You must name a project.; Your default time limit is 12 h.; Batch job submission failed: Unspecified error"],
        ),
    ],
)  # fmt: skip
def test_a_refusal_in_the_sites_own_words(lines: list[str], expected: list[str]) -> None:
    message = str(_refusal("train", "\n".join(f"sbatch: error: {line}" for line in lines)))
    assert all(words in message for words in expected)
    assert ("resources.minutes" in message) == ("resources.minutes" in expected)


def test_gpus_without_a_type(tmp_path: Path) -> None:
    files = launch.render(EXP3, profile(gpu_types={"A40": ""}), tmp_path / "runs", "untyped").files
    assert "--gres=gpu:4\n" in files["train/job.sbatch"]


@pytest.mark.parametrize("said", ["Submitted batch job 7\n", "your job 3: see\nSubmitted batch job 7 on cluster x\n"])
def test_the_id_is_the_one_that_sbatch_says(said: str) -> None:
    assert ScriptExecutor(Path(), "", [])._get_job_id_from_submission_command(said.encode()) == "7"


def test_a_refusal_halfway_takes_back_what_was_sent(bed: SlurmBed, tmp_path: Path) -> None:
    experiment = load_experiment(
        "exp3", ["evaluation.resources.gpus=1", "resources.gpus=7", "training.prompts_per_step=42"]
    )
    with pytest.raises(BadInput, match="resources: no node offers"):
        launch.submit(experiment, PROFILE, tmp_path / "runs", "halfway")
    bed.wait_gone()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("step", "failure", "seen"),
    [
        ("JobPaths.move_temporary_file", OSError(errno.EDQUOT, "Disk quota exceeded"), BadInput),
        ("os.link", KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_after_sbatch_leaves_no_job(
    held: SlurmBed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    failure: BaseException,
    seen: type[BaseException],
) -> None:
    """Among submitit's own files, or among the pickles of an array."""
    queued: list[str] = []

    def fails(*_: object, **__: object) -> None:
        queued.extend(held.run("squeue", "-h", "-o", "%A").split())
        raise failure

    monkeypatch.setattr(f"openrs.engines.slurm_submitit.{step}", fails)
    with pytest.raises(seen):
        launch.submit(EXP3, PROFILE, tmp_path / "runs", "orphans")
    assert queued, "sbatch has been"
    held.wait_gone()
    assert not (tmp_path / "runs").exists()


def test_no_sbatch_on_path(bed: SlurmBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(BadInput, match="sbatch is not on PATH"):
            launch.submit(EXP3, PROFILE, tmp_path / "runs", "nopath")
    assert not (tmp_path / "runs").exists()


def test_the_users_sbatch_variables_change_nothing(
    held: SlurmBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_EXPORT", "ALL")
    monkeypatch.setenv("SBATCH_PARTITION", "scavenge")
    monkeypatch.setenv("MY_TOKEN", "canary-77")
    record = launch.submit(EXP3, PROFILE, tmp_path / "runs", "own")
    handle = record.submissions[0].stages[1].handle
    assert held.job(handle)["Partition"] == "main"
    assert "canary-77" not in held.run("sacct", "-j", handle, "--env-vars")
    # Neither does slurmd look for more in the user's login files (SLURM_GET_USER_ENV).
    config = held.run("scontrol", "show", "config")
    state = next(line.split("=")[1].strip() for line in config.splitlines() if line.startswith("StateSaveLocation"))
    stored = next(Path(state).glob(f"hash.*/job.{handle}/environment")).read_bytes()
    names = {entry.partition(b"=")[0].decode() for entry in stored[4:].split(b"\0")} - {""}
    assert {"HOME", "PATH"} <= names <= {*EXPORTED, "SLURM_CONF"} | {name for name in names if "SLURM_" in name}
    assert "SLURM_GET_USER_ENV" not in names


def test_cancel_of_what_waits(held: SlurmBed, tmp_path: Path) -> None:
    record = launch.submit(EXP3, PROFILE, tmp_path / "runs", "waits")
    assert status([record])[0].state == JobState.PENDING
    launch.cancel(tmp_path / "runs", "waits")
    assert status([record])[0].state == JobState.CANCELLED
    held.wait_gone()


def job(handle: str, tasks: int | None = None) -> Job:
    """What was sent with `NAMED`."""
    return Job("run", handle, tasks, Path("/runs/run/submission/1/train"))


NAMED = ("-o", "/dev/null", "-J", "run-train-1")


def test_states_also_of_what_slurm_has_half_forgotten(held: SlurmBed) -> None:
    single = held.submit("#!/bin/bash\ntrue\n", *NAMED)
    array = held.submit("#!/bin/bash\ntrue\n", *NAMED, "--array=0-2%1")
    jobs = [job(single), job(array, 3), job("999999")]
    seen = inspect(jobs)
    assert [seen[one.handle].state for one in jobs] == [JobState.PENDING, JobState.PENDING, JobState.UNKNOWN]
    assert set(seen[array].tasks) == {0, 1, 2}
    assert inspect([job("999999")])["999999"].state == JobState.UNKNOWN
    held.run("scancel", f"{array}_1")
    assert inspect(jobs)[array].tasks[1] == JobState.CANCELLED


def test_a_job_that_got_the_id_of_another(held: SlurmBed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids begin again when a controller loses its state: what has another name is not touched, by no command."""
    other = held.submit("#!/bin/bash\ntrue\n", "-o", "/dev/null", "-J", "pre|cious")
    assert inspect([job(other)])[other].state == JobState.UNKNOWN
    SlurmEngine(PROFILE).cancel([job(other)], grace=0)
    assert held.job(other)["JobState"] == "PENDING"
    held.run("scancel", other)
    held.wait_gone()
    assert inspect([job(other)])[other].state == JobState.UNKNOWN, "nor by accounting"


def test_the_users_own_filters_hide_nothing(held: SlurmBed, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = held.submit("#!/bin/bash\ntrue\n", *NAMED)
    for name in ("SQUEUE_PARTITION", "SQUEUE_NAMES", "SCANCEL_PARTITION", "SACCT_FORMAT"):
        monkeypatch.setenv(name, "scavenge")
    assert inspect([job(mine)])[mine].state == JobState.PENDING
    SlurmEngine(PROFILE).cancel([job(mine)], grace=0)
    held.wait_gone()
    assert inspect([job(mine)])[mine].state == JobState.CANCELLED


def test_what_only_accounting_takes_for_running_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A "runaway" job; the answers are written out here, since Slurm mends most of its own by itself."""
    answers = {"squeue": "", "sacct": "7|RUNNING|run-train-1\n8_0|RUNNING|run-train-1\n8_1|COMPLETED|run-train-1\n"}
    monkeypatch.setattr("openrs.engines.slurm_query.run", lambda command, tolerate=(): answers[command[0]])
    seen = inspect([job("7"), job("8", 2)])
    assert seen["7"].state == seen["8"].tasks[0] == JobState.UNKNOWN and "accounting" in seen["7"].reason
    assert seen["8"].tasks[1] == JobState.SUCCEEDED


def test_an_array_says_what_it_waits_for(held: SlurmBed) -> None:
    held.run("scontrol", "update", "partitionname=main", "state=up", "maxtime=10")
    try:
        array = held.submit("#!/bin/bash\ntrue\n", *NAMED, "--array=0-2", "-t", "60")
        time.sleep(2)  # until the scheduler has looked
        assert "3 pending; PartitionTimeLimit (longer than" in inspect([job(array, 3)])[array].reason
    finally:
        held.run("scontrol", "update", "partitionname=main", "maxtime=infinite")


def test_states_without_accounting(slurm_bed_noacct: SlurmBed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm_bed_noacct.env.items():
        monkeypatch.setenv(name, value)
    good = slurm_bed_noacct.submit("#!/bin/bash\ntrue\n", *NAMED)
    bad = slurm_bed_noacct.submit("#!/bin/bash\nexit 3\n", *NAMED)
    slurm_bed_noacct.wait_gone()
    jobs = [job(good), job(bad), job("999999"), *(job(str(number)) for number in range(900_000, 900_150))]
    asked: list[str] = []
    ask = subprocess.run

    def counted(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[0])
        return ask(command, **options)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", counted)
        seen = inspect(jobs)
    assert asked == ["squeue", "sacct"], "however many are forgotten"
    states = [seen[one.handle].state for one in jobs]
    assert states == [JobState.SUCCEEDED, JobState.FAILED, *[JobState.UNKNOWN] * 151]


def test_states_in_a_partition_that_is_hidden(bed: SlurmBed) -> None:
    handle = bed.submit("#!/bin/bash\ntrue\n", *NAMED, "-p", "scavenge")
    bed.wait_gone()
    bed.run("scontrol", "update", "partitionname=scavenge", "hidden=yes")
    try:
        assert inspect([job(handle)])[handle].state == JobState.SUCCEEDED
    finally:
        bed.run("scontrol", "update", "partitionname=scavenge", "hidden=no")


def test_setup_lines_run_after_the_login_file(bed: SlurmBed, tmp_path: Path) -> None:
    lines = ['[ -z "$NOBODY_SETS_THIS" ]', "shopt -q login_shell && exit 9 || true", "echo PATH is $PATH"]
    record = launch.submit(EXP3, profile(setup=lines), tmp_path / "runs", "setup")
    wait_for(record, JobState.FAILED)
    assert "offers 0 of the 4 GPUs" in str(status([record])[0].stages), "it came as far as the supervisor"
    log = "".join(path.read_text() for path in (tmp_path / "runs/setup/logs/train").glob("*.out"))
    assert "PATH is " in log


def test_a_controller_that_does_not_answer(bed: SlurmBed) -> None:
    bed.stop_controller()
    try:
        with pytest.raises(OpenRSError, match="contact slurm controller") as failed:
            inspect([job("1")])
        assert "\n" not in str(failed.value)
    finally:
        bed.start_controller()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    value=st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=40)
)
def test_a_quoted_value_arrives_at_slurm_unchanged(bed: SlurmBed, value: str) -> None:
    handle = bed.submit(
        f"#!/bin/bash\n#SBATCH --comment={quote('comment', value)}\n#SBATCH --hold\ntrue\n", "-o", "/dev/null"
    )
    shown = bed.run("scontrol", "show", "job", handle)
    comment = next(line.strip() for line in shown.splitlines() if line.strip().startswith("Comment="))
    bed.run("scancel", handle)
    assert comment == f"Comment={value}".rstrip()


def test_a_runs_directory_with_odd_characters(bed: SlurmBed, tmp_path: Path) -> None:
    runs = tmp_path / 'it\'s 100% "mine" #1'
    record = launch.submit(EXP3, PROFILE, runs, "odd")
    wait_for(record, JobState.FAILED)
    assert list((runs / "odd" / "logs" / "train").glob("slurm-*.out"))
    assert "offers 0 of the 4 GPUs" in str(status([record])[0].stages)
    for name, words in (("back\\slash", "backslash"), ("%job", "%j, which submitit")):
        with pytest.raises(BadInput, match=words):
            launch.submit(EXP3, PROFILE, tmp_path / name, "odd")


def test_1000_cells_in_one_query(held: SlurmBed, tmp_path: Path) -> None:
    cell = Cell(checkpoint=checkpoint_id(1), step=1, benchmark="b", seed=0, settings="0" * 12)
    experiment = load_experiment("smoke")
    plan = planning.assemble(
        experiment,
        PROFILE,
        planning.cell_stages(
            "eval", [cell.model_copy(update={"seed": n}) for n in range(1000)], [], experiment, PROFILE
        ),
    )
    place = launch.place_of(PROFILE, tmp_path / "runs", "many")
    engine = SlurmEngine(PROFILE)
    artifacts: Artifacts = engine.render(experiment, plan, place)
    target = place.directory / "submission" / "1" / "eval"
    target.mkdir(parents=True)
    handle = engine.submit(artifacts)["eval"]
    info = inspect([Job("many", handle, 1000, target)])[handle]
    assert len(info.tasks) == 1000
    assert set(info.tasks.values()) == {JobState.PENDING}
    assert len(list((target / "submitit").glob(f"{handle}_*_submitted.pkl"))) == 1000

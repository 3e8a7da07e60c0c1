"""Job scripts hold whatever a user writes, or refuse it: they never break, and never run what was meant as a value."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from openrs.engines import Artifacts, Place, engine_for
from openrs.engines.slurm import quote, slurm_time
from openrs.errors import BadInput
from openrs.plan import make_plan
from openrs.spec.cluster import Cluster
from openrs.spec.load import load_cluster, load_experiment

FIELDS = [
    "comment",
    "partition",
    "account",
    "qos",
    "constraint",
    "exclude",
    "mail_user",
    "mail_type",
    "python",
    "shared_root",
]
NASTY = st.text(
    st.one_of(st.characters(), st.sampled_from("'\"\\`$#%{}();|&<>*?!~ \n\r\t\0\x1b\u2028-=")), min_size=1, max_size=30
)
SMOKE = load_experiment("smoke", ["evaluation.benchmarks=[]"])
SLURM = load_cluster("slurm")


def render(**fields: Any) -> Artifacts:
    cluster = Cluster.model_validate({**SLURM.model_dump(), **fields})
    return engine_for(cluster).render(SMOKE, make_plan(SMOKE, cluster), Place("r", Path("/runs/r")))


def slurm_words(directive: str) -> list[str]:
    """How sbatch splits a directive line: quotes of both kinds, a backslash escapes everywhere, # begins a comment.

    Measured on sbatch 22.05; `test_slurm_bed.py` holds the same values against a real one.
    """
    words: list[str] = []
    word, quoted, escaped, some = "", "", False, False
    for char in directive:
        if escaped:
            word, escaped = word + char, False
        elif char == "\\":
            escaped = some = True
        elif quoted:
            quoted, word = ("", word) if char == quoted else (quoted, word + char)
        elif char in "'\"":
            quoted, some = char, True
        elif char == "#":
            break
        elif char.isspace():
            words, word, some = [*words, word] if word or some else words, "", False
        else:
            word += char
    assert not quoted, f"unmatched quote in {directive!r}"
    return [*words, word] if word or some else words


@pytest.mark.timeout(1800)  # a minute of work, on a machine that may be doing other things
@settings(max_examples=12_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(field=st.sampled_from(FIELDS), value=NASTY)
def test_any_string_is_refused_or_arrives_unchanged(field: str, value: str) -> None:
    try:
        script = render(**{field: value}).files["train/job.sbatch"]
    except (ValidationError, BadInput):
        return
    assert not set(value) & set("\n\r\0"), "a line break never passes"
    lines = script.splitlines()
    directives = [slurm_words(line.removeprefix("#SBATCH ")) for line in lines if line.startswith("#SBATCH")]
    assert all(len(words) == 1 for words in directives)
    options = dict(words[0].removeprefix("--").split("=", 1) for words in directives if "=" in words[0])
    if field == "comment":
        assert options["comment"].endswith(f" {value}")
    elif field not in ("python", "shared_root"):
        assert options[field.replace("_", "-")] == value
    # Nothing but comments, the two exports and srun: a value never becomes a line of its own.
    commands = [line for line in lines if line and not line.startswith("#")]
    assert [line.split()[0] for line in commands[:4]] == ["set", "export", "export", "srun"]


@settings(max_examples=150, deadline=None)
@given(values=st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, NASTY)))
def test_bash_reads_what_is_rendered(values: dict[str, str]) -> None:
    try:
        script = render(**values).files["train/job.sbatch"]
    except (ValidationError, BadInput):
        return
    checked = subprocess.run(["bash", "-n"], input=script.encode(), capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, b"")
    if "python" in values:
        # The command line, with `srun … bash -c` replaced by something that prints its arguments.
        call = (
            script[script.index("  bash -c") :]
            .replace('exec "$@"', 'printf "%s\\0" "$@"')
            .replace('trap "" USR2 TERM; ', "")
        )
        printed = subprocess.run(["bash", "-c", call], capture_output=True, check=True).stdout.decode().split("\0")
        assert printed[0] == os.path.expanduser(values["python"])


@settings(max_examples=300, deadline=None)
@given(value=NASTY.filter(lambda text: all(ord(char) >= 32 and ord(char) != 127 for char in text)))
def test_quoting_round_trip(value: str) -> None:
    assert slurm_words(f"--comment={quote('comment', value)}") == [f"--comment={value}"]


@pytest.mark.parametrize("line", ["echo 'open", "cat <<EOF", "if true", "$(", "module load cuda )"])
def test_setup_that_would_swallow_the_script_is_refused(line: str) -> None:
    with pytest.raises(BadInput, match=r"^cluster .*: setup: not valid shell"):
        render(setup=[line])


def test_setup_stands_in_the_script_as_written() -> None:
    lines = ["module load cuda/12.4", 'source "$HOME/venv/bin/activate"']
    script = render(setup=lines).files["train/job.sbatch"]
    assert "\n".join(lines) in script
    assert script.index(lines[0]) < script.index("export PYTHONPATH")


def test_setup_lines_have_modules_and_scripts_that_read_unset_variables(tmp_path: Path) -> None:
    """The script runs here, with a login file of a site in the place of /etc/profile."""
    profile = tmp_path / "profile"
    profile.write_text(
        '[ -z "$UNKNOWN" ] && false\nPATH=/usr/bin:/site/bin\nexport PATH\nmodule() { export LOADED=$2; }\n'
    )
    activate = tmp_path / "activate"
    activate.write_text('if [ -z "$CONDA_BACKUP_CXX" ]; then export ACTIVE=yes; fi\n')
    lines = ["module load cuda/12.4", f"source {activate}"]
    script = render(setup=lines, python="python3").files["train/job.sbatch"]
    assert script.count("/etc/profile") == 2
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$LOADED $ACTIVE $PATH"\n')
    (tmp_path / "srun").chmod(0o755)

    def ran(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash"],
            input=script.replace("/etc/profile", str(profile)),
            env={"PATH": f"{tmp_path}:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    done = ran(script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"cuda/12.4 yes {tmp_path}:/bin:/usr/bin:/site/bin\n"
    assert ran(script.replace(lines[0], "false")).returncode == 1, "a setup line that fails ends the job"
    assert ran(script.replace("export SUBMITIT", "echo $UNKNOWN; export SUBMITIT")).returncode != 0, "set -u after them"


def test_without_setup_lines_nothing_of_the_node_is_read() -> None:
    assert "/etc/profile" not in render().files["train/job.sbatch"]


def test_same_input_same_bytes_and_nothing_touched() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "runs"
        assert render(shared_root=str(root)).files == render(shared_root=str(root)).files
        assert not root.exists()


def test_profile_fields_become_options() -> None:
    exp3 = load_experiment("exp3")
    cluster = Cluster.model_validate(
        {
            **SLURM.model_dump(), "partition": "gpu", "account": "ai", "qos": "high", "gpu_request": "gpus-per-node",
            "gpu_types": {"A40": "nvidia_a40"}, "request_memory": False, "max_minutes": 600, "extra": ["--exclusive"],
            "array_limit": 20, "array_parallel": 4, "cells_per_task": 2,
        }
    )  # fmt: skip
    plan = make_plan(exp3, cluster)
    assert [(stage.name, len(stage.tasks or [])) for stage in plan.stages] == [
        ("base-1", 20), ("base-2", 20), ("base-3", 10), ("train", 0), ("eval-1", 20), ("eval-2", 10),
    ]  # fmt: skip
    script = engine_for(cluster).render(exp3, plan, Place("r", Path("/runs/r"))).files
    train = script["train/job.sbatch"]
    for option in (
        "--partition=gpu",
        "--account=ai",
        "--qos=high",
        "--gpus-per-node=nvidia_a40:4",
        "--time=0-10:00:00",
        "--exclusive",
    ):
        assert f"#SBATCH {option}\n" in train
    assert "--mem" not in train
    assert "--gres" not in train
    assert "#SBATCH --array=0-19%4\n" in script["eval-1/job.sbatch"]


def test_secrets_by_environment_are_refused_on_slurm() -> None:
    experiment = load_experiment("smoke", ["secrets.HF_TOKEN=env:HF_TOKEN"])
    with pytest.raises(BadInput, match=r"secrets.HF_TOKEN = env:HF_TOKEN: on Slurm use file:"):
        engine_for(SLURM).render(experiment, make_plan(experiment, SLURM), Place("r", Path("/runs/r")))


@pytest.mark.parametrize("kind", ["a40:5,h100", "NVIDIA A40", "a40\\", "(null)"])
def test_a_type_of_gpu_in_other_words_is_refused(kind: str) -> None:
    experiment = load_experiment("exp3", [f"resources.gpu_type={kind}"])
    with pytest.raises(BadInput, match=r"resources.gpu_type = .*is not Slurm's word.*gpu_types = "):
        engine_for(SLURM).render(experiment, make_plan(experiment, SLURM), Place("r", Path("/runs/r")))
    cluster = SLURM.model_copy(update={"gpu_types": {kind: "a40"}})
    files = engine_for(cluster).render(experiment, make_plan(experiment, cluster), Place("r", Path("/runs/r"))).files
    assert "#SBATCH --gres=gpu:a40:4\n" in files["train/job.sbatch"]


@pytest.mark.parametrize(("minutes", "text"), [(1, "0-00:01:00"), (1440, "1-00:00:00"), (6045, "4-04:45:00")])
def test_time(minutes: int, text: str) -> None:
    assert slurm_time(minutes) == text

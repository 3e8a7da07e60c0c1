"""Whatever is wrong with what a user wrote: one clear line on standard error, exit code 2, nothing left behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Openrs, Said
from tests.cli.fake import Scheduler

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
)


def refused(said: Said, *words: str) -> None:
    """One printable line, exit code 2, with these words in it."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("openrs: ") and said.err.endswith("\n") and said.err.count("\n") == 1, said.err
    assert said.err[:-1].isprintable()
    for word in words:
        assert word in said.err, said.err


@pytest.mark.parametrize("command", ["show", "check", "plan", "render", "submit"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainig.steps=3", ["trainig", "did you mean 'training'"]),
        ("training.stepz=3", ["training.stepz", "unknown key", "did you mean 'steps'"]),
        ("training.steps=-5", ["training.steps", "greater than or equal to 1", "-5"]),
        ("training.steps=many", ["training.steps", "integer", "'many'"]),
        ("training.steps=1.5", ["training.steps", "1.5"]),
        ("training.steps=null", ["training.steps", "None"]),
        ("rewards.0.type=acuracy", ["rewards.0", "acuracy", "did you mean 'accuracy'"]),
        ("rewards.7.weight=1", ["'7' is not an index of a list of 2"]),
        ("rewards=[]", ["rewards"]),
        ("training.steps", ["--set 'training.steps'", "key.key=value"]),
        ("=3", ["--set '=3'"]),
        ("training.steps=[1", ["not valid YAML"]),
        ("training.steps.deep=1", ["inside a plain value"]),
        ("training.learning_rate=.nan", ["training.learning_rate"]),
        ("training.learning_rate=.inf", ["training.learning_rate"]),
        ("title='two\n\n  lines'", ["title", "one line"]),
        ('title="\\e[31mred"', ["title", "control characters"]),
        ("generation={type: vllm, layout: server}", ["generation.type vllm", "resources.gpus"]),
        ("sampling.temperature=0", ["sampling.temperature"]),
        ("evaluation.at_steps=[50]", ["evaluation.at_steps", "50", "training.steps = 40"]),
        ("schema_version=2", ["schema_version"]),
    ],
)
def test_experiments(command: str, override: str, words: list[str], openrs: Openrs, workdir: Path) -> None:
    cluster = [] if command in ("show", "check") else ["--cluster", "local"]
    refused(openrs(command, "smoke", *cluster, "--set", override), *words)
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("command", ["check", "submit"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.path=no/such/model", ["model.path", "no/such/model"]),
        ("model.path=openrs:models/none", ["model.path", "openrs:models/none"]),
        ("data={type: jsonl, path: gone.jsonl}", ["data.path", "gone.jsonl", "does not exist"]),
        ("evaluation.benchmarks.0.data={type: jsonl, path: gone.jsonl}", ["evaluation.benchmarks", "gone.jsonl"]),
    ],
)
def test_files_that_are_not_there(command: str, override: str, words: list[str], openrs: Openrs, workdir: Path) -> None:
    refused(
        openrs(command, "smoke", *(["--cluster", "local"] if command == "submit" else []), "--set", override), *words
    )
    assert not list(workdir.iterdir())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["show", "smok"], ["unknown experiment 'smok'", "did you mean 'smoke'"]),
        (["show", "none.yaml"], ["'none.yaml' does not exist"]),
        (["show", "."], ["."]),
        (["plan", "smoke", "--cluster", "slurn"], ["unknown cluster 'slurn'", "did you mean 'slurm'"]),
        (["submit", "smoke", "--cluster", "k8s"], ["k8s", "image is not set", "openrs.toml"]),
        (["submit", "smoke"], ["--cluster", "openrs submit --help"]),
        (["submit", "--cluster", "local"], ["EXP"]),
        (["submit", "smoke", "--cluster", "local", "--run", "Not An Id"], ["--run 'Not An Id'", "small letters"]),
        (["submit", "smoke", "--cluster", "local", "--run", "a\n"], ["--run"]),
        (["submit", "smoke", "--cluster", "local", "--run", "../up"], ["--run '../up'"]),
        (["submit", "smoke", "--cluster", "local", "--run", "x" * 33], ["--run"]),
        (["frobnicate"], ["frobnicate", "openrs --help"]),
        (["list", "--frobnicate"], ["--frobnicate", "openrs list --help"]),
        (["schema", "plan"], ["experiment", "cluster"]),
        (["status", "nope"], ["run 'nope' does not exist"]),
        (["status", "../etc"], ["run id '../etc'"]),
        (["logs", "nope"], ["run 'nope' does not exist"]),
        (["cancel", "nope"], ["run 'nope' does not exist"]),
        (["resume", "nope"], ["run 'nope' does not exist"]),
        (["logs", "nope", "--attempt", "0"], ["--attempt"]),
        (["status", "\x1b[31m"], ["run id"]),
        (["status", "--runs", ""], ["--runs is empty"]),
        (["plan", "smoke", "--cluster", ""], ["--cluster is empty", "known are k8s, local, slurm"]),
        (["eval", "/tmp", "--cluster", "local", "--benchmarks", ""], ["--benchmarks is empty"]),
        (["check", "/"], ["'/' is a directory"]),
        (["check", "smoke", "--set", "title=a\u202eb"], ["title", "control characters", "\\u202e"]),
        (["drill", "--set", "training.stepz=4"], ["the drill's experiment: training.stepz: unknown key"]),
        (["report", "example:open-rs", "--out", "x.pdf"], ["--out x.pdf", "--markdown", "--csv", "--json"]),
        (["report", "example:open-rs", "--out", "/dev/null/x.html"], ["--out", "/dev/null is no directory"]),
        (["report", "example:open-rs", "--csv", "--out", "/"], ["--out /: is a directory"]),
    ],
)
def test_command_lines(line: list[str], words: list[str], openrs: Openrs, workdir: Path) -> None:
    refused(openrs(*line), *words)
    assert not list(workdir.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["the file is empty"]),
        (b"- a\n- b\n", ["mapping", "this is a list"]),
        (b"one\n", ["mapping", "this is a text"]),
        (b"extends: ./\n", ["is a directory"]),
        (b"extends: smoke\ntitle: a\0b\n", ["line 2", "'\\x00'", "take it out"]),
        (b"extends: smoke\ntraining: {steps: " + b"1" * 5000 + b"}\n", ["line 2", "5000 characters"]),
        (b"extends: smoke\ntraining: {steps: 1:30}\n", ["line 2", "1:30", "base of 60", "in decimal"]),
        (b"extends: smoke\ntraining: {steps: 010}\n", ["line 2", "010", "octal", "in decimal"]),
        (b'extends: smoke\nenvironment: {on: "4"}\n', ["line 2", "the key on", "true or false", "quotes"]),
        (b"extends: smoke\nenvironment: {1: x}\n", ["line 2", "the key 1", "a number", "quotes"]),
        (
            b'extends: smoke\nevaluation: {benchmarks: ["a\\0b.yaml"]}\n',
            ["own.yaml", "evaluation.benchmarks.0", "null byte"],
        ),
        (
            b"extends: smoke\nevaluation: {benchmarks: [~nosuch/b.yaml]}\n",
            ["evaluation.benchmarks.0", "no user 'nosuch'"],
        ),
        (
            b"extends: smoke\nevaluation: {benchmarks: [" + b"x" * 5000 + b".yaml]}\n",
            ["own.yaml", "benchmarks.0", "too long"],
        ),
        (b"extends: smoke\nmodel: foo\n", ["model", "must be a mapping such as {type: hub, name: …"]),
        (
            b"extends: smoke\nrewards: [accuracy]\n",
            ["rewards.0", "such as {type: accuracy, weight: 1.0}, not 'accuracy'"],
        ),
        (
            b"extends: smoke\nschema_version: 2\nnew: 1\n",
            ["schema_version: written by a later openrs (schema 2", "upgrade"],
        ),
        (b"name: [1\n", ["not valid YAML", "line"]),
        (b"\xff\xfe\x00", ["UTF-8"]),
        (b"name: x\nname: y\n", ["'name' stands there twice", "line 2"]),
        (b"name: !!python/object/apply:os.system [touch hacked]\n", ["not valid YAML"]),
        (b"extends: own.yaml\n", ["extends comes back to itself"]),
        (b"extends: [smoke]\n", ["extends must be the name"]),
        (b"extends: smokk\n", ["smokk"]),
        (BOMB.encode(), ["aliases expand"]),
        (b"a: &a [*a]\n", ["aliases expand"]),
        (b"a: " + b"[" * 60 + b"]" * 60, ["nested"]),
        (b"#" * 1_000_001, ["larger than"]),
        (b'extends: smoke\nname: x\n"\\u2028\\e[0m": 1\n', ["unknown key"]),
        (b'extends: smoke\nname: "a\\0b"\n', ["name"]),
        (b'extends: smoke\nname: x\nenvironment: {"A=B": x}\n', ["environment"]),
        (b"extends: smoke\nname: x\nsecrets: {TOKEN: hf_abc}\n", ["secrets.TOKEN"]),
        (b"extends: smoke\nname: x\n? [a, b]\n: 1\n", ["own.yaml"]),
    ],
)
def test_files(content: bytes, words: list[str], openrs: Openrs, workdir: Path) -> None:
    (workdir / "own.yaml").write_bytes(content)
    refused(openrs("check", "own.yaml"), *words)
    refused(openrs("submit", "own.yaml", "--cluster", "local"), *words)
    assert [path.name for path in workdir.iterdir()] == ["own.yaml"]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_without_end(opening: str, workdir: Path) -> None:
    """In a process of its own: a parser that recurses in C would end it by a signal."""
    (workdir / "own.yaml").write_text(opening * 100_000)
    line = ["check", "own.yaml"]
    for args in (line, ["check", "smoke", "--set", f"title={opening * 20_000}"]):
        done = subprocess.run(
            [sys.executable, "-m", "openrs", *args], capture_output=True, text=True, timeout=120, check=False
        )
        refused(Said(done.returncode, done.stdout, done.stderr), "nested" if args == line else "--set title")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[clusters.mine", ["openrs.toml", "TOML"]),
        ("[cluster.mine]\nengine = 'slurm'\n", ["unknown table 'cluster'", "did you mean 'clusters'"]),
        ("[clusters]\nmine = 3\n", ["must be tables"]),
        ("[clusters.mine]\nextends = 'slrum'\n", ["extends unknown profile 'slrum'", "did you mean 'slurm'"]),
        ("[clusters.mine]\nextends = 'mine'\n", ["extends comes back to itself"]),
        ("[clusters.mine]\nextends = 'slurm'\npartion = 'a'\n", ["partion", "did you mean 'partition'"]),
        ("[clusters.mine]\nextends = 'slurm'\npartition = \"a\\n#SBATCH --uid=0\"\n", ["partition", "one line"]),
        ("[clusters.mine]\nextends = 'slurm'\nextra = ['rm -rf /']\n", ["extra", "not an sbatch option"]),
        ("[clusters.mine]\nengine = 'slurmm'\n", ["engine"]),
        ("[clusters.mine]\nextends = 'nope'\n", ["'nope'", "known are k8s, local, mine, slurm"]),
        ("[clusters.mine]\nextends = 'local'\npartition = 'x'\n", ["partition is for Slurm", "engine is local"]),
        ("[clusters.mine]\nextends = 'slurm'\nnamespace = 'x'\n", ["namespace is for Kubernetes", "engine is slurm"]),
        ("[clusters.mine]\nextends = 'slurm'\nmax_minutes = " + "1" * 5000, ["openrs.toml, line 3", "5000 digits"]),
        ("[clusters.mine]\nextends = 'slurm'\nprice_per_gpu_hour = 1.7e308\n", ["price_per_gpu_hour", "less than"]),
        ("[clusters.mine]\nextends = 'slurm'\ngpu_types = {A40 = 'a:5,b'}\n", ["gpu_types.A40", "'a:5,b'"]),
        ("[clusters.mine]\nextends = 'slurm'\nsetup = [' #SBATCH --wrap=x']\n", ["setup.0", "use the field extra"]),
    ],
)
def test_cluster_files(content: str, words: list[str], openrs: Openrs, workdir: Path) -> None:
    (workdir / "openrs.toml").write_text(content)
    refused(openrs("plan", "smoke", "--cluster", "mine"), *words)


def test_a_configuration_with_a_byte_order_mark(openrs: Openrs, workdir: Path) -> None:
    (workdir / "openrs.toml").write_text("[clusters.mine]\nextends = 'slurm'\n", encoding="utf-8-sig")
    assert openrs("plan", "smoke", "--cluster", "mine").code == 0


@pytest.mark.parametrize(
    "line", [["check", "own.yaml"], ["eval", "/tmp", "--cluster", "local", "--benchmarks", "loop.yaml"]]
)
def test_a_benchmark_file_that_is_a_circle_of_links(line: list[str], openrs: Openrs, workdir: Path) -> None:
    (workdir / "loop.yaml").symlink_to("loop.yaml")
    (workdir / "own.yaml").write_text("extends: smoke\nevaluation: {benchmarks: [loop.yaml]}\n")
    refused(openrs(*line), "benchmarks", "'loop.yaml'", "oop")


def test_runs_named_by_an_empty_variable(openrs: Openrs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENRS_RUNS", "")
    refused(openrs("status"), "OPENRS_RUNS is empty")
    assert openrs("status", "--runs", "x").out == "no runs below x\n"


def test_a_run_id_that_is_taken(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    assert openrs("submit", "smoke", "--cluster", "local", "--run", "mine").code == 0
    before = {path: path.read_bytes() for path in (workdir / "runs").rglob("*") if path.is_file()}
    refused(openrs("submit", "smoke", "--cluster", "local", "--run", "mine"), "--run mine", "exists already")
    assert before == {path: path.read_bytes() for path in (workdir / "runs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("runs", ["file", "file/below", "/dev/null/runs", "/sys/openrs-runs", "/proc/openrs-runs"])
def test_runs_that_cannot_be_made(runs: str, openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    (workdir / "file").write_text("not a directory")
    refused(openrs("submit", "smoke", "--cluster", "local", "--runs", runs), "--runs", runs)
    assert [path.name for path in workdir.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_runs_that_are_not_writable(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    (workdir / "runs").mkdir(mode=0o555)
    refused(openrs("submit", "smoke", "--cluster", "local"), "--runs", "not writable")


@pytest.mark.parametrize("room", [0, 1000, 100_000], ids=["none", "for the spec", "for all but the code"])
def test_a_full_disk(room: int, workdir: Path) -> None:
    """No file may grow beyond `room` bytes: the errors of a full disk and of a quota, without filling one."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "openrs", "submit", "smoke", "--cluster", "local"],
        cwd=workdir,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    refused(Said(done.returncode, done.stdout, done.stderr), "--runs", "File too large")
    assert not list(workdir.iterdir())


def test_out_that_cannot_be_written(openrs: Openrs, workdir: Path) -> None:
    (workdir / "file").write_text("")
    refused(openrs("render", "smoke", "--cluster", "local", "--out", "file"), "--out file")
    refused(openrs("render", "smoke", "--cluster", "local", "--out", "file/below"), "--out file/below")
    assert [path.name for path in workdir.iterdir()] == ["file"]


def test_standard_output_that_is_full(workdir: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "openrs", "show", "exp3"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "openrs: cannot write to standard output (No space left on device)\n"


def test_a_reader_that_goes_away_is_no_error(workdir: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "openrs", "show", "exp3"], stdout=write, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_terminal_that_knows_only_ascii(workdir: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for line in (["plan", "exp3", "--cluster", "slurm"], ["list", "--json"], ["show", "smoke"]):
        subprocess.run(
            [sys.executable, "-m", "openrs", *line], env=environment, check=True, capture_output=True, timeout=60
        )


def test_artefacts_are_the_same_bytes_in_every_locale(workdir: Path) -> None:
    line = [sys.executable, "-m", "openrs", "render", "smoke", "--cluster", "local", "--set", "title=ü"]
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = [
        subprocess.run(line, env=env, check=True, capture_output=True, timeout=60).stdout
        for env in (plain, {**os.environ, "PYTHONUTF8": "1"})
    ]
    assert found[0] == found[1] and "ü".encode() in found[0]

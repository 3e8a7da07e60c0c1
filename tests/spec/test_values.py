"""What a value must be: its type, its place, and what openrs decides itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from openrs.errors import BadInput
from openrs.spec.canonical import sha256
from openrs.spec.cluster import Cluster
from openrs.spec.load import load_cluster, load_experiment, validate
from openrs.spec.raw import read_yaml


def cluster(**fields: object) -> Cluster:
    return validate(Cluster, {"name": "x", "engine": "slurm", **fields}, "x")


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=true",
        "training.steps='20'",
        "training.steps=20.0",
        "training.learning_rate=true",
        "training.learning_rate='0.5'",
        "evaluation.base=yes please",
        "evaluation.base='true'",
        "evaluation.base=1",
    ],
)
def test_a_value_of_another_type_is_refused(override: str) -> None:
    with pytest.raises(BadInput, match=override.partition("=")[0]):
        load_experiment("smoke", [override])


def test_numbers_that_yaml_reads_in_its_own_way() -> None:
    for written, value in [("1e-4", 1e-4), ("1E-4", 1e-4), ("1", 1.0), ("1.0e-4", 1e-4)]:
        assert load_experiment("smoke", [f"training.learning_rate={written}"]).training.learning_rate == value


def test_minus_zero_is_zero() -> None:
    minus, zero = (load_experiment("smoke", [f"training.beta={value}"]) for value in ("-0.0", "0.0"))
    assert sha256(minus) == sha256(zero)


def test_seeds_differ() -> None:
    with pytest.raises(BadInput, match=r"evaluation.benchmarks.0.seeds: a seed stands there twice"):
        load_experiment("smoke", ["evaluation.benchmarks.0.seeds=[1, 1]"])


@pytest.mark.parametrize(("form", "missing"), [("file:", "the path"), ("env:", "variable"), ("secret:", "NAME/KEY")])
def test_a_secret_without_a_place(form: str, missing: str) -> None:
    with pytest.raises(BadInput, match=rf"secrets.TOKEN: .*{missing}.* is missing"):
        load_experiment("smoke", [f"secrets.TOKEN='{form}'"])


@pytest.mark.parametrize(
    "field", ["partition", "account", "qos", "constraint", "exclude", "python", "shared_root", "mail_user", "namespace"]
)
def test_no_field_of_a_cluster_is_empty(field: str) -> None:
    with pytest.raises(BadInput, match=field):
        cluster(**{field: ""})


def test_gpu_types_are_not_empty() -> None:
    for engine, types in (("slurm", {"": "a40"}), ("kubernetes", {"A40": ""})):
        with pytest.raises(BadInput, match="gpu_types"):
            cluster(engine=engine, gpu_types=types)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("training.beta", "1e300"),
        ("training.max_grad_norm", "1e300"),
        ("training.epsilon_high", "1e300"),
        ("recovery.stall_factor", "1e300"),
        ("recovery.stall_minutes", "1e300"),
    ],
)
def test_numbers_have_an_end(field: str, value: str) -> None:
    with pytest.raises(BadInput, match=rf"{field}: input should be less than"):
        load_experiment("smoke", [f"{field}={value}"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("name=A b", "name: must be small letters, digits"),
        ("environment={A B: x}", "environment.A B: must be the name of a variable: letters"),
        ("secrets.A=hf_secret", "secrets.A: must be where the secret is found, never its value: env:NAME"),
        ("rewards=[]", "rewards: must not be empty"),
        ("rewards=[{weight: 1}]", "rewards.0: needs a `type`, one of accuracy, "),
        ("environment=x", "environment: must be a mapping, not 'x'"),
        ("prompt=x", "prompt: must be a mapping such as {system: …}"),
    ],
)
def test_what_is_allowed_is_said_in_words(override: str, words: str) -> None:
    with pytest.raises(BadInput) as error:
        load_experiment("smoke", [override])
    assert words in str(error.value) and "^" not in str(error.value) and "hf_secret" not in str(error.value)


@pytest.mark.parametrize("engine", ["slurm", "kubernetes", "local"])
def test_fields_of_another_engine(engine: str) -> None:
    fields = {
        "slurm": {"partition": "x", "extra": ["--exclusive"], "request_memory": False},
        "kubernetes": {"namespace": "x", "labels": {"a": "b"}, "shm_gb": 3},
        "": {"array_limit": 3, "max_minutes": 3, "gpu_types": {"A40": "a40"}, "lease_seconds": 9},
    }
    for owner, given in fields.items():
        for field, value in given.items():
            found = Cluster.model_validate({"name": "x", "engine": engine, field: value}).foreign()
            assert found == (None if owner in ("", engine) else (field, owner.title())), field


def test_a_program_has_no_options() -> None:
    assert cluster(python="python3.11").python == "python3.11"
    for python in ("-x", "python3 -x", "a;b"):
        with pytest.raises(BadInput, match="python: must be an absolute path or a name on PATH"):
            cluster(python=python)


def test_paths_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = cluster(shared_root="~/openrs", python="~/venv/bin/python")
    assert (found.shared_root, found.python) == ("/home/me/openrs", "/home/me/venv/bin/python")
    assert cluster(python="python3").python == "python3"
    for fields, words in [
        ({"shared_root": "here"}, "absolute"),
        ({"shared_root": "~no-such-user/x"}, "no user 'no-such-user' here"),
        ({"shared_root": "/a:b"}, "PYTHONPATH"),
        ({"shared_root": "/a\nb"}, "one line"),
        ({"shared_root": "/" + "a" * 300}, "longer than a path can be"),
        ({"python": "venv/bin/python"}, "absolute"),
    ]:
        with pytest.raises(BadInput, match=words):
            cluster(**fields)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--export=ALL", "environment"),
        ("--exp=ALL", "--export"),
        ("--requeue", "--requeue"),
        ("--no-requeue", "--no-requeue"),
        ("--array=1-3", "array_limit"),
        ("-a1-3", "array_limit"),
        ("--wrap=id", "script of its own"),
        ("--parsable", "--parsable"),
        ("-dafterok:1", "--dependency"),
        ("-o x", "logs"),
        ("-e x", "logs"),
        ("-J x", "--job-name"),
        ("--comment=x", "--comment"),
        ("--signal=USR1@3", "grace_seconds"),
        ("--open-mode=truncate", "--open-mode"),
        ("-t 10", "max_minutes"),
        ("--gres=gpu:1", "gpu_request"),
        ("--gpus-per-task=1", "gpu_request"),
        ("-G1", "gpu_request"),
        ("--mem=4G", "memory_gb"),
        ("-N2", "one node"),
        ("-Hn4", "one task"),
        ("-c 4", "resources.cpus"),
        ("-D /", "setup"),
        ("--kill-on-invalid-dep=no", "--kill-on-invalid-dep"),
        ("--test-only", "send nothing"),
        ("-p gpu", "the field partition"),
        ("--exclusive --account=a", "the field account"),
        ("-", "not an sbatch option"),
        ("--", "not an sbatch option"),
        ("--exclusive 'x", "not an sbatch option"),
    ],
)
def test_extra_sets_nothing_that_openrs_sets(line: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        cluster(extra=[line])
    assert "extra.0" in str(caught.value) and "\n" not in str(caught.value)


def test_extra() -> None:
    lines = ["--exclusive", "--hold", "-H", "--mem-per-cpu=4G", "--time-min=10", "--nodelist=n1", "--reservation=r"]
    assert cluster(extra=lines).extra == lines


def test_merge_keys(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("<<: &b {<<: &a {x: 1, y: 1}, x: 2}\nc: {<<: [*b, *a], y: 3}\nd: *b\n")
    assert read_yaml(path) == {"x": 2, "y": 1, "c": {"x": 2, "y": 3}, "d": {"x": 2, "y": 1}}
    path.write_text("a: &a {x: 1}\nb:\n  <<: *a\n  x: 2\n  x: 3\n")
    with pytest.raises(BadInput, match="line 5: .*'x' stands there twice"):
        read_yaml(path)


def test_sixteen_extends_are_enough(tmp_path: Path) -> None:
    for number in range(19):
        (tmp_path / f"e{number}.yaml").write_text(f"extends: {f'e{number + 1}.yaml' if number < 18 else 'smoke'}\n")
    with pytest.raises(BadInput, match=r"e0\.yaml: more than 16 extends"):
        load_experiment(str(tmp_path / "e0.yaml"), ["name=x"])
    assert load_experiment(str(tmp_path / "e3.yaml"), ["name=x"]).name == "x"  # exactly 16


def test_another_type_by_an_override() -> None:
    with pytest.raises(BadInput, match=r"data\.path: missing"):
        load_experiment("smoke", ["data.type=jsonl"])
    for overrides in (["data.type=jsonl", "data.path=/x"], ["data.path=/x", "data.type=jsonl"]):
        data = load_experiment("smoke", overrides).data
        assert data.type == "jsonl" and data.path == "/x"


def test_a_profile_is_called_as_its_table(workdir: Path) -> None:
    (workdir / "openrs.toml").write_text("[clusters.a]\nextends = 'slurm'\nname = 'q'\n")
    with pytest.raises(BadInput, match=r"name: unknown key.*'a', not 'q'"):
        load_cluster("a")
    (workdir / "openrs.toml").write_text("[clusters.a]\nextends = 'slurm'\nname = 'a'\n")
    assert load_cluster("a").name == "a"

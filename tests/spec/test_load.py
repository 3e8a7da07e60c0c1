"""Loading: extends, overrides, and everything that a file can do wrong. What the user then sees: tests/cli."""

from __future__ import annotations

import json
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from openrs.errors import BadInput
from openrs.spec.canonical import canonical, pretty, sha256
from openrs.spec.experiment import Experiment
from openrs.spec.load import (
    apply_overrides,
    load_cluster,
    load_experiment,
    shipped_experiments,
    validate,
)
from openrs.spec.raw import merge, read_yaml

SMOKE = load_experiment("smoke").model_dump(mode="json")
IN_ONE_DIRECTORY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
keys = st.sampled_from(
    [
        "training.steps",
        "training.learning_rate",
        "rewards.0.weight",
        "rewards.0",
        "rewards",
        "model",
        "model.path",
        "data.split",
        "sampling.temperature",
        "evaluation.benchmarks.0.seeds",
        "environment.HOME",
        "secrets.TOKEN",
        "name",
        "title",
        "no.such.key",
    ]
)


@pytest.mark.parametrize("name", shipped_experiments())
def test_every_shipped_experiment_resolves(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    assert Experiment.model_validate_json(canonical(experiment)) == experiment
    assert Experiment.model_validate_json(pretty(experiment)) == experiment


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(item, order)) for key, item in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", shipped_experiments())
@given(order=st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_the_hash_does_not_depend_on_the_order_of_keys(name: str, order: random.Random) -> None:
    experiment = load_experiment(name)
    mixed = shuffled(experiment.model_dump(mode="json"), order)
    assert sha256(validate(Experiment, mixed, "mixed")) == sha256(experiment)


def test_every_value_is_part_of_the_hash() -> None:
    """A change of any one field of the resolved form gives another hash."""
    seen = {sha256(load_experiment("exp3"))}
    for override in (
        "training.seed=1",
        "training.steps=501",
        "sampling.top_p=0.99",
        "rewards.0.weight=1",
        "model.revision=main",
        "name=x",
        "environment.A=b",
        "secrets.T=env:T",
        "prompt.system=x",
        "evaluation.base=false",
        "resources.cpus=1",
    ):
        seen.add(sha256(load_experiment("exp3", [override])))
    assert len(seen) == 12


@given(key=keys, value=values)
@settings(deadline=None)
@example(key="training.steps", value=20)
def test_an_override_is_used_or_refused(key: str, value: Any) -> None:
    """Whatever is set: an experiment that says so, or one line for a person; never another exception."""
    try:
        experiment = load_experiment("smoke", [f"{key}={json.dumps(value)}"])
    except BadInput as error:
        told = str(error)
    else:
        told = ""
    assert "\n" not in told
    if told:
        return
    found: Any = experiment.model_dump(mode="json")
    for part in key.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    if not isinstance(value, dict | list) and key != "model.path":
        assert found == value


@given(name=st.text() | st.text(max_size=5).map(lambda text: f"{text}/b.yaml"))
@settings(deadline=None)
@example(name="a\0b.yaml")
@example(name="~/b.yaml")
@example(name="~nosuch/b.yaml")
@example(name="x" * 5000 + ".yaml")
@example(name="/")
def test_any_name_of_a_benchmark(name: str) -> None:
    told = ""
    try:
        load_experiment("smoke", [f"evaluation={json.dumps({'benchmarks': [name], 'runner': 'lighteval'})}"])
    except BadInput as error:
        told = str(error)
    assert not told or ("evaluation" in told and "\n" not in told)


@given(text=st.text())
@settings(deadline=None)
@example(text="a=[")
@example(text="a=&a [*a]")
@example(text="a=!!python/object/apply:os.getpid []")
@example(text="training.steps=2001-12-14t21:59:43.10-05:00")
@example(text="title=\ud800")
@example(text="\n=:")
@example(text="a\n=2001-12-14")
@example(text="training\n.\r=1")
@example(text="training.steps.\n=1")
def test_no_override_breaks_the_program(text: str) -> None:
    told = ""
    try:
        load_experiment("smoke", [text])
    except BadInput as error:
        told = str(error)
    assert "\n" not in told


@given(content=st.binary(max_size=200) | st.text(alphabet=string.printable, max_size=200).map(str.encode))
@IN_ONE_DIRECTORY
@example(content=b"{" * 1000)
@example(content=b"? ? ? ?")
@example(content=b"<<: {name: x}\n")
@example(content=b"<<: 3\n")
@example(content=b"=: 3\n")
@example(content=b"1: 2\n1: 3\n")
@example(content=b"!!set {a, b}")
@example(content=b"name: 2001-99-99\n")
@example(content=b"%YAML 9.9\n---\n")
@example(content=b"--- a\n--- b\n")
def test_no_file_breaks_the_program(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(str(path))):
        load_experiment(str(path))


@given(value=values)
@IN_ONE_DIRECTORY
def test_a_file_says_what_an_override_says(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump({"extends": "smoke", "name": "any", "environment": value}), encoding="utf-8")
    override = f"environment={yaml.safe_dump(value, default_flow_style=True)}"
    try:
        from_file = load_experiment(str(path)).environment
    except BadInput:
        with pytest.raises(BadInput):
            load_experiment("smoke", [override])
    else:
        assert load_experiment("smoke", [override]).environment == from_file


def test_overrides_are_laid_over_each_other() -> None:
    raw = apply_overrides(SMOKE, ["training={steps: 7}", "training.seed=1", "training.seed=2"])
    assert raw["training"] == SMOKE["training"] | {"steps": 7, "seed": 2}
    assert SMOKE["training"]["steps"] == 40  # what it was laid over is as it was


def test_another_type_is_another_thing() -> None:
    """Fields of the old model must not stay behind: `{type: hub}` has no `path`."""
    raw = apply_overrides(SMOKE, ["model={type: hub, name: a/b, revision: main}"])
    assert raw["model"] == {"type": "hub", "name": "a/b", "revision": "main"}


def test_merge_leaves_lists_whole() -> None:
    assert merge({"a": [1, 2], "b": {"c": 1, "d": 2}}, {"a": [3], "b": {"d": 4}}) == {"a": [3], "b": {"c": 1, "d": 4}}


def write(path: Path, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def test_extends_a_file_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", extends="smoke", name="base", training={"steps": 5}, evaluation={"at_steps": [5]})
    path = write(tmp_path / "below" / "own.yaml", extends="../base.yaml", name="own", training={"seed": 9})
    training = load_experiment(str(path)).training
    assert (training.steps, training.seed, training.prompts_per_step) == (5, 9, 12)


def test_extends_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", extends="b.yaml")
    write(tmp_path / "b.yaml", extends="c.yaml")
    write(tmp_path / "c.yaml", extends="a.yaml")
    with pytest.raises(BadInput, match=r"comes back to itself \(a.yaml → b.yaml → c.yaml → a.yaml\)"):
        load_experiment(str(tmp_path / "a.yaml"))


def test_extends_very_often(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / f"e{number}.yaml", extends=f"e{number + 1}.yaml")
    with pytest.raises(BadInput, match="extends"):
        load_experiment(str(tmp_path / "e0.yaml"))


def test_paths_are_seen_from_the_file_that_names_them(tmp_path: Path) -> None:
    model = {"type": "path", "path": "../models/x"}
    data = {"type": "jsonl", "path": "rows.jsonl"}
    path = write(tmp_path / "specs" / "own.yaml", extends="smoke", name="own", model=model, data=data)
    experiment = load_experiment(str(path))
    assert experiment.model.type == "path" and experiment.model.path == str(tmp_path / "models" / "x")
    assert experiment.data.type == "jsonl" and experiment.data.path == str(tmp_path / "specs" / "rows.jsonl")


def test_a_path_on_the_command_line_is_seen_from_the_shell(workdir: Path) -> None:
    model = load_experiment("smoke", ["model.path=mine/model"]).model
    assert model.type == "path" and model.path == str(workdir / "mine" / "model")


def test_aliases_that_stay_small_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}] * 2}


def test_a_key_that_stands_there_twice_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("a:\n  - b:\n      c: 1\n      c: 2\n")
    with pytest.raises(BadInput, match=r"line 4: .*'c' stands there twice"):
        read_yaml(path)


@pytest.mark.parametrize(
    "char", ["\n", "\r", "\t", "\x1b", "\x00", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\ud800"]
)
@pytest.mark.parametrize("field", ["title", "model.path"])
def test_control_characters(char: str, field: str) -> None:
    key, _, inner = field.partition(".")
    raw = SMOKE | {key: f"a{char}b"} if not inner else SMOKE | {key: SMOKE[key] | {inner: f"a{char}b"}}
    with pytest.raises(BadInput) as error:
        validate(Experiment, raw, "x")
    assert "\n" not in str(error.value) and char not in str(error.value)


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a/b", "..", "a" * 64, "ä", "a\n"])
def test_names_are_file_names(name: str) -> None:
    with pytest.raises(BadInput, match="name"):
        validate(Experiment, SMOKE | {"name": name}, "x")


def test_clusters_of_the_user_come_first(workdir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write_toml(
        tmp_path / "config" / "openrs" / "openrs.toml",
        "[clusters.bed]\nengine = 'local'\n[clusters.far]\nengine = 'slurm'\n",
    )
    write_toml(
        workdir / "openrs.toml",
        "[clusters.bed]\nextends = 'slurm'\npartition = 'near'\n[clusters.slurm]\naccount = 'mine'\n",
    )
    assert load_cluster("far").engine == "slurm"
    assert (load_cluster("bed").engine, load_cluster("bed").partition) == ("slurm", "near")
    # A profile with a shipped name changes the shipped one, also for those that extend it.
    assert (load_cluster("slurm").account, load_cluster("slurm").gpu_types) == ("mine", {"A40": "a40"})
    assert load_cluster("bed").account == "mine"


def write_toml(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)

"""list, show, check, schema, plan and render: output for people, JSON for scripts, nothing written but where asked."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from openrs.cli.schema import Kind, file_schema
from openrs.evaluation.statistics import minimal_detectable_gain
from openrs.spec.canonical import sha256
from openrs.spec.load import CLUSTERS, EXPERIMENTS, PACKAGE, load_experiment, shipped_experiments
from tests.cli.conftest import Openrs


def test_list(openrs: Openrs) -> None:
    said = openrs("list", "--json")
    assert said.code == 0 and said.err == ""
    assert [set(item) for item in said.json["experiments"]] == [{"name", "title", "fidelity", "hash"}] * 10
    versions = [f"exp{number}{version}" for number in (1, 2, 3) for version in ("", "-as-shipped", "-paper")]
    assert [item["name"] for item in said.json["experiments"]] == [*versions, "smoke"]
    engines = {item["name"]: item["engine"] for item in said.json["clusters"]}
    assert engines == {"k8s": "kubernetes", "local": "local", "slurm": "slurm"}
    lines = openrs("list").out.splitlines()
    assert any(line.startswith("exp3") and "corrected" in line for line in lines)


def test_list_knows_the_users_clusters(openrs: Openrs, workdir: Path) -> None:
    (workdir / "openrs.toml").write_text('[clusters.bed]\nextends = "slurm"\npartition = "scavenge"\n')
    clusters = openrs("list", "--json").json["clusters"]
    assert {"name": "bed", "engine": "slurm"} in clusters


@pytest.mark.parametrize("name", shipped_experiments())
def test_show(name: str, openrs: Openrs, workdir: Path) -> None:
    shown = openrs("show", name, "--json").json
    assert set(shown) == {"experiment", "hash"}
    assert shown["hash"] == sha256(load_experiment(name))
    text = openrs("show", name).out
    assert text.startswith(f"# {shown['hash']}\n")
    assert yaml.safe_load(text) == shown["experiment"]
    # What is shown can be used as a file, and is the same experiment.
    (workdir / "copy.yaml").write_text(text)
    assert openrs("show", "copy.yaml", "--json").json == shown


def test_set_changes_the_hash(openrs: Openrs) -> None:
    shown = openrs("show", "smoke", "--set", "training.steps=20", "--set", "evaluation.at_steps=[20]", "--json").json
    assert shown["experiment"]["training"]["steps"] == 20
    assert shown["hash"] != openrs("show", "smoke", "--json").json["hash"]


def test_check(openrs: Openrs) -> None:
    expected = sha256(load_experiment("exp3"))
    assert openrs("check", "exp3", "--json").json == {"ok": True, "experiment": "exp3", "hash": expected}
    assert openrs("check", "exp3").out == f"ok exp3 {expected}\n"


@pytest.mark.parametrize("kind", list(Kind))
def test_the_shipped_schema_is_the_commands_output(kind: Kind, openrs: Openrs) -> None:
    """`make schemas` writes them."""
    assert openrs("schema", kind).out == (PACKAGE / "spec" / f"{kind}.schema.json").read_text()


@pytest.mark.parametrize("path", [*EXPERIMENTS.glob("*.yaml"), *CLUSTERS.glob("*.yaml")], ids=lambda path: path.stem)
def test_shipped_files_fit_the_schema_as_they_are_written(path: Path) -> None:
    schema = file_schema(Kind.EXPERIMENT if path.parent == EXPERIMENTS else Kind.CLUSTER)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "content",
    [{"trainig": {}}, {"training": {"steps": -1}}, {"model": {"type": "hubb"}}, {"extends": 3}, {"data": {"limt": 3}}],
)
def test_the_schema_refuses_what_an_editor_should_mark(content: dict[str, object]) -> None:
    assert not jsonschema.Draft202012Validator(file_schema(Kind.EXPERIMENT)).is_valid(content)


def test_plan(openrs: Openrs) -> None:
    plan = openrs("plan", "exp3", "--cluster", "slurm", "--json").json
    assert plan["steps"] == 500 and plan["completions_per_step"] == 72
    train = next(stage for stage in plan["stages"] if stage["name"] == "train")
    assert (train["resources"]["gpus"], train["resources"]["gpu_type"], train["resources"]["minutes"]) == (
        4,
        "a40",
        1440,
    )
    # 4 GPUs × 24 h of training; the base model's full protocol and 6 cells of ten checkpoints, each 1 GPU × 12 h.
    cells = 3 * 30 + 3 * 3 + 10 * 6
    assert plan["cost"]["gpu_hours"] == 4 * 24 + cells * 12
    assert plan["cost"]["dollars"] == round((4 * 24 + cells * 12) * 0.44, 2)
    assert plan["cost"]["upper_bound"] is True
    text = openrs("plan", "exp3", "--cluster", "slurm").out
    assert "4×a40" in text and "24:00" in text and "upper bound" in text and "$881.76" in text
    # What the evaluation takes, and what it can show.
    found = plan["evaluation"]
    assert 0 < found["gpu_hours"] < found["full_gpu_hours"] and found["one_full_gpu_hours"] > 0
    aime = next(one for one in found["benchmarks"] if one["benchmark"] == "aime24")
    assert (aime["seeds"], aime["full_seeds"], aime["published"]) == (1, 30, True)
    assert aime["full_sees"] == pytest.approx(100 * minimal_detectable_gain(aime["deviation"] / 100, 30), abs=0.1)
    assert aime["sees"] > aime["full_sees"] > 3
    assert (
        f"30 seeds see ≥ {aime['full_sees']}" in text and f"{found['full_gpu_hours']:g} with the full protocol" in text
    )
    unknown = openrs("plan", "smoke", "--cluster", "local").out
    assert "GPU-hours as sent" not in unknown
    # One seed a side is compared by problem, so it sees something; 2.8 standard errors of a difference.
    assert "1.6 at most  1 seed sees ≥ 6.3     1 seed sees ≥ 6.3" in unknown and "not known" not in unknown
    assert all(one["sees"] <= 3.97 * one["deviation"] + 0.05 for one in found["benchmarks"] if one["deviation"])


def test_the_bound_of_a_stage_does_not_shrink_with_what_the_cluster_grants(openrs: Openrs, workdir: Path) -> None:
    def write(minutes: int, limit: int) -> None:
        more = f"max_minutes = {minutes}\narray_limit = {limit}\ncells_per_task = 6\nprice_per_gpu_hour = 0.44\n"
        (workdir / "openrs.toml").write_text(f'[clusters.mine]\nextends = "slurm"\n{more}')

    for minutes, limit in ((480, 1000), (60, 5)):
        write(minutes, limit)
        plan = openrs("plan", "exp3", "--cluster", "mine", "--json").json
        # As if nothing were cut: training, 17 tasks of the base model's cells, 10 of the checkpoints'.
        assert plan["cost"]["gpu_hours"] == 4 * 24 + 27 * 12 and plan["cost"]["upper_bound"] is True
        assert plan["cost"]["gpu_hours"] > plan["evaluation"]["gpu_hours"] + plan["estimate"]["minutes"] * 4 / 60
        assert {stage["resources"]["minutes"] for stage in plan["stages"]} == {minutes}
    assert any(line.startswith("eval-1, eval-2: the longest task modelled at") for line in plan["cost"]["modelled"])
    write(480, 1000)
    text = openrs("plan", "exp3", "--cluster", "mine").out
    assert (
        "train: modelled at 9.6 h, an attempt may take 8:00: about 2 attempts\nat most 420 GPU-hours, $184.80" in text
    )
    short = openrs("plan", "exp3", "--cluster", "mine", "--set", "resources.minutes=300")
    assert "344 GPU-hours" in short.out and "no upper bound: train would need more by the model" in short.out
    assert "at most 344" not in short.out
    local = openrs("plan", "exp3", "--cluster", "local", "--json").json["cost"]
    assert local["upper_bound"] is False and "base, eval would need more" in local["basis"]


def test_plan_without_a_price_names_no_dollars(openrs: Openrs) -> None:
    plan = openrs("plan", "exp3", "--cluster", "local", "--json").json
    assert plan["cost"]["dollars"] is None
    assert "$" not in openrs("plan", "exp3", "--cluster", "local").out


def test_render_prints_every_file_and_touches_nothing(openrs: Openrs, workdir: Path) -> None:
    text = openrs("render", "smoke", "--cluster", "local").out
    files = openrs("render", "smoke", "--cluster", "local", "--json").json
    assert files["run"] == "RUN"
    expected = "".join(
        f"# ==> {file['name']} <==\n{file['text']}" + ("" if file["text"].endswith("\n") else "\n")
        for file in files["files"]
    )
    assert text == expected
    assert {"spec.json", "train/stage.json", "base/cells.json", "eval/cells.json"} <= {
        file["name"] for file in files["files"]
    }
    assert not list(workdir.iterdir())


def test_render_out(openrs: Openrs, workdir: Path) -> None:
    said = openrs("render", "exp3", "--cluster", "slurm", "--run", "mine", "--out", "there/deep")
    assert said.code == 0 and said.out == ""
    stage = json.loads((workdir / "there" / "deep" / "train" / "stage.json").read_text())
    assert stage["run"] == "mine"
    before = {path: path.stat().st_mtime_ns for path in (workdir / "there").rglob("*")}
    again = openrs("render", "exp3", "--cluster", "slurm", "--out", "there/deep")
    assert again.code == 2 and "--out there/deep" in again.err and again.err.count("\n") == 1
    assert before == {path: path.stat().st_mtime_ns for path in (workdir / "there").rglob("*")}


def test_render_out_may_be_an_empty_directory(openrs: Openrs, workdir: Path) -> None:
    (workdir / "empty").mkdir()
    assert openrs("render", "smoke", "--cluster", "local", "--out", "empty").code == 0
    assert (workdir / "empty" / "spec.json").is_file()


def test_what_is_rendered_is_the_same_every_time(openrs: Openrs) -> None:
    line = ("render", "exp3", "--cluster", "slurm", "--run", "mine")
    assert openrs(*line).out == openrs(*line).out

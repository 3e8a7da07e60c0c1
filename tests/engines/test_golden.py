"""What is rendered for the paper's experiments, kept as files that a reviewer reads as documentation.

`make golden` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openrs.cli.app import app
from openrs.spec.canonical import sha256
from openrs.spec.load import load_cluster, load_experiment

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("cluster", ["slurm", "k8s", "local"])
@pytest.mark.parametrize("name", ["exp1", "exp2", "exp3", "smoke"])
def test_golden(name: str, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    result = CliRunner().invoke(app, ["render", name, "--cluster", cluster, "--runs", "/shared/runs"])
    assert result.exit_code == 0, result.output
    golden = GOLDEN / f"{name}.{cluster}.txt"
    if os.environ.get("OPENRS_UPDATE_GOLDEN"):
        golden.write_text(result.stdout)
    assert result.stdout == golden.read_text()
    digest = sha256(load_experiment(name))
    artefacts = result.stdout.split("# ==> ")[1:]
    if cluster != "k8s":  # there, each Job is told it in its own ConfigMap
        assert artefacts.pop(0).startswith("spec.json")
    assert len(artefacts) >= 3 * (1 if cluster == "k8s" else 2)
    assert all(digest in part for part in artefacts)


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer", "oci"])
def test_golden_container(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a container changes: the training job's script, and what starts the supervisor in the image."""
    monkeypatch.chdir(GOLDEN)
    result = CliRunner().invoke(app, ["render", "exp3", "--cluster", runtime, "--json"])
    assert result.exit_code == 0, result.output
    files = {file["name"]: file["text"] for file in json.loads(result.stdout)["files"]}
    shown = "".join(f"# ==> {name} <==\n{files[name]}" for name in ("train/job.sbatch", "train/container.sh"))
    golden = GOLDEN / f"exp3.slurm-{runtime}.txt"
    if os.environ.get("OPENRS_UPDATE_GOLDEN"):
        golden.write_text(shown)
    assert shown == golden.read_text()
    image = load_cluster(runtime).image
    assert image is not None and image.rpartition("@")[2] in files["train/container.sh"]
    assert set(files) >= {f"{stage}/container.sh" for stage in ("base", "train", "eval")}
    for name in ("train/job.sbatch", "train/container.sh"):
        assert subprocess.run(["bash", "-n"], input=files[name], text=True, check=False).returncode == 0

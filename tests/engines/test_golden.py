"""What is rendered for the paper's experiments, kept as files that a reviewer reads as documentation.

`make golden` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openrs.cli.app import app
from openrs.spec.canonical import sha256
from openrs.spec.load import load_experiment

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

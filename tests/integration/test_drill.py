"""`openrs drill` as a user types it: on this machine, on a real Slurm, on a real Kubernetes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.k8s_user import User
from tests.testbed.slurm import SlurmBed

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]


def drill(home: Path, *options: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a drill says that passes."""
    done = subprocess.run(
        [sys.executable, "-m", "openrs", "drill", "--json", *options],
        cwd=home,
        env={**os.environ, **(environment or {}), "OPENRS_RUNS": str(home / "runs")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] and found["equal"] == {"weights": True, "metrics": True, "completions": True}
    assert found["lost"]["most_steps"] <= found["lost"]["allowed_steps"] and found["lost"]["generations"] == 0
    return dict(found)


def test_here_with_a_slow_save_and_a_longer_interval(tmp_path: Path) -> None:
    found = drill(tmp_path, "--kills", "5", "--every", "2", "--save-seconds", "1")
    assert found["kills"] == {"asked": 5, "done": 5, "recovered": 5}
    assert all(of["kills"] == 1 for of in found["phases"].values())


@pytest.mark.slurm
def test_on_slurm(slurm_bed: SlurmBed, tmp_path: Path) -> None:
    slurm_bed.reset()
    (tmp_path / "openrs.toml").write_text('[clusters.bed]\nextends = "slurm"\nlease_seconds = 8\n')
    found = drill(tmp_path, "--kills", "2", "--cluster", "bed", environment=slurm_bed.env)
    assert found["kills"] == {"asked": 2, "done": 2, "recovered": 2}
    slurm_bed.reset()


@pytest.mark.k8s
def test_on_kubernetes(k8s_user: User) -> None:
    settings = ("--cluster", "undisturbed", "--set", "resources.memory_gb=1")
    found = drill(k8s_user.home, "--kills", "2", *settings, environment=k8s_user.environment)
    assert found["kills"] == {"asked": 2, "done": 2, "recovered": 2}

"""Fixtures of all tests: an environment in which nothing of the developer's own is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["tests.testbed.slurm.plugin", "tests.testbed.k8s.plugin", "tests.images.plugin"]


@pytest.fixture(autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `OPENRS_RUNS` and no `openrs.toml` but the test's own."""
    monkeypatch.delenv("OPENRS_RUNS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-config"))


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory

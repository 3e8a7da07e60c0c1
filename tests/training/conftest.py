"""A training job in this process: the imports of TRL are paid once for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from openrs.spec.experiment import Experiment
from openrs.training.entry import main
from tests.training.harness import Job, make_job


@pytest.fixture
def job_of(tmp_path: Path) -> Callable[..., Job]:
    """Makes a job in a run directory of the given name."""

    def make(experiment: Experiment, name: str = "run") -> Job:
        return make_job(tmp_path / name, experiment)

    return make


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Job], int]:
    """Runs the next attempt of a job in this process, and returns its exit code."""

    def train(job: Job) -> int:
        before = dict(os.environ)
        job.attempt += 1
        job.stop_flag.unlink(missing_ok=True)
        for name, value in job.environment().items():
            monkeypatch.setenv(name, value)
        try:
            return main([str(job.stage_path)])
        finally:
            for name in set(os.environ) - set(before):
                monkeypatch.delenv(name)

    return train

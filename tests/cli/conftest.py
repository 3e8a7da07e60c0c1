"""The command line in this process, and an engine whose jobs do what a test says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openrs import engines
from openrs.cli.app import main
from tests.cli import fake


@dataclass
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)


Openrs = Callable[..., Said]


@pytest.fixture
def openrs(workdir: Path, capsys: pytest.CaptureFixture[str]) -> Openrs:
    """Runs a command line in this process, in an empty working directory."""

    def call(*args: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Said(int(exit_.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> fake.Scheduler:
    """A pretended scheduler behind the clusters `local` and `k8s`; of the latter's runs the client sees no directory.

    For what the commands themselves do with answers. That real schedulers give such answers, and that runs run, is
    tested with real ones in tests/engines.
    """
    scheduler = fake.Scheduler()
    monkeypatch.setattr(fake.FakeEngine, "scheduler", scheduler)
    monkeypatch.setitem(engines._ENGINES, "local", ("tests.cli.fake", "FakeEngine"))
    monkeypatch.setitem(engines._ENGINES, "kubernetes", ("tests.cli.fake", "FakeRemoteEngine"))
    monkeypatch.setattr("openrs.logs.files.Files.period", 0.01)
    monkeypatch.setattr("openrs.logs.pods.Pods.period", 0.01)
    monkeypatch.setattr("openrs.cli.progress.period", lambda _: 0.01)
    monkeypatch.setattr("openrs.cli.status.PERIOD", 0.01)
    monkeypatch.setattr("openrs.cli.progress.PLAIN_EVERY", 0.0)
    return scheduler

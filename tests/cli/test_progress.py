"""What is said while something takes long."""

from __future__ import annotations

import time

import pytest

from openrs.cli import output
from openrs.cli.progress import Patience
from openrs.engines import Job
from openrs.errors import OpenRSError
from tests.cli.conftest import Openrs
from tests.cli.fake import FakeEngine, Scheduler


def test_cancel_says_that_it_waits(openrs: Openrs, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    def saving(self: FakeEngine, jobs: list[Job], grace: int) -> None:
        time.sleep(0.3)

    assert openrs("submit", "smoke", "--cluster", "local", "--run", "mine").code == 0
    monkeypatch.setattr("openrs.cli.output.FIRST_AFTER", 0.01)
    monkeypatch.setattr("openrs.cli.output.EVERY", 0.1)
    monkeypatch.setattr(FakeEngine, "cancel", saving)
    said = openrs("cancel", "mine")
    assert said.out.count("\n") == 1
    lines = said.err.splitlines()
    assert len(lines) > 1 and set(lines) == {"mine: waiting until it has saved and stopped, 0 s"}


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with output.now_and_then(lambda: "waiting"):
        pass
    assert capsys.readouterr().err == ""


def test_patience(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    away = OpenRSError("nobody answers")
    patience = Patience()
    with pytest.raises(OpenRSError, match="nobody"):
        patience.fails(away)  # what never worked is not waited for
    for _ in range(2):
        patience.works()
        patience.fails(away)
        patience.fails(away)
    assert capsys.readouterr().err == "openrs: nobody answers; trying again for 5 min 00 s\n" * 2
    monkeypatch.setattr("openrs.cli.progress.PATIENCE", 0.0)
    time.sleep(0.01)
    with pytest.raises(OpenRSError, match="nobody"):
        patience.fails(away)

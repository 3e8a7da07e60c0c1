"""What is sent while a training job ends, and what waits for it: the requeue must not."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from openrs import evals
from openrs.runs import record
from openrs.worker import host, landing
from openrs.worker.exits import DONE, FAILED, INTERRUPTED
from openrs.worker.stop import StopRequest


class Sending:
    """Stands in for `evals.land`: notes when it begins and ends."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.events: list[str] = []

    def __call__(self, *_: object) -> None:
        self.events.append("sending")
        self.began.set()
        assert self.may_end.wait(20)
        self.events.append("sent")


@pytest.fixture
def sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sending:
    sending = Sending()
    stage = SimpleNamespace(run="r", run_dir=str(tmp_path / "r"), submission=1)
    monkeypatch.setattr(landing, "read", lambda *_: stage)
    monkeypatch.setattr(landing, "_runs", lambda _: tmp_path)
    monkeypatch.setattr(record, "load", lambda *_: None)
    monkeypatch.setattr(evals, "land", sending)
    return sending


def end_with(code: int, monkeypatch: pytest.MonkeyPatch, sending: Sending, during: bool) -> None:
    """Runs an attempt that ends so; with `during`, while a sending is under way."""

    def attend(*_: object) -> int:
        assert not during or sending.began.wait(20)
        return code

    def interrupted() -> None:
        sending.events.append("requeue")
        sending.may_end.set()

    monkeypatch.setattr(host, "_attend", attend)
    monkeypatch.setattr(landing, "PERIOD_SECONDS", 0.01 if during else 600)
    if not during:
        sending.may_end.set()
    assert host.run_supervisor(Path("stage.json"), None, StopRequest(), "7", interrupted) == code


def test_the_requeue_waits_for_no_sending(monkeypatch: pytest.MonkeyPatch, sending: Sending) -> None:
    end_with(INTERRUPTED, monkeypatch, sending, during=True)
    assert sending.events == ["sending", "requeue", "sent"], "it ends all the same, or its job would be sent twice"


@pytest.mark.parametrize(
    ("code", "events"), [(DONE, ["sending", "sent"]), (INTERRUPTED, ["requeue"]), (FAILED, []), (-9, [])]
)
def test_only_what_is_done_sends_the_rest(
    monkeypatch: pytest.MonkeyPatch, sending: Sending, code: int, events: list[str]
) -> None:
    end_with(code, monkeypatch, sending, during=False)
    assert sending.events == events


def test_no_sending_begins_after_a_request_to_stop(monkeypatch: pytest.MonkeyPatch, sending: Sending) -> None:
    monkeypatch.setattr(landing, "PERIOD_SECONDS", 0.01)
    stop = StopRequest()
    stop.ask("SIGTERM")
    with landing.landing(Path("stage.json"), stop):
        time.sleep(0.3)
    assert sending.events == []

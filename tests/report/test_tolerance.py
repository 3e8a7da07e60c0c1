"""Whatever a line of a run directory holds: report, status and watch say what they can, and never end in a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from openrs.cli import progress
from openrs.engines import JobInfo, JobState
from openrs.report.build import build, report_json
from openrs.report.curve import draw
from openrs.report.export import csv_text, markdown, terminal
from openrs.report.page import page
from openrs.report.table import results_text, samples_text
from openrs.runs.record import Record, load
from openrs.status import status
from tests.cli.conftest import Openrs, openrs, scheduler  # noqa: F401
from tests.cli.fake import Scheduler
from tests.report.runs import write_cell

HUGE = 10**400
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.sampled_from(
        [HUGE, -HUGE, 1e308, -1e308, 2**63, 1e12, -1, 0, 1, "x", "", "\ud800", "$x", "$a^$", "\x1b[0m", [], {}]
    )
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
METRICS = {
    "step": 3,
    "reward": 1.0,
    "rewards": {"accuracy": 0.5},
    "accuracy": 0.5,
    "kl": 0.1,
    "entropy": 0.1,
    "completion_tokens": 9.0,
    "seconds": 1.0,
    "time": 5.0,
    "attempt": 1,
}
EVENT = {
    "time": 1.0,
    "event": "start",
    "stage": "train",
    "submission": 1,
    "task": None,
    "attempt": 1,
    "gpus": 4,
    "gpu_type": "a40",
    "node": "n1",
    "writer": "w",
}
END = {**EVENT, "time": 2.0, "event": "end", "code": 0, "reason": "done"}
CELL = {
    "series": "mine",
    "score": 0.5,
    "n": 2,
    "seed": 0,
    "step": 3,
    "settings": "0" * 12,
    "benchmark": "aime24",
    "checkpoint": "step-000003",
    "outcomes": [0, 1],
    "samples_per_problem": 1,
    "reasoned": 0.5,
    "reasoned_accuracy": 0.5,
    "seconds": 1.0,
    "truncated": 0.1,
    "completion_tokens": 5.0,
    "samples": [{"problem": "1", "completion": "2", "gold": "3", "correct": True}],
    "hardware": "cpu",
    "data": {"sha256": "a", "problems": 2},
    "model": {"name": "m", "revision": "r"},
    "sampling": {},
    "source": {},
    "distributions": {},
    "state": "done",
}


def but(fields: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """These fields, some of them with any other value."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(fields, ANY)).map(lambda other: fields | other)


@pytest.fixture
def record(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> Record:  # noqa: F811
    assert openrs("submit", "smoke", "--cluster", "local", "--run", "mine").code == 0
    scheduler.states = {"train": JobInfo(JobState.RUNNING)}
    return load(workdir / "runs", "mine")


def everything(record: Record, runs: Path) -> None:
    """All that reads a run directory, as status, watch and report do it."""
    (state,) = status([record])
    assert progress.progress_line(record, state).isprintable()
    report = build(runs, ["mine"])
    (part,) = report.parts
    json.dumps(report_json(report), allow_nan=False)
    for text in (csv_text(report), markdown(report), page(report, []), *terminal(part)):
        text.encode()
    results_text(part.measured)
    samples_text(part.measured)
    draw(Path(record.dir), part.measured)


@given(metrics=st.lists(but(METRICS), min_size=1, max_size=3), events=st.lists(but(EVENT) | but(END), max_size=3))
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=10)
@example(metrics=[METRICS | {"rewards": 1e308}], events=[EVENT | {"time": 1e12, "attempt": "x"}])
@example(metrics=[METRICS | dict.fromkeys(METRICS, HUGE)], events=[EVENT | {"attempt": []}, END | {"writer": {}}])
@example(
    metrics=[{**dict.fromkeys(METRICS, sign * 1e308), "step": step} for step, sign in enumerate((1, -1))],
    events=[EVENT | {"stage": "$x^$", "time": -1e308}, END | {"time": 1e308}],
)
@example(
    metrics=[METRICS | {"reward": sign * 1e100, "kl": sign * 1e99, "step": s} for s, sign in enumerate((1, -1))],
    events=[],
)
def test_any_line_of_metrics_and_ledger(
    metrics: list[dict[str, Any]], events: list[dict[str, Any]], record: Record, workdir: Path
) -> None:
    run = Path(record.dir)
    (run / "ledger").mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (run / "ledger" / "w.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    everything(record, workdir / "runs")


@given(cells=st.lists(but(CELL), min_size=1, max_size=2), failed=ANY)
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=10)
@example(cells=[CELL | {"reasoned": "x"}], failed={"reason": {}})
@example(cells=[CELL | {"reasoned_accuracy": "x"}, CELL | {"reasoned": [1]}], failed=[])
@example(cells=[CELL | {"reasoned": 1}, CELL | {"reasoned": -1}], failed="\ud800")
@example(cells=[CELL | {"benchmark": "$a^$"}, CELL | {"samples": [{}]}], failed=1)
def test_any_cell(cells: list[dict[str, Any]], failed: Any, record: Record, workdir: Path) -> None:
    run = Path(record.dir)
    shutil.rmtree(run / "eval", ignore_errors=True)
    base = write_cell(run, None, [1, 0])
    for number, cell in enumerate(cells):
        base.with_name(f"{number + 1}-{'0' * 12}.json").write_text(json.dumps(cell))
    base.with_name("9-0.failed.json").write_text(json.dumps(failed))
    everything(record, workdir / "runs")


@pytest.mark.parametrize("field", ["reasoned", "reasoned_accuracy", "seconds", "samples", "data", "model", "hardware"])
def test_a_cell_with_a_field_of_another_kind_is_named_and_set_aside(
    field: str,
    record: Record,
    workdir: Path,
    openrs: Openrs,  # noqa: F811
) -> None:
    write_cell(Path(record.dir), None, [1, 0])
    wrong: dict[str, Any] = {field: 3 if field == "hardware" else "x"}
    write_cell(Path(record.dir), 40, [1, 1], **wrong)
    said = openrs("report", "mine", "--json")
    (found,) = said.json["runs"]
    assert said.code == 0 and [one["checkpoint"] for one in found["results"]] == ["rev-0123456789ab"]
    kind = {"samples": "list", "data": "mapping", "model": "mapping", "hardware": "text"}.get(field, "number")
    assert f"{field} is no {kind}; set aside" in "\n".join(found["missing"])

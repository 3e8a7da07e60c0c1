"""Weights & Biases in offline mode, by its real library: one run for all attempts, its numbers those of the metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb")

from openrs.training.tracking import flat
from tests.training.harness import Job, tiny


def history(directory: Path) -> tuple[str, list[dict[str, float]]]:
    """Run id and rows of one offline directory, read from W&B's own log format."""
    from wandb.proto import wandb_internal_pb2 as proto
    from wandb.sdk.internal import datastore

    store = datastore.DataStore()
    store.open_for_scan(str(next(directory.glob("*.wandb"))))
    run, rows = "", []
    while (data := store.scan_data()) is not None:
        record = proto.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run = record.run.run_id
        if record.HasField("history"):
            items = {
                (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
            }
            rows.append(items)
    return run, rows


@pytest.mark.train
def test_every_attempt_goes_on_with_the_same_run(job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tiny("training.steps=4", "tracking={type: wandb, project: openrs, mode: offline}"))
    assert job.stop_after(1, job.start()) == 75
    first = len(job.metrics())
    assert job.finish().returncode == 0
    found = [history(path) for path in sorted((job.run.path / "wandb").glob("offline-run-*"))]
    assert [run for run, _ in found] == ["test", "test"]
    steps = [[row["step"] for row in rows] for _, rows in found]
    assert steps == [list(range(1, first + 1)), list(range(first + 1, 5))]
    lines: list[dict[str, Any]] = [json.loads(line) for line in job.run.metrics.read_text().splitlines()]
    rows = [row for _, part in found for row in part]
    for line, row in zip(lines, rows, strict=True):
        assert row["reward"] == line["reward"] and row["rewards/accuracy"] == line["rewards"]["accuracy"]
        assert row["phases/generation"] == line["phases"]["generation"]


def test_only_numbers_are_sent() -> None:
    assert flat({"step": 1, "loss": None, "rewards": {"accuracy": 0.5, "format": None}, "node": "a"}) == {
        "step": 1,
        "rewards/accuracy": 0.5,
    }

"""Records whose fields hold anything: a record that all else can go by, or one line for a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openrs.engines import JobInfo, JobState
from openrs.errors import BadInput
from openrs.runs.record import Asked, Record, SentStage, Submission, load, save
from openrs.spec.load import load_cluster
from openrs.status import stage_states

STAGE: dict[str, Any] = {"name": "train", "handle": "1", "tasks": None, "cells": [], "sizes": []}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, "a\0b", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def record(runs: Path) -> Record:
    stage = SentStage(name="train", handle="1", tasks=None, cells=[])
    (runs / "mine").mkdir(parents=True, exist_ok=True)
    return Record(
        run="mine",
        experiment="smoke",
        hash="x",
        steps=4,
        cluster=load_cluster("local"),
        dir=str(runs / "mine"),
        asked=Asked(experiment="smoke", overrides=[]),
        submissions=[Submission(number=1, time=1.0, stages=[stage])],
    )


FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys(Record.model_fields, ANY))
STAGES = st.fixed_dictionaries({}, optional=dict.fromkeys(STAGE, ANY)).map(lambda other: STAGE | other)


@given(fields=FIELDS, stage=STAGES)
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=60)
def test_any_record(fields: dict[str, Any], stage: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path, record(tmp_path))
    path = tmp_path / "mine" / "record.json"
    content = json.loads(path.read_text())
    content["submissions"][0]["stages"].append(stage)
    path.write_text(json.dumps(content | fields))
    told = ""
    try:
        found = load(tmp_path, "mine")
    except BadInput as error:
        told = str(error)
    if told:
        assert str(path) in told
        return
    infos = {sent.handle: JobInfo(JobState.RUNNING) for _, sent in found.newest().values()}
    stage_states(found, infos)

"""Cells of real benchmarks on a real Kubernetes: a pod is taken away, a cell is broken by hand, and one alone is done again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.cells import done, finished
from tests.integration.k8s_user import User, pods_of
from tests.testbed.k8s.client import RUNS_PATH

pytestmark = [pytest.mark.k8s, pytest.mark.train, pytest.mark.timeout(900)]

STEPS = (8, 16, 24)
RUN = "cells"
CELLS = len(STEPS) * 2 * 2
PER_TASK = 4


def settings() -> list[str]:
    sampling = "{temperature: 0.6, max_prompt_tokens: 256, max_new_tokens: 128}"
    benchmarks = [
        f"{{name: {name}, data: {{type: jsonl, path: {RUNS_PATH}/data/{file}, limit: 150}}, sampling: {sampling}, seeds: [0, 1]}}"
        for name, file in (("math_500", "math500.jsonl"), ("aime24", "aime24.jsonl"))
    ]
    return [f"evaluation.at_steps={list(STEPS)}", f"evaluation.benchmarks=[{', '.join(benchmarks)}]"]


def test_twelve_cells(k8s_user: User, problem_sets: Path) -> None:
    user, directory = k8s_user, k8s_user.directory(RUN)
    shutil.copytree(problem_sets, user.volume / "data")
    with open(user.home / "openrs.toml", "a") as file:
        file.write(f'[clusters.by-fours]\nextends = "undisturbed"\ncells_per_task = {PER_TASK}\n')
    with user.bed.watch_pods(user.space.name) as seen:
        user.submit(RUN, "by-fours", *settings())

        def running() -> str | None:
            pods = pods_of(list(seen), RUN, "eval").values() if done(directory) else ()
            return next((p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"), None)

        name = user.wait(running, "pod that has finished a cell", 300)
        user.bed.kubectl("delete", "pod", name, "-n", user.space.name, "--wait=false")
        user.wait_for_end(RUN)
        assert len(pods_of(list(seen), RUN, "eval")) > CELLS // PER_TASK, "another pod took its place"
    found = done(directory)
    assert len(found) == CELLS and {cell["step"] for cell in found.values()} == set(STEPS)
    counted = finished(directory)
    assert len(counted) == CELLS and set(counted.values()) == {1}, "every cell was finished once"
    # One is broken by hand where nobody outside can see it; whoever pulls it knows.
    path = sorted(found)[5]
    user.openrs("resume", RUN, code=2)
    path.write_text("{")
    user.openrs("pull", RUN)
    assert path.name in user.openrs("report", RUN)
    user.openrs("resume", RUN)
    record = json.loads((user.home / "runs" / RUN / "record.json").read_text())
    ((cell,),) = (stage["cells"] for stage in record["submissions"][1]["stages"])
    assert str(path).endswith(f"{cell['checkpoint']}/{cell['benchmark']}/{cell['seed']}-{cell['settings']}.json")
    user.wait_for_end(RUN)
    again = done(directory)
    assert len(again) == CELLS and again[path]["outcomes"] == found[path]["outcomes"]

"""Cells of real benchmarks on a real Kubernetes: a pod is taken away, a cell is broken by hand, and one alone is done again."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.integration.k8s_user import User, pods_of
from tests.testbed.k8s.client import RUNS_PATH

pytestmark = [pytest.mark.k8s, pytest.mark.train, pytest.mark.timeout(900)]

STEPS = (8, 16, 24)
RUN = "cells"


def settings() -> list[str]:
    sampling = "{temperature: 0.6, max_prompt_tokens: 256, max_new_tokens: 128}"
    benchmarks = [
        f"{{name: {name}, data: {{type: jsonl, path: {RUNS_PATH}/data/{file}, limit: 150}}, sampling: {sampling}, seeds: [0, 1]}}"
        for name, file in (("math_500", "math500.jsonl"), ("aime24", "aime24.jsonl"))
    ]
    return [f"evaluation.at_steps={list(STEPS)}", f"evaluation.benchmarks=[{', '.join(benchmarks)}]"]


def cells(user: User) -> dict[str, dict[str, Any]]:
    found = {str(path): json.loads(path.read_text()) for path in (user.directory(RUN) / "eval").glob("*/*/*.json")}
    return {path: cell for path, cell in found.items() if cell["state"] == "done"}


def test_twelve_cells(k8s_user: User) -> None:
    shared = os.environ.get("OPENRS_SHARED")
    if not shared or not (Path(shared) / "data" / "math500.jsonl").is_file():
        pytest.skip("OPENRS_SHARED does not name a directory with data/math500.jsonl and data/aime24.jsonl")
    user = k8s_user
    (user.volume / "data").mkdir()
    for file in ("math500.jsonl", "aime24.jsonl"):
        (user.volume / "data" / file).write_bytes((Path(shared) / "data" / file).read_bytes())
    toml = user.home / "openrs.toml"
    toml.write_text(
        toml.read_text().replace("[clusters.undisturbed]\n", "[clusters.undisturbed]\ncells_per_task = 4\n")
    )
    with user.bed.watch_pods(user.space.name) as seen:
        user.submit(RUN, "undisturbed", *settings())

        def running() -> str | None:
            pods = pods_of(list(seen), RUN, "eval").values() if cells(user) else ()
            return next((p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"), None)

        name = user.wait(running, "pod that has finished a cell", 300)
        user.bed.kubectl("delete", "pod", name, "-n", user.space.name, "--wait=false")
        user.wait_for_end(RUN)
        assert len(pods_of(list(seen), RUN, "eval")) > len(STEPS), "another pod took its place"
    found = cells(user)
    assert len(found) == 12 and {cell["step"] for cell in found.values()} == set(STEPS)
    counted: Counter[str] = Counter()
    for log in (user.directory(RUN) / "logs").glob("eval/*/rank-0.log"):
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"cell"')]
        counted.update(json.dumps(line["cell"]) for line in lines if line["state"] == "done")
    assert len(counted) == 12 and set(counted.values()) == {1}, "every cell was finished once"
    # One is broken by hand where nobody outside can see it; whoever pulls it knows.
    path = sorted(found)[5]
    user.openrs("resume", RUN, code=2)
    Path(path).write_text("{")
    user.openrs("pull", RUN)
    assert Path(path).name in user.openrs("report", RUN)
    user.openrs("resume", RUN)
    record = json.loads((user.home / "runs" / RUN / "record.json").read_text())
    ((cell,),) = (stage["cells"] for stage in record["submissions"][1]["stages"])
    assert path.endswith(f"{cell['checkpoint']}/{cell['benchmark']}/{cell['seed']}-{cell['settings']}.json")
    user.wait_for_end(RUN)
    again = cells(user)
    assert len(again) == 12 and again[path]["outcomes"] == found[path]["outcomes"]

"""`openrs fetch` against a local stand-in of the Hub: what is fetched, once, at its revision; then training without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")

from openrs.spec.load import PACKAGE
from tests.data.hub import COMMIT, Hub, directory, serving
from tests.training.harness import make_job, tiny

pytestmark = pytest.mark.train

ROWS = [{"problem": f"{a}+{b}=?", "answer": str(a + b)} for a in range(1, 8) for b in range(1, 8)]
SPEC = """
extends: smoke
name: hubbed
title: The smoke experiment with model and data of the Hub
model: {{type: hub, name: lab/tiny, revision: {model}, dtype: float32, attention: sdpa}}
data: {{type: hub, name: lab/sums, revision: main}}
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A model in two formats, of which one is wanted, and a data set."""
    model = directory(PACKAGE / "models" / "tiny-sums") | {"pytorch_model.bin": b"the same again"}
    data = {"train.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(), "README.md": b"Sums.\n"}
    with serving({"models/lab/tiny": model, "datasets/lab/sums": data}) as made:
        yield made


def spec(where: Path, model: str = COMMIT) -> Path:
    path = where / "hubbed.yaml"
    path.write_text(SPEC.format(model=model))
    return path


def openrs(where: Path, hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(where / "cache"), "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, "-m", "openrs", *arguments],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_fetched_once_and_then_trained_without_the_hub(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spec(tmp_path)
    done = openrs(tmp_path, hub, "fetch", str(path), "--cluster", "local", "--json")
    assert done.returncode == 0, done.stderr
    fetched: list[dict[str, Any]] = json.loads(done.stdout)["fetched"]
    assert [(one["kind"], one["name"], one["commit"]) for one in fetched] == [
        ("model", "lab/tiny", COMMIT),
        ("data", "lab/sums", COMMIT),
    ]
    assert fetched[1]["rows"] == len(ROWS) and not any("pytorch_model.bin" in line for line in hub.asked)
    assert any("model.safetensors" in line for line in hub.asked)
    hub.asked.clear()
    again = openrs(tmp_path, hub, "fetch", str(path), "--cluster", "local")
    assert again.returncode == 0 and f"model lab/tiny at {COMMIT}" in again.stdout
    assert not any(line.startswith("GET") and "safetensors" in line for line in hub.asked)

    hub.asked.clear()
    small = ["training.steps=1", "training.prompts_per_step=2", "evaluation.at_steps=[]"]
    experiment = tiny(*small, f"model={{type: hub, name: lab/tiny, revision: {COMMIT}, dtype: float32}}")
    data = '{"type": "hub", "name": "lab/sums", "revision": "main"}'
    loaded = type(experiment).model_validate_json(
        json.dumps({**experiment.model_dump(mode="json"), "data": json.loads(data)})
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}
    job = make_job(tmp_path / "run", loaded)
    result = job.finish(**offline)
    assert result.returncode == 0, result.stderr
    assert [line["step"] for line in job.metrics()] == [1] and hub.asked == []
    # What is not there is one line, and nothing is tried.
    job = make_job(tmp_path / "none", loaded)
    result = job.finish(**offline | {"HF_HOME": str(tmp_path / "empty")})
    assert result.returncode == 78 and result.stderr.count("\n") == 1
    assert "not in the cache" in result.stderr and "`openrs fetch`" in result.stderr and hub.asked == []


@pytest.mark.parametrize(
    ("model", "gone", "words"),
    [
        ("f" * 40, "", "model lab/tiny at " + "f" * 40 + ": no such revision"),
        ("main", "models/lab/tiny", "model lab/tiny at main: no such repository"),
        ("main", "datasets/lab/sums", "data set lab/sums at main: no such repository"),
    ],
)
def test_what_the_hub_does_not_give_out_is_one_line(
    model: str, gone: str, words: str, tmp_path: Path, hub: Hub
) -> None:
    hub.repositories.pop(gone, None)
    done = openrs(tmp_path, hub, "fetch", str(spec(tmp_path, model)), "--cluster", "local")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr


def test_nothing_to_fetch(tmp_path: Path, hub: Hub) -> None:
    done = openrs(tmp_path, hub, "fetch", "smoke", "--cluster", "local")
    assert (done.returncode, done.stdout) == (0, "smoke takes nothing from the Hub\n") and hub.asked == []

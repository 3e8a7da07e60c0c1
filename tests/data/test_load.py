"""Problems and models from files, generators and the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from openrs.data import load as module
from openrs.data.load import commit, fingerprint, load, model_path
from openrs.errors import BadInput
from openrs.spec.parts import HubData, HubModel, JsonlData, PathModel, SumsData


def jsonl(path: Path, *rows: object, **options: Any) -> JsonlData:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlData(type="jsonl", path=str(path), **options)


def test_sums() -> None:
    rows = load(SumsData(type="sums", split="train", count=5, seed=3))
    assert len(rows) == 5 and set(rows[0]) == {"problem", "answer"}
    assert (
        fingerprint(rows)
        == fingerprint(load(SumsData(type="sums", split="train", count=5, seed=3)))
        != fingerprint(rows[:4])
    )
    with pytest.raises(BadInput, match="at most 20000"):
        load(SumsData(type="sums", split="held_out", count=30000))


def test_jsonl(tmp_path: Path) -> None:
    rows = [
        {"question": " 1+1? ", "final": 2, "other": None},
        {"question": "1/2?", "final": ["\\frac12"]},
        {"question": "2*3?", "final": "['6']"},
        {"question": "two?", "final": ["1", "2"]},
        {"question": "why?", "final": "Since …, the answer is $\\boxed{4}$."},
    ]
    data = jsonl(tmp_path / "a.jsonl", *rows, problem="question", answer="final")
    assert [(row["problem"], row["answer"]) for row in load(data)] == [
        ("1+1?", "2"),
        ("1/2?", "\\frac12"),
        ("2*3?", "6"),
        ("two?", "1, 2"),
        ("why?", "Since …, the answer is $\\boxed{4}$."),
    ]
    assert len(load(data.model_copy(update={"limit": 2}))) == 2


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"problem": "?", "anwser": "1"}],
            "row 1: no column 'answer' for the answer; did you mean 'anwser'?; it has anwser, problem",
        ),
        ([{"problem": "?", "answer": "1"}, {"problem": "", "answer": "1"}], "row 2: column 'problem' is empty"),
        ([{"problem": "?", "answer": None}], "column 'answer' is empty"),
        ([], "holds no rows"),
        ([[1]], "line 1: not a JSON object"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path: Path, rows: list[object], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(jsonl(tmp_path / "a.jsonl", *rows))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_choices(tmp_path: Path) -> None:
    row = {"problem": "?", "answer": "yes", "x": "no", "y": "perhaps"}
    assert load(jsonl(tmp_path / "a.jsonl", row, choices=["x", "y"])) == [
        {"problem": "?", "answer": "yes", "wrong-1": "no", "wrong-2": "perhaps"}
    ]
    with pytest.raises(BadInput, match="no column 'z' for the wrong-1"):
        load(jsonl(tmp_path / "a.jsonl", row, choices=["z"]))


def test_a_file_is_what_it_was(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "a.jsonl", {"problem": "?", "answer": "1"})
    known = data.model_copy(update={"sha256": hashlib.sha256(Path(data.path).read_bytes()).hexdigest()})
    assert load(known) == load(data)
    jsonl(tmp_path / "a.jsonl", {"problem": "?", "answer": "2"})
    with pytest.raises(BadInput, match="its content has changed"):
        load(known)


@pytest.mark.train
def test_a_gated_data_set_without_a_token_is_a_line(tmp_path: Path) -> None:
    """The real client, asked to read from a hub on this machine that answers as the real one does."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to dataset Idavidrein/gpqa is restricted")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = (
            "from openrs.data.load import load; from openrs.errors import BadInput\n"
            "from openrs.spec.load import named_benchmarks; from openrs.spec.evaluation import Benchmark\n"
            "try: load(Benchmark.model_validate(named_benchmarks(['gpqa:diamond'])[0]).data)\n"
            "except BadInput as error: print(error)\n"
        )
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        server.shutdown()
    assert done.stdout == (
        "data set Idavidrein/gpqa at 633f5ee89ab8ad4522a9f850766b73f62147ffdd: the Hub gives it only to those who asked; "
        "accept its terms and set HF_TOKEN\n"
    )


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(BadInput, match="No such file"):
        load(JsonlData(type="jsonl", path=str(path)))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        load(JsonlData(type="jsonl", path=str(path)))


def test_hub_rows_come_at_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def load_dataset(path: str, name: str | None = None, **options: object) -> list[dict[str, object]]:
        asked.update(options, path=path, name=name)
        return [{"problem": "1?", "answer": 1, "x": 2}, {"problem": "2?", "answer": 2}]

    fake = types.SimpleNamespace(load_dataset=load_dataset, disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    data = HubData(type="hub", name="some/set", subset="part", revision="abc", split="test", limit=1)
    assert load(data) == [{"problem": "1?", "answer": "1"}]
    assert asked == {"path": "some/set", "name": "part", "revision": "abc", "split": "test"}


def test_what_the_hub_does_not_give_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("huggingface_hub.errors")

    def cause(error: Exception) -> Exception:
        outer = OSError("long\ntext")
        outer.__cause__ = error
        return outer

    gone = hub.errors.RepositoryNotFoundError
    assert "no such repository" in str(module.hub_problem(cause(gone.__new__(gone)), "model a/b"))
    assert module.hub_problem(ConnectionError("down"), "model a/b") is None
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    absent = cause(hub.errors.LocalEntryNotFoundError("x"))
    for what in ("model a/b at main", "data set a/b at main"):
        said = str(module.hub_problem(absent, what))
        assert said.startswith(f"{what}: not in the cache") and "`openrs fetch`" in said


def test_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = "0123456789abcdef" * 2 + "01234567"
    assert commit(HubModel(type="hub", name="a/b", revision=full)) == full
    hub = pytest.importorskip("huggingface_hub")

    def down(*args: object, **options: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(hub.HfApi, "repo_info", down)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    data = HubData(type="hub", name="a/b", revision="main")
    assert commit(data) is None
    (tmp_path / "datasets--a--b" / "refs").mkdir(parents=True)
    (tmp_path / "datasets--a--b" / "refs" / "main").write_text(full)
    assert commit(data) == full


def test_model_path(tmp_path: Path) -> None:
    assert model_path(HubModel(type="hub", name="a/b", revision="main")) == ("a/b", "main")
    path, revision = model_path(PathModel(type="path", path="openrs:models/tiny-sums"))
    assert revision is None and (Path(path) / "config.json").is_file()
    for bad, words in [
        ("openrs:../..", "leaves the openrs package"),
        (str(tmp_path / "none"), "is not a directory"),
        (str(tmp_path), "config.json, model.safetensors, tokenizer_config.json is missing"),
    ]:
        with pytest.raises(BadInput, match=words):
            model_path(PathModel(type="path", path=bad))

"""Run directories made by hand, as finished runs leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openrs.runs import completions
from openrs.spec.canonical import pretty
from openrs.spec.load import load_experiment


def write_cell(run: Path, step: int | None, outcomes: Sequence[int] | None, seed: int = 0, **more: Any) -> Path:
    """A finished cell; `outcomes` None makes one that only has its score."""
    checkpoint = "rev-0123456789ab" if step is None else f"step-{step:06d}"
    given = (
        {}
        if outcomes is None
        else {"outcomes": list(outcomes), "score": sum(outcomes) / len(outcomes), "n": len(outcomes)}
    )
    n = len(outcomes) if outcomes is not None else more.get("n", 100)
    content = {
        "schema_version": 1,
        "state": "done",
        "checkpoint": checkpoint,
        "step": step,
        "benchmark": "aime24",
        "seed": seed,
        "settings": "0" * 12,
        "hardware": "NVIDIA A40",
        "data": {"sha256": "sha256:a", "problems": n},
        "seconds": 60.0,
        "truncated": 0.25,
        "completion_tokens": 900.0,
        "samples": [
            {"problem": "1+1=?", "completion": "<script>alert(1)</script>", "gold": "2", "correct": True},
            {"problem": "1+2=?", "completion": "7" * 5000, "gold": "3", "correct": False},
        ],
        **given,
        **more,
    }
    path: Path = run / "eval" / checkpoint / content["benchmark"] / f"{seed}-{content['settings']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def drawn(rng: np.random.Generator, true: Any) -> list[int]:
    """One seed's outcomes."""
    found: list[int] = (rng.random(len(true)) < true).astype(int).tolist()
    return found


def whole_run(run: Path, gain: float = 0.0, seeds: int = 5, steps: Sequence[int] = (25, 50, 75, 100, 125, 150)) -> Path:
    """A run with a base model, checkpoints, curves, two attempts of which one was killed, a lock and a spec."""
    (run / "eval").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for benchmark, n in (("aime24", 30), ("math-500", 120)):
        base = rng.beta(0.5, 0.5, n)
        better = np.clip(base + gain, 0, 1)
        for seed in range(seeds):
            data = {"sha256": f"sha256:{benchmark}", "problems": n}
            write_cell(run, None, drawn(rng, base), seed, benchmark=benchmark, data=data)
            for step in steps:
                write_cell(run, step, drawn(rng, better), seed, benchmark=benchmark, data=data)
    metrics = [
        {
            "step": step,
            "reward": 1 + step / 100,
            "kl": 0.01,
            "completion_tokens": 200,
            "seconds": 10.0,
            "attempt": attempt,
            "time": time,
        }
        for attempt, at, time in ((1, range(1, 61), 1000.0), (2, range(51, 151), 2000.0))
        for step in at
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (run / "ledger").mkdir()
    for attempt, start, end in ((1, 400.0, None), (2, 1200.0, 2200.0)):
        facts = {"stage": "train", "task": None, "attempt": attempt, "gpus": 4, "gpu_type": "a40", "node": "n1"}
        events = [{"time": start, "event": "start", **facts}]
        events += [{"time": end, "event": "end", "code": 0, "reason": "done", **facts}] if end else []
        text = "".join(json.dumps(event) + "\n" for event in events)
        (run / "ledger" / f"train-attempt-{attempt}-aa.jsonl").write_text(text)
    spec = load_experiment("exp3", ["training.steps=150", "evaluation.at_steps=[25, 50]", "title=A run <b>of</b> ours"])
    (run / "spec.json").write_text(pretty(spec))
    lock = {
        "openrs": "0.1.0",
        "git_sha": "abc",
        "distributions": {"torch": "2.5.1"},
        "hardware": {"cpu": "x", "gpus": ["NVIDIA A40, 550"]},
    }
    (run / "lock.json").write_text(json.dumps(lock))
    rows = [
        {"prompt": "p", "answer": "1", "completion": text, "rewards": {"accuracy": r}}
        for text, r in (("good", 1.0), ("bad", 0.0))
    ]
    completions.write(run, 150, rows, check=lambda: None)
    return run

"""What a run tells while it trains: a metrics line a step, kept completions, a progress line. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openrs.runs.directory import RunDirectory
from openrs.runs.files import append_line, read_lines, write_atomic


def cut_metrics(metrics: Path, step: int) -> int:
    """Drops the lines of steps after `step`, which will be done again, and a line that a crash cut. How many stay."""
    if not metrics.exists():
        return 0
    # One line a step: a replay that was itself interrupted may have left two.
    kept = {
        int(line["step"]): line
        for line in read_lines(metrics)
        if isinstance(line.get("step"), int) and line["step"] <= step
    }
    lines = [json.dumps(kept[number], ensure_ascii=False, allow_nan=False) + "\n" for number in sorted(kept)]
    write_atomic(metrics, "".join(lines))
    return len(lines)


def finite(value: float | None) -> float | None:
    """JSON has no NaN: a mean over nothing is null."""
    return value if value is not None and math.isfinite(value) else None


def step_record(logs: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """A metrics line, from `facts` and what TRL logged for the step."""
    rewards = {key.removeprefix("rewards/"): finite(value) for key, value in logs.items() if key.startswith("rewards/")}
    record = {
        **facts,
        "reward": finite(logs.get("reward")),
        "reward_std": finite(logs.get("reward_std")),
        "rewards": rewards,
        "grad_norm": finite(logs.get("grad_norm")),
        "learning_rate": logs.get("learning_rate"),
        "completion_tokens": finite(logs.get("completion_length")),
        "truncated": finite(logs.get("truncated")),
    }
    # The last two: shares of the completions that the verifier could not judge (see `openrs.rewards.verify.take_tally`).
    for name in ("kl", "unscorable", "over_limit"):
        if name in logs:
            record[name] = finite(logs[name])
    if "accuracy" in rewards:
        record["accuracy"] = rewards["accuracy"]
    return record


def write_step(
    run: RunDirectory, record: dict[str, Any], completions: list[dict[str, Any]], check: Callable[[], None]
) -> None:
    """Stores a finished step, and says so on standard output. `check` raises where another attempt may be writing."""
    check()
    if completions:
        directory = run.path / "completions"
        directory.mkdir(exist_ok=True)
        lines = [json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in completions]
        write_atomic(directory / f"step-{record['step']:06d}.jsonl", "".join(lines), before_rename=check)
        check()  # a write may take long, and a machine may be frozen in it
    append_line(run.metrics, record)
    print(json.dumps(record, ensure_ascii=False), flush=True)

"""What a run tells while it trains: a metrics line a step, kept completions, a progress line."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrs.runs import completions as kept
from openrs.runs.directory import RunDirectory
from openrs.runs.files import append_line, is_disk_full, read_lines, write_atomic
from openrs.spec.experiment import Experiment

if TYPE_CHECKING:  # they import torch; a session looks at the metrics file before it pays for that
    from openrs.training.learner import Learned
    from openrs.training.rollout import Roller, Rollout


VARIES = ("time", "seconds", "phases", "tokens_per_second", "memory_gib", "attempt", "saved")
"""Fields of a metrics line that tell of the machine and not of the training: all others are the same in every run."""


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


Sums = dict[str, tuple[float, int]]
"""Name → sum and number of values, of one rank; merged over ranks they give the step's means."""


def rank_stats(rollout: Rollout, learned: Learned, experiment: Experiment) -> Sums:
    """What one rank's part of a step adds to the step's means."""
    from openrs.training.rollout import equal_rewards, rewards_of

    totals = rewards_of(rollout, experiment)
    deviations = totals.std(dim=1)
    completions = rollout.completions
    stats: Sums = {
        "reward": (totals.sum().item(), totals.numel()),
        "reward_std": (deviations.sum().item(), len(deviations)),
        "zero_variance": (float(equal_rewards(totals).sum()), len(deviations)),
        "completion_tokens": (float(sum(len(one.ids) for one in completions)), len(completions)),
        "truncated": (float(sum(not one.finished for one in completions)), len(completions)),
        "entropy": (learned.entropy, learned.tokens),
        "clipped": (float(learned.clipped), learned.tokens),
        "micro_batches": (float(learned.passes), 1),
    }
    if learned.kl is not None:
        stats["kl"] = (learned.kl, learned.tokens)
    for name in rollout.groups[0].scores:
        scores = [score for group in rollout.groups for score in group.scores[name] if score is not None]
        stats[f"rewards/{name}"] = (sum(scores), len(scores))
    for name, share in rollout.shares.items():
        stats[name] = (share * len(completions), len(completions))
    return stats


def step_record(stats: Sequence[Sums], phases: dict[str, float], **facts: Any) -> dict[str, Any]:
    """A metrics line, from `facts` and what every rank adds to the step's means."""
    tokens = sum(one["completion_tokens"][0] for one in stats)
    means: dict[str, float | None] = {}
    for name in dict.fromkeys(name for one in stats for name in one):
        total, count = (sum(one[name][part] for one in stats if name in one) for part in (0, 1))
        means[name] = finite(total / count) if count else None
    rewards = {name.removeprefix("rewards/"): mean for name, mean in means.items() if name.startswith("rewards/")}
    record = {
        **{name: finite(value) if isinstance(value, float) else value for name, value in facts.items()},
        "seconds": round(facts["seconds"], 3),
        "phases": {name: round(seconds, 3) for name, seconds in phases.items()},
        "tokens_per_second": round(tokens / facts["seconds"], 1),
        "rewards": rewards,
        **{name: mean for name, mean in means.items() if not name.startswith("rewards/")},
    }
    if "accuracy" in rewards:
        record["accuracy"] = rewards["accuracy"]
    return record


def readable_completions(rollout: Rollout, roller: Roller, limit: int) -> list[dict[str, Any]]:
    """The first `limit` completions, as a person reads them."""
    found: list[dict[str, Any]] = []
    for group in rollout.groups:
        completions = group.completions[: max(0, limit - len(found))]
        found += [
            {
                **roller.problem(group.row),
                "completion": text,
                "rewards": {name: scores[number] for name, scores in group.scores.items()},
                "tokens": len(one.ids),
                "finished": one.finished,
            }
            for number, (one, text) in enumerate(zip(completions, roller.texts(completions), strict=True))
        ]
    return found


def warn(text: str) -> None:
    """Says it in the log, which may stand on the disk that is full."""
    with contextlib.suppress(OSError):
        print(f"warning: {text}", file=sys.stderr, flush=True)


class Steps:
    """Stores finished steps. A full disk costs completions, and holds metrics lines back until there is room again."""

    def __init__(self, run: RunDirectory, check: Callable[[], None]) -> None:
        """`check` raises where another attempt may be writing."""
        self._run, self._check = run, check
        self._late: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any], completions: list[dict[str, Any]]) -> None:
        """Stores a step, and says so on standard output. Raises OSError for all but a full disk."""
        self._check()
        self._late.append(record)
        if completions:
            try:
                kept.write(self._run.path, record["step"], completions, self._check)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                warn(f"no room for the completions of step {record['step']} ({error})")
            self._check()  # a write may take long, and a machine may be frozen in it
        if not self.flush():
            warn(f"no room for the metrics of step {record['step']}; they are kept in memory")
        with contextlib.suppress(OSError):  # as `warn`
            print(json.dumps(record, ensure_ascii=False), flush=True)

    def flush(self) -> bool:
        """Stores the lines that have found no room yet; whether none is left. Raises OSError for all but a full disk."""
        while self._late:
            try:
                append_line(self._run.metrics, self._late[0])
            except OSError as error:
                if not is_disk_full(error):
                    raise
                return False
            del self._late[0]
        return True

"""What makes an answer right. Each metric judges in processes that can be killed where an answer hangs them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from functools import cache

from openrs.rewards import verify
from openrs.rewards.verifier.grade import EXTRACTIVE, ExtractiveRule
from openrs.rewards.verifier.pool import Pair, Pool, Verdict

SECONDS = 60.0
"""Time by the clock for one answer. lighteval gives itself 5 s for each parse and each comparison of a pair."""

MOST = 2
"""lighteval takes half a gigabyte and half a minute to import, and a cell's answers wait for nobody."""


def judge(metric: str, golds: Sequence[str], completions: Sequence[str]) -> list[Verdict]:
    """The verdict of each completion. Raises OpenRSError where what judges cannot be run."""
    rule = next((rule for rule in EXTRACTIVE if rule == metric), None)
    if rule is None:
        return verify.judge(golds, completions)
    return _extractive(rule, golds, completions)


def prepare(metric: str) -> None:
    """Lets a worker begin with its imports, which take half a minute, while the first answers are drawn."""
    if metric in EXTRACTIVE:
        _pool(os.getpid()).provide(1)


def _extractive(rule: ExtractiveRule, golds: Sequence[str], completions: Sequence[str]) -> list[Verdict]:
    pairs = [Pair(rule, gold, completion) for gold, completion in zip(golds, completions, strict=True)]
    once = list(dict.fromkeys(pairs))
    found = dict(zip(once, _pool(os.getpid()).judge(once), strict=True))
    return [found[pair] for pair in pairs]


@cache
def _pool(_process: int) -> Pool:
    """This process's pool of workers that have imported lighteval."""
    pool = Pool(size=min(MOST, len(os.sched_getaffinity(0))), seconds=SECONDS, lighteval=True)
    atexit.register(pool.close)
    return pool

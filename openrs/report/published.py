"""Numbers that others have published: the paper's table, what came out when others evaluated again, and costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BASE = "DeepSeek-R1-Distill-Qwen-1.5B"
"""The paper's base model, in this file's words."""


@dataclass(frozen=True)
class Score:
    """A published score, as a share."""

    model: str
    benchmark: str
    score: float
    source: str
    n: int | None
    """Problems."""
    sd: float | None = None
    """Over seeds."""
    seeds: int = 1
    hardware: str | None = None


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """`published.yaml`."""
    import yaml

    content: dict[str, Any] = yaml.safe_load((HERE / "published.yaml").read_text(encoding="utf-8"))
    return content


def canonical_benchmark(name: str) -> str | None:
    """The name that `published.yaml` uses for a benchmark; None for one it does not know."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    for known, about in published()["benchmarks"].items():
        if plain in {re.sub(r"[^a-z0-9]", "", one) for one in (known, *about["names"])}:
            return str(known)
    return None


def title(benchmark: str) -> str:
    """How people write the benchmark's name."""
    known = canonical_benchmark(benchmark)
    return str(published()["benchmarks"][known]["title"]) if known else benchmark


def paper_scores() -> list[Score]:
    """Every score of the paper's table."""
    content = published()
    return [
        Score(row["model"], benchmark, value / 100, content["paper"]["source"], content["benchmarks"][benchmark]["n"])
        for row in content["paper"]["rows"]
        for benchmark, value in zip(content["columns"], row["scores"], strict=True)
        if value is not None
    ]


def again() -> list[Score]:
    """Scores with their deviation over seeds, evaluated again by others."""
    content = published()
    part = content["again"]
    return [
        Score(
            row["model"],
            benchmark,
            mean / 100,
            part["source"],
            content["benchmarks"][benchmark]["n"],
            sd / 100,
            part["seeds"][benchmark],
        )
        for row in part["rows"]
        for benchmark, mean, sd in zip(part["columns"], row["mean"], row["sd"], strict=True)
    ]


def seed_deviation(benchmark: str) -> float | None:
    """Standard deviation of one seed's score, pooled over the models that were evaluated again; None where none was.

    What `minimal_detectable_gain` wants before anything of one's own has been measured.
    """
    known = canonical_benchmark(benchmark)
    found = [(score.sd or 0.0, score.seeds - 1) for score in again() if score.benchmark == known]
    freedom = sum(weight for _, weight in found)
    return (sum(sd**2 * weight for sd, weight in found) / freedom) ** 0.5 if freedom else None


def single() -> list[Score]:
    """Single runs by users of the released weights."""
    return [
        Score(row["model"], row["benchmark"], row["score"] / 100, row["source"], row["n"], hardware=row["hardware"])
        for row in published()["single"]
    ]


def find(scores: list[Score], model: str, benchmark: str) -> Score | None:
    """The first score of a model on a benchmark."""
    return next((one for one in scores if one.model == model and one.benchmark == benchmark), None)

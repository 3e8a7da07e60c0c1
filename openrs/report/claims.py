"""The claims ledger: every number that the paper claims, what speaks for or against it, and a verdict by a fixed rule.

- A score: contradicted where it lies outside of the 95 % interval that a single new run would be expected in, given the
  re-evaluations (mean ± t · s · √(1 + 1/R); Hahn and Meeker, Statistical Intervals, 1991, section 4.4.1); reproduced
  where it is within `tolerance` of their mean; otherwise not distinguishable.
- A gain: contradicted where the 95 % interval of the re-evaluated gain does not hold it; reproduced where it does, and
  does not hold 0; not distinguishable where it holds both.
- Without a second source: not tested.

s is pooled over the models that one source evaluated on a benchmark: three seeds alone may agree by chance. The verdicts
are not adjusted for being many: of the tested claims that are true, one in twenty is expected to be called contradicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from openrs.report.published import HERE, Score, again, find, paper_scores, published, single, title
from openrs.report.verdict import points, signed

Verdict = Literal["reproduced", "not distinguishable", "contradicted", "not tested"]


@dataclass(frozen=True)
class Claim:
    """One number of the paper."""

    id: str
    claim: str
    where: str
    value: float
    unit: str
    conditions: str
    n: int | None
    tolerance: float
    evidence: list[str] = field(default_factory=list)
    verdict: Verdict = "not tested"

    def json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def ledger(ours: Sequence[Score] = ()) -> list[Claim]:
    """All claims with their verdicts; `ours` are own evaluations of the paper's models, which count before others'."""
    import yaml

    table = [_level(score, ours) for score in paper_scores()]
    others = [_other(entry, ours) for entry in yaml.safe_load((HERE / "claims.yaml").read_text(encoding="utf-8"))]
    return [*others, *table, *_averages()]


def _repeated(model: str, benchmark: str, ours: Sequence[Score]) -> Score | None:
    """The evaluation with seeds that counts: our own, else the published one."""
    own = [score for score in ours if score.sd is not None and score.seeds > 1]
    return find(own, model, benchmark) or find(again(), model, benchmark)


def _said(score: Score) -> str:
    value = f"{100 * score.score:.1f}"
    if score.sd is not None:
        value += f" ± {100 * score.sd:.1f} over {score.seeds} seeds"
    return f"{value}{f' on {score.hardware}' if score.hardware else ''} ({score.source})"


def _level(score: Score, ours: Sequence[Score]) -> Claim:
    evidence = [
        _said(one)
        for one in (*ours, *again(), *single())
        if (one.model, one.benchmark) == (score.model, score.benchmark)
    ]
    claimed, tolerance = 100 * score.score, round(100 / (score.n or 100), 2)
    verdict: Verdict = "not tested"
    found = _repeated(score.model, score.benchmark, ours)
    if found is not None:
        sd, freedom = _noise(found)
        mean, half = 100 * found.score, 100 * _t(freedom) * sd * math.sqrt(1 + 1 / found.seeds)
        evidence.append(f"one more run is expected in {mean - half:.1f} to {mean + half:.1f}")
        verdict = (
            "contradicted"
            if abs(claimed - mean) > half
            else "reproduced"
            if abs(claimed - mean) <= tolerance
            else "not distinguishable"
        )
    return Claim(
        f"{score.model.lower()}-{score.benchmark}",
        f"{score.model}: {claimed:.1f} on {title(score.benchmark)}",
        "results table",
        round(claimed, 1),
        "percent",
        "pass@1, one run",
        score.n,
        tolerance,
        evidence,
        verdict,
    )


def _noise(score: Score) -> tuple[float, int]:
    """Deviation of one seed and its degrees of freedom, pooled over the models of the same source."""
    peers = [one for one in again() if (one.source, one.benchmark) == (score.source, score.benchmark)] or [score]
    freedom = sum(one.seeds - 1 for one in peers)
    return math.sqrt(sum((one.sd or 0.0) ** 2 * (one.seeds - 1) for one in peers) / freedom), freedom


def _t(freedom: int) -> float:
    from scipy import special

    return float(special.stdtrit(freedom, 0.975))


def _other(entry: dict[str, Any], ours: Sequence[Score]) -> Claim:
    given = entry.get("evidence") or {}
    evidence = [given["note"]] if "note" in given else []
    tolerance = float(entry.get("tolerance", 0.0))
    verdict: Verdict = "not tested"
    if entry["kind"] == "equal":
        verdict = "reproduced" if abs(given["value"] - entry["value"]) <= tolerance else "contradicted"
    elif entry["kind"] == "gain":
        verdict, more = _gain(entry, ours)
        evidence += more
    elif entry["kind"] == "ahead":
        verdict, more = _ahead(entry)
        evidence += more
    return Claim(
        entry["id"],
        entry["claim"],
        entry["where"],
        float(entry["value"]),
        entry["unit"],
        entry["conditions"],
        entry.get("n"),
        tolerance,
        evidence,
        verdict,
    )


def _gain(entry: dict[str, Any], ours: Sequence[Score]) -> tuple[Verdict, list[str]]:
    one, other = (_repeated(entry[name], entry["benchmark"], ours) for name in ("model", "over"))
    if one is None or other is None:
        return "not tested", []
    (sd_1, free_1), (sd_2, free_2) = _noise(one), _noise(other)
    shared = one.source == other.source
    half = _t(free_1 if shared else min(free_1, free_2)) * math.sqrt(sd_1**2 / one.seeds + sd_2**2 / other.seeds)
    gain = one.score - other.score
    low, high = 100 * (gain - half), 100 * (gain + half)
    said = (
        f"{signed(gain)} points, 95 % {points(low / 100)} to {points(high / 100)}: {_said(one)} against {_said(other)}"
    )
    if not low <= entry["value"] <= high:
        return "contradicted", [said]
    return "not distinguishable" if low <= 0 <= high else "reproduced", [said]


def _ahead(entry: dict[str, Any]) -> tuple[Verdict, list[str]]:
    from openrs.evaluation.statistics import compare_counts

    one, other = (find(paper_scores(), entry[name], entry["benchmark"]) for name in ("model", "over"))
    if one is None or other is None or one.n is None or other.n is None:
        return "not tested", []
    found = compare_counts(one.score, one.n, other.score, other.n)
    low, high = 100 * found.low, 100 * found.high
    said = f"{signed(found.gain)} points, 95 % {points(low / 100)} to {points(high / 100)} for one run each on {one.n} problems"
    return "reproduced" if low > 0 else "contradicted" if high < 0 else "not distinguishable", [said]


def _averages() -> list[Claim]:
    claims = []
    for row in published()["paper"]["rows"]:
        if row["average"] is None:
            continue
        mean = sum(row["scores"]) / len(row["scores"])
        claims.append(
            Claim(
                f"{row['model'].lower()}-average",
                f"{row['model']}: {row['average']:.1f} on average",
                "results table",
                row["average"],
                "percent",
                "mean of the row",
                None,
                0.051,
                [f"the row's mean is {mean:.2f}"],
                "reproduced" if abs(mean - row["average"]) <= 0.051 else "contradicted",
            )
        )
    return claims

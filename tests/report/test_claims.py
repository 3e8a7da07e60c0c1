"""The claims ledger: every number of the paper stands there once, with a verdict that follows from its evidence."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from openrs.report.claims import ledger
from openrs.report.published import Score, again, canonical_benchmark, paper_scores, published, seed_deviation, title


def test_every_score_and_average_of_the_table_is_a_claim() -> None:
    claims = ledger()
    assert len({claim.id for claim in claims}) == len(claims)
    table = [claim for claim in claims if claim.where == "results table" and claim.unit == "percent"]
    assert len(table) == len(paper_scores()) + sum(row["average"] is not None for row in published()["paper"]["rows"])
    assert all(claim.n for claim in claims if claim.id.endswith(("aime24", "amc23", "math-500")))


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("open-rs3-aime24", "contradicted"),  # 46.7 against 29.7 ± 4.6, 23.3 and 23.3
        ("aime24-gain", "contradicted"),
        ("o1-preview", "not distinguishable"),
        ("open-rs2-aime24", "reproduced"),
        ("o1-preview-aime24", "not tested"),
        ("cost", "reproduced"),
        ("samples", "contradicted"),
        ("hours", "not tested"),
    ],
)
def test_verdicts(claim: str, verdict: str) -> None:
    (found,) = [one for one in ledger() if one.id == claim]
    assert found.verdict == verdict
    assert bool(found.evidence) == (verdict != "not tested") or claim == "hours"


def test_what_nobody_repeated_is_not_tested() -> None:
    tested = {score.model for score in again()}
    for claim in ledger():
        if claim.conditions == "pass@1, one run" and not any(claim.claim.startswith(f"{model}:") for model in tested):
            assert claim.verdict == "not tested" and not claim.evidence


def test_our_own_evaluation_counts_before_others() -> None:
    ours = [
        Score("Open-RS3", "aime24", 0.46, "our run", 30, 0.05, 30),
        Score("DeepSeek-R1-Distill-Qwen-1.5B", "aime24", 0.285, "our run", 30, 0.05, 30),
    ]
    verdicts = {claim.id: claim.verdict for claim in ledger(ours)}
    assert verdicts["open-rs3-aime24"] == "reproduced" and verdicts["aime24-gain"] == "reproduced"
    once = [Score("Open-RS3", "aime24", 0.46, "our run", 30)]
    (claim,) = [claim for claim in ledger(once) if claim.id == "open-rs3-aime24"]
    assert claim.verdict == "contradicted" and any("our run" in said for said in claim.evidence)


def test_the_ledger_is_json() -> None:
    for claim in ledger():
        content = claim.json()
        assert math.isfinite(content["value"]) and content["verdict"] and isinstance(content["evidence"], list)
    assert set(Counter(claim.verdict for claim in ledger())) == {
        "reproduced",
        "not distinguishable",
        "contradicted",
        "not tested",
    }


@pytest.mark.parametrize("name", ["aime24", "AIME_24", "math_500", "MATH-500", "amc23", "minerva", "olympiadbench"])
def test_names_of_benchmarks(name: str) -> None:
    assert canonical_benchmark(name) in published()["benchmarks"]
    assert title(name)[0].isupper()
    assert canonical_benchmark("sums-held-out") is None and title("sums-held-out") == "sums-held-out"


def test_the_noise_of_a_seed_is_known_beforehand() -> None:
    deviation = seed_deviation("aime24")
    assert deviation == pytest.approx(math.sqrt((4.8**2 + 6.0**2 + 7.7**2 + 4.6**2) / 4) / 100)
    assert seed_deviation("aime25") is None and seed_deviation("own") is None

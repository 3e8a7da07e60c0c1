"""Our checkpoint against a baseline, benchmark by benchmark, each in one sentence that says no more than the numbers do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from openrs.evaluation import statistics as st
from openrs.report.measure import Alike, Measured, along_steps
from openrs.report.published import Score

Outcome = Literal["better", "worse", "not distinguishable", "not compared"]


@dataclass(frozen=True)
class Verdict:
    """One benchmark's verdict."""

    benchmark: str
    title: str
    checkpoint: str
    baseline: str
    outcome: Outcome
    why: str
    """Why it is not compared, or what the reader must know about the comparison."""
    score: float
    comparison: st.Comparison | None
    """By the question named in it."""
    here: st.Comparison | None
    """On these very problems, where seeds allow."""
    adjusted: float | None
    """p after Holm over the benchmarks compared."""
    problems: int
    seeds: int
    baseline_seeds: int | None
    interval: st.Interval
    """Of our score, for new problems."""
    reported: st.Comparison | None = None
    """The gain as it was reported, where choosing the best has been taken out of `comparison`."""
    of: int = 1
    """Checkpoints that it was chosen from by its score."""
    detectable: float | None = None
    """The least true gain that these seeds would show on these problems four times out of five."""

    @property
    def sentence(self) -> str:
        """E.g. "AIME24 +1.9 points, 95 % −3.0 … 6.8: not distinguishable from the base model."."""
        if self.comparison is None:
            own = f"{self.title} {100 * self.score:.1f} %, 95 % {points(self.interval.low)} … {points(self.interval.high)}"
            return f"{own}: not compared with {self.baseline}, {self.why}."
        c = self.comparison
        text = f"{self.title} {signed(c.gain)} points, 95 % {points(c.low)} … {points(c.high)}: "
        if self.reported is not None:
            text = (
                f"{self.title} {signed(self.reported.gain)} points as reported, {signed(c.gain)} once it counts that this is the "
                f"best of {self.of} checkpoints, 95 % {points(c.low)} … {points(c.high)}: "
            )
        if self.outcome == "not distinguishable":
            text += f"not distinguishable from {self.baseline}"
            if not c.low <= 0 <= c.high:
                text += " once it counts that several benchmarks were looked at"
        else:
            text += f"{self.outcome} than {self.baseline}"
        return text + "."

    def json(self) -> dict[str, Any]:
        """For `--json`."""
        content = asdict(self)
        return {**content, "sentence": self.sentence}


def points(value: float) -> str:
    """A share as points, with a real minus sign."""
    return f"{100 * value + 0.0:.1f}".replace("-", "−").replace("−0.0", "0.0")


def signed(value: float) -> str:
    """The same with its sign."""
    text = points(value)
    return text if text.startswith("−") or text == "0.0" else f"+{text}"


def verdicts(
    ours: Sequence[Measured], baseline: Mapping[str, Sequence[Measured] | Score], name: str, pool_hardware: bool = False
) -> list[Verdict]:
    """Each of `ours` against the baseline's result on the same benchmark; p-values adjusted over all that are compared."""
    found = [_one(one, baseline.get(one.benchmark), name, pool_hardware) for one in ours]
    return _adjusted(found)


def _adjusted(found: list[Verdict]) -> list[Verdict]:
    compared = [index for index, one in enumerate(found) if one.comparison is not None]
    for index, p in zip(compared, st.holm([c.p for i in compared if (c := found[i].comparison)]), strict=True):
        comparison = found[index].comparison
        assert comparison is not None
        outcome: Outcome = "not distinguishable"
        if comparison.distinguishable(p):
            outcome = "better" if comparison.gain > 0 else "worse"
        found[index] = replace(found[index], adjusted=p, outcome=outcome)
    return found


def _one(ours: Measured, given: Sequence[Measured] | Score | None, name: str, pool: bool) -> Verdict:
    base: Measured | Score | None
    if given is None or isinstance(given, Score):
        base = given
    else:  # of several results of the baseline, one that can be compared; else the first says why not
        able = [one for one in given if _obstacle(ours, one, pool) is None]
        base = next(iter([*able, *given]), None)
    comparison: st.Comparison | None = None
    here: st.Comparison | None = None
    seeds = None
    if base is None:
        why = "which has no result there"
    elif isinstance(base, Score):
        comparison, why = _published(ours, base)
        seeds = base.seeds
    else:
        seeds = len(base.seeds)
        why = _obstacle(ours, base, pool) or ""
        if not why:
            comparison, here, why = _measured(ours, base)
    detectable = None
    if comparison is not None and isinstance(base, Measured) and ours.sd is not None and base.sd is not None:
        sd = math.sqrt((ours.sd**2 + base.sd**2) / 2)
        detectable = st.minimal_detectable_gain(sd, len(ours.scores), len(base.scores))
    return Verdict(
        ours.benchmark,
        ours.title,
        ours.name,
        name,
        "not compared",
        why,
        ours.mean,
        comparison,
        here,
        None,
        ours.problems,
        len(ours.seeds),
        seeds,
        ours.new,
        detectable=detectable,
    )


def _obstacle(ours: Measured, base: Measured, pool: bool) -> str | None:
    if base.problems != ours.problems:
        less = "fewer" if base.problems < ours.problems else "more"
        return f"which was evaluated on {less} problems ({base.problems}, ours {ours.problems})"
    if base.alike.data and ours.alike.data and base.alike.data != ours.alike.data:
        return "since the data set changed between the two evaluations"
    if base.settings != ours.settings and ours.run == base.run:
        return "which was sampled with other settings"
    if base.hardware and ours.hardware and base.hardware != ours.hardware and not pool:
        return f"which ran on other hardware ({base.hardware}; ours {ours.hardware}); --pool-hardware compares them"
    return None


def _measured(ours: Measured, base: Measured) -> tuple[st.Comparison, st.Comparison | None, str]:
    notes = []
    if base.settings != ours.settings:
        notes.append("the two runs sampled with other settings or code")
    if not (base.hardware and ours.hardware):
        notes.append("hardware not recorded")
    if (
        ours.outcomes is not None
        and base.outcomes is not None
        and ours.alike.data == base.alike.data
        and ours.alike.data
    ):
        paired = st.compare_paired(ours.outcomes, base.outcomes)
        return paired, st.compare_sampling(ours.outcomes, base.outcomes), "; ".join(notes)
    notes.append("outcomes by problem are not recorded, so problems cannot be paired")
    n = ours.problems
    here = None
    if len(ours.scores) > 1 and len(base.scores) > 1 and ((ours.sd or 0) + (base.sd or 0)) > 0:
        here = st.compare_scores(ours.scores, base.scores)
    return st.compare_counts(ours.mean, n, base.mean, n), here, "; ".join(notes)


def _published(ours: Measured, base: Score) -> tuple[st.Comparison | None, str]:
    note = f"published score, not run again here ({base.source})"
    if base.n is not None and base.n != ours.problems:
        return None, f"whose published score is of {base.n} problems, ours of {ours.problems}"
    if base.sd is not None and base.seeds > 1:
        if ours.sd is not None:
            return st.compare_summaries(ours.mean, ours.sd, len(ours.scores), base.score, base.sd, base.seeds), note
        return _single(ours.mean, base), f"{note}; one run of ours, with the deviation of theirs"
    n = ours.problems
    return st.compare_counts(ours.mean, n, base.score, n), f"{note}; taken as one seed"


def _single(score: float, base: Score) -> st.Comparison:
    """One run against R others that share its deviation (the prediction interval, turned round)."""
    from scipy import special

    assert base.sd is not None
    gain, deviation, freedom = score - base.score, base.sd * math.sqrt(1 + 1 / base.seeds), base.seeds - 1
    half = float(special.stdtrit(freedom, 0.975)) * deviation
    p = 2 * float(special.stdtr(freedom, -abs(gain) / deviation)) if deviation else 1.0
    return st.Comparison(gain, gain - half, gain + half, p, st.THESE, "one run against the spread of others' seeds")


@dataclass(frozen=True)
class Best:
    """What choosing the best of several checkpoints is worth on a benchmark."""

    alike: Alike
    title: str
    """The benchmark, with what sets these checkpoints apart where others on it are not like them."""
    checkpoint: str
    checkpoints: int
    seeds: int
    mean: float
    """Of all checkpoints."""
    spread: float
    """Standard deviation between them."""
    expected: float
    """Best score expected if all were equally good."""
    raw: float
    corrected: float
    method: str
    conservative: bool
    deviation: float | None
    """Standard deviation of `corrected`."""

    def json(self) -> dict[str, Any]:
        """For `--json`."""
        content = asdict(self)
        del content["alike"]
        return content | self.alike.json()


def selected(
    found: Sequence[Verdict], best: Sequence[Best], baseline: Mapping[str, Sequence[Measured] | Score]
) -> list[Verdict]:
    """The same for checkpoints that were chosen by score: where one is the best, its luck is taken out of its gain."""
    result = list(found)
    for index, one in enumerate(found):
        luck = next((b for b in best if (b.alike.benchmark, b.checkpoint) == (one.benchmark, one.checkpoint)), None)
        base = baseline.get(one.benchmark)
        if luck is None or luck.deviation is None or one.comparison is None or base is None:
            continue
        if isinstance(base, Score):
            score, noise = (
                base.score,
                (base.sd**2 / base.seeds if base.sd else base.score * (1 - base.score) / (base.n or 1)),
            )
        else:
            score, half = base[0].mean, (base[0].these.high - base[0].these.low) / 2
            noise = (half / 1.96) ** 2
        gain, deviation = luck.corrected - score, math.sqrt(luck.deviation**2 + noise)
        p = math.erfc(abs(gain) / deviation / math.sqrt(2)) if deviation else 1.0
        corrected = st.Comparison(gain, gain - 1.96 * deviation, gain + 1.96 * deviation, p, st.THESE, luck.method)
        result[index] = replace(one, comparison=corrected, reported=one.comparison, of=luck.checkpoints)
    return _adjusted(result)


def best_of(measured: Sequence[Measured]) -> list[Best]:
    """For each benchmark with four trained checkpoints or more, evaluated alike."""
    found = []
    for title, group in along_steps(measured):
        if len(group) < 4:
            continue
        scores = [one.mean for one in group]
        seeds = min(len(one.seeds) for one in group)
        mean = float(np.mean(scores))
        conservative = False
        if seeds > 1 and all(len(one.seeds) == seeds for one in group):
            chosen = st.split_best(np.array([one.scores for one in group]).T)
        elif all(one.outcomes is not None for one in group):
            chosen = st.split_problems_best(np.stack([m for one in group if (m := one.means) is not None], axis=1))
        else:
            noise = mean * (1 - mean) / (group[0].problems * seeds)
            chosen, conservative = st.shrunken_best(scores, noise), True
        best = group[chosen.index]
        found.append(
            Best(
                best.alike,
                title,
                best.name,
                len(group),
                seeds,
                mean,
                float(np.std(scores, ddof=1)),
                st.expected_maximum(mean, best.problems, len(group), seeds),
                chosen.raw,
                chosen.corrected,
                chosen.method,
                conservative,
                chosen.deviation,
            )
        )
    return found

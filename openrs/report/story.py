"""What the score of a published model is worth: its interval, the luck of being the best, and what others got."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from openrs.report import figures
from openrs.report.build import Part, reevaluations
from openrs.report.figures import Drawn, Row
from openrs.report.published import BASE, Score, canonical_benchmark, title
from openrs.report.verdict import Best, points

CAPTION = (
    "Bars: 95 %. One run: Wilson, for new problems. Many seeds: of their mean, on these problems. "
    "Hollow: computed, no measurement."
)


@dataclass(frozen=True)
class Story:
    """A section of the page."""

    title: str
    lines: list[str]
    figures: list[Drawn]


def story(part: Part, ident: str) -> Story | None:
    """Of the first benchmark on which a published model's checkpoint is the best of several; None where there is none."""
    for one in part.verdicts:
        row = next((m for m in part.chosen if (m.benchmark, m.name) == (one.benchmark, one.checkpoint)), None)
        best = next((b for b in part.best if row and (b.alike, b.checkpoint) == (row.alike, row.name)), None)
        benchmark = canonical_benchmark(one.benchmark)
        model = part.aliases.get(row.series) if row else None
        if row is None or best is None or benchmark is None or model is None:
            continue
        others = reevaluations(model, benchmark)
        rows = [
            Row(f"{model}, as reported", row.mean, row.new.low, row.new.high, 1),
            Row(f"best of {best.checkpoints}, were all equally good", best.expected, None, None, 5, hollow=True),
            Row("without the luck of being the best", best.corrected, *_around(best), 0),
            Row(f"mean of all {best.checkpoints} checkpoints", best.mean, None, None, 5, hollow=True),
            *(_row(f"{model} again", score, 2) for score in others),
            *(_row("base model", score, 3) for score in reevaluations(BASE, benchmark)),
        ]
        name = title(benchmark)
        drawn = figures.forest(rows, f"{ident}-story", f"{name}, %", CAPTION)
        lines = [*_lines(best, round(row.mean * row.problems), row.new.low, row.new.high), one.sentence]
        if others:
            lines.append(f"The released weights, evaluated again: {'; '.join(map(_said, others))}.")
        return Story(f"What {points(row.mean)} on {name} is worth", lines, [drawn])
    return None


def _lines(best: Best, right: int, low: float, high: float) -> list[str]:
    noise = sqrt(best.mean * (1 - best.mean) / (best.alike.problems * best.seeds))
    scatter = "less than" if best.spread <= noise else "more than"
    meaning = (
        "nothing in them says that one is better than another"
        if best.spread <= noise
        else "some of them may be better than others"
    )
    return [
        f"{points(best.raw)} is {right} of {best.alike.problems} problems right, once. Wilson’s 95 % interval is {points(low)} to "
        f"{points(high)}: other problems like these may give anything in it.",
        f"It is also the best of {best.checkpoints} checkpoints that were evaluated. Had all of them the same true accuracy, "
        f"{points(best.mean)}, the luckiest would still be expected to show {points(best.expected)}. Their scores scatter by "
        f"{points(best.spread)} points, {scatter} the noise of one seed ({points(noise)} at most): {meaning}.",
    ]


def _row(label: str, score: Score, kind: int) -> Row:
    from openrs.evaluation.statistics import mean_interval

    low, high = mean_interval(score.score, score.sd, score.seeds, score.n)
    return Row(
        f"{label}, {f'{score.seeds} seeds' if score.seeds > 1 else f'once on {score.hardware}'}",
        score.score,
        low,
        high,
        kind,
    )


def _said(score: Score) -> str:
    spread = f" ± {points(score.sd)} over {score.seeds} seeds" if score.sd else ""
    return f"{points(score.score)}{spread}{f' on {score.hardware}' if score.hardware else ''} ({score.source})"


def _around(best: Best) -> tuple[float | None, float | None]:
    if best.deviation is None:
        return None, None
    return max(0.0, best.corrected - 1.96 * best.deviation), min(1.0, best.corrected + 1.96 * best.deviation)

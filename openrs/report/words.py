"""What a report says in sentences, for the page, the terminal and the model card alike."""

from __future__ import annotations

from openrs.report.build import Part, Trend
from openrs.report.text import duration
from openrs.report.verdict import Best, Verdict, points, signed

CHIPS = {
    "better": "better",
    "worse": "worse",
    "not distinguishable": "no difference seen",
    "not compared": "not compared",
}


def plural(count: int, word: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def p_value(p: float) -> str:
    """A p-value as people write it."""
    return "below 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def detail(one: Verdict) -> str:
    """How a verdict was reached."""
    if one.comparison is None:
        return ""
    which = {"these problems": "for other seeds on these problems", "new problems": "for new problems like these"}
    seeds = plural(one.seeds, "seed")
    if one.baseline_seeds not in (None, one.seeds):
        seeds += f" against {one.baseline_seeds}"
    found = [
        f"{one.problems} problems, {seeds}. The interval is {which[one.comparison.question]}: {one.comparison.method}."
    ]
    if one.here is not None and one.here.question != one.comparison.question:
        here = f"{signed(one.here.gain)}, 95 % {points(one.here.low)} … {points(one.here.high)}"
        found.append(f"On these problems: {here}.")
    if one.detectable is not None:
        found.append(f"There, these seeds show a true gain of {points(one.detectable)} points four times out of five.")
    if one.adjusted is not None:
        several = one.adjusted != one.comparison.p
        found.append(f"p {p_value(one.comparison.p)}{f', after Holm {p_value(one.adjusted)}' if several else ''}.")
    if one.why:
        found.append(f"Note: {one.why}.")
    return " ".join(found)


def reading(part: Part) -> list[str]:
    """What was judged, and how it was chosen."""
    if not part.measured:
        return ["No evaluation cell is finished, so there is no verdict."]
    names = ", ".join(dict.fromkeys(one.name for one in part.chosen))
    hardware = ", ".join(sorted({one.hardware or "not recorded" for one in part.chosen}))
    return [f"Judged here: {names}; {part.how_chosen}. Hardware: {hardware}."] if part.chosen else []


def best_sentence(one: Best) -> str:
    """What is left of the best of several checkpoints."""
    note = " (from an upper bound of the noise, so a real lead is drawn in too much)" if one.conservative else ""
    return (
        f"{one.title}: the best of {one.checkpoints} checkpoints is {one.checkpoint} with {points(one.raw)} %. "
        f"If all were equally good, as good as their mean of {points(one.mean)}, the best would be expected at "
        f"{points(one.expected)}. Without the luck of being the best: {points(one.corrected)} %, {one.method}{note}."
    )


def later_sentences(part: Part) -> list[str]:
    """The test of later against earlier checkpoints, with what was chosen by looking."""
    lines = [_later(one, len(part.trends)) for one in part.trends]
    if lines:
        lines.append(
            "The test takes the checkpoints of one experiment for exchangeable. Neighbours drift together, so p is a "
            "little too small."
        )
    return lines


def _later(one: Trend, tests: int) -> str:
    split = one.split
    return (
        f"{one.title}: checkpoints after step {split.after} score {points(abs(split.gain))} points "
        f"{'lower' if split.gain < 0 else 'higher'} than those before ({split.checkpoints} checkpoints, compared within "
        f"each experiment). The step was chosen by looking: p {p_value(split.p)} over all {split.splits} divisions, "
        f"{p_value(one.adjusted)} after Holm over {plural(tests, 'test')}: "
        f"{'a difference' if one.adjusted <= 0.05 else 'no difference seen'}."
    )


def facts(part: Part) -> list[tuple[str, str]]:
    """Attempts, time and money in a few words."""
    history = part.history
    if not history.attempts:
        return []
    wall = max(a.end for a in history.attempts) - min(a.start for a in history.attempts)
    training = [a for a in history.attempts if a.stage == "train"]
    found = [("From first start to last end", duration(wall)), ("Attempts", str(len(history.attempts)))]
    if training:
        spent = duration(sum(a.end - a.start for a in training))
        again = "nothing"
        if history.repeated_steps:
            again = f"{plural(history.repeated_steps, 'step')}, {duration(history.repeated)}"
        found += [
            ("Training", f"{spent} in {plural(len(training), 'attempt')}"),
            ("Done again after a stop", again),
            ("Between attempts", duration(history.waited)),
        ]
    gpus = sorted({str(a.gpu_type or "GPU") for a in history.attempts if a.gpus})
    found.append(("GPU-hours", f"{history.gpu_hours:.2f} ({', '.join(gpus)})" if gpus else "none: no GPU was used"))
    if gpus:
        price = "the cluster has no price_per_gpu_hour" if history.dollars is None else f"${history.dollars:,.2f}"
        found.append(("Cost", price))
    cut = sum(a.cut for a in history.attempts)
    if cut:
        found.append(("Without a recorded end", f"{cut}, counted to their last sign of life"))
    return found

"""One self-contained HTML page: no script, no network, light and dark, for a phone and for paper."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from openrs import __version__
from openrs.report import figures
from openrs.report.build import Part, Report
from openrs.report.claims import Claim
from openrs.report.figures import Drawn
from openrs.report.measure import Alike, Measured, along_steps
from openrs.report.published import HERE, canonical_benchmark, published
from openrs.report.story import story
from openrs.report.text import printable
from openrs.report.verdict import Verdict, points, signed
from openrs.report.words import CHIPS, detail, facts, later_sentences, p_value, reading
from openrs.runs.files import mapping

METHOD = (
    "Two questions are kept apart. “These problems”: what would other seeds give on the same problems? The interval comes "
    "from the variance over seeds within each problem. “New problems”: what would other problems of the same kind give? "
    "Problems are resampled with all their seeds; with one seed it is Wilson’s interval. A star marks an interval that is "
    "wider than its question needs.",
    "A verdict asks for new problems where it can: differences are paired by problem, their interval is a bootstrap over "
    "problems, p flips their signs. Where outcomes by problem are missing, the two scores are taken as independent, which "
    "is too careful. p-values are adjusted by Holm’s method for the number of benchmarks. A difference is called one only "
    "if the adjusted p is at most 0.05 and the interval leaves out 0.",
    "Results of different hardware, settings or data are neither pooled nor compared unless that was asked for.",
)
SAMPLE = 1500
"""Characters of a completion that are shown."""


def unbroken(value: Any) -> Any:
    """Text in which no line ends within `95 %` or `−10.5 … 13.1`; what is HTML already stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return re.sub(r"(?<=[0-9]) (?=[%…])|(?<=…) (?=[0-9−])", "\u00a0", value)


def page(report: Report, claims: Sequence[Claim] = ()) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=unbroken,
    )
    parts = [_part(part, number) for number, part in enumerate(report.parts, start=1)]
    names = ", ".join(part.name for part in report.parts)
    return environment.get_template("page.html.j2").render(
        version=__version__,
        title=_title(report),
        subtitle=f"Made from {names or 'published numbers'} by openrs {__version__}"
        + ("; results of different hardware are pooled, as asked for" if report.pooled else ""),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        parts=parts,
        claims=claims_table(claims) if claims else None,
        method=METHOD,
    )


def _title(report: Report) -> str:
    if len(report.parts) == 1:
        part = report.parts[0]
        return str(
            (part.history.spec or {}).get("title")
            or ("What 46.7 on AIME24 is worth" if part.name == "open-rs" else part.name)
        )
    return " and ".join(part.name for part in report.parts) or "The paper’s claims"


def _part(part: Part, number: int) -> dict[str, Any]:
    ident = f"r{number}"
    lookup = {one.alike: one for one in part.measured if one.step is None}
    return {
        "id": ident,
        "name": part.name,
        "verdicts": [_verdict(one, len({v.checkpoint for v in part.verdicts}) > 1) for one in part.verdicts],
        "reading": reading(part),
        "story": story(part, ident),
        "best": _best(part),
        "later": _later(part),
        "table": _table(part),
        "steps": _steps(part, ident),
        "seeds": _seeds(part, ident, lookup),
        "curves": figures.curves(part.history, f"{ident}-curve"),
        "run": _run(part, ident),
        "facts": facts(part),
        **_samples(part),
        "results": _results(part),
        **_provenance(part),
        "missing": part.missing,
    }


def _verdict(one: Verdict, several: bool) -> dict[str, str]:
    return {
        "sentence": one.sentence,
        "detail": f"{one.checkpoint}. {detail(one)}" if several else detail(one),
        "cls": one.outcome.replace(" ", "-"),
        "chip": CHIPS[one.outcome],
    }


def _best(part: Part) -> dict[str, Any] | None:
    if not part.best:
        return None
    rows = [
        [
            one.title,
            f"{one.checkpoint}, of {one.checkpoints}",
            points(one.raw),
            points(one.mean),
            points(one.expected),
            points(one.corrected) + ("*" if one.conservative else ""),
        ]
        for one in part.best
    ]
    note = "Percent. “If all were equal”: what the best would show by luck alone, if every checkpoint were as good as their mean."
    note += f" Without the luck: {'; '.join(dict.fromkeys(one.method for one in part.best))}."
    if any(one.conservative for one in part.best):
        note += " A star: from an upper bound of the noise, so a real lead is drawn in too much."
    return {
        "head": ["benchmark", "best", "shown", "mean of all", "if all were equal", "without the luck"],
        "rows": [{"cells": row, "mark": False} for row in rows],
        "note": note,
    }


def _later(part: Part) -> dict[str, Any] | None:
    if not part.trends:
        return None
    lines = later_sentences(part)
    rows = [
        [
            one.title,
            str(one.split.checkpoints),
            str(one.split.after),
            f"{signed(one.split.gain)} points",
            p_value(one.split.p),
            p_value(one.adjusted),
            "a difference" if one.adjusted <= 0.05 else "no difference seen",
        ]
        for one in part.trends
    ]
    head = ["benchmark", "checkpoints", "after step", "change", "p over all divisions"]
    return {
        "lines": [line for line, one in zip(lines, part.trends, strict=False) if one.adjusted <= 0.05],
        "head": [*head, f"after Holm over {len(part.trends)}", "verdict"],
        "rows": [{"cells": row, "mark": False} for row in rows],
        "note": f"The dividing step is the one with the largest difference, chosen after the fact; p counts every division. {lines[-1]}",
    }


def _table(part: Part) -> dict[str, Any] | None:
    content = published()
    ours = {canonical_benchmark(one.benchmark) for one in part.measured}
    columns = content["columns"]
    if not ours & set(columns):
        return None
    rows = [
        {"cells": [row["model"], *(_number(v) for v in row["scores"]), _number(row["average"])], "mark": False}
        for row in content["paper"]["rows"]
    ]
    shown = [one for one in part.measured if one.step is None and one not in part.chosen] + part.chosen
    for name in dict.fromkeys(one.name for one in shown):
        cells = []
        for column in columns:
            found = next(
                (one for one in shown if one.name == name and canonical_benchmark(one.benchmark) == column), None
            )
            cells.append(
                "–" if found is None else f"{points(found.mean)} ({points(found.new.low)}–{points(found.new.high)})"
            )
        rows.append({"cells": [f"{part.name}: {name}", *cells, "–"], "mark": True})
    return {
        "head": ["model", *(content["benchmarks"][column]["title"] for column in columns), "average"],
        "rows": rows,
        "note": f"Percent. The paper’s rows: {content['paper']['source']}, one run each. Ours: 95 % interval for new problems.",
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _steps(part: Part, ident: str) -> list[Drawn]:
    drawn = []
    for number, (title, rows) in enumerate(along_steps(part.measured)):
        if max(Counter(one.series for one in rows).values()) < 2:
            continue
        base = [one for one in part.measured if one.step is None and one.alike == rows[0].alike]
        drawn.append(figures.steps(rows, base, title, f"{ident}-steps{number}"))
    return drawn


def _seeds(part: Part, ident: str, base: dict[Alike, Measured]) -> list[Drawn]:
    drawn = []
    for number, one in enumerate(part.chosen):
        before = base.get(one.alike)
        rows = [
            (label, row)
            for label, row in (("base model", before), (one.name, one))
            if row is not None and (row is not before or row is not one)
        ]
        if any(len(row.scores) > 1 for _, row in rows):
            drawn.append(figures.seeds(rows, f"{ident}-seeds{number}"))
    return drawn


def _run(part: Part, ident: str) -> list[Drawn]:
    history, drawn = part.history, []
    if history.attempts:
        drawn.append(figures.timeline(history.attempts, f"{ident}-time"))
    if history.gpu_hours > 0 or part.aliases:
        drawn.append(figures.costs(part.name, history.dollars, history.gpu_hours, f"{ident}-cost"))
    return drawn


def _samples(part: Part) -> dict[str, Any]:
    shown = []
    chosen = next((one for one in part.chosen if one.facts.get("samples")), None)
    if chosen is not None:
        base = next(
            (
                one
                for one in part.measured
                if one.step is None and one.benchmark == chosen.benchmark and one.facts.get("samples")
            ),
            None,
        )
        shown += _pair(chosen.name, chosen.facts["samples"])
        if base is not None and base is not chosen:
            shown += _pair(base.name, base.facts["samples"])
    for row in part.history.completions:
        if row is not part.history.completions[0] and row["total"] == part.history.completions[0]["total"]:
            continue  # all alike: there is no worst
        shown.append(
            {
                "title": row["title"],
                "problem": _cut(row.get("prompt"), 300),
                "gold": _cut(row.get("answer"), 100),
                "verdict": f"reward {row['total']:g}",
                "cls": "",
                "completion": _cut(row["completion"]),
            }
        )
    note = (
        "A right and a wrong answer of the evaluation where the cells show one, and the best and the worst by reward of the "
        "last training step that is kept."
    )
    return {"samples": shown, "samples_note": note}


def _pair(name: str, samples: list[dict[str, Any]]) -> list[dict[str, str]]:
    found = []
    for wanted, word in ((True, "right"), (False, "wrong")):
        one = next((sample for sample in samples if bool(sample.get("correct")) is wanted), None)
        if one is not None:
            found.append(
                {
                    "title": name,
                    "problem": _cut(one.get("problem"), 300),
                    "gold": _cut(one.get("gold"), 100),
                    "verdict": word,
                    "cls": word,
                    "completion": _cut(one.get("completion")),
                }
            )
    return found


def _cut(value: object, length: int = SAMPLE) -> str:
    text = printable(str(value if value is not None else "–")).strip()
    return (
        text
        if len(text) <= length
        else f"{text[: length * 2 // 3]}\n … {len(text) - length} characters …\n{text[-length // 3 :]}"
    )


def _results(part: Part) -> dict[str, Any]:
    head = [
        "benchmark",
        "checkpoint",
        "score %",
        "seeds",
        "SD",
        "these problems",
        "new problems",
        "problems",
        "truncated",
        "tokens",
        "hardware",
    ]
    rows = []
    for one in part.measured:
        truncated, tokens = one.facts.get("truncated"), one.facts.get("completion_tokens")
        cells = [
            one.title,
            one.name,
            points(one.mean),
            str(len(one.seeds)),
            "–" if one.sd is None else points(one.sd),
            f"{points(one.these.low)}–{points(one.these.high)}{'*' if one.these.conservative else ''}",
            f"{points(one.new.low)}–{points(one.new.high)}{'*' if one.new.conservative else ''}",
            str(one.problems),
            "–" if truncated is None else f"{100 * truncated:.1f} %",
            "–" if tokens is None else f"{tokens:,.0f}",
            one.hardware or "not recorded",
        ]
        rows.append({"cells": cells, "mark": one in part.chosen})
    return {"head": head, "rows": rows}


def _provenance(part: Part) -> dict[str, Any]:
    import json

    history = part.history
    lock = history.lock or {}
    machine, packages = mapping(lock, "hardware"), mapping(lock, "distributions")
    gpus = machine.get("gpus")
    named = {
        "Fidelity": (history.spec or {}).get("fidelity"),
        "openrs": lock.get("openrs"),
        "git": lock.get("git_sha"),
        "Changed files in git": "yes" if lock.get("git_diff_sha256") else None,
        "Code": lock.get("code"),
        "uv.lock": lock.get("uv_lock_sha256"),
        "Image": lock.get("image"),
        "Python": lock.get("python"),
        "Node": machine.get("node"),
        "CPU": machine.get("cpu"),
        "GPUs": ", ".join(map(str, gpus)) if isinstance(gpus, list) else gpus,
        **{name: packages.get(name) for name in ("torch", "transformers", "trl", "vllm", "lighteval", "math-verify")},
    }
    reference = history.reference
    return {
        "lock": [(name, str(value)) for name, value in named.items() if value],
        "packages": [{"cells": [name, version], "mark": False} for name, version in packages.items()],
        "differences": [{"cells": list(row), "mark": False} for row in history.differences],
        "reference": reference,
        "spec": json.dumps(history.spec, indent=2, ensure_ascii=False) if history.spec else None,
        "hash": _hash(history.spec),
    }


def _hash(spec: dict[str, Any] | None) -> str:
    from openrs.spec.canonical import sha256

    return sha256(spec) if spec else ""


def claims_table(claims: Sequence[Claim]) -> dict[str, Any]:
    """The ledger as a table, what is settled first."""
    order = ("contradicted", "not distinguishable", "reproduced", "not tested")
    counts = {verdict: sum(one.verdict == verdict for one in claims) for verdict in order}
    rows = {
        verdict: [
            {
                "cells": [one.claim, one.verdict, one.where, str(one.n or "–"), "; ".join(one.evidence) or "–"],
                "mark": False,
            }
            for one in claims
            if one.verdict == verdict
        ]
        for verdict in order
    }
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return {
        "summary": f"{len(claims)} numbers: {said}. One rule for all (openrs/report/claims.py), not adjusted for their number.",
        "tested": [row for verdict in order[:3] for row in rows[verdict]],
        "untested": rows["not tested"],
    }

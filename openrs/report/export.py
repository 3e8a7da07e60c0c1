"""The report without its page: a table for spreadsheets, Markdown for a model card, and lines for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from openrs.report.build import Part, Report
from openrs.report.claims import Claim
from openrs.report.text import one_line, table
from openrs.report.verdict import points
from openrs.report.words import best_sentence, detail, later_sentences, reading

COLUMNS = (
    "run series checkpoint step benchmark seeds problems score sd these_low these_high new_low new_high "
    "by_problem settings hardware truncated completion_tokens seconds"
).split()


def csv_text(report: Report) -> str:
    """One line for each result; shares, not percent."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for part in report.parts:
        for one in part.measured:
            row = {name: value for name, value in one.json().items() if name in COLUMNS}
            row |= {"seeds": len(one.seeds), "these_low": one.these.low, "these_high": one.these.high}
            writer.writerow({**row, "new_low": one.new.low, "new_high": one.new.high})
    return buffer.getvalue()


def markdown(report: Report, claims: Sequence[Claim] = ()) -> str:
    """For a model card."""
    lines: list[str] = []
    for part in report.parts:
        lines += [f"## {_cell(part.name)}", ""]
        lines += [f"- {_cell(one.sentence)} {_cell(detail(one))}".rstrip() for one in part.verdicts]
        lines += ["", *(_cell(line) for line in reading(part)), ""]
        if part.measured:
            lines += [
                "| benchmark | checkpoint | % | 95 %, new problems | SD over seeds | seeds | problems | hardware |"
            ]
            lines += ["|---|---|---|---|---|---|---|---|"]
        for one in part.measured:
            interval = f"{points(one.new.low)}–{points(one.new.high)}"
            cells = (one.title, one.name, points(one.mean), interval, "–" if one.sd is None else points(one.sd))
            more = (str(len(one.seeds)), str(one.problems), one.hardware or "not recorded")
            lines.append(f"| {' | '.join(map(_cell, (*cells, *more)))} |")
        for title, said in (
            ("Choosing the best checkpoint", [best_sentence(one) for one in part.best]),
            ("Later steps", later_sentences(part)),
            ("Missing", part.missing),
        ):
            if said:
                lines += ["", f"### {title}", "", *(f"- {_cell(line)}" for line in said)]
        lines.append("")
    if claims:
        lines += ["## Claims", "", "| claim | verdict | where | n | evidence |", "|---|---|---|---|---|"]
        for claim in claims:
            cells = (claim.claim, claim.verdict, claim.where, str(claim.n or "–"), "; ".join(claim.evidence) or "–")
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def terminal(part: Part) -> list[str]:
    """Verdicts and what is missing, for a person at a terminal."""
    lines = [one.sentence for one in part.verdicts]
    if len({one.checkpoint for one in part.verdicts}) > 1:
        lines = [f"{one.checkpoint}: {one.sentence}" for one in part.verdicts]
    lines = lines or [f"{one.title}, {one.name}: {points(one.mean)} %" for one in part.chosen] or reading(part)
    return [*map(one_line, lines), *(f"missing: {one_line(line)}" for line in part.missing)]


def claims_text(claims: Sequence[Claim]) -> str:
    """The ledger for a terminal, its evidence below each claim."""
    rows = [(one_line(one.claim), one.verdict, "-" if one.n is None else one.n, one.where) for one in claims]
    lines = table(("CLAIM", "VERDICT", "N", "WHERE"), rows, right=(2,)).splitlines()
    found = lines[:1]
    for line, one in zip(lines[1:], claims, strict=True):
        found += [line, *(f"    {one_line(said)}" for said in one.evidence)]
    return "\n".join(found)

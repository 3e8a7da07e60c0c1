"""Finished cells of runs, as they stand in run directories; what cannot be used is named, never passed over in silence.

A cell may hold its outcomes by problem: `outcomes`, a list in the data set's order, one entry for each problem: how many
of its `samples_per_problem` answers (1 where that is absent) were right. Cells of a benchmark are paired by problem where
`data.sha256` and the number of problems agree.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openrs.evaluation.lighteval_results import slug
from openrs.report.published import HERE
from openrs.runs.files import mapping, number, read_object, whole, word

EXAMPLES = HERE / "examples"


@dataclass(frozen=True, eq=False)
class CellResult:
    """One finished cell."""

    run: str
    series: str
    """What belongs together along the steps: the run, or an experiment of an imported tree."""
    checkpoint: str
    step: int | None
    benchmark: str
    seed: int
    settings: str
    score: float
    problems: int
    outcomes: NDArray[np.float64] | None
    data: str | None
    """Fingerprint of the problems."""
    hardware: str | None
    model: str | None
    """Its name, with the revision where there is one."""
    facts: dict[str, Any]
    """The rest of the file that a report shows."""


@dataclass
class Found:
    """What a source held."""

    cells: list[CellResult] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    """Files that cannot be used, with the reason, and what failed."""


NUMBERS = ("seconds", "completion_tokens", "truncated", "reasoned", "reasoned_accuracy")
KINDS: dict[str, tuple[type, str]] = {
    "samples": (list, "list"),
    **dict.fromkeys(("source", "distributions", "sampling", "data", "model"), (dict, "mapping")),
    **dict.fromkeys(("series", "hardware"), (str, "text")),
}
"""What these fields of a cell are, where it has them; `NUMBERS` are numbers."""
SHOWN = (*NUMBERS, "samples", "source", "distributions", "sampling")


def read_cells(directory: Path, run: str) -> Found:
    """All cells of a run directory."""
    found = Found()
    for path in sorted(directory.glob("eval/*/*/*.json")):
        where = "/".join(path.parts[-4:])
        content = read_object(path)
        if content is None:
            found.aside.append(f"{where}: cannot be read as JSON; set aside")
            continue
        if path.name.endswith(".failed.json"):
            if not path.with_name(path.name.removesuffix(".failed.json") + ".json").exists():
                reason = word(content, "reason") or "no reason recorded"
                found.aside.append(f"{where.removesuffix('.failed.json')}: failed ({reason})")
            continue
        one = cell(content, run)
        if isinstance(one, str):
            found.aside.append(f"{where}: {one}; set aside")
        else:
            found.cells.append(one)
    return found


def cell(content: Any, run: str) -> CellResult | str:
    """The cell in a file's content, or why it is none."""
    if not isinstance(content, dict) or content.get("state") != "done":
        return "not a finished cell"
    for name, kind in (("checkpoint", str), ("benchmark", str), ("settings", str), ("seed", int), ("n", int)):
        if type(content.get(name)) is not kind:
            return f"{name} is missing"
    score, step, n = number(content, "score"), content.get("step"), content["n"]
    if score is None or not 0 <= score <= 1:
        return "score is no share between 0 and 1"
    if n < 1:
        return "n is below 1"
    if step is not None and type(step) is not int:
        return "step is no whole number"
    for name in NUMBERS:
        if content.get(name) is not None and number(content, name) is None:
            return f"{name} is no number"
    for name, (expected, words) in KINDS.items():
        if content.get(name) is not None and not isinstance(content[name], expected):
            return f"{name} is no {words}"
    data, model = mapping(content, "data"), mapping(content, "model")
    known = whole(data, "problems") or 0
    problems = known if known > 0 else n
    outcomes = content.get("outcomes")
    shares = None
    if outcomes is not None:
        try:
            shares = np.asarray(outcomes, dtype=np.float64) / (whole(content, "samples_per_problem") or 1)
        except (TypeError, ValueError):
            return "outcomes are no list of numbers"
        if shares.shape != (problems,) or not np.isfinite(shares).all() or shares.min() < 0 or shares.max() > 1:
            return f"outcomes do not fit {problems} problems"
        if abs(float(shares.mean()) - score) > 1e-6:
            return f"outcomes give {shares.mean():.4f}, but score is {score:.4f}"
    return CellResult(
        run,
        word(content, "series") or run,
        content["checkpoint"],
        step,
        content["benchmark"],
        content["seed"],
        content["settings"],
        score,
        problems,
        shares,
        word(data, "sha256"),
        word(content, "hardware"),
        named(model),
        {name: content[name] for name in SHOWN if content.get(name) is not None},
    )


def named(model: dict[str, Any]) -> str | None:
    """What people call a model that has `name` and perhaps `revision`."""
    name, revision = word(model, "name"), word(model, "revision")
    return f"{name} at {revision[:12]}" if name is not None and revision else name


def example_cells(name: str) -> Found:
    """Cells of an example that is shipped with the package; rows that repeat another one's answers count once."""
    found, seen = Found(), set()
    repeats = 0
    for row in _rows(EXAMPLES / name.replace("-", "_") / "scores.csv"):
        key = (row["experiment"], row["step"], row["task"], row["score"])
        if key in seen:
            repeats += 1
            continue
        seen.add(key)
        series = f"exp{row['experiment']}"
        content = {
            "state": "done",
            "series": series,
            "checkpoint": f"{series}_{row['step']}",
            "step": int(row["step"]),
            "benchmark": slug(row["task"].split("|")[1]),
            "seed": 0,
            "settings": "published",
            "score": float(row["score"]),
            "n": int(row["n_docs"]),
            "seconds": float(row["eval_seconds"]),
            "source": {"file": row["source_dir"]},
        }
        one = cell(content, name)
        assert not isinstance(one, str), one
        found.cells.append(one)
    if repeats:
        found.aside.append(
            f"{repeats} of the {repeats + len(found.cells)} published files repeat the very answers of another one; they count once"
        )
    found.aside.append("hardware, seeds and outcomes by problem are not recorded in the published files")
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with open(path, newline="") as file:
        yield from csv.DictReader(file)

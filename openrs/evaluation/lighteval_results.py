"""Reads what lighteval leaves behind: `results/<model>/results_<time>.json`, and details where they can be read.

The layouts of lighteval 0.6 (as in the logs of Open-RS) to 0.8.x have the same keys; newer ones add some. Whatever is
missing is missing in the result too, and counted: nothing is guessed without a word about it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from openrs.runs.files import read_object
from openrs.spec.canonical import sha256

FILE = re.compile(r"results_(?P<time>.+)\.json\Z")
METRICS = ("extractive_match", "pass@k:k=1", "pass@1", "math_pass@1", "exact_match", "em", "qem", "acc", "accuracy")
"""Taken in this order where a task has several; a name may go on after the words given here."""
_NUMBERED = re.compile(
    r"(?P<series>.*?)[-_ ]*(?:(?:step|checkpoint|ckpt)[-_]?|[-_])(?P<step>[0-9]{1,9})\Z", re.IGNORECASE
)


@dataclass(frozen=True)
class Left:
    """Something that was there and is no result."""

    where: str
    why: str


@dataclass
class Tree:
    """What was found below a directory."""

    cells: list[dict[str, Any]] = field(default_factory=list)
    """As a run directory holds them."""
    left: list[Left] = field(default_factory=list)
    files: int = 0
    absent: Counter[str] = field(default_factory=Counter)
    """Field → results that lack it."""


def read_tree(root: Path, metric: str | None = None, hardware: str | None = None) -> Tree:
    """All results below `root`. Files that are no results are named in `left`, never a reason to stop."""
    tree = Tree()
    known: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for path in sorted(root.rglob("results_*.json")):
        tree.files += 1
        where = str(path.relative_to(root))
        content = read_object(path)
        if content is None or not isinstance(content.get("results"), dict):
            why = "not a JSON object" if content is None else "has no `results`"
            tree.left.append(Left(where, why))
            continue
        for task, scores in content["results"].items():
            if task == "all" or "|_average|" in f"{task}|" or ":_average" in task:
                continue
            cell = _cell(root, path, content, task, scores, metric)
            if isinstance(cell, str):
                tree.left.append(Left(f"{where}: {task}", cell))
                continue
            same = known.setdefault((cell["checkpoint"], cell["benchmark"], cell["settings"]), [])
            first = next((one for one in same if one["source"]["answers"] and _same_answers(one, cell)), None)
            if first is not None:  # the same tokens again: a repetition of the evaluation, not a second sample
                first["source"]["repeated_in"].append(where)
                continue
            cell["hardware"] = hardware
            same.append(cell)
            tree.cells.append(cell)
            facts = {
                "model_sha": cell["model"]["revision"],
                **{n: cell[n] for n in ("seed", "hardware", "outcomes", "sampling")},
            }
            tree.absent.update(name for name, value in facts.items() if value is None)
    for cells in known.values():
        taken = {cell["seed"] for cell in cells if cell["seed"] is not None}
        free = (number for number in range(len(cells) + len(taken)) if number not in taken)
        for cell in cells:
            if cell["seed"] is None:
                cell["seed"] = next(free)
        for number, cell in enumerate(cells):  # two results of one seed: both are kept, the second under another number
            if any(cell["seed"] == other["seed"] for other in cells[:number]):
                cell["seed"] = max(other["seed"] for other in cells) + 1
    return tree


def _same_answers(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["source"]["answers"] == other["source"]["answers"] and one["score"] == other["score"])


def _cell(
    root: Path, path: Path, content: dict[str, Any], task: str, scores: Any, metric: str | None
) -> dict[str, Any] | str:
    """A cell as a run directory holds it, or why there is none."""
    general = _mapping(content.get("config_general"))
    model = _mapping(general.get("model_config"))
    suite, _, rest = task.partition("|")
    name, _, shots = (rest or suite).partition("|")
    configs = _mapping(content.get("config_tasks"))
    config = _mapping(configs.get(task) or configs.get(f"{suite}|{name}") or configs.get(name))
    summary = _mapping(_mapping(content.get("summary_tasks")).get(task))
    chosen = _metric(scores, metric)
    if chosen is None:
        wanted = f"metric {metric}" if metric else "metric that is known here"
        return f"no {wanted} among {', '.join(_names(scores)) or 'nothing'}"
    score = scores[chosen]
    if type(score) not in (int, float) or not 0 <= score <= 1:
        return f"{chosen} = {score!r} is not a share from 0 to 1"
    stderr = scores.get(f"{chosen}_stderr")
    outcomes = _outcomes(path, task, chosen)
    problems, counted_by = _problems(config, summary, score, stderr, outcomes)
    if problems is None:
        return "number of problems not recorded, and not to be found from the standard error"
    sampling = _mapping(general.get("generation_parameters") or model.get("generation_parameters"))
    data = {"name": config.get("hf_repo"), "revision": config.get("hf_revision"), "subset": config.get("hf_subset")}
    label, series, step = _label(root, path, general.get("model_name") or model.get("model_name"))
    seed = sampling.get("seed")
    benchmark = slug(name) + ("" if shots in ("", "0") else f"-{slug(shots)}shot")
    fixed = {name: value for name, value in sampling.items() if name != "seed"}
    settings = {"task": task, "metric": chosen, "new_tokens": config.get("generation_size"), "sampling": fixed, **data}
    right = round(score * problems)
    return {
        "checkpoint": label,
        "step": step,
        "series": series,
        "benchmark": benchmark,
        "seed": seed if type(seed) is int else None,
        "settings": sha256(settings).removeprefix("sha256:")[:12],
        "score": float(score),
        "correct": right if math.isclose(right, score * problems, abs_tol=1e-6) else None,
        "n": problems,
        "outcomes": outcomes,
        "seconds": _seconds(general),
        "model": {
            "name": general.get("model_name") or model.get("model_name"),
            "revision": general.get("model_sha") or model.get("revision") or None,
        },
        "data": {
            "type": "hub",
            **data,
            "problems": problems,
            "sha256": _mapping(summary.get("hashes")).get("hash_examples"),
        },
        "sampling": sampling or None,
        "hardware": None,
        "source": {
            "format": "lighteval",
            "file": str(path.relative_to(root)),
            "repeated_in": [],
            "task": task,
            "metric": chosen,
            "stderr": stderr if type(stderr) is float else None,
            "problems_from": counted_by,
            "seed_recorded": type(seed) is int,
            "answers": _mapping(summary.get("hashes")).get("hash_cont_tokens"),
        },
    }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(scores: Any) -> list[str]:
    return [str(name) for name in _mapping(scores) if not str(name).endswith("_stderr")]


def _metric(scores: Any, wanted: str | None) -> str | None:
    names = _names(scores)
    if wanted is not None:
        return wanted if wanted in names else None
    return next(
        (name for known in METRICS for name in names if name == known or name.startswith(f"{known}:")), None
    ) or next((name for known in METRICS[1:4] for name in names if name.startswith(known)), None)


def _problems(
    config: dict[str, Any], summary: dict[str, Any], score: float, stderr: Any, outcomes: list[float] | None
) -> tuple[int | None, str | None]:
    for name in ("effective_num_docs", "original_num_docs"):
        count = config.get(name)
        if type(count) is int and count > 0:
            return count, name
    seen = [count for name in ("truncated", "non_truncated") if type(count := summary.get(name)) is int]
    if len(seen) == 2 and sum(seen) > 0:
        return sum(seen), "truncated + non_truncated"
    if outcomes:
        return len(outcomes), "details"
    if type(stderr) is float and stderr > 0 and 0 < score < 1:
        # lighteval divides by n − 1: stderr² = score (1 − score) / (n − 1).
        count = round(score * (1 - score) / stderr**2 + 1)
        if math.isclose(math.sqrt(score * (1 - score) / (count - 1)), stderr, rel_tol=1e-3):
            return count, "standard error"
    return None, None


def _seconds(general: dict[str, Any]) -> float | None:
    for value in (general.get("total_evaluation_time_secondes"), general.get("total_evaluation_time_seconds")):
        try:
            found = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if math.isfinite(found) and found >= 0:
            return round(found, 3)
    return None


def _label(root: Path, path: Path, model: Any) -> tuple[str, str | None, int | None]:
    """Checkpoint, series and step: from the folders above `results`, else from the model's name."""
    parts = path.relative_to(root).parts[:-1]
    above = parts[: parts.index("results")] if "results" in parts else ()
    last = above[-1] if above else (model if isinstance(model, str) and model else "/".join(parts) or "model")
    found = _NUMBERED.fullmatch(last)
    if found is None:
        return slug(last), None, None
    return slug(last), slug(found["series"]) if found["series"] else None, int(found["step"])


def slug(text: str) -> str:
    """A short name that is safe as a file name."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:63] or "unnamed"


def _outcomes(path: Path, task: str, metric: str) -> list[float] | None:
    """Each problem's outcome from the details beside the results; None where they or what reads them are not there."""
    found = FILE.fullmatch(path.name)
    parts = path.parts
    if found is None or "results" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("results")
    folder = Path(*parts[:at], "details", *parts[at + 1 : -1], found["time"])
    details = folder / f"details_{task}_{found['time']}.parquet"
    if not details.is_file():
        return None
    try:
        parquet = import_module("pyarrow.parquet")  # not in the base install
    except ImportError:
        return None
    try:
        column = parquet.read_table(details, columns=["metrics"]).column("metrics").to_pylist()
    except Exception:  # whatever a broken file makes the reader say
        return None
    shares = list(_shares(column, metric))
    return shares if shares and len(shares) == len(column) else None


def _shares(column: list[Any], metric: str) -> Iterator[float]:
    for row in column:
        value = _mapping(row).get(metric)
        if isinstance(value, (int, float)) and 0 <= value <= 1:
            yield float(value)

"""How a run went: training curves, attempts, what they cost, what was lost, and what it was sent with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from openrs import plan as planning
from openrs.errors import BadInput
from openrs.report.cells import named
from openrs.report.measure import Measured
from openrs.runs import completions
from openrs.runs.directory import RunDirectory
from openrs.runs.files import mapping, number, read_lines, read_object, whole, word
from openrs.spec.experiment import Experiment
from openrs.stage import read_spec

CURVES = {
    "reward": "Reward",
    "accuracy": "Accuracy on training problems",
    "completion_tokens": "Completion length, tokens",
    "kl": "KL to the reference model",
    "entropy": "Entropy",
}
"""Fields of `metrics.jsonl` that are drawn."""


@dataclass(frozen=True)
class Attempt:
    """One start of a supervisor."""

    stage: str
    task: int | None
    number: int
    start: float
    end: float
    cut: bool
    """No end was recorded: killed, or still running; `end` is the last sign of life."""
    gpus: int
    gpu_type: str | None
    node: str | None
    reason: str

    @property
    def hours(self) -> float:
        """GPU-hours."""
        return self.gpus * (self.end - self.start) / 3600


@dataclass
class History:
    """What a run directory says beside its cells."""

    spec: dict[str, Any] | None = None
    lock: dict[str, Any] | None = None
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    price: float | None = None
    """Dollars for a GPU-hour."""
    repeated: float = 0.0
    """Seconds of training steps that were done again."""
    repeated_steps: int = 0
    waited: float = 0.0
    """Seconds between attempts of the training."""
    completions: list[dict[str, Any]] = field(default_factory=list)
    """Best and worst of the last training step that is kept."""
    differences: list[tuple[str, str, str]] = field(default_factory=list)
    """Field, here, in the reference."""
    reference: str | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def untrained(self) -> bool:
        """Whether the run only evaluates models as they are."""
        return self.spec is not None and self.spec.get("kind") == "evaluation"

    @property
    def gpu_hours(self) -> float:
        """Of all attempts."""
        return sum(attempt.hours for attempt in self.attempts)

    @property
    def dollars(self) -> float | None:
        """What the GPU-hours cost; None without a price."""
        return None if self.price is None else self.gpu_hours * self.price


def read_history(directory: Path) -> History:
    """Reads what is there, and says what is not."""
    run = RunDirectory(directory)
    history = History(spec=read_object(directory / "spec.json"), lock=read_object(run.lock))
    history.price = number(mapping(read_object(directory / "record.json"), "cluster"), "price_per_gpu_hour")
    lines = [line for line in read_lines(run.metrics) if whole(line, "step") is not None]
    _curves(history, lines)
    history.attempts = _attempts(run, lines)
    trained = [attempt for attempt in history.attempts if attempt.stage == "train"]
    history.waited = sum(max(0.0, b.start - a.end) for a, b in pairwise(trained))
    history.completions = _completions(directory)
    if history.spec is not None and not history.untrained:
        history.reference, history.differences = differences(history.spec)
    for there, what in (
        (history.spec, "spec.json: what the run was sent with"),
        (history.lock, "lock.json: code, packages and hardware"),
        (history.attempts, "the ledger: attempts, time and cost"),
        (lines or history.untrained, "metrics.jsonl: training curves"),
    ):
        if not there:
            history.missing.append(f"{what} is not there")
    training = mapping(history.spec, "training")
    last, steps = max((line["step"] for line in lines), default=0), whole(training, "steps")
    if lines and steps is not None and last < steps:
        history.missing.append(f"training has come to step {last} of {steps}")
    if lines:
        without = {"kl"} if number(training, "beta") == 0 else set()  # no reference model, so nothing to differ from
        wanted = [name for name in ("kl", "entropy") if name not in without]
        history.missing += [f"{name} is not recorded" for name in wanted if name not in history.curves]
    return history


def without_result(directory: Path, measured: Sequence[Measured]) -> list[str]:
    """What the spec wants to be evaluated and has no result, in a line for each set of benchmarks; [] without a spec."""
    try:
        spec = read_spec(directory / "spec.json")
    except BadInput:  # a spec that is not there is named by `read_history`
        return []
    cells = planning.base_cells(spec)
    if isinstance(spec, Experiment):
        cells += planning.cells(spec, sorted(spec.evaluation.at_steps))
    models = {planning.model_id(model): "base model" for model in spec.models}
    if not isinstance(spec, Experiment):
        for model in spec.models:
            models[planning.model_id(model)] = model.path if model.type == "path" else str(named(model.model_dump()))
    # A base model has one name, however its revision was written; models as they are go by theirs.
    single = len(spec.models) == 1
    there = {("" if single and one.step is None else one.checkpoint, one.benchmark) for one in measured}
    absent: dict[str, list[str]] = {}
    for cell in cells:
        if ("" if single and cell.step is None else cell.checkpoint, cell.benchmark) not in there:
            of = absent.setdefault(models[cell.checkpoint] if cell.step is None else f"step {cell.step}", [])
            of += [cell.benchmark] if cell.benchmark not in of else []
    checkpoints: dict[tuple[str, ...], list[str]] = {}
    for checkpoint, benchmarks in absent.items():
        checkpoints.setdefault(tuple(benchmarks), []).append(checkpoint)
    every = len(spec.evaluation.benchmarks)
    return [
        f"no result of {_few(names)} on {f'any of {every} benchmarks' if len(benchmarks) == every > 2 else _few(benchmarks)}"
        for benchmarks, names in checkpoints.items()
    ]


def _few(names: Sequence[str]) -> str:
    """The first and the last of many names."""
    return ", ".join(names) if len(names) < 6 else f"{names[0]}, {names[1]} … {names[-1]} ({len(names)})"


def _curves(history: History, lines: list[dict[str, Any]]) -> None:
    last: dict[int, dict[str, Any]] = {}
    for line in lines:
        before = last.get(line["step"])
        if before is not None:  # done again after a stop: the last one is the one that counted
            history.repeated_steps += 1
            history.repeated += number(before, "seconds") or 0.0
        last[line["step"]] = line
    for name in CURVES:
        pairs = [(step, value) for step in sorted(last) if (value := number(last[step], name)) is not None]
        if pairs:
            history.curves[name] = ([step for step, _ in pairs], [value for _, value in pairs])


def _attempts(run: RunDirectory, lines: list[dict[str, Any]]) -> list[Attempt]:
    timed = [(event, time) for event in run.ledger() if (time := number(event, "time")) is not None]
    ends: dict[Any, tuple[dict[str, Any], float]] = {}
    signs: dict[str, float] = {}
    for event, time in timed:
        writer = word(event, "writer") or ""
        signs[writer] = max(signs.get(writer, 0.0), time)
        if event["event"] == "end":
            ends[writer, whole(event, "attempt")] = event, time
    steps: dict[Any, float] = {}
    for line in lines:
        attempt = whole(line, "attempt")
        steps[attempt] = max(steps.get(attempt, 0.0), number(line, "time") or 0.0)
    found = []
    for event, time in timed:
        stage, writer, attempt = word(event, "stage"), word(event, "writer") or "", whole(event, "attempt")
        if event["event"] != "start" or stage is None:
            continue
        end, ended = ends.get((writer, attempt), (None, signs[writer]))
        if end is None and stage == "train":
            ended = max(ended, steps.get(attempt, 0.0))
        reason = "no end recorded" if end is None else str(end.get("reason") or f"exit code {end.get('code')}")
        gpus, gpu_type, node = whole(event, "gpus") or 0, word(event, "gpu_type"), word(event, "node")
        task = whole(event, "task")
        found.append(Attempt(stage, task, attempt or 0, time, ended, end is None, gpus, gpu_type, node, reason))
    return sorted(found, key=lambda attempt: attempt.start)


def _completions(directory: Path) -> list[dict[str, Any]]:
    steps = completions.steps(directory)
    if not steps:
        return []
    rows = [
        {**row, "total": sum(number(row["rewards"], name) or 0.0 for name in row["rewards"])}
        for row in completions.read(directory, steps[-1])
    ]
    if not rows:
        return []
    best, worst = max(rows, key=lambda row: row["total"]), min(rows, key=lambda row: row["total"])
    step = f"step-{steps[-1]:06d}"
    return [{**best, "title": f"best of {step}"}, {**worst, "title": f"worst of {step}"}]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"training.steps": 500, …}`."""
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in flatten(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
        return {
            k: v for i, inner in enumerate(value) for k, v in flatten(inner, f"{prefix}{inner.get('name', i)}.").items()
        }
    return {prefix.removesuffix("."): value}


def differences(spec: dict[str, Any]) -> tuple[str | None, list[tuple[str, str, str]]]:
    """The paper's experiment that a spec is held against, and the fields in which it differs: (field, here, there)."""
    from openrs.spec.load import load_experiment

    name = str(spec.get("name"))
    reference = next((known for known in ("exp1", "exp2", "exp3") if name.startswith(known)), "exp3")
    try:
        there = flatten(load_experiment(reference, []).model_dump(mode="json"))
    except BadInput:
        return None, []
    here = flatten(spec)
    skip = ("name", "title", "schema_version")
    return reference, [
        (key, _short(here.get(key, "–")), _short(there.get(key, "–")))
        for key in dict.fromkeys([*here, *there])
        if key not in skip and here.get(key, None) != there.get(key, None)
    ]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:119]}…"

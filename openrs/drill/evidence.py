"""What a run left behind, beside what the undisturbed one did: equal or not, and what was lost. Reads run directories only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from openrs.drill.instants import Kill, Measured
from openrs.runs.directory import RunDirectory
from openrs.runs.files import read_lines
from openrs.training.observe import VARIES
from openrs.training.phases import PHASES, Phase


@dataclass(frozen=True)
class Evidence:
    """What is compared."""

    metrics: list[dict[str, Any]]
    completions: dict[str, bytes]
    weights: dict[int, set[str]]
    """Step → what its checkpoints held (one hash over model, optimizer, schedule and state), one for each time it was saved."""


@dataclass
class Lost:
    """What the kills of a run cost."""

    steps: int = 0
    """Trained again, all kills together."""
    most: int = 0
    """Trained again after one kill, at most."""
    generations: int = 0
    """Steps of these whose completions were drawn again, which the journal should have spared."""
    gone: list[str] = field(default_factory=list)
    """Writes that a power cut took."""


def evidence(run: RunDirectory) -> Evidence:
    """What the directory holds now."""
    weights: dict[int, set[str]] = {}
    for event in run.ledger():
        if event["event"] == "checkpoint":
            weights.setdefault(int(event["step"]), set()).add(str(event["digest"]))
    return Evidence(
        metrics=[{key: line[key] for key in line if key not in VARIES} for line in read_lines(run.metrics)],
        completions={path.name: path.read_bytes() for path in sorted((run.path / "completions").glob("*"))},
        weights=weights,
    )


def differences(whole: Evidence, disturbed: Evidence, last: int) -> list[str]:
    """How a disturbed run differs from the undisturbed one, in words; nothing where it does not. `last` is the last step."""
    found = []
    wrong = sorted(step for step, digests in disturbed.weights.items() if digests != whole.weights.get(step, digests))
    if wrong:
        found.append(f"weights: the checkpoint of step {wrong[0]} is another one")
    elif last not in disturbed.weights or last not in whole.weights:
        found.append(f"weights: there is no checkpoint of the last step, {last}")
    if disturbed.metrics != whole.metrics:
        found.append(f"metrics: {_first_difference(whole.metrics, disturbed.metrics)}")
    if disturbed.completions != whole.completions:
        names = sorted(whole.completions.keys() | disturbed.completions.keys())
        name = next(name for name in names if whole.completions.get(name) != disturbed.completions.get(name))
        found.append(f"completions: {name} is another one")
    return found


def _first_difference(whole: list[dict[str, Any]], disturbed: list[dict[str, Any]]) -> str:
    for before, after in zip(whole, disturbed, strict=False):
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key):
                return f"{key} of step {before.get('step')} was {before.get(key)} and is {after.get(key)}"
    return f"{len(disturbed)} lines instead of {len(whole)}"


def broken(run: RunDirectory) -> list[str]:
    """What a kill left that has its name and is not whole, in words: it must not be there, even though it is passed over."""
    found = []
    for event in run.ledger():
        if event["event"] == "training":
            found += [f"checkpoints: {entry['checkpoint']}: {entry['reason']}" for entry in event["rejected"]]
        elif event["event"] == "not replayed":
            found += [f"journal: step {event['step']}, {reason}" for reason in event["reasons"]]
    return found


def kills(run: RunDirectory) -> list[tuple[Kill, str]]:
    """The kills that were carried out, and at what instant of their phase."""
    return [
        (Kill(**{name: event[name] for name in Kill.model_fields}), str(event["at"]))
        for event in run.ledger()
        if event["event"] == "kill"
    ]


def lost(run: RunDirectory) -> Lost:
    """What was done twice, from the ledger: where each attempt began, how far the one before had come."""
    result, farthest = Lost(), 0
    events = run.ledger()
    begun = [event for event in events if event["event"] == "training"]
    replayed = {(event["attempt"], event["step"]) for event in events if event["event"] == "replayed"}
    for attempt, following in zip(begun, [*begun[1:], None], strict=True):
        again = attempt["had_step"] - attempt["from_step"]
        result.steps += again
        result.most = max(result.most, again)
        farthest = max(farthest, attempt["had_step"])
        reached = farthest if following is None else min(farthest, following["had_step"])
        result.generations += sum(
            (attempt["attempt"], step) not in replayed for step in range(attempt["from_step"] + 1, reached + 1)
        )
    for event in events:
        if event["event"] == "kill":
            result.gone += event["lost"]
    return result


def measured(run: RunDirectory) -> dict[Phase, Measured]:
    """Medians of what each phase took in the undisturbed run."""
    events = [event for event in run.ledger() if event["event"] == "phase"]
    result: dict[Phase, Measured] = {}
    for phase in PHASES:
        took = sorted((event["seconds"], event["operations"]) for event in events if event["phase"] == phase)
        if took:
            operations = sorted(operations for _, operations in took)
            result[phase] = Measured(seconds=took[len(took) // 2][0], operations=operations[len(took) // 2])
    return result
